"""The metadata of IJB-B and IJB-C as the original lays it: `<target>/meta/` beside `<target>/loose_crop/`.

ijbc_face_tid_mid.txt        lines `image template media`
ijbc_name_5pts_score.txt     lines `image x1 y1 ... x5 y5 score`: five landmarks in pixels and the detector's score; the
                             same images in the same order
ijbc_template_pair_label.txt lines `template1 template2 0|1` (1: same subject)
ijbc_1N_gallery_G1.csv, ijbc_1N_gallery_G2.csv, ijbc_1N_probe_mixed.csv
                             a header, then lines that begin `template,subject,`; a template may have several
For IJB-B the names begin with ijbb. Templates, media and subjects are whole numbers.
"""
import csv
import io
import math
import warnings
from array import array
from pathlib import Path
from typing import List, NamedTuple

import numpy as np

from common.errors import DataError
from common.files import open_plain, read_text
from datasets.pairs import bad_line, is_number, read_lines

TARGETS = ("IJBB", "IJBC")
_TABLE = 1 << 26  # template numbers up to here are looked up in a table, which is fast


class Images(NamedTuple):
    """The images: names list of str; templates, medias (N,) int64; landmarks (N, 5, 2) float32, pixels; scores (N,)
    float32 of the detector. points: the file of the landmarks, for messages and to know the set by."""

    names: List[str]
    templates: np.ndarray
    medias: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray
    points: Path


class Pairs(NamedTuple):
    """The pairs to verify: first, second (P,) int32, template numbers; issame (P,) bool."""

    first: np.ndarray
    second: np.ndarray
    issame: np.ndarray


class Subjects(NamedTuple):
    """Templates of a gallery or of the probes, rising, and whom they show: two int64 arrays (T,)."""

    templates: np.ndarray
    subjects: np.ndarray


def image_folder(data_dir, target):
    """The folder of the loosely cropped images."""
    return Path(data_dir, target, "loose_crop")


def meta_path(data_dir, target, name):
    """A metadata file, such as name 'face_tid_mid.txt'."""
    return Path(data_dir, target, "meta", f"{target.lower()}_{name}")


def subject_paths(data_dir, target):
    """The files of identification: dict 'G1', 'G2' (galleries) and 'probes' -> path."""
    return {name: meta_path(data_dir, target, f"1N_{file}.csv")
            for name, file in (("G1", "gallery_G1"), ("G2", "gallery_G2"), ("probes", "probe_mixed"))}


def read_images(data_dir, target):
    """Read both lists of images. target: one of TARGETS. Returns Images.

    Raises DataError, with file and line, for a line of another form, and where the two lists name other images.
    """
    ids, points = (meta_path(data_dir, target, name) for name in ("face_tid_mid.txt", "name_5pts_score.txt"))
    names, templates, medias = _read_ids(ids)
    found, numbers = _read_points(points)
    if len(found) != len(names):
        raise DataError(f"{points}: {len(found)} images; {ids} has {len(names)}: expected the same ones")
    for number, pair in enumerate(zip(found, names), 1):
        if pair[0] != pair[1]:
            raise DataError(f"{points} line {number}: image {pair[0]!r}; line {number} of {ids} has {pair[1]!r}: "
                            "expected the same images in the same order")
    return Images(names, templates, medias, numbers[:, :10].reshape(-1, 5, 2), numbers[:, 10], points)


def _read_ids(path):
    names, numbers = [], array("q")
    for line, fields in read_lines(path):
        if len(fields) != 3 or not all(map(is_number, fields[1:])):
            raise bad_line(path, line, fields, "'image template media'")
        names.append(fields[0])
        numbers.extend(map(int, fields[1:]))
    if not names:
        raise DataError(f"{path}: no images")
    return (names, *np.array(numbers, np.int64).reshape(-1, 2).T.copy())


def _read_points(path):
    names, numbers = [], array("f")
    for line, fields in read_lines(path):
        values = _floats(fields[1:])
        if len(values) != 11:
            raise bad_line(path, line, fields, "an image, ten numbers (five landmarks) and a score, all finite")
        names.append(fields[0])
        numbers.extend(values)
    return names, np.array(numbers, np.float32).reshape(-1, 11)


def _floats(fields):
    """Finite numbers of fields; none where one is something else."""
    try:
        values = list(map(float, fields))
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def read_pairs(path, templates):
    """Read the list of pairs. templates: (T,) rising, the known template numbers. Returns Pairs.

    Raises DataError, with the line, for a line of another form and for a template that has no image.
    """
    rows = _load(path)
    if rows is None or not _known(rows, templates).all():  # read again, to find the line
        rows = np.array([_parse_pair(path, *found, templates) for found in read_lines(path)], np.int32)
    if not len(rows):
        raise DataError(f"{path}: no pairs")
    first, second, issame = rows.T
    return Pairs(first.copy(), second.copy(), issame.astype(bool))


def _csv_lines(path):
    """(line number, fields) of every line of a CSV file that is not empty."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        for row in filter(None, reader):
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not CSV: {error}") from error


def _load(path):
    """Whole numbers (P, 3) int32 of lines that hold three each; None where one does not."""
    open_plain(path).close()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy only warns of a number such as 1.0, and of a file without any
            rows = np.loadtxt(str(path), np.int32, comments=None, ndmin=2)
        return rows if rows.shape[1] == 3 else None
    except (ValueError, Warning):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _known(rows, templates):
    """Which rows name two known templates and a label."""
    ids = rows[:, :2]
    if templates[-1] > _TABLE:
        return (templates[np.searchsorted(templates, ids).clip(max=len(templates) - 1)] == ids).all(1) & (
            rows[:, 2] >> 1 == 0)
    known = np.zeros(templates[-1] + 2, bool)
    known[templates] = True
    return known[np.where(ids < 0, len(known) - 1, np.minimum(ids, len(known) - 1))].all(1) & (rows[:, 2] >> 1 == 0)


def _parse_pair(path, line, fields, templates):
    if len(fields) != 3 or not all(map(is_number, fields)) or fields[2] not in ("0", "1"):
        raise bad_line(path, line, fields, "'template1 template2 0|1'")
    row = list(map(int, fields))
    for template in row[:2]:
        if template not in templates:
            raise DataError(f"{path} line {line}: template {template} has no image in the list of images")
    return row


def read_subjects(path, templates):
    """Read a gallery or the probes. templates: (T,) rising, the known template numbers. Returns Subjects.

    Raises DataError, with the line, for a line of another form, a template that has no image, and one of two subjects.
    """
    rows = _csv_lines(path)
    _, header = next(rows, (1, []))
    if len(header) < 2 or is_number(header[0].strip()):
        raise bad_line(path, 1, header, "a header, such as TEMPLATE_ID,SUBJECT_ID")
    known, subjects = set(templates.tolist()), {}
    for line, row in rows:
        fields = [field.strip() for field in row[:2]]
        if len(fields) < 2 or not all(map(is_number, fields)):
            raise bad_line(path, line, row, "'template,subject,...'")
        template, subject = map(int, fields)
        if template not in known:
            raise DataError(f"{path} line {line}: template {template} has no image in the list of images")
        if subjects.setdefault(template, subject) != subject:
            raise DataError(f"{path} line {line}: template {template} shows subject {subject}, an earlier line says "
                            f"{subjects[template]}")
    if not subjects:
        raise DataError(f"{path}: no templates")
    return Subjects(*np.array(sorted(subjects.items()), np.int64).T.copy())
