"""Lists of decisions on a training set, CSV files with a head line, and what comes of them: a cleaned set.

The head tells what a list is about: `record` (images, by record number), `identity,other` (pairs of identities) or
`identity` (whole identities); its last column is `decision`. Other columns are for the reader.
"""
import re
from pathlib import Path
from typing import Dict, NamedTuple, Tuple

import numpy as np

from common.errors import DataError
from common.files import new_folder, read_csv, write_text
from datasets.cleaned_set import counts_lines, write_cleaned_set
from datasets.review_pages import REVIEW

_KINDS = (  # columns of the key, decisions
    (("record",), ("keep", "drop", REVIEW)),
    (("identity", "other"), ("keep", "merge", REVIEW)),
    (("identity",), ("keep", "drop", REVIEW)))


class Decisions(NamedTuple):
    """What is to change: the lists' names for each dropped record and identity, and pairs of identities to merge.

    undecided: how many things were left at 'review', and stay as they are.
    """

    records: Dict[int, str]
    identities: Dict[int, str]
    pairs: Tuple[Tuple[int, int], ...]
    undecided: int


class Applied(NamedTuple):
    """What was done to a set of N images: classes (N,), is_dropped (N,); merged: (num_classes,), the class that each
    joins; undecided: a count."""

    labels: np.ndarray
    is_dropped: np.ndarray
    merged: np.ndarray
    undecided: int


def write_decisions(path, columns, rows):
    """Write a list: `columns`, the last of them 'decision'; rows: an iterable of tuples."""
    write_text(path, "".join(",".join(map(str, row)) + "\n" for row in [columns, *rows]))


def read_decisions(paths):
    """Read lists; where two decide on the same thing, the later one holds, unless it says 'review'.

    Returns Decisions. Raises DataError, with file and line, for anything that is no such list.
    """
    found = {columns: {} for columns, _ in _KINDS}
    for path in map(Path, paths):
        columns, rows = _read_list(path)
        for key, decision in rows:
            if decision != REVIEW or key not in found[columns]:
                found[columns][key] = decision, path.name
    records, pairs, identities = ({key: source for key, (decision, source) in part.items()
                                   if decision in ("drop", "merge")} for part in found.values())
    undecided = sum(decision == REVIEW for part in found.values() for decision, _ in part.values())
    return Decisions({key: source for (key,), source in records.items()},
                     {key: source for (key,), source in identities.items()}, tuple(pairs), undecided)


def _read_list(path):
    """A list's kind, as the columns of its key, and an iterator of (key, decision)."""
    head, rows = read_csv(path)
    kind = next((kind for kind in _KINDS if set(kind[0]) <= set(head)), None)
    if kind is None or "decision" not in head:
        raise DataError(f"{path} line 1: found {','.join(head)[:60]!r}; expected columns 'record', 'identity,other' or "
                        "'identity', and 'decision'")
    return kind[0], (_parse(path, number, row, *kind) for number, row in rows)


def _parse(path, number, row, columns, decisions):
    key = tuple(row[column] or "" for column in columns)
    if not all(re.fullmatch("[0-9]{1,18}", field.strip()) for field in key):
        raise DataError(f"{path} line {number}: found {','.join(key)[:60]!r}; expected whole numbers for "
                        f"{','.join(columns)}")
    if row["decision"] not in decisions:
        raise DataError(f"{path} line {number}: found decision {row['decision']!r}; expected {', '.join(decisions)}")
    return tuple(sorted(map(int, key))), row["decision"]  # a pair is the same in either order


def apply_decisions(embedded, training_set, paths, output, progress=True):
    """Write a training set anew as lists of decisions say.

    embedded: the EmbeddedSet of training_set, for its labels; paths: lists, later ones go before earlier ones; output:
    a new folder. Identities that are merged take the place of the first of them. Beside the set lie dropped.csv
    (record, identity, list), a line for each dropped image with the list that dropped it, and identities.csv (see
    `write_cleaned_set`). Returns Applied. Raises DataError for a bad list and one of another set, UserError where the
    output exists or no image is left.
    """
    decisions, labels = read_decisions(paths), np.asarray(embedded.labels, np.int64)
    sources = {int(row): source for row, source in zip(
        _find_rows(decisions.records, training_set), decisions.records.values())}
    _check_identities(decisions, training_set)
    gone = np.zeros(training_set.num_classes, bool)
    gone[list(decisions.identities)] = True
    is_dropped = gone[labels]
    is_dropped[list(sources)] = True
    if is_dropped.all():
        raise DataError(f"{', '.join(map(str, paths))}: no image of {training_set.folder} is left")
    merged = merge_pairs(decisions.pairs, training_set.num_classes)
    with new_folder(output) as folder:
        write_cleaned_set(folder, training_set, labels, is_dropped, merged, progress)
        write_decisions(folder / "dropped.csv", ("record", "identity", "list"), (
            (training_set.numbers[row], labels[row], sources.get(row) or decisions.identities[labels[row]])
            for row in np.flatnonzero(is_dropped).tolist()))
    return Applied(labels, is_dropped, merged, decisions.undecided)


def _find_rows(records, training_set):
    """The image numbers of record numbers."""
    wanted, order = np.fromiter(records, np.int64, len(records)), np.argsort(training_set.numbers)
    ordered = training_set.numbers[order]
    places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    for lost in wanted[ordered[places] != wanted][:1]:
        raise DataError(f"{records[lost]}: record {lost} is no image of {training_set.path}; is the list of another "
                        "set?")
    return order[places]


def _check_identities(decisions, training_set):
    for identity in (*decisions.identities, *(one for pair in decisions.pairs for one in pair)):
        if identity >= training_set.num_classes:
            raise DataError(f"identity {identity} of a list is none of {training_set.folder}, which has "
                            f"{training_set.num_classes}; is the list of another set?")


def merge_pairs(pairs, num_classes):
    """For each class the smallest that it is joined with, directly or over others, (num_classes,) int64."""
    merged = np.arange(num_classes)

    def root(identity):
        while merged[identity] != identity:
            merged[identity] = identity = merged[merged[identity]]
        return identity

    for one, other in pairs:
        first, second = sorted((root(one), root(other)))
        merged[second] = first
    return np.array([root(identity) for identity in range(num_classes)], np.int64)


def summary(applied):
    """What was done, as lines of text."""
    own = np.arange(len(applied.merged))
    return [*counts_lines(applied.labels, applied.is_dropped, applied.merged),
            f"merged into another identity: {np.count_nonzero(applied.merged != own):,}",
            f"left at '{REVIEW}', and kept as they are: {applied.undecided:,}"]
