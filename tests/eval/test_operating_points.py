"""Exact TARs, their bootstrap intervals and the costs of thresholds, against their definitions pair by pair."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import metrics
from eval.operating_points import allowed_accepts, bootstrap_tar, exact_tars, operating_points


def draw(seed=0, genuine=400, impostors=600, digits=None):
    random = np.random.RandomState(seed)
    scores = np.concatenate([random.normal(0.5, 0.15, genuine), random.normal(0.1, 0.15, impostors)])
    return scores if digits is None else scores.round(digits), np.arange(genuine + impostors) < genuine


def resampled_tars(scores, issame, far, samples, seed):
    """The bootstrap as it reads: pairs of each kind drawn anew, the exact TAR of each draw."""
    random = np.random.RandomState(seed)
    kinds = [np.flatnonzero(issame), np.flatnonzero(~issame)]
    tars = []
    for _ in range(samples):
        chosen = np.concatenate([random.choice(kind, len(kind)) for kind in kinds])
        tars.append(metrics.tar_at_far(scores[chosen], issame[chosen], far)[0])
    return np.array(tars)


@pytest.mark.parametrize("far, digits", [(0.1, None), (0.01, None), (0.001, None), (0.05, 1), (0.004, 2)])
def test_intervals_are_those_of_pairs_drawn_anew(far, digits):
    scores, issame = draw(digits=digits)
    expected = np.percentile(resampled_tars(scores, issame, far, 3000, 1), [2.5, 97.5])
    (low, high), = bootstrap_tar(scores, issame, [far], seed=2, samples=20000)
    np.testing.assert_allclose([low, high], expected, atol=0.02)
    assert low <= metrics.tar_at_far(scores, issame, far)[0] <= high


def test_intervals_hang_on_the_seed_and_are_certain_where_all_is_accepted():
    scores, issame = draw()
    assert bootstrap_tar(scores, issame, [1.0]) == [(1.0, 1.0)]
    assert bootstrap_tar(scores, issame, [0.01], 3) == bootstrap_tar(scores, issame, [0.01], 3)
    assert bootstrap_tar(scores, issame, [0.01], 3) != bootstrap_tar(scores, issame, [0.01], 4)
    perfect = issame.astype(float)
    assert bootstrap_tar(perfect, issame, [0.1, 1e-6]) == [(1.0, 1.0)] * 2


@settings(max_examples=200, deadline=None, derandomize=True)
@given(impostors=st.integers(1, 5000), allowed=st.integers(0, 5000))
def test_allowed_accepts_keeps_to_the_far(impostors, allowed):
    allowed = min(allowed, impostors)
    assert allowed_accepts(allowed / impostors, impostors) == allowed


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10 ** 6), genuine=st.integers(1, 30), impostors=st.integers(1, 60), digits=st.integers(1, 3))
def test_points_and_tars_are_their_definitions(seed, genuine, impostors, digits):
    scores, issame = draw(seed, genuine, impostors, digits)
    for found in exact_tars(scores, issame, (0.5, 0.1, 0.01)):
        accepted = scores >= found.threshold
        assert found.far == np.mean(accepted[~issame]) <= found.asked
        assert found.tar == pytest.approx(np.mean(accepted[issame]))
        laxer = scores[scores < found.threshold]
        assert not len(laxer) or np.mean(scores[~issame] >= laxer.max()) > found.asked
        assert found.enough == (found.asked * impostors >= 1)
    points = operating_points(scores, issame, 0.3, (0.5, 0.1, 0.01))
    assert [point.threshold for point in points] == sorted(point.threshold for point in points)
    for point in points:
        accepted = scores >= point.threshold
        assert point.far == pytest.approx(np.mean(accepted[~issame]))
        assert point.frr == pytest.approx(np.mean(~accepted[issame]))
        assert point.accuracy == pytest.approx(np.mean(accepted == issame))
    best = max(np.mean((scores >= threshold) == issame) for threshold in [*scores, np.inf])
    named = {point.name: point for point in points}
    assert named["best accuracy over all pairs"].accuracy == pytest.approx(best)
    assert named["mean of the folds' best"].threshold == 0.3
    assert ("FAR at most 0.01" in named) == (impostors >= 100)
