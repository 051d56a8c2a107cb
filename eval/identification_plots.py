"""Pictures of identification among distractors: CMC, rank-1 over their number, ROC.

`results` is always a dict of a name, such as 'raw', to an `eval.identification.Result`; what is returned, a matplotlib
Figure.
"""
import numpy as np
from matplotlib.ticker import FuncFormatter

from eval.plots import GENUINE, IMPOSTOR, MARK, _axes, _legend_above

_STYLES = [(GENUINE, "-", "o"), (IMPOSTOR, "--", "s"), (MARK, ":", "^")]
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}")


def cmc_figure(results, title):
    """The CMC at the largest number of distractors, ranks on a logarithmic axis."""
    size = next(iter(results.values())).sizes[-1]
    figure, axes = _axes(f"{title}: CMC among {size:,} distractors")
    for (name, result), (color, line, _) in zip(results.items(), _STYLES):
        rates = result.cmc[-1]
        axes.plot(np.arange(1, len(rates) + 1), rates, color=color, linestyle=line, linewidth=2, drawstyle="steps-post",
                  label=f"{name}: {result.pairs:,} pairs, rank-1 {rates[0]:.4f}")
    _logarithmic(axes, "rank of the mate, at most (logarithmic)")
    _finish(axes, [result.cmc[-1] for result in results.values()], "share of the pairs (probe, mate)")
    return figure


def sizes_figure(results, title):
    """Rank-1 over the number of distractors, on a logarithmic axis."""
    figure, axes = _axes(f"{title}: rank-1")
    for (name, result), (color, line, mark) in zip(results.items(), _STYLES):
        axes.plot(result.sizes, result.cmc[:, 0], mark, color=color, linestyle=line, linewidth=2, markersize=7,
                  clip_on=False, label=f"{name}: {result.cmc[-1, 0]:.4f} among {result.sizes[-1]:,}")
    _logarithmic(axes, "distractors (logarithmic)")
    _finish(axes, [result.cmc[:, 0] for result in results.values()], "share of the pairs whose mate is first")
    return figure


def roc_figure(results, title):
    """The ROC from the strictest threshold to the laxest FAR asked for, FAR on a logarithmic axis."""
    figure, axes = _axes(f"{title}: verification")
    left = min(1 / result.impostors for result in results.values()) / 2
    for (name, result), (color, line, mark) in zip(results.items(), _STYLES):
        axes.plot(np.maximum(result.roc_far, left), result.roc_tar, color=color, linestyle=line, linewidth=2,
                  drawstyle="steps-post",
                  label=f"{name}: {result.pairs:,} genuine, {result.impostors:,} impostor pairs")
        points = [point for point in result.tar_at_far if point.far == point.far]
        axes.plot([max(point.asked, left) for point in points], [point.tar for point in points], mark, color=color,
                  markersize=7, clip_on=False, label="TAR " + ", ".join(
                      f"{point.tar:.4f} at FAR {point.asked:g}" for point in points))
    axes.set_xscale("log")
    axes.set_xlim(left=left)
    axes.set_xlabel("FAR: accepted share of the impostor pairs (logarithmic; left edge: 0)")
    _finish(axes, [result.roc_tar for result in results.values()], "TAR: accepted share of the genuine pairs")
    return figure


def _logarithmic(axes, label):
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlabel(label)


def _finish(axes, curves, label):
    lowest = min(np.nanmin(curve) for curve in curves)
    room = max(1 - lowest, 1e-3)
    axes.set_ylim(lowest - 0.08 * room, 1 + 0.02 * room)
    axes.set_ylabel(label)
    _legend_above(axes)
