"""What a threshold costs, and how sure a TAR is: exact, over all pairs, beside the folds of the original's protocol.

Scores are cosine similarities, higher is more alike; a pair is accepted when its score is at or above a threshold.
"""
import math
from typing import NamedTuple

import numpy as np

from eval import metrics

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_SAMPLES, _LEVEL = 2000, 0.95


class ExactTar(NamedTuple):
    """The TAR where at most the fraction `asked` of the impostor pairs is accepted.

    low, high: its 95 % bootstrap interval; threshold: a cosine, inf where nothing is accepted; far: the accepted
    fraction of the impostor pairs there; enough: whether there is at least one impostor pair for each 1/asked.
    """

    asked: float
    tar: float
    low: float
    high: float
    threshold: float
    far: float
    enough: bool


class OperatingPoint(NamedTuple):
    """What a threshold costs. name: what it is; threshold: a cosine; far, frr: the fractions of the impostor pairs that
    are accepted and of the genuine pairs that are rejected; accuracy: the fraction of all pairs decided right."""

    name: str
    threshold: float
    far: float
    frr: float
    accuracy: float


def exact_tars(scores, issame, fars=FARS, seed=0):
    """An ExactTar for each asked FAR. scores: (N,); issame: (N,) bool, both kinds there; seed: of the bootstrap."""
    rates, tar, thresholds = metrics.roc_curve(scores, issame)
    places = np.searchsorted(rates, fars, side="right") - 1
    intervals = bootstrap_tar(scores, issame, fars, seed)
    impostors = np.count_nonzero(~issame)
    return [ExactTar(far, float(tar[place]), low, high, float(thresholds[place]), float(rates[place]),
                     far * impostors >= 1)
            for far, place, (low, high) in zip(fars, places, intervals)]


def bootstrap_tar(scores, issame, fars, seed=0, samples=_SAMPLES, level=_LEVEL):
    """Percentile intervals of the exact TAR at each FAR, as if genuine and impostor pairs were drawn anew.

    Both kinds are drawn with replacement, each as often as there are (Efron and Tibshirani 1993, "An Introduction to
    the Bootstrap", section 13.3). Nothing needs drawing but what the TAR hangs on: with k = floor(FAR·n) false accepts
    allowed, the limit is the (k+1)-th highest of n impostor scores drawn, whose place among the ordered scores is
    n·Beta(k+1, n-k), rounded down; and of the genuine pairs above it a binomial number is drawn. Pairs count as
    independent, though some share an image or a person: intervals are rather too narrow than too wide.
    Returns a list of (low, high).
    """
    random = np.random.RandomState(seed)
    issame = np.asarray(issame, bool)
    genuine, impostor = np.sort(scores[issame]), -np.sort(-scores[~issame])
    intervals, tail = [], 50 * (1 - level)
    for far in fars:
        allowed = allowed_accepts(far, len(impostor))
        if allowed >= len(impostor):
            intervals.append((1.0, 1.0))
            continue
        place = len(impostor) * random.beta(allowed + 1, len(impostor) - allowed, samples)
        limits = impostor[np.minimum(place.astype(int), len(impostor) - 1)]
        above = 1 - np.searchsorted(genuine, limits, side="right") / len(genuine)
        tars = random.binomial(len(genuine), above) / len(genuine)
        intervals.append(tuple(float(value) for value in np.percentile(tars, [tail, 100 - tail])))
    return intervals


def allowed_accepts(far, impostors):
    """How many of the impostor pairs may be accepted at a FAR, in the rounding of `metrics.tar_at_far`."""
    allowed = math.floor(far * impostors)
    return allowed + 1 if (allowed + 1) / impostors <= far else allowed


def operating_points(scores, issame, folds_threshold=None, fars=FARS):
    """What the thresholds cost that people ask for: a list of OperatingPoint, from the laxest to the strictest.

    folds_threshold: that of the original's ten folds, a cosine. Those of the FARs are the laxest that keep to them;
    FARs for which there are too few impostor pairs are left out.
    """
    rates, tar, thresholds = metrics.roc_curve(scores, issame)
    genuine, impostors = np.count_nonzero(issame), np.count_nonzero(~issame)
    right = tar * genuine + (1 - rates) * impostors
    named = {"best accuracy over all pairs": thresholds[np.argmax(right)],
             "FAR = FRR (EER)": thresholds[np.argmin(np.abs(rates - (1 - tar)))]}
    if folds_threshold is not None:
        named["mean of the folds' best"] = folds_threshold
    for far in fars:
        if far * impostors >= 1:
            named[f"FAR at most {far:g}"] = thresholds[np.searchsorted(rates, far, side="right") - 1]
    points = []
    for name, threshold in named.items():
        place = np.searchsorted(-thresholds, -threshold, side="right") - 1
        points.append(OperatingPoint(name, float(threshold), float(rates[place]), float(1 - tar[place]),
                                     float(right[place] / (genuine + impostors))))
    return sorted(points, key=lambda point: (point.threshold, point.name))
