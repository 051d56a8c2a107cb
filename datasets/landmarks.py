"""Landmark files: a CSV with one line for each photograph, its face's box and five landmarks."""
import csv
import io
from array import array
from hashlib import blake2b

import numpy as np

from common.errors import DataError
from common.face_align import LANDMARKS
from common.files import open_plain

COLUMNS = ("image", "x1", "y1", "x2", "y2", *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy"))


class LandmarkTable:
    """A landmark file in memory, in 64 bytes for each line.

    path: a CSV whose first line names COLUMNS, in any order, others being left alone: `image` is the photograph's path
    below its folder, with slashes; the rest are pixels. Of several lines for one photograph the last one counts.
    Raises DataError, naming the line, for a file that cannot be read, lacks a column or holds what is no number.
    """

    def __init__(self, path):
        keys, numbers = array("Q"), array("f")
        try:
            with io.TextIOWrapper(open_plain(path), "utf-8-sig", "surrogateescape", newline="") as file:
                for image, values in _rows(path, csv.reader(file)):
                    keys.append(_key(image))
                    numbers.extend(values)
        except (OSError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        keys = np.frombuffer(keys, np.uint64) if keys else np.empty(0, np.uint64)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._numbers = np.array(numbers, np.float32).reshape(-1, len(COLUMNS) - 1)[order]

    def __len__(self):
        return len(self._keys)

    def find(self, image):
        """Box and landmarks of a photograph, (14,) float32 in the order of COLUMNS, or None where it has no line."""
        key = np.uint64(_key(image))
        last = np.searchsorted(self._keys, key, "right") - 1
        return self._numbers[last] if last >= 0 and self._keys[last] == key else None


def _rows(path, reader):
    header = next(reader, [])
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise DataError(f"{path}: line 1: no column {missing[0]!r}; expected {','.join(COLUMNS)}")
    places = [header.index(name) for name in COLUMNS]
    for row in filter(None, reader):
        try:
            image, *values = (row[place] for place in places)
            values = list(map(float, values))
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}: line {reader.line_num}: expected a path and {len(COLUMNS) - 1} numbers, found "
                            f"{','.join(row)!r}") from error
        if not np.isfinite(values).all():
            raise DataError(f"{path}: line {reader.line_num}: expected finite numbers, found {','.join(row)!r}")
        yield image, values


def _key(image):
    return int.from_bytes(blake2b(image.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
