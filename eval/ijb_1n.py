"""IJB-B and IJB-C 1:N: who is the subject of a template? Rank 1, 5, 10, and TPIR at FPIR 1e-1 and 1e-2.

    python eval/ijb_1n.py --model ./models/r100,1 --target IJBC --data-dir data

Every probe is searched in gallery G1 and in G2, each for itself; the figures are the means over both. The subjects of
one gallery are not in the other, so that each has probes without a mate (open set). What the original prints, of both
galleries merged into one, stands beside it under its own name. See `eval.ijb` for the definitions.
"""
import math
import sys
from pathlib import Path
from typing import Dict, NamedTuple

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.cli import run
from common.errors import UserError
from eval import ijb, ijb_command, ijb_meta
from eval.ijb_command import name_of
from eval.results import table

GALLERIES = ("G1", "G2")
CMC_RANKS = tuple(range(1, 21))
_FPIR_GRID = np.logspace(-3, 0, 181)


class Identified(NamedTuple):
    """What one gallery gives: ranks (3,) at `ijb.RANKS`; tpir, threshold, tpir_rank_1 (2,) at `ijb.FPIRS`; cmc (20,);
    curve: TPIR over a grid of FPIR; mated, unmated: how many probes."""

    ranks: np.ndarray
    tpir: np.ndarray
    threshold: np.ndarray
    tpir_rank_1: np.ndarray
    cmc: np.ndarray
    curve: np.ndarray
    mated: int
    unmated: int


class Merged(NamedTuple):
    """What the original's way gives: ranks (3,) in both galleries as one; tpir (2,), see `ijb.original_tpir`."""

    ranks: np.ndarray
    tpir: np.ndarray


class Result(NamedTuple):
    """galleries: dict name -> Identified; merged: Merged."""

    galleries: Dict[str, Identified]
    merged: Merged

    def mean(self, what):
        """The mean over the galleries of a field of Identified."""
        return np.mean([getattr(found, what) for found in self.galleries.values()], axis=0)


def identify_templates(vectors, probes, probe_subjects, galleries):
    """Search all probes in every gallery, and in all merged.

    vectors: (T, D) float32, L2-normalised; probes: (Q,) int, rows of it; probe_subjects: (Q,) int. galleries: dict
    name -> (rows (G,), subjects (G,)). Returns a Result.
    Raises UserError for a gallery with two templates of a subject, without a mate for any probe, or with one for all.
    """
    found = {}
    for name, (rows, subjects) in galleries.items():
        mates = _mates(name, subjects, probe_subjects)
        if (mates >= 0).all():
            raise UserError(f"gallery {name}: every probe has a mate in it; FPIR needs probes without one")
        found[name] = _identified(ijb.search(vectors[probes], vectors[rows], mates))
    rows, subjects = (np.concatenate(part) for part in zip(*galleries.values()))
    mates = _mates(" and ".join(galleries), subjects, probe_subjects)
    mated = mates >= 0
    keep = math.ceil(np.count_nonzero(mated) * max(ijb.FPIRS))
    merged = ijb.search(vectors[probes[mated]], vectors[rows], mates[mated], keep)
    return Result(found, Merged(ijb.rank_rates(merged.rank), ijb.original_tpir(merged)[0]))


def _mates(name, subjects, probe_subjects):
    values, counts = np.unique(subjects, return_counts=True)
    if counts.max() > 1:
        raise UserError(f"gallery {name}: subject {values[counts > 1][0]} has {counts.max()} templates; expected one")
    mates = ijb.find_mates(probe_subjects, subjects)
    if (mates < 0).all():
        raise UserError(f"gallery {name}: no probe has a mate in it")
    return mates


def _identified(found):
    tpir, threshold = ijb.tpir_at_fpir(found)
    mated = int(np.count_nonzero(found.rank))
    return Identified(ijb.rank_rates(found.rank), tpir, threshold, ijb.tpir_at_fpir(found, max_rank=1)[0],
                      ijb.rank_rates(found.rank, CMC_RANKS), ijb.tpir_at_fpir(found, _FPIR_GRID)[0], mated,
                      len(found.rank) - mated)


def report_lines(target, results):
    """The lines to print. results: dict Variant -> Result."""
    lines = []
    for variant, result in results.items():
        label = f"[{target}][{variant.name}]"
        lines += [f"{label} {variant.meaning}",
                  *(f"{label} {name}: {_told(one.ranks, one.tpir)}" for name, one in result.galleries.items()),
                  f"{label} mean of the galleries: {_told(result.mean('ranks'), result.mean('tpir'))}; with the mate "
                  f"at rank 1 too {_rates('', result.mean('tpir_rank_1'))}",
                  f"{label} as the original, galleries merged: {_told(*result.merged, 'recall at FAR')}"]
    lines += ijb_command.change_lines(f"[{target}]", _changes(results))
    few = {name: one.unmated for name, one in next(iter(results.values())).galleries.items()
           if one.unmated * min(ijb.FPIRS) < 1}
    return lines + [f"note: {count} probes without a mate in {name} are too few for FPIR {name_of(min(ijb.FPIRS))}"
                    for name, count in few.items()]


def _told(ranks, tpir, what="TPIR at FPIR"):
    return ", ".join(f"rank-{k} {rate:.5f}" for k, rate in zip(ijb.RANKS, ranks)) + ", " + _rates(f"{what} ", tpir)


def _rates(what, tpir):
    return what + ", ".join(f"{name_of(fpir)}: {rate:.5f}" for fpir, rate in zip(ijb.FPIRS, tpir))


def _changes(results):
    return ijb_command.option_changes({variant: float(result.mean("ranks")[0]) for variant, result in results.items()},
                                      "rank-1")


def report_tables(results):
    """The tables of the entry."""
    columns = ["variant", "meaning", "gallery", *(f"rank-{k}" for k in ijb.RANKS),
               *(f"TPIR at FPIR {name_of(fpir)}" for fpir in ijb.FPIRS)]
    rows, merged = [], []
    for variant, result in results.items():
        head = [variant.name, variant.meaning]
        rows += [[*head, name, *map(float, (*one.ranks, *one.tpir))] for name, one in result.galleries.items()]
        rows.append([*head, "mean", *map(float, (*result.mean("ranks"), *result.mean("tpir")))])
        merged.append([*head, "both as one", *map(float, (*result.merged.ranks, *result.merged.tpir))])
    other = [column.replace("TPIR at FPIR", "recall at FAR") for column in columns]
    changes = table("What each option changes", ijb_command.CHANGE_COLUMNS, _changes(results))
    return [table("Identification", columns, rows, "Each probe searched in each gallery; TPIR at any rank."),
            table("As the original prints it", other, merged, "Galleries merged; FAR counts wrong scores by probes.")
            ] + [changes] * bool(changes["rows"])


def pictures(target, title, results):
    """File name -> (Figure, caption)."""
    from eval import plots

    def curves(x, what):
        return {variant.name: (x, result.mean(what), ijb_command.line_style(variant))
                for variant, result in results.items()}

    cmc = plots.rates_figure(curves(CMC_RANKS, "cmc"), f"{title}: mean of both galleries", "rank",
                             "share of probes with a mate that ranks so or better", ijb.RANKS[1:], logarithmic=False)
    open_set = plots.rates_figure(
        curves(_FPIR_GRID, "curve"), f"{title}: mean of both galleries",
        "FPIR: share of probes without a mate that get a candidate (logarithmic)",
        "TPIR: share of probes with a mate that get it", ijb.FPIRS)
    name = f"{target.lower()}_1n"
    return {f"{name}_cmc.png": (cmc, "cumulative match characteristic of the variants"),
            f"{name}_tpir.png": (open_set, "TPIR over FPIR of the variants")}


def evaluate(args, images, subjects, features):
    """Search with what features there are, print and write what comes out.

    args: see `ijb_command`; subjects: dict 'G1', 'G2', 'probes' -> `ijb_meta.Subjects`.
    """
    templates, vectors = ijb_command.build(features, images, args.variants)
    rows = {name: _rows(name, part, templates) for name, part in subjects.items()}
    galleries = {name: rows[name] for name in GALLERIES}
    results = {variant: identify_templates(part, *rows["probes"], galleries) for variant, part in vectors.items()}
    counts = dict(images=len(features.numbers), probes=len(rows["probes"][0]),
                  **{f"templates_in_{name}": len(part[0]) for name, part in galleries.items()})
    notes = ijb_command.left_out_lines(
        images=(len(features.numbers), len(images.names)),
        **{f"templates_of_{name}": (len(rows[name][0]), len(part.templates)) for name, part in subjects.items()})
    print("\n".join([ijb_command.counts_line(f"{args.target} 1:N", counts), *report_lines(args.target, results),
                     *notes]))
    first, title = results[args.variants[0]], f"{args.target} 1:N, {args.job}"
    figures = {**{f"rank-{k}": float(rate) for k, rate in zip(ijb.RANKS, first.mean("ranks"))},
               **{f"tpir@{name_of(fpir)}": float(rate) for fpir, rate in zip(ijb.FPIRS, first.mean("tpir"))}}
    paths = ijb_meta.subject_paths(args.data_dir, args.target).values()
    ijb_command.write(args, "ijb-1n", title, figures, report_tables(results), pictures(args.target, title, results),
                      [images.points, *paths], counts=counts, notes=notes)


def _rows(name, part, templates):
    """Rows and subjects of the templates that have images."""
    rows = ijb.rows_of(part.templates, templates)
    if (rows < 0).all():
        raise UserError(f"{name}: no template is left that has images")
    return rows[rows >= 0], part.subjects[rows >= 0]


def main():
    args = ijb_command.parse_args(__doc__.splitlines()[0])
    images = ijb_meta.read_images(args.data_dir, args.target)
    known = np.unique(images.templates)
    subjects = {name: ijb_meta.read_subjects(path, known)
                for name, path in ijb_meta.subject_paths(args.data_dir, args.target).items()}
    evaluate(args, images, subjects, ijb_command.embed(args, images))


if __name__ == "__main__":
    run(main)
