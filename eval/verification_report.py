"""What is told of a verification: lines, JSON, pictures, sheets of wrong decisions, embeddings.

`found` is always a `eval.verification.Test`.
"""
import json
from pathlib import Path

import numpy as np

from common.files import replacing
from eval import metrics


def report_lines(label, found, flip=True):
    """The lines to print. label: what they begin with, for instance '[lfw][1]'. Returns a list of str."""
    result = found.result
    genuine = np.count_nonzero(result.issame)
    lines = [f"{label}XNorm: {found.xnorm:f}",
             f"{label}Accuracy{'-Flip' * flip}: {result.accuracy:1.5f}+-{result.accuracy_std:1.5f}",
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


def as_json(found):
    """What was found as what json can write: numbers, lists, None for what is not defined."""
    result = found.result
    points = [dict(asked_far=point.asked, tar=point.tar, tar_std=point.tar_std, far=point.far,
                   threshold_squared_l2=point.threshold, threshold_cosine=float(metrics.to_cosine(point.threshold)))
              for point in result.tar_at_far]
    genuine = int(np.count_nonzero(result.issame))
    values = dict(
        genuine_pairs=genuine, impostor_pairs=len(result.issame) - genuine, nfolds=len(result.accuracies),
        xnorm=found.xnorm, accuracy=result.accuracy, accuracy_std=result.accuracy_std,
        threshold_squared_l2=result.threshold, threshold_cosine=float(metrics.to_cosine(result.threshold)),
        fold_accuracies=result.accuracies.tolist(), fold_thresholds_squared_l2=result.thresholds.tolist(),
        eer=result.eer, auc=result.auc, tar_at_far=points)
    return json.loads(json.dumps(values), parse_constant=lambda name: None)


def write_pictures(name, title, found, output):
    """Write `<name>_roc.png` and `<name>_scores.png` into a folder. Returns their paths."""
    from eval import plots  # Matplotlib is slow to load, and training has no need of it

    result, paths = found.result, [Path(output, f"{name}_{what}.png") for what in ("roc", "scores")]
    threshold = float(metrics.to_cosine(result.threshold))
    fars = [point.asked for point in result.tar_at_far]
    plots.save(plots.roc_figure(result.scores, result.issame, title, fars, threshold), paths[0])
    plots.save(plots.score_figure(result.scores, result.issame, title, threshold), paths[1])
    return paths


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


def write_bad_cases(name, title, pack, found, output, most=40):
    """Write the worst wrong decisions as sheets `<name>_false_rejects.png` and `<name>_false_accepts.png`.

    most: pairs on a sheet. Returns the paths; a kind without a wrong decision gets no sheet.
    """
    from eval import plots

    paths = []
    for what, pairs in zip(("false rejects", "false accepts"), bad_cases(found.result)):
        if len(pairs):
            shown = pairs[:most]
            figure = plots.pairs_figure(
                [pack.decode(2 * pair, 2 * pair + 2) for pair in shown],
                [f"pair {pair}: cosine {found.result.scores[pair]:.3f}" for pair in shown],
                f"{title}: the worst {len(shown)} of {len(pairs)} {what}")
            paths.append(Path(output, f"{name}_{what.replace(' ', '_')}.png"))
            plots.save(figure, paths[-1])
    return paths


def write_embeddings(path, found):
    """Write the embeddings (2N, D) float32, L2-normalised, and issame (N,) bool as .npz."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, embeddings=found.embeddings.astype(np.float32), issame=found.result.issame)
