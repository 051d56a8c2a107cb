"""What is told of a verification: lines, the entry of results.json, pictures, sheets of wrong decisions, embeddings.

`found` is always a `eval.verification.Test`.
"""
import math
from pathlib import Path

import numpy as np

from common.checkpoint import parse_model
from common.files import replacing
from eval import metrics
from eval.results import make_entry, make_trace, picture, table

_HARDEST = 10  # pairs of each kind shown
_FLIP_LABELS = {"sum": "-Flip", "concat": "-Flip-Concat", "none": ""}


def write_verification(model, target, found, flip, output, mode=0):
    """Write the pictures of a verification, and what mode asks for (see `verification.verify`).

    model: 'prefix,epoch'. Returns its entry for results.json.
    """
    prefix, epoch = parse_model(model)
    name, title = f"{target.name}-{epoch:04d}", f"{target.name}, {_short(prefix)} epoch {epoch}"
    pictures = write_pictures(name, title, target, found, output)
    if mode == 1:
        write_bad_cases(name, title, target, found, Path(output, "badcases"))
    elif mode == 2:
        write_embeddings(Path(output, f"{name}_embeddings.npz"), found)
    result = found.result
    figures = dict(accuracy=result.accuracy, accuracy_std=result.accuracy_std, eer=result.eer, auc=result.auc,
                   **{f"tar@{point.asked:g}": point.tar for point in result.exact if point.enough})
    return make_entry("verification", target.name, title, figures, _tables(result), pictures,
                      make_trace(model, target.files), model=model, epoch=epoch, flip=flip, **as_dict(found))


def write_epochs(models, curves, output):
    """Draw the accuracy of several checkpoints. curves: target -> list of (epoch, accuracy, deviation).

    Returns the entry for results.json.
    """
    from eval import plots

    names = list(dict.fromkeys(_short(parse_model(model)[0]) for model in models))
    title = f"accuracy over {len(models)} checkpoints, {', '.join(names)}"
    file = "epochs.png"
    plots.save(plots.epochs_figure(curves, title), Path(output, file))
    best = {target: max(points, key=lambda point: point[1]) for target, points in curves.items()}
    rows = [[target, *(f"{value:.5f}" if isinstance(value, float) else value for value in point)]
            for target, points in curves.items() for point in sorted(points)]
    return make_entry("verification of checkpoints", ", ".join(curves), title,
                      {f"best accuracy of {target}": point[1] for target, point in best.items()},
                      [table("Checkpoints", ["target", "epoch", "accuracy", "deviation"], rows)],
                      [picture(file, "Accuracy of each checkpoint; bars: deviation over the folds.")])


def _short(prefix):
    """The end of a prefix that tells models apart: they are all named `model` in folders of their own."""
    return "/".join(Path(prefix).resolve().parts[-2:])


def _tables(result):
    """Tables of the exact figures and, apart from them, those of the folds."""
    exact = [[f"{point.asked:g}", f"{point.tar:.5f}", f"{point.low:.5f} to {point.high:.5f}", f"{point.far:.6f}",
              f"{point.threshold:.4f}", "" if point.enough else "fewer impostor pairs than 1/FAR"]
             for point in result.exact]
    folds = [[f"{point.asked:g}", f"{point.tar:.5f} ± {point.tar_std:.5f}", f"{point.far:.6f}",
              f"{metrics.to_cosine(point.threshold):.4f}"] for point in result.tar_at_far]
    costs = [[point.name, f"{point.threshold:.4f}", f"{_angle(point.threshold):.1f}", f"{_l2(point.threshold):.4f}",
              f"{_l2(point.threshold) ** 2:.4f}", _share(point.far), _share(point.frr), f"{point.accuracy:.5f}"]
             for point in result.points]
    return [
        table("What a threshold costs", ["threshold", "cosine from", "angle to, degrees", "L2 distance to",
                                         "squared L2 to", "strangers accepted", "genuine rejected", "accuracy"], costs,
              "Over all pairs, exact. A pair is accepted from this cosine on, which is up to this distance of the "
              "normalised embeddings."),
        table("TAR at FAR, exact", ["FAR", "TAR", "95 % interval", "FAR measured", "cosine from", ""], exact,
              "Of all pairs; every score is a possible threshold. Intervals by bootstrap over pairs."),
        table("TAR at FAR, the original's way", ["FAR", "TAR", "FAR measured", "cosine from"], folds,
              "Thresholds of a grid, chosen on the other folds; means over the folds.")]


def _share(value):
    """A rate as people say it: 0.00123 (1 in 813)."""
    return f"{value:.5f} (1 in {1 / value:,.0f})" if value else "0"


def _l2(cosine):
    """The distance of unit vectors of this cosine; nan for a threshold that accepts nothing."""
    return math.sqrt(max(0.0, 2 - 2 * cosine)) if math.isfinite(cosine) else math.nan


def _angle(cosine):
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine)))) if math.isfinite(cosine) else math.nan


def report_lines(label, found, flip="sum"):
    """The original's lines. label: what they begin with, for instance '[lfw][1]'. Returns a list of str."""
    result = found.result
    genuine = np.count_nonzero(result.issame)
    lines = [f"{label}XNorm: {found.xnorm:f}",
             f"{label}Accuracy{_FLIP_LABELS[flip]}: {result.accuracy:1.5f}+-{result.accuracy_std:1.5f}",
             f"{label}{genuine} genuine and {len(result.issame) - genuine} impostor pairs, EER {result.eer:.5f}; "
             f"best accuracy from {_threshold(result.threshold)} on"]
    for point in result.tar_at_far:
        lines.append(f"{label}TAR {point.tar:.5f}+-{point.tar_std:.5f} at FAR {point.asked:g} "
                     f"(measured {point.far:.5f}) from {_threshold(point.threshold)} on")
    coarse = [f"{point.asked:g}" for point in result.tar_at_far if point.asked * (len(result.issame) - genuine) < 1]
    if coarse:
        lines.append(f"{label}note: {len(result.issame) - genuine} impostor pairs are too few for FAR "
                     f"{', '.join(coarse)}; read the TAR there with care")
    one_kind = int(np.isnan(np.array([point.thresholds for point in result.tar_at_far])).any())
    return lines + [f"{label}note: folds without pairs of one kind are left out of the TAR"] * one_kind


def _threshold(distance):
    return f"cosine {metrics.to_cosine(distance):.4f} (squared L2 {distance:.4f})"


def exact_lines(label, found):
    """Lines of the exact figures over all pairs: TAR with its interval, and what thresholds cost."""
    lines = [f"{label}exact over all pairs: TAR {point.tar:.5f} (95 %: {point.low:.5f} to {point.high:.5f}) at FAR "
             f"{point.asked:g} from cosine {point.threshold:.4f} on" for point in found.result.exact if point.enough]
    return lines + [f"{label}{point.name}: from cosine {point.threshold:.4f} (L2 {_l2(point.threshold):.4f}) on, "
                    f"strangers accepted: {_share(point.far)}, genuine rejected: {_share(point.frr)}, accuracy "
                    f"{point.accuracy:.5f}" for point in found.result.points if not point.name.startswith("FAR at")]


def as_dict(found):
    """What was found as numbers and lists."""
    result = found.result
    points = [dict(asked_far=point.asked, tar=point.tar, tar_std=point.tar_std, far=point.far,
                   threshold_squared_l2=point.threshold, threshold_cosine=float(metrics.to_cosine(point.threshold)))
              for point in result.tar_at_far]
    genuine = int(np.count_nonzero(result.issame))
    return dict(
        genuine_pairs=genuine, impostor_pairs=len(result.issame) - genuine, nfolds=len(result.accuracies),
        xnorm=found.xnorm, accuracy=result.accuracy, accuracy_std=result.accuracy_std,
        threshold_squared_l2=result.threshold, threshold_cosine=float(metrics.to_cosine(result.threshold)),
        fold_accuracies=result.accuracies.tolist(), fold_thresholds_squared_l2=result.thresholds.tolist(),
        eer=result.eer, auc=result.auc, tar_at_far=points, exact_tar_at_far=[point._asdict() for point in result.exact],
        operating_points=[point._asdict() for point in result.points])


def write_pictures(name, title, target, found, output):
    """Write ROC, histograms of scores and angles, and the hardest pairs into a folder.

    Files are `<name>_roc.png` and so on. Returns their entries for results.json.
    """
    from eval import plots  # Matplotlib is slow to load, and training has no need of it

    result = found.result
    scores, issame, threshold = result.scores, result.issame, float(metrics.to_cosine(result.threshold))
    fars = [point.asked for point in result.tar_at_far]
    hardest, captions = hardest_pairs(result)
    figures = {
        "roc": (plots.roc_figure(scores, issame, title, fars, threshold), "ROC of all pairs, exact."),
        "scores": (plots.score_figure(scores, issame, title, threshold), "Scores of genuine and impostor pairs."),
        "angles": (plots.angle_figure(scores, issame, title, threshold),
                   "Angles between the embeddings of genuine and of impostor pairs."),
        "hardest": (plots.pairs_figure([target.pair(pair) for pair in hardest], captions,
                                       f"{title}: the hardest pairs"),
                    "The genuine pairs that are least alike, and the impostor pairs that are most alike.")}
    for what, (figure, _) in figures.items():
        plots.save(figure, Path(output, f"{name}_{what}.png"))
    return [picture(f"{name}_{what}.png", caption) for what, (_, caption) in figures.items()]


def hardest_pairs(result, most=_HARDEST):
    """The genuine pairs of the lowest scores, then the impostor pairs of the highest: (pair numbers, captions)."""
    order = np.argsort(result.scores, kind="stable")
    genuine, impostor = order[result.issame[order]][:most], order[~result.issame[order]][::-1][:most]
    pairs = np.concatenate([genuine, impostor])
    return pairs, [f"{'genuine' if result.issame[pair] else 'impostor'} {pair}: {result.scores[pair]:.3f}"
                   for pair in pairs]


def bad_cases(result):
    """The pairs that are decided wrongly by their fold's threshold: false rejects and false accepts, worst first.

    Returns two arrays of pair numbers.
    """
    nfolds = len(result.thresholds)
    excess = np.empty(len(result.issame))  # how far the distance is above the threshold
    rows = np.broadcast_to(result.distances, (nfolds, len(excess)))
    for row, threshold, (_, pairs) in zip(rows, result.thresholds, metrics.folds(len(excess), nfolds)):
        excess[pairs] = row[pairs] - threshold
    rejects, accepts = np.flatnonzero(result.issame & (excess >= 0)), np.flatnonzero(~result.issame & (excess < 0))
    return rejects[np.argsort(-excess[rejects], kind="stable")], accepts[np.argsort(excess[accepts], kind="stable")]


def write_bad_cases(name, title, target, found, output, most=40):
    """Write the worst wrong decisions as sheets `<name>_false_rejects.png` and `<name>_false_accepts.png`.

    most: pairs on a sheet. Returns the paths; a kind without a wrong decision gets no sheet.
    """
    from eval import plots

    paths = []
    for what, pairs in zip(("false rejects", "false accepts"), bad_cases(found.result)):
        if len(pairs):
            shown = pairs[:most]
            figure = plots.pairs_figure(
                [target.pair(pair) for pair in shown],
                [f"pair {pair}: cosine {found.result.scores[pair]:.3f}" for pair in shown],
                f"{title}: the worst {len(shown)} of {len(pairs)} {what}")
            paths.append(Path(output, f"{name}_{what.replace(' ', '_')}.png"))
            plots.save(figure, paths[-1])
    return paths


def write_embeddings(path, found):
    """Write the embeddings (2N, D) float32, L2-normalised, and issame (N,) bool as .npz."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, embeddings=found.embeddings.astype(np.float32), issame=found.result.issame)
