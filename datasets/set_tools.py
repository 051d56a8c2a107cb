"""Training sets made of other ones: merged, cut down, relabelled, unpacked to folders.

Each function writes to a new folder, copies images byte by byte, one at a time, and keeps a few numbers for each of
them. Classes of a new set are 0, 1, ... without a gap; identities.csv beside it tells where they come from.
"""
import re
from bisect import bisect_right
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.errors import DataError, UserError
from common.files import new_folder, read_csv
from datasets.images import suffix_of
from datasets.pairs import bad_line, is_number, read_lines
from datasets.shards import open_images
from datasets.tables import write_table
from datasets.threads import in_order
from datasets.training_set import copy_images


class Made(NamedTuple):
    """What was written: numbers of identities and images."""

    identities: int
    images: int


class JoinedSets:
    """Several training sets as one, laid one behind the other: what `copy_images` needs of them.

    Raises UserError where they are of different image sizes.
    """

    def __init__(self, sets):
        self._sets, self._starts = sets, np.cumsum([0] + [len(part) for part in sets]).tolist()
        self.image_shape = sets[0].image_shape
        for other in sets[1:]:
            if other.image_shape != self.image_shape:
                raise UserError(f"{sets[0].folder} has images of {self.image_shape}, {other.folder} of "
                                f"{other.image_shape} (height, width); sets of one size alone can be merged")

    def read(self, i):
        """Image i and its class in its own set."""
        place = bisect_right(self._starts, i) - 1
        return self._sets[place].read(i - self._starts[place])


def merge_sets(folders, output, same_path=None, progress=True):
    """Write a training set of all images of others.

    folders: of the sets, whose identities are laid one behind the other; output: a new folder; same_path: a CSV file
    with columns set, class, same_set, same_class (sets by their place in `folders`, from 0): the two identities are one
    person, who gets the place of the first. progress: show bars.
    identities.csv has a line for each class of each set: set, original, images, identity (-1: it has no image).
    Returns Made. Raises UserError and DataError for settings and files that cannot be used, with nothing written.
    """
    with ExitStack() as stack:
        sets = [stack.enter_context(closing(open_images(folder))) for folder in folders]
        joined, starts = JoinedSets(sets), np.cumsum([0] + [part.num_classes for part in sets])
        people = np.arange(starts[-1]) if same_path is None else _join_people(same_path, starts)
        folder = stack.enter_context(new_folder(output))
        classes = np.concatenate([start + part.labels(progress) for start, part in zip(starts, sets)])
        identities = number_classes(people, people[classes])
        counts = copy_images(folder, joined, np.arange(len(classes)), identities[classes], progress)
        images = np.bincount(classes, minlength=len(identities))
        place = np.repeat(np.arange(len(sets)), np.diff(starts))
        write_table(folder / "identities.csv", set=place, original=np.arange(len(place)) - starts[place],
                    images=images, identity=np.where(images, identities, -1))
    return Made(len(counts), sum(counts))


def _join_people(path, starts):
    """For every class of all sets the first one of the same person, (C,) int64."""
    people = np.arange(starts[-1])
    for line, row in _read_table(path, "set", "class", "same_set", "same_class"):
        places = []
        for which, number in (row[:2], row[2:]):
            if not (0 <= which < len(starts) - 1 and 0 <= number < starts[which + 1] - starts[which]):
                raise DataError(f"{path} line {line}: there is no class {number} of set {which}; sets and classes "
                                "count from 0")
            places.append(_first(people, starts[which] + number))
        people[max(places)] = min(places)
    return np.array([_first(people, number) for number in people])


def _first(people, number):
    while people[number] != number:
        people[number] = people[people[number]]  # the next search is shorter
        number = people[number]
    return number


def number_classes(groups, present):
    """For each class the number of its group among those that are present, in rising order; -1: it is not.

    groups: (C,) int64; present: the groups of all images.
    """
    is_present = np.zeros(groups.max() + 1, bool)
    is_present[present] = True
    return np.where(is_present, np.cumsum(is_present) - 1, -1)[groups]


def subset(source, output, classes=None, min_images=1, identities=None, max_images=None, share=1.0, seed=0,
           progress=True):
    """Write a training set of a part of another one.

    source: its folder; output: a new folder. Applied in this order: classes: keep these, an iterable of int; None: all;
    min_images: leave out identities with fewer images; identities: draw so many; share: draw this share of the images,
    over 0 to 1; max_images: of identities with more, draw so many. What is drawn depends on seed, 0 to 2**32 - 1,
    alone. progress: show bars. Kept identities are numbered anew in their order.
    identities.csv has a line for each class of the source: original, images, kept, identity (-1: left out).
    Returns Made. Raises UserError for settings that cannot be met or leave nothing, with nothing written.
    """
    _check_settings(min_images, identities, max_images, share, seed)
    with closing(open_images(source)) as training_set, new_folder(output) as folder:
        labels = training_set.labels(progress)
        random = np.random.RandomState(seed)
        chosen = _choose_classes(np.bincount(labels, minlength=training_set.num_classes), training_set.folder, classes,
                                 min_images, identities, random)
        rows = np.flatnonzero(chosen[labels])
        if share < 1:
            rows = rows[_draw(random, len(rows), round(share * len(rows)))]
        if max_images is not None:
            rows = rows[_draw_of_each(random, labels[rows], max_images)]
        identities = number_classes(np.arange(training_set.num_classes), labels[rows])
        return _copy(folder, training_set, labels, rows, identities, progress)


def read_classes(path):
    """The whole numbers in a text file, parted by blanks or lines. Raises DataError, with the line, for others."""
    classes = []
    for line, fields in read_lines(path):
        if not all(is_number(field) for field in fields):
            raise bad_line(path, line, fields, "class numbers")
        classes += map(int, fields)
    return classes


def _check_settings(min_images, identities, max_images, share, seed):
    for name, value in (("min-images", min_images), ("identities", identities), ("max-images", max_images)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}; expected at least 1")
    if not 0 < share <= 1:
        raise UserError(f"share {share:g}; expected more than 0, and 1 at most")
    if not 0 <= seed < 2 ** 32:
        raise UserError(f"seed {seed}; expected 0 to {2 ** 32 - 1}")


def _choose_classes(counts, folder, classes, min_images, identities, random):
    """Which classes are kept, (C,) bool. counts: (C,), their images."""
    chosen = counts >= min_images
    if classes is not None:
        listed = np.zeros(len(counts), bool)
        for number in classes:
            if not 0 <= number < len(counts):
                raise UserError(f"{folder}: no class {number}; its classes are 0 to {len(counts) - 1}")
            listed[number] = True
        chosen &= listed
    if identities is None:
        return chosen
    left = np.flatnonzero(chosen)
    if len(left) < identities:
        raise UserError(f"{folder}: {len(left)} identities to draw {identities} of")
    chosen[:] = False
    chosen[left[_draw(random, len(left), identities)]] = True
    return chosen


def _draw(random, total, number):
    """`number` places of `total`, in rising order."""
    return np.sort(random.permutation(total)[:number])


def _draw_of_each(random, labels, most):
    """Places of at most `most` images of each class, in rising order."""
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, each in a random order
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[rank < most])


def relabel(source, output, mapping_path, progress=True):
    """Write a training set in which each class has the number that a CSV file gives it.

    source: folder of a set; output: a new folder. mapping_path: CSV with columns original and identity, others are left
    alone; every class with images must be listed, -1 leaves it out, several may become one. New numbers must be 0, 1,
    ... without a gap. progress: show bars. identities.csv as for `subset`.
    Returns Made. Raises UserError and DataError for a mapping that does not fit, with nothing written.
    """
    with closing(open_images(source)) as training_set, new_folder(output) as folder:
        new = np.full(training_set.num_classes, -2)
        for line, (original, identity) in _read_table(mapping_path, "original", "identity"):
            if not 0 <= original < len(new) or not -1 <= identity < len(new) or new[original] != -2:
                raise DataError(f"{mapping_path} line {line}: found {original}, {identity}; expected each class, 0 to "
                                f"{len(new) - 1} ({source}/property), once, and a new class, at most as high, or -1 to "
                                "leave it out")
            new[original] = identity
        labels = training_set.labels(progress)
        unlisted = labels[new[labels] == -2]
        if len(unlisted):
            raise DataError(f"{mapping_path}: class {unlisted[0]} is not listed; give it -1 to leave it out")
        return _copy(folder, training_set, labels, np.flatnonzero(new[labels] >= 0), new, progress)


def _copy(folder, training_set, labels, rows, identities, progress):
    """Write the images `rows`, and identities.csv. labels: (N,), of all images; identities: (C,), the new classes."""
    if not len(rows):
        raise UserError(f"{training_set.folder}: no image is left")
    counts = copy_images(folder, training_set, rows, identities[labels[rows]], progress)
    before, kept = (np.bincount(part, minlength=training_set.num_classes) for part in (labels, labels[rows]))
    write_table(folder / "identities.csv", original=np.arange(len(before)), images=before, kept=kept,
                 identity=np.where(kept, identities, -1))
    return Made(len(counts), sum(counts))


def unpack(folders, output, progress=True):
    """Write the images of training sets to <output>/<identity>/<record number>.<suffix>, byte by byte.

    folders: one folder, whose identities are called by their class; or a list of them, where the set's place in the
    list and _ stand before it. Numbers have leading zeros, so that names sort as the set does. output: a new folder.
    Returns Made. Raises DataError for a damaged record and for what is no image, with nothing left in `output`.
    """
    is_one = isinstance(folders, (str, Path))
    identities = images = 0
    with new_folder(output) as folder:
        for place, source in enumerate([folders] if is_one else folders):
            with closing(open_images(source)) as training_set:
                _unpack(training_set, folder, "" if is_one else f"{place}_", progress)
                images += len(training_set)
        identities = sum(1 for _ in folder.iterdir())
    return Made(identities, images)


def _unpack(training_set, folder, prefix, progress):
    widths = len(str(training_set.num_classes - 1)), len(str(training_set.numbers.max()))

    def write(row):
        image, label = training_set.read(row)
        number = training_set.numbers[row]
        identity = folder / f"{prefix}{label:0{widths[0]}d}"
        identity.mkdir(exist_ok=True)
        suffix = suffix_of(image, training_set.where(row))
        (identity / f"{number:0{widths[1]}d}{suffix}").write_bytes(image)

    with closing(in_order(write, range(len(training_set)))) as written:
        for _ in tqdm(written, total=len(training_set), unit="image", disable=not progress):
            pass


def _read_table(path, *columns):
    """(line, numbers in these columns) of every row of a CSV file with a header."""
    head, rows = read_csv(path)
    missing = [name for name in columns if name not in head]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; expected a header with {','.join(columns)}")
    for line, row in rows:
        fields = [(row[name] or "").strip() for name in columns]
        if not all(re.fullmatch("-?[0-9]{1,9}", field) for field in fields):
            raise DataError(f"{path} line {line}: found {','.join(fields)[:60]!r}; expected whole numbers in "
                            f"{','.join(columns)}")
        yield line, list(map(int, fields))
