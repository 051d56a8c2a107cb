"""What an examination finds: a table of kinds, how many of each, the first few, and all of them as CSV."""
import csv
from collections import Counter, defaultdict
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from common.files import replacing

ERROR, WARNING, STATISTIC = SEVERITIES = ("error", "warning", "statistic")
_FEW = 5


class Kind(NamedTuple):
    """severity: one of SEVERITIES; title: what is wrong; remedy: what `--fix` does about it."""

    severity: str
    title: str
    remedy: str


_REBUILT, _DROPPED, _KEPT = "written anew", "left out", "kept"
KINDS = {
    # training sets
    "property": Kind(ERROR, "property does not fit the set", _REBUILT),
    "index_missing": Kind(ERROR, "no index", _REBUILT),
    "index_line": Kind(ERROR, "lines of the index that are no 'number<TAB>offset'", _REBUILT),
    "index_twice": Kind(ERROR, "records listed twice in the index", _REBUILT),
    "index_dangling": Kind(ERROR, "index entries that point at no whole record", _REBUILT),
    "not_indexed": Kind(ERROR, "records that the index does not list", "taken in, unless something else is wrong"),
    "damaged": Kind(ERROR, "stretches of the file that are no record", _DROPPED),
    "no_images": Kind(ERROR, "no image at all", _KEPT),
    "undecodable": Kind(ERROR, "images that cannot be decoded", _DROPPED),
    "wrong_size": Kind(ERROR, "images of another size", _DROPPED),
    "empty": Kind(ERROR, "records without an image that no identity needs", _DROPPED),
    "label": Kind(ERROR, "labels that are no class", _DROPPED),
    "label_range": Kind(ERROR, "labels that differ from the identity whose range the image lies in", _DROPPED),
    "header": Kind(ERROR, "record 0 or identity records missing or wrong", _REBUILT),
    "range": Kind(ERROR, "identity ranges that overlap or run out of the images", _REBUILT),
    "no_range": Kind(ERROR, "images in no identity's range", "taken in by their label"),
    "changed": Kind(ERROR, "content that differs from the checksums", _KEPT),
    "number": Kind(WARNING, "records whose own number differs from the index", _REBUILT),
    "missing_class": Kind(WARNING, "classes without an image", "left out, the others numbered anew"),
    "single": Kind(WARNING, "identities with one image", _KEPT),
    "duplicate_within": Kind(WARNING, "images stored again, byte for byte, in the same identity", _DROPPED),
    "duplicate_across": Kind(WARNING, "images stored again, byte for byte, in another identity", _KEPT),
    "near_within": Kind(WARNING, "near duplicates in the same identity", _KEPT),
    "near_across": Kind(WARNING, "near duplicates in another identity", _KEPT),
    "blank": Kind(STATISTIC, "blank images (contrast below 4 grey levels)", _KEPT),
    # verification packs
    "pack": Kind(ERROR, "not a verification pack", "not possible"),
    "counts": Kind(ERROR, "numbers of images and labels that do not fit", "pairs that lack a part are left out"),
    "pack_image": Kind(ERROR, "images that are no bytes", "its pair is left out"),
    "pack_undecodable": Kind(ERROR, "images that cannot be decoded", "its pair is left out"),
    "pack_size": Kind(ERROR, "images of another size", "its pair is left out"),
    "pack_label": Kind(ERROR, "labels that are neither true nor false", "its pair is left out"),
    "impostor_same": Kind(ERROR, "impostor pairs of one image twice", _DROPPED),
    "contradiction": Kind(ERROR, "pairs that are there as genuine and as impostor", "both left out"),
    "genuine_same": Kind(WARNING, "genuine pairs of one image twice", _KEPT),
    "repeated": Kind(WARNING, "pairs that are there twice", _KEPT),
    "near_impostor": Kind(WARNING, "impostor pairs of near duplicates", _KEPT),
    "near_genuine": Kind(WARNING, "genuine pairs of near duplicates", _KEPT),
    "folds": Kind(WARNING, "folds that are not alike", _KEPT),
}


class Findings:
    """Counts findings by kind and keeps the first few of each; where `writer` (csv.writer) is given, it gets all."""

    def __init__(self, writer=None):
        self.counts, self.first, self._writer = Counter(), defaultdict(list), writer

    def add(self, kind, where, message):
        """Note a finding. kind: of KINDS; where: record, image or pair number, or what it is about; message: str."""
        self.counts[kind] += 1
        if len(self.first[kind]) < _FEW:
            self.first[kind].append((where, message))
        if self._writer:
            self._writer.writerow([KINDS[kind].severity, kind, where, message])

    def kinds(self, *severities):
        """The kinds found, of some severities (none named: all), in the order of KINDS."""
        return [kind for kind in KINDS if self.counts[kind] and KINDS[kind].severity in (severities or SEVERITIES)]

    def lines(self):
        """All of it as text for a terminal, the worst first."""
        for severity in SEVERITIES:
            for kind in self.kinds(severity):
                few = "; ".join(f"{where}: {message}" for where, message in self.first[kind])
                more = "; ..." if self.counts[kind] > _FEW else ""
                yield f"{severity}: {self.counts[kind]} {KINDS[kind].title}: {few}{more}"


def told_runs(numbers):
    """Numbers as messages give them, each run of neighbours as one: [3, 4, 5, 9] -> ['3 to 5 (3)', '9'].

    numbers: (N,) integers; of equal ones, one is told.
    """
    numbers = np.unique(numbers)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1) if len(numbers) else []
    return [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]} ({len(run)})" for run in runs]


@contextmanager
def collecting(csv_path=None):
    """Give Findings that are written to a CSV as they come, whole or not at all; None: only counted."""
    if csv_path is None:
        yield Findings()
        return
    with replacing(csv_path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["severity", "kind", "where", "message"])
        yield Findings(writer)
