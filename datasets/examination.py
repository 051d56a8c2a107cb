"""Examine a training set or a verification pack, and do with the result what is asked: report, repaired copy, seal."""
from collections import namedtuple
from pathlib import Path

from common.errors import UserError
from datasets.checksums import write_checksums
from datasets.examine_pack import checksums_path, examine_pack
from datasets.examine_pack import seal_rows as seal_pack_rows
from datasets.examine_set import CHECKSUMS, examine_set, seal_rows
from datasets.findings import ERROR, collecting
from datasets.repair import repair_pack, repair_set
from datasets.statistics import describe_pack, describe_set, quantile_lines

Examined = namedtuple("Examined", "examination findings errors lines")
Examined.__doc__ = """examination: SetExamination or PackExamination; findings: Findings; errors: number of those
that are errors; lines: all of it as text."""


def examine(path, output=None, fix=None, seal=False, near_bits=3, nfolds=10, image_shape=(112, 112), progress=True):
    """Examine `path`, a folder with train.rec (or that file) or a verification pack.

    output: folder for report.html and findings.csv; fix: where to write a repaired copy; seal: write checksums if there
    is no error; near_bits: 0 to 8, see `near_duplicates`; nfolds, image_shape (height, width): for packs.
    Returns Examined. Raises UserError for what cannot be examined or written.
    """
    if not 0 <= near_bits <= 8:
        raise UserError(f"near duplicates within {near_bits} bits; expected 0 to 8")
    if nfolds < 1:
        raise UserError(f"{nfolds} folds; expected at least 1")
    path, is_pack = _target(path)
    with collecting(output and Path(output, "findings.csv")) as findings:
        if is_pack:
            found = examine_pack(path, findings, image_shape, nfolds, near_bits, progress)
            figures = list(describe_pack(found))
        else:
            found = examine_set(path, findings, near_bits, progress)
            figures = list(describe_set(found))
    errors = sum(findings.counts[kind] for kind in findings.kinds(ERROR))
    lines = [f"{path}:", *figures, *quantile_lines(found), *findings.lines()]
    if output:
        from datasets.doctor_report import write_report  # matplotlib takes a while to import
        write_report(Path(output, "report.html"), path, found, findings, figures)
        lines.append(f"written: {output}/report.html and findings.csv")
    if fix:
        lines.append(_fix(found, fix, is_pack))
    if seal:
        lines.append(_seal(path, found, is_pack, errors))
    lines.append(f"{errors} errors" if errors else "no error")
    return Examined(found, findings, errors, lines)


def _target(path):
    """(folder or pack, whether it is a pack)"""
    path = Path(path)
    if path.is_dir():
        if not (path / "train.rec").exists():
            packs = ", ".join(sorted(pack.name for pack in path.glob("*.bin"))) or "none"
            raise UserError(f"{path}: no train.rec in this folder; packs in it, to be named with their path: {packs}")
        return path, False
    if path.suffix == ".rec":
        if path.name != "train.rec":
            raise UserError(f"{path}: expected a training set's train.rec, or its folder")
        return path.parent, False
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    return path, True


def _fix(found, target, is_pack):
    if is_pack:
        count = repair_pack(found, target)
        return f"written: {target}, {count} of {len(found.labels)} pairs; its figures cannot be compared to the pack's"
    count = repair_set(found, target)
    return f"written: {target}, {count} of {len(found.rows)} images"


def _seal(path, found, is_pack, errors):
    target = checksums_path(path) if is_pack else path / CHECKSUMS
    if errors:
        return f"not sealed: {target} is only written of a set without errors"
    write_checksums(target, seal_pack_rows(found) if is_pack else seal_rows(found))
    return f"sealed: {target}"
