"""Metrics of verification in plain NumPy: distances of pairs, ROC, accuracy over folds, TAR at FAR.

Two kinds stand side by side. The `grid_` and `kfold_` ones are the original's protocol, number for number: fixed
thresholds on the squared distance, a pair accepted when its distance is *below* one. `roc_curve` and what follows it
are exact: every score is a threshold, a pair accepted when its score is *at or above* it.

Words: distances (N,) float, squared Euclidean ones of L2-normalised embeddings, in 0..4; scores (N,) float, higher is
more alike; issame (N,) bool, True for a genuine pair; TAR and FAR, the accepted fraction of the genuine and of the
impostor pairs.
"""
import numpy as np

from common.errors import UserError

ACCURACY_GRID = np.arange(0, 4, 0.01)
TAR_GRID = np.arange(0, 4, 0.001)


def squared_distances(first, second):
    """Squared Euclidean distances (N,) of embeddings (N, D) to embeddings (N, D)."""
    return np.sum(np.square(np.subtract(first, second)), axis=1)


def to_cosine(distances):
    """The cosine similarity that belongs to a squared distance of unit vectors: |a - b|^2 = 2 - 2 cos."""
    return 1 - np.asarray(distances) / 2


def pca_distances(first, second, nfolds, pca):
    """Squared distances (nfolds, N) after a PCA to `pca` dimensions, fitted for each fold on the other folds' pairs.

    first, second: embeddings (N, D) of the pairs. Needs scikit-learn. Raises UserError where the data give less than
    `pca` dimensions.
    """
    from sklearn.decomposition import PCA

    rows = []
    for train, _ in folds(len(first), nfolds):
        sample = np.concatenate([first[train], second[train]])
        if not 0 < pca <= min(sample.shape):
            raise UserError(f"pca {pca}: expected 1 to {min(sample.shape)} dimensions for {len(sample)} embeddings "
                            f"of {sample.shape[1]}")
        model = PCA(n_components=pca, svd_solver="full").fit(sample)
        rows.append(squared_distances(*(_unit(model.transform(part)) for part in (first, second))))
    return np.array(rows)


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(vectors.dtype).tiny)


def folds(pairs, nfolds):
    """Cut pairs 0..pairs-1, in their order, into folds. Returns a list of (train, test) index arrays.

    nfolds 1: train and test are all pairs. Raises UserError for less than one fold and for more folds than pairs.
    """
    if not 1 <= nfolds <= pairs:
        raise UserError(f"{nfolds} folds for {pairs} pairs: expected 1 to {pairs}")
    tests = np.array_split(np.arange(pairs), nfolds)
    if nfolds == 1:
        return [(tests[0], tests[0])]
    return [(np.concatenate(tests[:fold] + tests[fold + 1:]), test) for fold, test in enumerate(tests)]


def accepted(distances, issame, thresholds):
    """The number of genuine and of impostor pairs whose distance is below each threshold: two int arrays (T,)."""
    # Compared in the precision of the distances: that is what the original's comparisons come to in NumPy 1.
    limits = np.asarray(thresholds).astype(distances.dtype)
    return tuple(np.searchsorted(np.sort(distances[kind]), limits, side="left") for kind in (issame, ~issame))


def _rates(distances, issame, thresholds, undefined):
    """TAR and FAR (T,) at each threshold; `undefined` where there is no pair of that kind."""
    totals = np.count_nonzero(issame), np.count_nonzero(~issame)
    return [count / total if total else np.full(len(thresholds), undefined)
            for count, total in zip(accepted(distances, issame, thresholds), totals)]


def _each_fold(distances, issame, nfolds):
    """(distances, train, test) of each fold; distances (N,) serve all folds, (nfolds, N) one each."""
    rows = np.broadcast_to(distances, (nfolds, len(issame)))
    return [(row, train, test) for row, (train, test) in zip(rows, folds(len(issame), nfolds))]


def grid_roc(distances, issame, nfolds=10, thresholds=ACCURACY_GRID):
    """The original's ROC: TAR (T,) and FAR (T,) at each threshold, means over the folds' test pairs.

    distances: (N,), or (nfolds, N). A fold without pairs of a kind counts with a rate of 0.
    """
    rates = [_rates(row[test], issame[test], thresholds, 0.0)
             for row, _, test in _each_fold(distances, issame, nfolds)]
    return tuple(np.mean(kind, axis=0) for kind in zip(*rates))


def kfold_accuracy(distances, issame, nfolds=10, thresholds=ACCURACY_GRID):
    """Accuracy on each fold at the threshold that is best on the others (the lowest of equals).

    distances: (N,), or (nfolds, N). Returns accuracies (nfolds,) and thresholds (nfolds,).
    """
    accuracies, chosen = [], []
    for row, train, test in _each_fold(distances, issame, nfolds):
        genuine, impostor = accepted(row[train], issame[train], thresholds)
        chosen.append(thresholds[np.argmax(genuine - impostor)])  # accuracy but for a constant and a factor
        (genuine,), (impostor,) = accepted(row[test], issame[test], chosen[-1:])
        accuracies.append((genuine + np.count_nonzero(~issame[test]) - impostor) / len(test))
    return np.array(accuracies), np.array(chosen)


def kfold_tar(distances, issame, far, nfolds=10, thresholds=TAR_GRID):
    """TAR on each fold at the threshold that gives the asked FAR on the others.

    distances: (N,). far: the FAR asked for, a fraction. Returns TARs, FARs and thresholds, each (nfolds,); NaN where
    a fold, or what is left without it, holds no pair of the kind a rate is of.
    """
    found = []
    for row, train, test in _each_fold(distances, issame, nfolds):
        threshold = threshold_at(far, _rates(row[train], issame[train], thresholds, np.nan)[1], thresholds)
        tar, measured = _rates(row[test], issame[test], [threshold], np.nan)
        found.append((tar[0], measured[0], threshold) if threshold == threshold else (np.nan,) * 3)
    return tuple(np.array(found).T)


def threshold_at(far, rates, thresholds):
    """The threshold of an asked FAR, by the original's rule.

    rates: FAR (T,) at each of the rising `thresholds` (T,). Linear between the last threshold at or below the asked
    FAR and the first above it; 0 where no threshold reaches it; NaN where the rates are.
    """
    if not rates[-1] >= far:
        return 0.0 if np.isfinite(rates[-1]) else np.nan
    last = np.searchsorted(rates, far, side="right") - 1
    if last + 1 == len(rates):
        return thresholds[last]
    low, high = rates[last], rates[last + 1]
    return (thresholds[last] * (high - far) + thresholds[last + 1] * (far - low)) / (high - low)


def roc_curve(scores, issame):
    """The exact ROC. Returns FAR, TAR and thresholds, from the strictest to the laxest, one for each distinct score.

    The first point accepts nothing (threshold inf). Raises UserError where genuine or impostor pairs are missing.
    """
    scores, issame = np.asarray(scores), np.asarray(issame, dtype=bool)
    check_kinds(issame)
    order = np.argsort(-scores, kind="stable")
    scores, issame = scores[order], issame[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores are accepted together
    far, tar = (np.concatenate([[0.0], np.cumsum(kind)[last] / np.count_nonzero(kind)]) for kind in (~issame, issame))
    return far, tar, np.concatenate([[np.inf], scores[last]])


def check_kinds(issame):
    """Raise UserError where there is no genuine or no impostor pair: no threshold can be told from one kind alone."""
    genuine = np.count_nonzero(issame)
    if genuine in (0, len(issame)):
        raise UserError(f"{genuine} genuine and {len(issame) - genuine} impostor pairs: at least one of each is needed")


def tar_at_far(scores, issame, far):
    """The exact TAR where at most the fraction `far` of the impostor pairs is accepted.

    far: a number or an array of them. Returns TAR and threshold in the shape of `far`: the laxest threshold that keeps
    to it (inf: none but accepting nothing).
    """
    rates, tar, thresholds = roc_curve(scores, issame)
    place = np.searchsorted(rates, far, side="right") - 1
    return tar[place], thresholds[place]


def auc(far, tar):
    """Area under a ROC that begins at (0, 0) and ends at (1, 1)."""
    return float(np.sum(np.diff(far) * (tar[1:] + tar[:-1])) / 2)


def eer(far, tar):
    """Equal error rate of a ROC that begins at (0, 0) and ends at (1, 1), FAR = 1 - TAR; linear between points."""
    gap = far + tar - 1  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(far[after - 1] + share * (far[after] - far[after - 1]))
