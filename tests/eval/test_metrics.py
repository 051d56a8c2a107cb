"""Metrics against the original's numbers and against their plain definitions."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from eval import metrics

SETS = ("easy600", "hard600", "odd601")


def naive_rates(distances, issame, threshold, undefined):
    same = [distance < threshold for distance, kind in zip(distances, issame) if kind]
    other = [distance < threshold for distance, kind in zip(distances, issame) if not kind]
    return [sum(kind) / len(kind) if kind else undefined for kind in (same, other)]


def naive_accuracy(distances, issame, threshold):
    return sum((distance < threshold) == kind for distance, kind in zip(distances, issame)) / len(issame)


def naive_folds(pairs, nfolds):
    if nfolds == 1:
        return [(list(range(pairs)), list(range(pairs)))]
    sizes = [pairs // nfolds + (fold < pairs % nfolds) for fold in range(nfolds)]
    tests = [list(range(sum(sizes[:fold]), sum(sizes[:fold + 1]))) for fold in range(nfolds)]
    return [([pair for pair in range(pairs) if pair not in test], test) for test in tests]


def naive_threshold(far, rates, thresholds):
    if max(rates) < far:
        return 0.0
    below = max(i for i, rate in enumerate(rates) if rate <= far)
    above = [i for i, rate in enumerate(rates) if rate > far]
    if not above:
        return thresholds[below]
    slope = (thresholds[above[0]] - thresholds[below]) / (rates[above[0]] - rates[below])
    return thresholds[below] + slope * (far - rates[below])


@st.composite
def pair_sets(draw, smallest=2):
    """Distances with many ties, on and off the thresholds' grid, and labels."""
    size = draw(st.integers(smallest, 30))
    steps = draw(st.lists(st.integers(0, 80), min_size=size, max_size=size))
    offset = draw(st.sampled_from([0.0, 0.003, 0.0251]))
    issame = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    return np.array(steps) * 0.05 + offset, issame


def both_kinds(pairs):
    return 0 < np.count_nonzero(pairs[1]) < len(pairs[1])


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("nfolds", [10, 1])
def test_equals_the_original(golden, name, nfolds):
    data = np.load(golden / "verification_evaluate.npz")
    embeddings, issame = data[f"{name}_emb"], data[f"{name}_same"]
    expected = {key: data[f"{name}_nf{nfolds}_{key}"] for key in ("tpr", "fpr", "acc", "val_valstd_far")}
    distances = metrics.squared_distances(embeddings[0::2], embeddings[1::2])
    tar, far = metrics.grid_roc(distances, issame, nfolds)
    np.testing.assert_allclose(tar, expected["tpr"], rtol=1e-14)
    np.testing.assert_allclose(far, expected["fpr"], rtol=1e-14)
    np.testing.assert_allclose(metrics.kfold_accuracy(distances, issame, nfolds)[0], expected["acc"], rtol=1e-14)
    tars, fars, _ = metrics.kfold_tar(distances, issame, 1e-3, nfolds)
    np.testing.assert_allclose([tars.mean(), tars.std(), fars.mean()], expected["val_valstd_far"], rtol=1e-14)


def test_pca_equals_the_original(golden):
    data = np.load(golden / "verification_evaluate.npz")
    embeddings, issame = data["hard600_emb"], data["hard600_same"]
    distances = metrics.pca_distances(embeddings[0::2], embeddings[1::2], 10, 8)
    assert distances.shape == (10, 600)
    np.testing.assert_allclose(metrics.kfold_accuracy(distances, issame)[0], data["hard600_pca8_acc"], rtol=1e-14)
    with pytest.raises(UserError, match="pca 33: expected 1 to 32"):
        metrics.pca_distances(embeddings[0::2], embeddings[1::2], 10, 33)


@given(pair_sets(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_folds_accuracy_and_roc_are_their_definitions(pairs, nfolds):
    distances, issame = pairs
    nfolds = min(nfolds, len(issame))
    thresholds = np.arange(0, 4.2, 0.05)
    accuracies, chosen = metrics.kfold_accuracy(distances, issame, nfolds, thresholds)
    rates = []
    for fold, (train, test) in enumerate(naive_folds(len(issame), nfolds)):
        trained = [naive_accuracy(distances[train], issame[train], threshold) for threshold in thresholds]
        best = thresholds[trained.index(max(trained))]
        assert chosen[fold] == best
        assert accuracies[fold] == pytest.approx(naive_accuracy(distances[test], issame[test], best), abs=1e-15)
        rates.append([naive_rates(distances[test], issame[test], threshold, 0.0) for threshold in thresholds])
    np.testing.assert_allclose(np.transpose(metrics.grid_roc(distances, issame, nfolds, thresholds)),
                               np.mean(rates, axis=0), atol=1e-15)


@given(pair_sets(), st.integers(1, 4), st.sampled_from([1e-3, 0.1, 1 / 3, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_tar_at_far_of_folds_is_its_definition(pairs, nfolds, far):
    distances, issame = pairs
    nfolds = min(nfolds, len(issame))
    thresholds = np.arange(0, 4.2, 0.05)
    found = np.transpose(metrics.kfold_tar(distances, issame, far, nfolds, thresholds))
    for (tar, measured, threshold), (train, test) in zip(found, naive_folds(len(issame), nfolds)):
        rates = [naive_rates(distances[train], issame[train], limit, np.nan)[1] for limit in thresholds]
        if issame[train].all():
            assert np.isnan([tar, measured, threshold]).all()
            continue
        assert threshold == pytest.approx(naive_threshold(far, rates, thresholds), abs=1e-12)
        np.testing.assert_allclose([tar, measured], naive_rates(distances[test], issame[test], threshold, np.nan))


def test_threshold_between_duplicates():
    rates = np.array([0, 0, 0, 0.2, 0.2, 0.2, 0.6])
    thresholds = np.arange(7.0)
    assert metrics.threshold_at(0.1, rates, thresholds) == pytest.approx(2.5)  # last 0 at 2, first 0.2 at 3
    assert metrics.threshold_at(0.2, rates, thresholds) == pytest.approx(5)  # the last duplicate itself
    assert metrics.threshold_at(0.3, rates, thresholds) == pytest.approx(5.25)
    assert metrics.threshold_at(0.6, rates, thresholds) == 6
    assert metrics.threshold_at(0.7, rates, thresholds) == 0
    assert np.isnan(metrics.threshold_at(0.1, np.full(7, np.nan), thresholds))


def test_thresholds_are_compared_in_the_precision_of_the_distances():
    distances = np.array([0.07], np.float32)  # below 0.07 as float64, equal to it as float32
    assert distances[0] > 0.07 or np.float64(distances[0]) != 0.07
    (genuine,), _ = metrics.accepted(distances, np.array([True]), [0.07])
    assert genuine == 0


@given(pair_sets().filter(both_kinds))
@settings(max_examples=80, deadline=None)
def test_exact_roc_is_its_definition(pairs):
    scores, issame = pairs
    far, tar, thresholds = metrics.roc_curve(scores, issame)
    assert (far[0], tar[0], thresholds[0]) == (0, 0, np.inf)
    assert (far[-1], tar[-1]) == (1, 1)
    np.testing.assert_array_equal(thresholds[1:], np.unique(scores)[::-1])
    for point in zip(far, tar, thresholds):
        accepted = scores >= point[2]
        assert point[:2] == (accepted[~issame].mean(), accepted[issame].mean())
    for asked in (0, 0.1, 0.25, 1 / 3, 1):
        kept = [point for point in zip(tar, far) if point[1] <= asked]
        found, threshold = metrics.tar_at_far(scores, issame, asked)
        assert found == max(kept)[0]
        assert (scores[~issame] >= threshold).mean() <= asked
    # The area is the chance that a genuine pair scores above an impostor one, ties counting half.
    above = np.sign(scores[issame][:, None] - scores[~issame])
    assert metrics.auc(far, tar) == pytest.approx((above.mean() + 1) / 2, abs=1e-12)
    rate = metrics.eer(far, tar)
    on_curve = [min(far[i:i + 2]) - 1e-9 <= rate <= max(far[i:i + 2]) + 1e-9
                and abs((rate - far[i]) * (tar[i + 1] - tar[i]) - (1 - rate - tar[i]) * (far[i + 1] - far[i])) < 1e-9
                for i in range(len(far) - 1)]
    assert any(on_curve)  # the point (rate, 1 - rate) lies on the line between two points of the curve


def test_exact_tar_at_many_fars():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    issame = np.array([True, True, False, True, False, False])
    tar, thresholds = metrics.tar_at_far(scores, issame, [0, 0.3, 0.34, 1])
    np.testing.assert_allclose(tar, [2 / 3, 2 / 3, 1, 1])
    np.testing.assert_allclose(thresholds, [0.8, 0.8, 0.6, 0.4])
    assert metrics.tar_at_far([0.1, 0.9], [True, False], 0) == (0, np.inf)
    assert metrics.eer(*metrics.roc_curve(scores, issame)[:2]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("issame", [[True] * 4, [False] * 4])
def test_one_kind_alone_has_no_roc(issame):
    with pytest.raises(UserError, match="at least one of each"):
        metrics.roc_curve(np.arange(4.0), issame)


@pytest.mark.parametrize("nfolds", [0, 5])
def test_folds_must_fit(nfolds):
    with pytest.raises(UserError, match=f"{nfolds} folds for 4 pairs: expected 1 to 4"):
        metrics.folds(4, nfolds)


def test_cosine_of_a_distance():
    vectors = np.random.RandomState(0).standard_normal((2, 50, 8))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    np.testing.assert_allclose(metrics.to_cosine(metrics.squared_distances(*vectors)), (vectors[0] * vectors[1]).sum(1))
