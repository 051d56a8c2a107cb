"""Identities whose centres are so close that they may be the same person under two names."""
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.files import new_folder
from datasets.decisions import write_decisions
from datasets.identity_centres import cosine_blocks, find_centres, to_degrees
from datasets.label_noise import TYPICAL, check_angles
from datasets.review_pages import REVIEW, Card, Group, write_pages

_MOST = 10_000_000  # pairs; whoever finds more has asked for too large an angle


class Pairs(NamedTuple):
    """Pairs of identities, the closest first: identities (P, 2) int64, angles (P,) degrees; those up to `merge` degrees
    are to be merged. pages: written to decide on the others."""

    identities: np.ndarray
    angles: np.ndarray
    merge: float
    pages: int


def propose_merges(embedded, training_set, output, merge=35.0, review=50.0, cut=75.0, per_page=100, progress=True):
    """Find pairs of identities with close centres, and write a list of them and pages to decide on the doubtful ones.

    embedded: the EmbeddedSet of training_set; output: a new folder. merge, review: degrees, 0 <= merge <= review < 180;
    cut: degrees, see `find_centres`. decisions.csv (identity, other, angle, decision) has a line for each pair up to
    `review`, the closest first: 'merge' up to `merge`, else 'review'. The pages show the latter.
    Returns Pairs. Raises UserError for other angles, an output that exists, and too many pairs.
    """
    check_angles(merge, review)
    with new_folder(output) as folder:
        centres = find_centres(embedded.embeddings, embedded.labels, cut, progress, embedded.folder)
        places, angles = close_pairs(centres.centres, review, progress)
        names = centres.identities[places]
        write_decisions(folder / "decisions.csv", ("identity", "other", "angle", "decision"), (
            (one, other, f"{angle:.2f}", "merge" if angle <= merge else REVIEW)
            for (one, other), angle in zip(names.tolist(), angles)))
        pages = write_pages(folder, _groups(centres, places[angles > merge], angles[angles > merge], training_set),
                            ("identity", "other"), ("keep", "merge"), "are both rows the same person?", per_page)
    return Pairs(names, angles, merge, pages)


def close_pairs(centres, limit, progress=True):
    """Pairs of centres within `limit` degrees of each other, block by block.

    centres: (C, D) float32, L2-normalised, may be a memmap. Returns places (P, 2) int64, the smaller first, and angles
    (P,) float32 in degrees, the closest first. Raises UserError for more than ten million pairs.
    """
    found, total = [], 0
    for top, left, cosines in cosine_blocks(centres, progress):
        rows, columns = np.nonzero(cosines >= np.cos(np.radians(limit)))
        apart = top + rows < left + columns
        rows, columns = rows[apart], columns[apart]
        found.append((top + rows, left + columns, cosines[rows, columns]))
        total += len(rows)
        if total > _MOST:
            raise UserError(f"more than {_MOST:,} pairs of identities within {limit:g} degrees; look for closer ones")
    one, other, cosines = map(np.concatenate, zip(*found))
    order = np.lexsort((other, one, -cosines))
    return np.stack([one, other], axis=1)[order], to_degrees(cosines[order])


def _groups(centres, places, angles, training_set):
    """For the pages: the typical images of both identities of each pair."""
    for (one, other), angle in zip(places.tolist(), angles):
        shown = [[training_set.read(row)[0] for row in centres.typical(k, TYPICAL)] for k in (one, other)]
        names = centres.identities[[one, other]].tolist()
        counts = [len(centres.rows[k]) for k in (one, other)]
        yield Group(f"identity {names[0]}, {counts[0]} images", shown[0],
                    [Card(tuple(names), shown[1], f"identity {names[1]}, {counts[1]} images: {angle:.1f}°")])


def summary(pairs):
    """What was found, as lines of text."""
    close = np.count_nonzero(pairs.angles <= pairs.merge)
    return [f"pairs of identities to merge, up to {pairs.merge:g}°: {close:,}; to look at: "
            f"{len(pairs.angles) - close:,} on {pairs.pages} pages",
            *(f"{one:9d} {other:9d} {angle:6.1f}°" for (one, other), angle in zip(pairs.identities[:20], pairs.angles))]
