"""Template sets: a training set of which each class is a template (a video, a set of photographs), and pairs of them.

Beside train.rec, train.idx and property lie templates.txt, lines `class<TAB>name`, and pairs.txt, lines
`class1 class2 0|1` (1: same identity), fold after fold.
"""
import os
import re
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import List, NamedTuple

import numpy as np
from tqdm import tqdm

from common.errors import DataError, UserError
from common.files import new_folder, read_text, write_text
from datasets import TEMPLATES
from datasets.images import SUFFIXES, decode_into
from datasets.pairs import bad_line, is_number, read_checked, read_lines
from datasets.threads import in_order
from datasets.training_set import TrainingSet, write_training_set

_PAIRS = "pairs.txt"


class TemplateSet(NamedTuple):
    """Templates and the pairs to verify; offers what a `datasets.packs.Pack` does.

    images: a TrainingSet whose classes are the templates; names: their names, by class; pairs: (P, 2) int64, classes;
    issame: (P,) bool, whether a pair shows the same identity.
    """

    images: TrainingSet
    names: List[str]
    pairs: np.ndarray
    issame: np.ndarray

    @property
    def path(self):
        """The folder."""
        return self.images.folder

    @property
    def files(self):
        """What it is read from."""
        return [self.path / name for name in ("train.rec", "train.idx", TEMPLATES, _PAIRS)]

    @property
    def name(self):
        """The name of its folder."""
        return self.images.folder.resolve().name

    @property
    def image_shape(self):
        """(height, width) of every image."""
        return self.images.image_shape

    def decode_these(self, numbers):
        """Decode the images at these positions. Returns (n, 3, H, W) uint8 RGB; raises DataError as Pack's does."""
        planes = np.empty((len(numbers), 3, *self.image_shape), np.uint8)
        for row, number in enumerate(numbers):
            decode_into(planes[row], self.images.read(number)[0], self.images.where(number))
        return planes

    def distinct(self):
        """The positions of the images to embed, (M,): all."""
        return np.arange(len(self.images))

    def of_pairs(self, values):
        """What the templates of the pairs have: (2P, ...), each the mean of the values (M, ...) of its images."""
        classes = self.images.identities()
        sums = np.zeros((len(self.names), *values.shape[1:]), np.float64)
        np.add.at(sums, classes, values)
        counts = np.bincount(classes, minlength=len(self.names)).reshape(-1, *[1] * (values.ndim - 1))
        return (sums / np.maximum(counts, 1))[self.pairs.ravel()]

    def pair(self, number):
        """The middle images of the two templates of a pair, (2, 3, H, W) uint8 RGB."""
        of_class = [np.flatnonzero(self.images.identities() == label) for label in self.pairs[number]]
        return self.decode_these([rows[len(rows) // 2] for rows in of_class])


def load_templates(folder):
    """Read a template set. Returns a TemplateSet, of which the caller closes `images`.

    Raises DataError, with file and line, where a part is missing or the parts do not belong together.
    """
    names = _read_names(Path(folder, TEMPLATES))
    pairs = _read_pairs(Path(folder, _PAIRS), len(names))
    images = TrainingSet(folder)
    if images.num_classes != len(names):
        images.close()
        raise DataError(f"{Path(folder, 'templates.txt')}: {len(names)} templates; `property` says "
                        f"{images.num_classes} classes")
    return TemplateSet(images, names, pairs[:, :2], pairs[:, 2].astype(bool))


def _read_names(path):
    names = []
    for line, content in enumerate(read_text(path).splitlines(), 1):
        number, _, name = content.partition("\t")
        if number != str(len(names)) or not name.isprintable() or not name:
            raise bad_line(path, line, [content], f"'{len(names)}<TAB>name', the name printable")
        names.append(name)
    return names


def _read_pairs(path, num_templates):
    pairs = []
    for line, fields in read_lines(path):
        if len(fields) != 3 or not all(map(is_number, fields)) or (
                max(map(int, fields[:2])) >= num_templates or fields[2] not in ("0", "1")):
            raise bad_line(path, line, fields, f"'class1 class2 0|1', classes below {num_templates}")
        pairs.append([int(field) for field in fields])
    if not pairs:
        raise DataError(f"{path}: no pairs")
    return np.array(pairs, np.int64)


def write_template_set(folder, pairs, image_shape=(112, 112), max_frames=None, progress=True):
    """Write a template set of pairs of videos; images go in byte by byte.

    folder: new, or empty; pairs: list of Pair whose paths are folders with the frames of a video; templates are
    numbered as the pairs name them first, and called by the last two parts of their paths. image_shape: (height,
    width) that every frame must have; max_frames: of a video with more, so many are taken, evenly spaced; None: all.
    Raises UserError for a folder that exists, DataError for no pairs, a video without a frame and a frame that cannot
    be used; nothing is written then.
    """
    if not pairs:
        raise DataError(f"{folder}: no pairs to write a template set of")
    videos = {path: number for number, path in enumerate(dict.fromkeys(path for pair in pairs for path in pair[:2]))}
    frames = [choose_frames(list_frames(path), max_frames) for path in videos]
    empty = [str(path) for path, chosen in zip(videos, frames) if not chosen]
    if empty:
        raise DataError(f"{empty[0]}: no frames; expected a folder of images")
    with new_folder(folder) as temporary:
        _write_frames(temporary, frames, image_shape, progress)
        write_text(temporary / TEMPLATES,
                   "".join(f"{number}\t{'/'.join(path.parts[-2:])}\n" for path, number in videos.items()))
        write_text(temporary / _PAIRS, "".join(
            f"{videos[pair.first]} {videos[pair.second]} {pair.same:d}\n" for pair in pairs))


def _write_frames(folder, frames, image_shape, progress):
    paths = [path for chosen in frames for path in chosen]
    with closing(in_order(lambda path: read_checked(path, image_shape), paths)) as read:
        images = iter(tqdm(read, total=len(paths), unit="image", disable=not progress))
        write_training_set(folder, (islice(images, len(chosen)) for chosen in frames), image_shape)


def list_frames(folder):
    """The images of a folder by the numbers in their names (frame 9 before frame 10); none where it does not exist."""
    if not os.path.isdir(folder):
        return []
    return sorted((path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES), key=_by_numbers)


def _by_numbers(path):
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d+)|(\D+)", path.name)]


def choose_frames(frames, max_frames=None):
    """Of a list with more than max_frames so many, evenly spaced: the middles of equal parts. None: all."""
    if max_frames is not None and max_frames < 1:
        raise UserError(f"max-frames {max_frames}; expected at least 1")
    if max_frames is None or len(frames) <= max_frames:
        return frames
    return [frames[(2 * i + 1) * len(frames) // (2 * max_frames)] for i in range(max_frames)]
