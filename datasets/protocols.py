"""The official verification protocols: where their lists lie, how they read, what they must hold.

A reader takes the path of a list and the folder of the data and returns the protocol's folds in order: ten lists of
Pair. What the lists look like is told in docs/verification-packs.md.
"""
import logging
import os
import re
from functools import partial
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional

from common.errors import DataError, UserError, unknown_name
from datasets.pairs import Pair, bad_line, find_image, is_number, read_lfw_pairs, read_lines

FOLDS = 10
_FEW = 0.01  # the share of pairs whose labels may contradict their names before a list is refused


class Protocol(NamedTuple):
    """A protocol of ten folds.

    list_name: of its list, a file or a folder, in the folder of the data; read: (list path, data folder) -> folds;
    genuine: genuine pairs in a fold, and as many impostor pairs; person: path -> the person's name, None where the path
    does not tell; has_templates: whether a path is a folder of images, the frames of a video.
    """

    list_name: str
    read: Callable[[Path, Path], List[List[Pair]]]
    genuine: int
    person: Callable[[Path], Optional[str]]
    has_templates: bool = False


def read_protocol(name, data_dir, list_path=None):
    """Read and check the list of a protocol.

    name: see PROTOCOLS; data_dir: folder of its images; list_path: its list, where that lies elsewhere.
    Returns ten lists of Pair. Raises UserError for an unknown name, DataError for a list that does not hold the
    protocol: other numbers of pairs in a fold, or labels that the names of the persons contradict (a few contradictions
    are logged as a warning).
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    protocol = PROTOCOLS[name]
    path = Path(list_path or Path(data_dir, protocol.list_name))
    if not Path(data_dir).is_dir():
        raise UserError(f"{data_dir}: no such folder")
    if not path.exists():
        raise UserError(f"protocol {name}: no list {path}; name it with --list")
    folds = protocol.read(path, Path(data_dir))
    _check_counts(f"{path}: protocol {name}", folds, protocol.genuine)
    _check_persons(f"{path}: protocol {name}", folds, protocol.person)
    return folds


def _check_counts(where, folds, expected):
    found, total = sum(map(len, folds)), 2 * expected * FOLDS
    if found != total:
        raise DataError(f"{where}: {found} pairs; the official list has {total}")
    for number, fold in enumerate(folds, 1):
        genuine = sum(pair.same for pair in fold)
        if (genuine, len(fold)) != (expected, 2 * expected):
            raise DataError(f"{where}: fold {number} has {genuine} genuine and {len(fold) - genuine} impostor pairs; "
                            f"the official list has {expected} of each, fold by fold")


def _check_persons(where, folds, person):
    """Labels against names: a list whose columns or labels mean something else is found here."""
    pairs = [pair for fold in folds for pair in fold]
    names = [(person(pair.first), person(pair.second)) for pair in pairs]
    wrong = [i for i, (first, second) in enumerate(names)
             if None not in (first, second) and (first == second) != pairs[i].same]
    if not wrong:
        return
    (first, second), pair = names[wrong[0]], pairs[wrong[0]]
    message = (f"{where}: names contradict the labels of {len(wrong)} of {len(pairs)} pairs; the first is "
               f"{'a genuine' if pair.same else 'an impostor'} pair of {first} and {second} ({pair.first.name}, "
               f"{pair.second.name})")
    if len(wrong) > _FEW * len(pairs):
        raise DataError(f"{message}. Is it the list of another protocol, or are its labels the other way round?")
    logging.getLogger(__name__).warning("%s", message)  # an error of the list, of which the figures are part


def _cut(pairs):
    """A list as it stands in ten equal parts."""
    return [pairs[len(pairs) * i // FOLDS:len(pairs) * (i + 1) // FOLDS] for i in range(FOLDS)]


def _read_lfw(path, data_dir):
    return _cut(read_lfw_pairs(path, data_dir))


def _read_cfp(path, data_dir, kind):
    """CFP's folder Protocol. kind: 'FF' or 'FP', the lists of images that the two numbers of a pair count in."""
    lists = {letter: _read_cfp_images(path / f"Pair_list_{letter}.txt", data_dir) for letter in set(kind)}
    first, second = (lists[letter] for letter in kind)
    return [[pair for name in ("same", "diff")
             for pair in _read_cfp_pairs(path / "Split" / kind / f"{fold:02d}" / f"{name}.txt", first, second)]
            for fold in range(1, FOLDS + 1)]


def _read_cfp_images(path, data_dir):
    """Lines `number path`, such as `1 ../Data/Images/001/frontal/01.jpg`. Returns {number: path}."""
    images = {}
    for line, fields in read_lines(path):
        parts = [part for part in fields[-1].split("/") if part not in ("", ".", "..")]
        if len(fields) != 2 or not is_number(fields[0]) or int(fields[0]) in images or not parts:
            raise bad_line(path, line, fields, "'number path', each number once")
        images[int(fields[0])] = find_image(data_dir, "/".join(parts))
    return images


def _read_cfp_pairs(path, first, second):
    pairs = []
    for line, fields in read_lines(path):
        numbers = [int(number) if is_number(number.strip()) else -1 for number in " ".join(fields).split(",")]
        if len(numbers) != 2 or numbers[0] not in first or numbers[1] not in second:
            raise bad_line(path, line, fields, f"'i,j', numbers in the lists of {len(first)} and {len(second)} images")
        pairs.append(Pair(first[numbers[0]], second[numbers[1]], path.stem == "same"))
    return pairs


def _read_agedb(path, data_dir):
    """Lines `name name 0|1` or `0|1 name name`."""
    pairs = []
    for line, fields in read_lines(path):
        label = next((fields[i] for i in (-1, 0) if fields[i] in ("0", "1")), None)
        if len(fields) != 3 or label is None:
            raise bad_line(path, line, fields, "'name name 0|1' or '0|1 name name'")
        names = fields[:2] if fields[2] == label else fields[1:]
        pairs.append(Pair(*(find_image(data_dir, name) for name in names), label == "1"))
    return _cut(pairs)


def _read_two_lines(path, data_dir):
    """CALFW's and CPLFW's form: two lines `name number` for a pair; 0: impostor, else genuine.

    Where genuine pairs are numbered by fold, they go there; numbered 1 alone, and impostor pairs, are cut as they stand
    into ten parts.
    """
    lines, pairs = list(read_lines(path)), []
    if len(lines) % 2:
        raise DataError(f"{path}: {len(lines)} lines; expected two for each pair")
    for (line, first), (_, second) in zip(lines[::2], lines[1::2]):
        if not len(first) == len(second) == 2 or first[1] != second[1] or not is_number(first[1]) or (
                int(first[1]) > FOLDS):
            raise bad_line(path, line, first + second, "'name number' twice, the same number from 0 to 10")
        pair = Pair(find_image(data_dir, first[0]), find_image(data_dir, second[0]), first[1] != "0")
        pairs.append((int(first[1]), pair))
    genuine, impostor = ([pair for _, pair in pairs if pair.same == same] for same in (True, False))
    by_fold = [[pair for number, pair in pairs if number == fold] for fold in range(1, FOLDS + 1)]
    return [one + other for one, other in zip(by_fold if any(by_fold[1:]) else _cut(genuine), _cut(impostor))]


def _read_ytf(path, data_dir):
    """YTF's splits.txt: `split, first name, second name, is same, is same identity`, a header line above."""
    folds = [[] for _ in range(FOLDS)]
    for line, words in read_lines(path):
        fields = [field.strip() for field in " ".join(words).split(",")]
        if line == 1 and not is_number(fields[0]):
            continue
        if len(fields) not in (4, 5) or not is_number(fields[0]) or not 1 <= int(fields[0]) <= FOLDS or (
                fields[3] not in ("0", "1")):
            raise bad_line(path, line, words, "'split, first name, second name, 0|1, 0|1', splits 1 to 10")
        folds[int(fields[0]) - 1].append(Pair(*(_find_video(data_dir, name) for name in fields[1:3]), fields[3] == "1"))
    return folds


def _find_video(data_dir, name):
    candidates = [Path(data_dir, folder, name) for folder in ("", "aligned_images_DB", "frame_images_DB")]
    return next((path for path in candidates if os.path.isdir(path)), candidates[0])


def _parent(path, above=0):
    return path.parents[above].name


def _in_stem(path, pattern):
    found = re.fullmatch(pattern, path.stem)
    return found and found[1]


_lfw_name = partial(_in_stem, pattern=r"(.+)_\d+")

PROTOCOLS = {
    "lfw": Protocol("pairs.txt", _read_lfw, 300, _parent),
    "cfp_ff": Protocol("Protocol", partial(_read_cfp, kind="FF"), 350, partial(_parent, above=1)),
    "cfp_fp": Protocol("Protocol", partial(_read_cfp, kind="FP"), 350, partial(_parent, above=1)),
    "agedb_30": Protocol("agedb_30_pairs.txt", _read_agedb, 300, partial(_in_stem, pattern=r"\d+_(.+)_\d+_[mf]")),
    "calfw": Protocol("pairs_CALFW.txt", _read_two_lines, 300, _lfw_name),
    "cplfw": Protocol("pairs_CPLFW.txt", _read_two_lines, 300, _lfw_name),
    "ytf": Protocol("splits.txt", _read_ytf, 250, _parent, has_templates=True),
}
