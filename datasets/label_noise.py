"""Images under the wrong name: those far from the centre of their identity.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (2019), section 3.1: the images of MS1M
were ranked by their distance to their identity's centre, those beyond a threshold dropped, those near it checked by
hand.
"""
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.files import new_folder
from datasets.cleaned_set import histogram_lines
from datasets.decisions import write_decisions
from datasets.identity_centres import Centres, find_centres
from datasets.review_pages import REVIEW, Card, Group, write_pages

TYPICAL = 6  # pictures of an identity to compare with


class Judgement(NamedTuple):
    """Images judged by their angle to their identity's centre: beyond `drop` degrees, or from `review` to there."""

    centres: Centres
    review: float
    drop: float
    pages: int

    @property
    def is_dropped(self):
        """(N,) bool"""
        return self.centres.angles > self.drop

    @property
    def is_reviewed(self):
        """(N,) bool"""
        return (self.centres.angles > self.review) & ~self.is_dropped


def judge(embedded, training_set, output, review=65.0, drop=75.0, per_page=100, progress=True):
    """Find images of other people, and write a list of them and pages to decide on the doubtful ones.

    embedded: the EmbeddedSet of training_set; output: a new folder. review, drop: degrees, 0 <= review <= drop < 180.
    decisions.csv (record, identity, angle, decision) has a line for each image beyond `review`, by identity, the
    farthest first: 'drop' beyond `drop`, else 'review'. The pages (see `write_pages`) show the latter.
    Returns a Judgement. Raises UserError for other angles, an output that exists, and where no image would be left.
    """
    check_angles(review, drop)
    with new_folder(output) as folder:
        centres = find_centres(embedded.embeddings, embedded.labels, drop, progress, embedded.folder)
        judgement = Judgement(centres, review, drop, 0)
        angles = judgement.centres.angles
        if judgement.is_dropped.all():
            raise UserError(f"no image is within {drop:g} degrees of its identity's centre, the nearest at "
                            f"{angles.min():.1f}; are model and set the right ones?")
        rows = np.flatnonzero(angles > review)
        rows = rows[np.lexsort((-angles[rows], embedded.labels[rows]))]
        write_decisions(folder / "decisions.csv", ("record", "identity", "angle", "decision"), (
            (training_set.numbers[row], embedded.labels[row], f"{angles[row]:.2f}",
             "drop" if angles[row] > drop else REVIEW) for row in rows))
        pages = write_pages(folder, _groups(judgement, training_set, progress), ("record",), ("keep", "drop"),
                            "is it the same person?", per_page)
    return judgement._replace(pages=pages)


def check_angles(low, high):
    """Raise UserError where not 0 <= low <= high < 180, in degrees."""
    if not 0 <= low <= high < 180:
        raise UserError(f"angles of {low:g} and {high:g} degrees: expected them from 0 to below 180, the first not "
                        "greater than the second")


def _groups(judgement, training_set, progress):
    """For the pages: each identity with images to decide on, and its typical ones."""
    centres, reviewed = judgement.centres, judgement.is_reviewed
    for k, rows in enumerate(tqdm(centres.rows, unit="identity", desc="pages", disable=not progress)):
        doubtful = rows[reviewed[rows]]
        doubtful = doubtful[np.argsort(-centres.angles[doubtful], kind="stable")]
        if len(doubtful):
            yield Group(f"identity {centres.identities[k]}, {len(rows)} images",
                        [training_set.read(row)[0] for row in centres.typical(k, TYPICAL)],
                        [Card((training_set.numbers[row],), [training_set.read(row)[0]],
                              f"record {training_set.numbers[row]}: {centres.angles[row]:.1f}°") for row in doubtful])


def summary(judgement):
    """What was found, as lines of text, with a histogram of all angles."""
    dropped, reviewed = judgement.is_dropped, judgement.is_reviewed
    return [f"images: {len(dropped):,}; to drop, beyond {judgement.drop:g}°: {dropped.sum():,} ({dropped.mean():.2%}); "
            f"to look at, beyond {judgement.review:g}°: {reviewed.sum():,} on {judgement.pages} pages",
            f"identities: {len(judgement.centres.majority):,}; with most images beyond "
            f"{judgement.drop:g}°: {np.count_nonzero(~judgement.centres.majority):,}",
            "angle to the identity's centre, images:", *histogram_lines(judgement.centres.angles)]
