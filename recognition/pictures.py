"""Pictures to work on: image files, folders of them, the records of a .rec file. They are read one by one."""
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from common.errors import DataError, UserError
from datasets.alignment import walk
from datasets.images import SUFFIXES, read_image
from datasets.recordio import RecordReader, read_index
from datasets.training_set import IDENTITY_SIZE


class Picture(NamedTuple):
    """name: what messages and lists call it; read: gives (encoded image: bytes, label: str), or raises DataError."""

    name: str
    read: Callable


def find_pictures(inputs):
    """The pictures that a user names, with a length and in order.

    inputs: paths of images and of folders, which are searched to any depth; or one path of a .rec file, whose .idx lies
    beside it. The label of an image in a folder is the name of the folder that holds it, that of a record its first
    label; other images have none. Raises UserError or DataError for what is not there or holds no picture.
    """
    paths = [Path(path) for path in inputs]
    if any(path.suffix == ".rec" for path in paths):
        if len(paths) > 1:
            raise UserError(f"{', '.join(map(str, paths))}: expected one .rec file, or images and folders of them")
        return Records(paths[0])
    return [picture for path in paths for picture in (_of_folder(path) if path.is_dir() else [picture_file(path)])]


def picture_file(path, label=""):
    """One image file as a Picture."""
    return Picture(str(path), lambda: (read_image(path), label))


def _of_folder(folder):
    found = [picture_file(folder / name, Path(name).parent.name) for name, _ in walk(folder)]
    if not found:
        raise DataError(f"{folder}: no images; expected {', '.join(SUFFIXES)} in it or its sub-folders; of a training "
                        "set name the .rec file")
    return found


class Records:
    """The images of a .rec file as pictures, by rising record number; headers and identity records are left out.

    path: the .rec file, for instance train.rec or one of a set of shards; neither `property` nor a size is needed.
    Raises DataError for files that are missing or damaged.
    """

    def __init__(self, path):
        self._reader = RecordReader(path)
        index = Path(path).with_suffix(".idx")
        numbers, offsets, sizes = read_index(index, self._reader.size)
        last = np.argmax(offsets)
        end = self._reader.end(offsets[last].item(), numbers[last])
        if end != self._reader.size:
            raise DataError(f"{index}: its records end at byte {end}, {path} at byte {self._reader.size}; is the index "
                            "cut short?")
        chosen = np.argsort(numbers, kind="stable")
        chosen = chosen[sizes[chosen] != IDENTITY_SIZE]
        if not len(chosen):
            raise DataError(f"{path}: no image in {len(numbers)} records")
        self._columns = numbers[chosen], offsets[chosen], sizes[chosen]

    def __len__(self):
        return len(self._columns[0])

    def __iter__(self):
        for number, offset, size in zip(*self._columns):
            yield Picture(f"{self._reader.path} record {number}", partial(self._read, offset.item(), number, size))

    def _read(self, offset, number, size):
        label, image = self._reader.read_image(offset, number, size)
        if not image:
            raise DataError(f"{self._reader.path} record {number}: holds no image")
        return image, f"{label:.9g}"
