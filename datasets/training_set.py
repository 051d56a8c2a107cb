"""A training set on disk: `train.rec`, `train.idx` and `property` in one folder (format: docs/data-format.md)."""
import logging
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import DataError, UserError
from common.files import read_bytes, replacing
from datasets.image_set import ImageSet
from datasets.recordio import EXACT, FRAME, HEADER, RecordReader, RecordWriter, read_index

_LARGEST_SIDE = 4096  # pixels; a damaged number must not fill the memory
IDENTITY_SIZE = FRAME.size + HEADER.size + 8  # bytes of an identity record: two labels and no image


def read_property(folder):
    """Read `property`: `num_classes,height,width`.

    Returns (num_classes, (height, width)). Raises DataError for anything else; lines behind the first are left alone.
    """
    path = Path(folder, "property")
    line = read_bytes(path).split(b"\n")[0].decode("ascii", "backslashreplace").strip()
    try:
        num_classes, height, width = [int(field) for field in line.split(",")]
    except ValueError:
        num_classes = height = width = 0
    if min(num_classes, height, width) < 1 or num_classes > EXACT or max(height, width) > _LARGEST_SIDE:
        raise DataError(f"{path}: found {line[:60]!r}; expected 'num_classes,height,width', such as 85742,112,112, of "
                        f"at most {EXACT} classes and {_LARGEST_SIDE} pixels")
    return num_classes, (height, width)


class TrainingSet(ImageSet):
    """The images of `train.rec`, by position; any number of threads may read. See ImageSet.

    folder: holds train.rec, train.idx and property. Opening reads the index and the identity records, no image.
    min_images: identities with fewer images than this are left out (the original's `data_images_filter`); classes keep
    their numbers.
    Raises DataError for files that are missing, damaged or do not belong together, UserError where no identity has
    min_images.
    """

    def __init__(self, folder, min_images=0):
        self.folder = Path(folder)
        self.num_classes, self.image_shape = read_property(folder)
        reader = RecordReader(self.folder / "train.rec")
        self.path, self._readers = reader.path, [reader]
        numbers, *columns = read_index(self.folder / "train.idx", reader.size)
        order = np.argsort(numbers, kind="stable")
        self._set_images(numbers[order], *(column[order] for column in columns))
        if not len(self.numbers):
            raise DataError(f"{self.path}: no image in {len(numbers)} records")
        self._keep_identities(min_images)

    def _set_images(self, numbers, offsets, sizes):
        """Find the images among all records. numbers: (M,) ascending; offsets, sizes: (M,), of the same records."""
        if numbers[0] != 0:
            raise DataError(f"{self.folder / 'train.idx'}: no record 0; is the index cut short?")
        header, payload = self._readers[0].read(offsets[0], 0)
        if payload or len(header) != 2:  # record 0 is an image like all others
            chosen = slice(None)
        elif EXACT <= header[1] < np.inf and numbers[-1] >= EXACT - 1:
            is_identity = sizes == IDENTITY_SIZE
            is_image = ~is_identity
            is_image[0] = False
            self.num_identities, chosen = int(np.count_nonzero(is_identity[1:])), is_image
        else:
            ranges = self._read_ranges(header, numbers, offsets)
            self.num_identities, chosen = len(ranges), self._in_ranges(ranges, numbers)
            self._identities = np.repeat(np.arange(len(ranges), dtype=np.int32), ranges[:, 1] - ranges[:, 0])
        self.numbers, self._offsets, self._sizes = numbers[chosen], offsets[chosen], sizes[chosen]

    def _read_ranges(self, header, numbers, offsets):
        """The image numbers [a, b) of every identity: (num_identities, 2) int64."""
        first, last = self._check_ranges(header[None], [0])[0]
        if last - first > len(numbers):
            self._fail(0, f"{last - first} identity records announced, but the index lists {len(numbers)} records")
        identities = np.arange(first, last)
        labels = np.empty((len(identities), 2), np.float32)
        for row, offset in enumerate(offsets[self._places(identities, numbers, 0)]):
            found, _ = self._readers[0].read(offset, identities[row])
            if len(found) != 2:
                self._fail(identities[row], f"{len(found)} labels; expected an identity's range of image numbers")
            labels[row] = found
        return self._check_ranges(labels, identities)

    def _check_ranges(self, labels, holders):
        """Ranges (K, 2) float32 of the records `holders` as int64."""
        whole = (labels >= 1) & (labels <= EXACT) & (labels == np.floor(labels))
        bad = np.flatnonzero(~whole.all(axis=1) | (labels[:, 0] > labels[:, 1]))
        if len(bad):
            start, end = labels[bad[0]]
            self._fail(holders[bad[0]], f"found ({start:.9g}, {end:.9g}); expected a range of record numbers, "
                                        "the start not behind the end")
        return labels.astype(np.int64)

    def _in_ranges(self, ranges, numbers):
        """Places of the images of all identities, one identity after the other as they are stored."""
        ordered = ranges[ranges[:, 0] < ranges[:, 1]]
        ordered = ordered[np.argsort(ordered[:, 0])]
        overlap = np.flatnonzero(ordered[1:, 0] < ordered[:-1, 1])
        if len(overlap):
            one, other = ordered[overlap[0]:overlap[0] + 2].tolist()
            raise DataError(f"{self.path}: the image ranges {one} and {other} of two identities overlap")
        counts = ranges[:, 1] - ranges[:, 0]
        if counts.sum() > len(numbers):
            raise DataError(f"{self.path}: the identities have {counts.sum()} images, but the index lists "
                            f"{len(numbers)} records; is the index cut short?")
        before = np.cumsum(counts) - counts
        images = np.arange(counts.sum()) + np.repeat(ranges[:, 0] - before, counts)
        return self._places(images, numbers, "of an identity")

    def _places(self, wanted, numbers, holder):
        places = np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)
        lost = np.flatnonzero(numbers[places] != wanted)
        if len(lost):
            self._fail(holder, f"its range names record {wanted[lost[0]]}, which the index does not list")
        return places

    def _fail(self, number, message):
        raise DataError(f"{self.path} record {number}: {message}")


def write_training_set(folder, identities, image_shape=(112, 112)):
    """Write a training set in the original's format, with identity headers; whole or not at all.

    folder: made where it is missing; a set that lies there is replaced. identities: an iterable that gives for each
    identity an iterable of its encoded images (bytes); classes are numbered 0, 1, ... in this order. Both are read
    once, one image at a time. image_shape: (height, width) of every image.
    Returns the number of images of each class, a list of int.
    Raises UserError for no identity, an identity without images, and where the system refuses to write.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        temporary = stack.enter_context(replacing(folder / "property"))
        writer = stack.enter_context(RecordWriter(folder / "train.rec", folder / "train.idx"))
        starts = [1]
        for label, images in enumerate(identities):
            if label == EXACT:
                raise UserError(f"{folder}: more than {EXACT} classes; labels are float32, which cannot count further")
            starts.append(_write_images(writer, starts[-1], label, images))
        if len(starts) == 1:
            raise UserError(f"{folder}: no identities to write a training set of")
        _write_headers(writer, starts)
        height, width = image_shape
        temporary.write_text(f"{len(starts) - 1},{height},{width}\n")
    return np.diff(starts).tolist()


def copy_images(folder, source, rows, labels, progress=True):
    """Write a training set of images of another one, byte by byte.

    folder: see write_training_set. source: a TrainingSet, or what has its read(i) and image_shape; rows: (n,), the
    positions in `source` of the images to copy; labels: (n,), the class that each gets. Within a class the order of
    `rows` is kept. progress: show a bar.
    Returns the number of images of each class, a list of int. Raises UserError where a class in between has no image.
    """
    counts = np.bincount(labels)
    if not counts.all():
        raise UserError(f"{folder}: no image is of class {np.argmin(counts)}, but some are of class {len(counts) - 1}; "
                        "expected classes 0, 1, ... without a gap")
    with tqdm(np.asarray(rows)[np.argsort(labels, kind="stable")], unit="image", desc="writing",
              disable=not progress) as ordered:
        images = (source.read(row)[0] for row in ordered)
        return write_training_set(folder, (islice(images, count) for count in counts), source.image_shape)


def _write_images(writer, number, label, images):
    start = number
    for image in images:
        writer.write(number, label, image)
        number += 1
    if number == start:
        raise UserError(f"class {label} has no image; leave the identity out")
    return number


def _write_headers(writer, starts):
    """Identity records, numbered on from the last image, then record 0 with their range."""
    first = starts[-1]
    if first + len(starts) - 1 > EXACT:
        logging.getLogger(__name__).warning(
            "%d images: beyond record number %d the identity records, float32, are rounded. This project reads such a "
            "set exactly; readers that trust the identity records do not", first - 1, EXACT)
    for label, image_range in enumerate(zip(starts, starts[1:])):
        writer.write(first + label, image_range, b"")
    writer.write(0, (first, first + len(starts) - 1), b"")
