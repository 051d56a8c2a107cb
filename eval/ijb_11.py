"""IJB-B and IJB-C 1:1: are the subjects of two templates the same? TAR at FAR 1e-6 to 1e-1.

    python eval/ijb_11.py --model ./models/r100,1 --target IJBC --data-dir data

The protocol and its options are described in `eval.ijb`, the files in `eval.ijb_meta`.
"""
import sys
from pathlib import Path
from typing import NamedTuple, Tuple

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.cli import run
from common.errors import UserError
from eval import ijb, ijb_command, ijb_meta, metrics
from eval.ijb_command import name_of
from eval.results import table


class Verified(NamedTuple):
    """What one variant gives. tar, threshold (F,): exact, at `ijb.FARS`; nearest_tar, nearest_far (F,): of the point
    that the original takes; curve: FAR and TAR of the exact ROC, for a picture; scores: (P,) float32, or None."""

    variant: ijb.Variant
    tar: np.ndarray
    threshold: np.ndarray
    nearest_tar: np.ndarray
    nearest_far: np.ndarray
    curve: Tuple[np.ndarray, np.ndarray]
    scores: np.ndarray


def verify_templates(vectors, first, second, issame):
    """Verify pairs of templates, for each variant.

    vectors: dict Variant -> (T, D) float32, L2-normalised; first, second: (P,) int, rows of it; issame: (P,) bool.
    Returns a list of Verified; the first keeps its scores. Raises UserError where one kind of pair is missing.
    """
    metrics.check_kinds(issame)
    found = []
    for variant, templates in vectors.items():
        scores = ijb.pair_scores(templates, first, second)
        genuine, impostor = np.sort(scores[issame]), np.sort(scores[~issame])
        grid = np.logspace(np.log10(min(ijb.FARS[0], 1 / len(impostor))), 0, 601)
        found.append(Verified(variant, *ijb.tar_at_far(genuine, impostor, ijb.FARS),
                              *ijb.nearest_tar(genuine, impostor, ijb.FARS),
                              (grid, ijb.tar_at_far(genuine, impostor, grid)[0]), None if found else scores))
    return found


def report_lines(target, found, impostors):
    """The lines to print of a list of Verified. impostors: how many pairs."""
    lines = []
    for one in found:
        label = f"[{target}][{one.variant.name}]"
        lines += [f"{label} {one.variant.meaning}",
                  f"{label} TAR at FAR " + ", ".join(f"{name_of(far)}: {tar:.5f}"
                                                     for far, tar in zip(ijb.FARS, one.tar)),
                  f"{label} the original's nearest points " + ", ".join(
                      f"{name_of(far)}: {tar:.5f} (FAR {measured:.2e})"
                      for far, tar, measured in zip(ijb.FARS, one.nearest_tar, one.nearest_far))]
    lines += ijb_command.change_lines(f"[{target}]", _changes(found))
    few = [name_of(far) for far in ijb.FARS if far * impostors < 1]
    return lines + [f"note: {impostors} impostor pairs are too few for FAR {', '.join(few)}; read the TAR there with "
                    "care"] * bool(few)


def _changes(found):
    return ijb_command.option_changes({one.variant: float(one.tar[ijb.FARS.index(1e-4)]) for one in found},
                                      "TAR at FAR 1e-4")


def report_tables(found):
    """The tables of the entry."""
    fars = [f"FAR {name_of(far)}" for far in ijb.FARS]

    def rows(values):
        return [[one.variant.name, one.variant.meaning, *map(float, values(one))] for one in found]

    exact = table("TAR at FAR", ["variant", "meaning", *fars], rows(lambda one: one.tar),
                  "Exact: at most that share of the impostor pairs is accepted.")
    limits = table("Thresholds", ["variant", "meaning", *fars], rows(lambda one: one.threshold),
                   "Cosine from which a pair is accepted.")
    nearest = table("TAR at the nearest point", ["variant", "meaning", *fars], rows(lambda one: one.nearest_tar),
                    "As the original reports it: at the ROC's point whose FAR is nearest, above or below.")
    changes = table("What each option changes", ijb_command.CHANGE_COLUMNS, _changes(found))
    return [exact, limits, nearest] + [changes] * bool(changes["rows"])


def pictures(target, title, found, issame):
    """File name -> (Figure, caption)."""
    from eval import plots

    curves = {one.variant.name: (*one.curve, ijb_command.line_style(one.variant)) for one in found}
    roc = plots.rates_figure(curves, title, "FAR: accepted share of the impostor pairs (logarithmic)",
                             "TAR: accepted share of the genuine pairs", ijb.FARS)
    name = f"{target.lower()}_11"
    return {f"{name}_roc.png": (roc, "exact ROC of the variants"),
            f"{name}_scores.png": (plots.score_figure(found[0].scores, issame, f"{title}, {found[0].variant.name}"),
                                   f"scores of genuine and impostor pairs, {found[0].variant.name}")}


def evaluate(args, images, pairs, features):
    """Verify the pairs with what features there are, print and write what comes out. args: see `ijb_command`."""
    templates, vectors = ijb_command.build(features, images, args.variants)
    first, second, issame = _rows(pairs, templates)
    found = verify_templates(vectors, first, second, issame)
    genuine = int(np.count_nonzero(issame))
    counts = dict(images=len(features.numbers), templates=len(templates), genuine_pairs=genuine,
                  impostor_pairs=len(issame) - genuine)
    notes = ijb_command.left_out_lines(images=(len(features.numbers), len(images.names)),
                                       pairs=(len(issame), len(pairs.issame)))
    print("\n".join([ijb_command.counts_line(f"{args.target} 1:1", counts),
                     *report_lines(args.target, found, len(issame) - genuine), *notes]))
    title = f"{args.target} 1:1, {args.job}"
    figures = {f"tar@{name_of(far)}": float(tar) for far, tar in zip(ijb.FARS, found[0].tar)}
    ijb_command.write(args, "ijb-11", title, figures, report_tables(found),
                      pictures(args.target, title, found, issame), [images.points, _path(args)], counts=counts,
                      notes=notes)


def _rows(pairs, templates):
    """Rows of both templates, and the label, of the pairs that have both."""
    rows = [ijb.rows_of(part, templates) for part in pairs[:2]]
    there = np.minimum(*rows) >= 0
    if not there.any():
        raise UserError("no pair is left of which both templates have images")
    return [part if there.all() else part[there] for part in (*rows, pairs.issame)]


def _path(args):
    return ijb_meta.meta_path(args.data_dir, args.target, "template_pair_label.txt")


def main():
    args = ijb_command.parse_args(__doc__.splitlines()[0])
    images = ijb_meta.read_images(args.data_dir, args.target)
    pairs = ijb_meta.read_pairs(_path(args), np.unique(images.templates))
    evaluate(args, images, pairs, ijb_command.embed(args, images))


if __name__ == "__main__":
    run(main)
