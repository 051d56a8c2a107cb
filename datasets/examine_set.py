"""A whole training set examined: files, records, images, labels, identities, copies."""
import os
import struct
from collections import namedtuple
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import DataError
from datasets.checksums import SEAL, check_checksums
from datasets.findings import told_runs
from datasets.identity_ranges import HEAD, UNKNOWN, classes_by_range
from datasets.measure import BLANK, EMPTY, GOOD, UNDECODABLE, content_hash, measure_all
from datasets.near_duplicates import exact_duplicates, near_duplicates
from datasets.recordio import EXACT
from datasets.scan import Damage, first_label, open_records, scan_index, scan_records
from datasets.training_set import read_property

CHECKSUMS = "train.checksums"
_HEAD = struct.Struct("<qqffQ")  # HEAD
_PROPERTY = -1  # stands for `property` among the numbers of sealed records
_NO_LABEL = -1

SetExamination = namedtuple("SetExamination", "folder rows labels heads property image_shape usable again pairs sealed")
SetExamination.__doc__ = """What is known of a training set after its examination.

rows: (N,) of measure.ROW, the images in file order; labels: (N,) int64, the class of each, -1 where it has none that
can be believed; heads: (K,) of HEAD, the records without an image; property: (num_classes, (height, width)) or None;
image_shape: the size that images should have; usable: (N,) bool, good images of that size with a class; again: (N,)
bool, stored before in the same identity; pairs: kind of finding -> (M, 2) places in rows, of copies;
sealed: whether there are checksums.
"""


def examine_set(folder, findings, near_bits=3, progress=True):
    """Examine a training set, reading train.rec once from its start to its end.

    folder: holds train.rec, train.idx, property and perhaps train.checksums; findings: Findings, which gets what is
    wrong; near_bits: as `near_duplicates` takes it. Up to about 350 bytes of memory an image.
    Returns a SetExamination. Raises DataError where train.rec is missing or cannot be read.
    """
    folder = Path(folder)
    try:
        found_property = read_property(folder)
    except DataError as error:
        found_property = None
        findings.add("property", "property", str(error))
    rows, heads = _read_records(folder, findings, progress)
    usable = _check_images(rows, findings)
    image_shape = _check_size(rows, usable, found_property, findings)
    labels = _check_labels(rows, heads, found_property, findings)
    usable &= labels != _NO_LABEL
    again, pairs = _check_copies(rows, labels, usable, near_bits, findings)
    examination = SetExamination(folder, rows, labels, heads, found_property, image_shape, usable, again, pairs,
                                 (folder / CHECKSUMS).exists())
    if examination.sealed:
        check_checksums(folder / CHECKSUMS, seal_rows(examination), findings)
    return examination


def seal_rows(examination):
    """What checksums hold of a set: (N + K + 1,) of SEAL, `property` included."""
    rows, heads = examination.rows, examination.heads
    sealed = np.zeros(len(rows) + len(heads) + 1, SEAL)
    sealed["number"] = np.concatenate([rows["number"], heads["number"], [_PROPERTY]])
    sealed["label"][:len(rows)] = rows["label"].view("<u4")
    sealed["content"][:-1] = np.concatenate([rows["content"], heads["content"]])
    sealed["content"][-1] = content_hash(repr(examination.property).encode())
    return sealed


def _read_records(folder, findings, progress):
    index = _Index(folder / "train.idx", findings)
    heads = bytearray()
    with open_records(folder / "train.rec") as file:
        if not os.fstat(file.fileno()).st_size:
            findings.add("no_images", "train.rec", "the file is empty")
        with tqdm(total=len(index) or None, unit="image", disable=not progress) as bar:
            rows = measure_all(_images(scan_records(file), index, heads, findings), bar)
            bar.update(len(heads) // HEAD.itemsize)
    index.number_at(1 << 62)
    if not len(rows):
        findings.add("no_images", "train.rec", f"{len(heads) // HEAD.itemsize} records without an image")
    return rows, np.frombuffer(heads, HEAD)


class _Index:
    """The index, walked through in the order of the file."""

    def __init__(self, path, findings):
        self._findings, self._next = findings, 0
        try:
            numbers, offsets = scan_index(
                path, lambda line, text: findings.add("index_line", f"line {line}", repr(text)))
        except DataError as error:
            numbers = offsets = np.empty(0, np.int64)
            findings.add("index_missing", path.name, str(error))
        else:
            if not len(numbers):
                findings.add("index_missing", path.name, "it lists no record")
        ordered = np.sort(numbers)
        for number in ordered[1:][ordered[1:] == ordered[:-1]]:
            findings.add("index_twice", int(number), "it is listed twice")
        order = np.argsort(offsets, kind="stable")
        self._numbers, self._offsets = numbers[order], offsets[order]

    def __len__(self):
        return len(self._numbers)

    def number_at(self, offset):
        """The number that is listed for the record at `offset`, or None; what was listed before it points nowhere."""
        found, nowhere = None, []
        while self._next < len(self) and self._offsets[self._next] <= offset:
            number, listed = int(self._numbers[self._next]), int(self._offsets[self._next])
            if listed < offset:
                nowhere.append((number, listed))
            elif found is not None:
                self._findings.add("index_twice", number, f"byte {listed}, where record {found} is")
            else:
                found = number
            self._next += 1
        for where in told_runs([number for number, _ in nowhere]):
            self._findings.add("index_dangling", where, "no whole record starts where they point, from byte "
                               f"{nowhere[0][1]} on")
        return found


def _images(events, index, heads, findings):
    """The records with an image, as `measure_all` takes them; those without are appended to `heads`."""
    for found in events:
        if isinstance(found, Damage):
            findings.add("damaged", f"byte {found.offset}", f"{found.size} bytes: {found.reason}")
            continue
        number = index.number_at(found.offset)
        indexed = number is not None or not len(index)
        if number is None:
            number = found.number
            if not indexed:
                findings.add("not_indexed", number, f"the record at byte {found.offset}")
        elif number != found.number:
            findings.add("number", number, f"its header says {found.number}")
        if found.payload or len(found.labels) != 8:
            yield number, found.offset, first_label(found), indexed, found.payload
        else:
            heads += _HEAD.pack(number, found.offset, *struct.unpack("<2f", found.labels), content_hash(found.labels))


def _check_images(rows, findings):
    for row in rows[rows["state"] == UNDECODABLE]:
        findings.add("undecodable", int(row["number"]), f"{row['bytes']} bytes")
    for row in rows[rows["state"] == EMPTY]:
        findings.add("empty", int(row["number"]), "no image behind its label")
    good = rows["state"] == GOOD
    for row in rows[good & (rows["contrast"] < BLANK)]:
        findings.add("blank", int(row["number"]), f"brightness {row['brightness']:.0f}, contrast {row['contrast']:.1f}")
    return good


def _check_size(rows, usable, found_property, findings):
    """The size (height, width) that most images have; those of another one are no longer usable."""
    sizes, counts = np.unique((rows["height"].astype(int) << 16 | rows["width"])[usable], return_counts=True)
    if not len(sizes):
        return found_property[1] if found_property else None
    image_shape = divmod(int(sizes[np.argmax(counts)]), 1 << 16)
    if found_property and found_property[1] != image_shape:
        height, width = found_property[1]
        findings.add("property", "property", f"image size {height}x{width}; most images are {image_shape[0]}x"
                     f"{image_shape[1]}")
    wrong = usable & ((rows["height"] != image_shape[0]) | (rows["width"] != image_shape[1]))
    for row in rows[wrong]:
        findings.add("wrong_size", int(row["number"]), f"{row['height']}x{row['width']}; expected {image_shape[0]}x"
                     f"{image_shape[1]}")
    usable &= ~wrong
    return image_shape


def _check_labels(rows, heads, found_property, findings):
    """The class of every image, (N,) int64, _NO_LABEL for those that have none or are in doubt."""
    by_range, identities = classes_by_range(rows["number"], heads, findings)
    with np.errstate(invalid="ignore"):
        whole = (rows["label"] >= 0) & (rows["label"] < EXACT) & (rows["label"] == np.floor(rows["label"]))
    labels = np.where(whole, rows["label"], _NO_LABEL).astype(np.int64)
    known = (by_range != UNKNOWN) & whole
    if known.any() and np.mean(labels[known] == by_range[known]) < 0.5:
        # classes are not numbered as the identities are: all that is expected is one label for each identity
        by_range, identities = _most_common(labels, by_range, known), None
    classes = max(identities or 0, _believed(labels, found_property))
    for place in np.flatnonzero(~whole | (labels >= classes)):
        findings.add("label", int(rows["number"][place]), f"{rows['label'][place]:.9g}; expected a whole number in [0, "
                     f"{classes})")
    labels[labels >= classes] = _NO_LABEL
    for place in np.flatnonzero((by_range != UNKNOWN) & (labels != _NO_LABEL) & (labels != by_range)):
        findings.add("label_range", int(rows["number"][place]), f"{labels[place]}; its identity is {by_range[place]}")
        labels[place] = _NO_LABEL
    _check_classes(labels, classes, identities, found_property, findings)
    return labels


def _believed(labels, found_property):
    """The number of classes that `property` says, unless many labels lie beyond: then that the labels use."""
    if found_property and np.count_nonzero(labels >= found_property[0]) <= max(1, 0.01 * len(labels)):
        return min(found_property[0], EXACT)
    return int(labels.max(initial=-1)) + 1


def _most_common(labels, by_range, known):
    """The label that most images of an identity have, in place of the identity's own place."""
    pairs, counts = np.unique(np.stack([by_range[known], labels[known]], axis=1), axis=0, return_counts=True)
    order = np.argsort(counts, kind="stable")  # the most common comes last and stays
    table = np.full(by_range.max() + 1, UNKNOWN)
    for identity, label in pairs[order]:
        table[identity] = label
    return np.where(by_range == UNKNOWN, UNKNOWN, table[by_range])


def _check_classes(labels, classes, identities, found_property, findings):
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    used = np.flatnonzero(counts).max(initial=-1) + 1
    if found_property and found_property[0] not in (identities, used):
        findings.add("property", "property", f"{found_property[0]} classes; the set has {identities or used}")
    for where in told_runs(np.flatnonzero(counts == 0)):
        findings.add("missing_class", where, "no image")
    for label in np.flatnonzero(counts == 1):
        findings.add("single", f"class {label}", "one image")


def _check_copies(rows, labels, usable, near_bits, findings):
    """Find copies among the good images. Returns (again, pairs) as SetExamination has them."""
    numbers, good = rows["number"], np.flatnonzero(usable)
    exact = good[exact_duplicates(rows["content"][good])]
    again = np.zeros(len(rows), bool)
    _mark_again(rows["content"], labels, good, again)
    first = np.setdiff1d(good, exact[:, 1])
    first = first[rows["contrast"][first] >= BLANK]
    near = near_duplicates(rows["phash"][first], rows["dhash"][first], labels[first], near_bits)
    same = labels[exact[:, 0]] == labels[exact[:, 1]]
    pairs = {"duplicate_within": exact[same], "duplicate_across": exact[~same],
             "near_within": first[near[0]], "near_across": first[near[1]]}
    for kind, found in pairs.items():
        for one, other in found:
            findings.add(kind, int(numbers[other]), f"like record {numbers[one]}, classes {labels[other]} and "
                         f"{labels[one]}")
    return again, pairs


def _mark_again(content, labels, good, again):
    """Set `again` for images of which an earlier one of the same class has the same content."""
    order = good[np.lexsort((good, labels[good], content[good]))]
    same = (content[order[1:]] == content[order[:-1]]) & (labels[order[1:]] == labels[order[:-1]])
    again[order[1:][same]] = True
