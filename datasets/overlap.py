"""Identities of a training set that a test set shows as well, and images that are in both."""
from pathlib import Path
from typing import List, NamedTuple, Tuple

import numpy as np

from common.devices import get_devices
from common.embedder import Embedder
from common.errors import DataError, UserError
from common.files import new_folder, read_bytes
from datasets.decisions import write_decisions
from datasets.embedding_store import ImageSource, embed_images, hash_model, source_of
from datasets.identity_centres import find_centres, keep_nearest, to_degrees
from datasets.images import SUFFIXES
from datasets.label_noise import TYPICAL, check_angles
from datasets.packs import load_pack
from datasets.review_pages import REVIEW, Card, Group, write_pages
from datasets.training_set import TrainingSet

_BLOCK = 65536  # centres that are held against test images at once
_EMBEDDED = 1024  # test images, as many as are held against all centres at once


class Overlap(NamedTuple):
    """What a test set has in common with a training set.

    identities: (C,) class numbers; nearest: (C,) the number of the test image nearest to each centre; angles: (C,)
    between them, degrees. duplicates: pairs (training image, test image) of images with the same pixels. drop, review:
    the limits; pages: written to decide.
    """

    identities: np.ndarray
    nearest: np.ndarray
    angles: np.ndarray
    duplicates: List[Tuple[int, int]]
    drop: float
    review: float
    pages: int


def open_test_set(path, image_shape):
    """A verification pack (.bin), a folder with train.rec, or a folder of images at any depth, as an ImageSource.

    image_shape: (height, width) that its images must have. Raises DataError for a path that is none of these.
    """
    path = Path(path)
    if path.is_file():
        pack = load_pack(path, image_shape)
        return ImageSource(len(pack.images), image_shape, lambda i: (pack.images[i], 0), lambda i: f"{path} image {i}")
    if (path / "train.rec").is_file():
        return source_of(TrainingSet(path))._replace(image_shape=image_shape)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{path}: no test set; expected a .bin pack, a folder with train.rec, or a folder of images "
                        f"({', '.join(SUFFIXES)})")
    return ImageSource(len(files), image_shape, lambda i: (read_bytes(files[i]), 0), lambda i: str(files[i]))


def find_overlap(embedded, training_set, model, test_set, output, drop=50.0, review=60.0, cut=75.0, devices=None,
                 batch_size=64, per_page=100, progress=True):
    """Find the identities and images of a training set that a test set shows, and write lists and pages.

    embedded: the EmbeddedSet of training_set, made by `model`; test_set: a path, see `open_test_set`; output: a new
    folder. drop, review: degrees, 0 <= drop <= review < 180; cut: degrees, see `find_centres`.
    decisions.csv (identity, angle, test_image, decision) has a line for each identity whose centre is within `review`
    of a test image, the closest first: 'drop' within `drop`, else 'review'. duplicates.csv (record, identity,
    test_image, decision) lists images with the same pixels, to drop. The pages show the identities of both kinds.
    Returns an Overlap. Raises UserError for another model, other angles and an output that exists.
    """
    check_angles(drop, review)
    if hash_model(model) != embedded.model:
        raise UserError(f"model {model}: not the one that made the embeddings in {embedded.folder}")
    source, devices = open_test_set(test_set, training_set.image_shape), devices or get_devices()
    embed = Embedder(model, devices, batch_size, training_set.image_shape)
    with new_folder(output) as folder:
        centres = find_centres(embedded.embeddings, embedded.labels, cut, progress, embedded.folder)
        size = max(_EMBEDDED, batch_size * len(devices))
        batches = embed_images(embed, source, size, progress=progress, digests=True)
        found = Overlap(centres.identities, *compare(batches, centres.centres, embedded.digests), drop, review, 0)
        _write_lists(folder, found, embedded, training_set, source)
        pages = write_pages(folder, _groups(found, centres, training_set, source), ("identity",), ("keep", "drop"),
                            "is it the same person as in the test set?", per_page)
    return found._replace(pages=pages)


def compare(batches, centres, digests):
    """Hold test images against centres (C, D) and against the training images' digests (N,).

    batches: as `embed_images` yields them. Returns nearest (C,), angles (C,) and duplicates, see Overlap.
    """
    best, nearest = np.full(len(centres), -2, np.float32), np.zeros(len(centres), np.int64)
    order, duplicates = np.argsort(digests, kind="stable"), []
    ordered = digests[order]
    for numbers, _, unit, hashes in batches:
        for start in range(0, len(centres), _BLOCK):
            cosines = np.asarray(centres[start:start + _BLOCK]) @ unit.T
            keep_nearest(best, nearest, slice(start, start + len(cosines)), cosines, numbers)
        first, last = np.searchsorted(ordered, hashes), np.searchsorted(ordered, hashes, side="right")
        for i in np.flatnonzero(last > first):
            duplicates += [(int(row), int(numbers[i])) for row in order[first[i]:last[i]]]
    return nearest, to_degrees(best), sorted(duplicates)


def _close(found):
    """Places of the identities within `review`, the closest first."""
    order = np.argsort(found.angles, kind="stable")
    return order[found.angles[order] <= found.review]


def _write_lists(folder, found, embedded, training_set, source):
    write_decisions(folder / "decisions.csv", ("identity", "angle", "test_image", "decision"), (
        (found.identities[k], f"{found.angles[k]:.2f}", found.nearest[k],
         "drop" if found.angles[k] <= found.drop else REVIEW) for k in _close(found)))
    write_decisions(folder / "duplicates.csv", ("record", "identity", "test_image", "decision"), (
        (training_set.numbers[row], embedded.labels[row], image, "drop") for row, image in found.duplicates))


def _groups(found, centres, training_set, source):
    """For the pages: typical images of each close identity beside the test image."""
    for k in _close(found):
        image, angle = int(found.nearest[k]), found.angles[k]
        yield Group(f"identity {found.identities[k]}, {len(centres.rows[k])} images",
                    [training_set.read(row)[0] for row in centres.typical(k, TYPICAL)],
                    [Card((found.identities[k],), [source.read(image)[0]], f"{source.name(image)}: {angle:.1f}°",
                          "drop" if angle <= found.drop else REVIEW)])


def summary(found):
    """What was found, as lines of text."""
    close = np.count_nonzero(found.angles <= found.drop)
    return [f"identities: {len(found.angles):,}; within {found.drop:g}° of a test image, to drop: {close:,}; within "
            f"{found.review:g}°, to look at: {len(_close(found)) - close:,}; {found.pages} pages",
            f"images with the same pixels as a test image: {len({row for row, _ in found.duplicates}):,}"]
