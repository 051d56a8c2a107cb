"""Pictures of verification: ROC, histogram of scores, sheets of pairs; curves over the steps of a training. Figures
only, no pyplot, no global settings."""
import io
import itertools
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from common.files import replacing
from eval.metrics import auc, eer, roc_curve, tar_at_far

GENUINE, IMPOSTOR, MARK = "#0072B2", "#D55E00", "#222222"  # Okabe and Ito's palette: told apart by all eyes
CURVES = (GENUINE, IMPOSTOR, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", MARK)  # the same palette
_DPI = 150


def save(figure, path):
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(str(temporary), format="png", dpi=_DPI)


def png(figure):
    """A figure as the bytes of a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI)
    return image.getvalue()


def svg(figure, name):
    """A figure as an <svg> to stand in a page, its text as text. name: a word that no other SVG of the page has, with
    which its ids begin."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": ["DejaVu Sans"]}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    inside = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| xmlns(:xlink)?=\"[^\"]*\"", "",
                    text.getvalue()[text.getvalue().index("<svg"):], flags=re.S)
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", inside.replace("xlink:href", "href"))


def _axes(title, size=(7.2, 5.2)):
    figure = Figure(figsize=size, constrained_layout=True)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    axes = figure.add_subplot()
    axes.grid(color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _legend_above(axes):
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), frameon=False, fontsize=9, borderaxespad=0.3)


def roc_figure(scores, issame, title, fars=(1e-3, 1e-4), threshold=None):
    """The exact ROC of all pairs, FAR on a logarithmic axis.

    scores: (N,) cosine similarities; issame: (N,) bool. fars: the FARs to mark on the curve. threshold: a score to
    mark too, for instance that of the best accuracy. Returns a matplotlib Figure.
    """
    far, tar, thresholds = roc_curve(scores, issame)
    left = min(list(fars) + [1 / np.count_nonzero(~np.asarray(issame))])
    start = np.searchsorted(far, 0, side="right") - 1  # the highest TAR without any false accept
    figure, axes = _axes(title)
    axes.plot(np.maximum(far, left / 2)[start:], tar[start:], color=GENUINE, linewidth=2, drawstyle="steps-post",
              label=f"all {len(scores)} pairs: EER {eer(far, tar):.4f}, AUC {auc(far, tar):.5f}")
    for mark, target in zip("osv^", sorted(fars, reverse=True)):
        height, limit = tar_at_far(scores, issame, target)
        axes.plot(target, height, mark, color=IMPOSTOR, markersize=8, clip_on=False, zorder=3,
                  label=f"FAR {target:g}: TAR {height:.4f} at cosine ≥ {limit:.3f}")
    lowest = tar[start]
    if threshold is not None:
        place = np.searchsorted(-thresholds, -threshold, side="right") - 1
        lowest = min(lowest, tar[place])
        axes.plot(max(far[place], left / 2), tar[place], "*", color=MARK, markersize=11, clip_on=False, zorder=3,
                  label=f"best accuracy: FAR {far[place]:.4f}, TAR {tar[place]:.4f} at cosine ≥ {threshold:.3f}")
    axes.set_xscale("log")
    axes.set_xlim(left / 2, 1)  # the left edge stands for FAR 0
    axes.set_ylim(lowest - 0.08 * (1 - lowest) - 1e-3, 1 + 0.02 * (1 - lowest) + 1e-4)
    axes.set_xlabel("FAR: accepted share of the impostor pairs (logarithmic; left edge: 0)")
    axes.set_ylabel("TAR: accepted share of the genuine pairs")
    _legend_above(axes)
    return figure


def score_figure(scores, issame, title, threshold=None):
    """The histogram of genuine and impostor scores, each as shares of its own kind.

    scores: (N,) cosine similarities; issame: (N,) bool; threshold: the score from which pairs are accepted, marked.
    Returns a matplotlib Figure.
    """
    scores = np.asarray(scores)
    edges = np.linspace(min(scores.min(), 0.0), max(scores.max(), 1.0), 81)
    figure, axes = _histograms(scores, issame, title, edges, "", "{:.3f}")
    if threshold is not None:
        _mark_threshold(axes, threshold, f"cosine ≥ {threshold:.3f}", (scores >= threshold) != issame)
    axes.set_xlabel("cosine similarity of the two embeddings")
    return figure


def angle_figure(scores, issame, title, threshold=None):
    """The histogram of the angles between the embeddings of genuine and impostor pairs, in degrees (Deng et al., 2019,
    ArcFace, figures 6 and 7). Arguments as for `score_figure`: scores are cosines."""
    angles = np.degrees(np.arccos(np.clip(scores, -1, 1)))
    edges = np.arange(0, max(120, 2 * np.ceil(angles.max() / 2)) + 1, 2)
    figure, axes = _histograms(angles, issame, title, edges, "°", "{:.1f}")
    if threshold is not None:
        limit = float(np.degrees(np.arccos(np.clip(threshold, -1, 1))))
        _mark_threshold(axes, limit, f"angle ≤ {limit:.1f}°", (np.asarray(scores) >= threshold) != issame)
    axes.set_xlabel("angle between the two embeddings, degrees")
    return figure


def _histograms(values, issame, title, edges, unit, form):
    issame = np.asarray(issame, dtype=bool)
    figure, axes = _axes(title)
    for name, kind, color in (("genuine", issame, GENUINE), ("impostor", ~issame, IMPOSTOR)):
        share = np.histogram(values[kind], edges)[0] / max(1, np.count_nonzero(kind))
        mean, deviation = (form.format(value) + unit for value in (values[kind].mean(), values[kind].std()))
        axes.stairs(share, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(share, edges, color=color, linewidth=1.5,
                    label=f"{np.count_nonzero(kind)} {name} pairs: mean {mean}, deviation {deviation}")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_ylabel(f"share of the pairs of a kind, per {edges[1] - edges[0]:.3g}{unit}")
    _legend_above(axes)
    return figure, axes


def _mark_threshold(axes, place, rule, wrong):
    axes.axvline(place, color=MARK, linestyle="--", linewidth=1.5,
                 label=f"best accuracy at {rule}: {np.count_nonzero(wrong)} of {len(wrong)} pairs wrong")
    _legend_above(axes)


def epochs_figure(curves, title):
    """Accuracy over checkpoints. curves: target -> list of (epoch, accuracy, deviation). Returns a Figure."""
    figure, axes = _axes(title)
    for number, (target, points) in enumerate(curves.items()):
        epochs, accuracies, deviations = zip(*sorted(points))
        best = int(np.argmax(accuracies))
        axes.errorbar(epochs, accuracies, deviations, marker="o", markersize=4, capsize=2, color=f"C{number % 10}",
                      linewidth=1.5, label=f"{target}: best {accuracies[best]:.5f} at {epochs[best]}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("checkpoint")
    axes.set_ylabel("accuracy, ten folds")
    _legend_above(axes)
    return figure


def pairs_figure(pairs, captions, title, columns=5):
    """A sheet of pairs side by side.

    pairs: list of (2, 3, H, W) uint8 RGB, at least one; captions: a str each. Returns a matplotlib Figure.
    """
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(2.1 * columns, 1.25 * rows + 0.45), constrained_layout=True)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, pair, caption in zip(grid.flat, pairs, captions):
        axes.imshow(np.concatenate([image.transpose(1, 2, 0) for image in pair], axis=1))
        axes.set_title(caption, fontsize=8, pad=2)
    return figure


def faces_figure(faces, names, title):
    """Faces side by side, each above its name. faces: (H, W, 3) uint8 RGB; names: a str each. Returns a Figure."""
    figure = Figure(figsize=(2.6 * len(faces), 3.2), constrained_layout=True)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    for axes, face, name in zip(figure.subplots(1, len(faces), squeeze=False)[0], faces, names):
        axes.imshow(face, interpolation="bicubic")
        axes.set(xticks=[], yticks=[], frame_on=False)
        shown = name if len(name) <= 32 else f"…{name[-31:]}"
        axes.set_xlabel(shown.replace("$", r"\$"), fontsize=9)  # a name is no formula
    return figure


def curve_figure(curves, ylabel, logarithmic=False):
    """A small panel of curves over the steps of a training.

    curves: name -> (steps (N,), values (N,), deviation (N,) or None), the deviation drawn as a band; an empty
    name is not told; values that are not finite leave a gap; long curves are thinned out. Returns a Figure.
    """
    figure, axes = _axes("", (4.6, 2.9 + 0.12 * (len(curves) > 3)))
    for number, (name, (steps, values, deviation)) in enumerate(curves.items()):
        style = dict(color=CURVES[number % len(CURVES)], linestyle=("-", "--", ":")[number // len(CURVES) % 3])
        places = thin(values)
        axes.plot(steps[places], values[places], marker="o" if len(steps) <= 25 else "", markersize=3.5, linewidth=1.4,
                  label=name, **style)
        if deviation is not None:
            axes.fill_between(steps, values - deviation, values + deviation, color=style["color"], alpha=0.15,
                              linewidth=0)
    if any(curves):
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), frameon=False, fontsize=8, borderaxespad=0.2, ncol=3,
                    columnspacing=1.2, handlelength=1.6)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(labelsize=9)
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(ylabel, fontsize=9)
    return figure


def thin(values, most=1000):
    """Places in values, (N,), of about `most` that draw the same curve: of equal pieces the lowest and the highest."""
    values = np.asarray(values)
    if len(values) <= most:
        return np.arange(len(values))
    pieces = np.array_split(np.arange(len(values)), most // 2 - 1)
    extremes = [piece[choose(np.where(np.isnan(values[piece]), empty, values[piece]))] for piece in pieces
                for choose, empty in ((np.argmin, np.inf), (np.argmax, -np.inf))]
    return np.unique([0, *extremes, len(values) - 1])


def rates_figure(curves, title, x_label, y_label, marks=(), logarithmic=True):
    """Rates of several evaluations in one picture, such as the ROCs of variants.

    curves: dict label -> (x, y) or (x, y, dict of a line's style), at most eight that differ in colour. marks: x where
    a thin line stands. logarithmic: x; otherwise x are whole numbers. Returns a matplotlib Figure.
    """
    figure, axes = _axes(title)
    for mark in marks:
        axes.axvline(mark, color="0.6", linewidth=0.8, linestyle=":")
    for color, (label, (x, y, *style)) in zip(itertools.cycle(CURVES), curves.items()):
        axes.plot(x, y, label=label, linewidth=1.6, **{"color": color, **dict(*style)})
    if logarithmic:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left = min(x[0] for x, *_ in curves.values())
    axes.set_xlim(left, max(x[-1] for x, *_ in curves.values()))
    span = max(1e-4, 1 - min(y[0] for _, y, *_ in curves.values()))
    axes.set_ylim(1 - 1.06 * span, 1 + 0.02 * span)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="0.85", fontsize=9)
    return figure
