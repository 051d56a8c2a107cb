"""Identification among distractors against its definition, pair by pair in float64."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from eval import identification
from eval.identification import Selection, identify, identify_each
from eval.megaface import identify as public_identify


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make(seed=0, probes=40, identities=6, distractors=300, dimensions=12, noise=1.0):
    rng = np.random.RandomState(seed)
    names = rng.randint(0, identities, probes)
    features = unit(rng.standard_normal((identities, dimensions))[names]
                    + noise * rng.standard_normal((probes, dimensions)))
    return features.astype(np.float32), names, unit(rng.standard_normal((distractors, dimensions))).astype(np.float32)


def distances(first, second):
    """(A, B) float64, of what the features are as float32."""
    first, second = (np.asarray(part, np.float32).astype(np.float64) for part in (first, second))
    return np.square(first[:, np.newaxis] - second).sum(axis=2)


def naive(probes, names, distractors):
    """Ranks and distances of all (probe, mate), and distances of all (probe, distractor), by the definition."""
    ranks, genuine, impostor = [], [], []
    to_mates, to_distractors = distances(probes, probes), distances(probes, distractors)
    for i, others in enumerate(to_distractors):
        mates = [j for j in range(len(probes)) if j != i and names[j] == names[i]]
        genuine += [to_mates[i, j] for j in mates]
        ranks += [1 + np.count_nonzero(others <= to_mates[i, j]) for j in mates]
        impostor += list(others) if mates else []
    return np.array(ranks), np.array(genuine), np.array(impostor)


def naive_tar(genuine, impostor, far):
    """TAR at the laxest threshold, of all distances, that accepts at most this share of the impostors below it."""
    limits = np.append(np.unique(np.concatenate([genuine, impostor])), np.inf)
    fars, tars = (np.searchsorted(np.sort(kind), limits) / len(kind) for kind in (impostor, genuine))
    return tars[fars <= far].max()


def check(result, probes, names, distractors, fars=()):
    ranks, genuine, impostor = naive(probes, names, distractors)
    expected = [np.mean(ranks <= rank) for rank in range(1, result.cmc.shape[1] + 1)]
    np.testing.assert_allclose(result.cmc[-1], expected, atol=1e-12)
    assert (result.pairs, result.impostors) == (len(genuine), len(impostor))
    for point, far in zip(result.tar_at_far, fars):
        assert point.tar == pytest.approx(naive_tar(genuine, impostor, far), abs=1e-12)
        below = point.threshold * (1 - 1e-12)  # the reference sums in another order
        assert point.far == pytest.approx(np.mean(impostor < below), abs=1e-12) and point.far <= far
        assert point.tar == pytest.approx(np.mean(genuine < below), abs=1e-12)
    assert np.all(np.diff(result.roc_tar) >= 0) and np.all(np.diff(result.roc_far) >= 0)


HALVES = st.sampled_from([-0.5, 0.5])  # four of them are a unit vector, and every distance is a whole number: ties


@st.composite
def tied(draw):
    probes = draw(st.lists(st.tuples(*[HALVES] * 4), min_size=2, max_size=8))
    names = draw(st.lists(st.integers(0, 2), min_size=len(probes), max_size=len(probes)))
    any_length = st.sampled_from([-1.5, -0.5, 0.0, 0.5, 100.0])
    distractors = draw(st.lists(st.tuples(*[any_length] * 4), min_size=1, max_size=20))
    return np.array(probes), np.array(names), np.array(distractors)


@given(tied(), st.sampled_from([1, 3, 50]), st.lists(st.sampled_from([0, 0.05, 0.3, 1]), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_equals_the_definition_with_ties(data, max_rank, fars):
    probes, names, distractors = data
    if len(set(names)) == len(names):
        with pytest.raises(UserError, match="0 pairs of images of one identity"):
            identify(probes, names, distractors)
        return
    result = identify(probes, names, distractors, max_rank=max_rank, fars=fars, sizes=[len(distractors)])
    check(result, probes, names, distractors, fars)


@given(st.integers(0, 10 ** 6), st.integers(1, 40), st.sampled_from([0.3, 1.0, 100.0]), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_equals_the_definition_without_ties(seed, dimensions, noise, max_rank):
    probes, names, distractors = make(seed, 20, 4, 120, dimensions, noise)
    result = identify(probes, names, distractors, max_rank=max_rank, fars=(0, 1e-3, 0.1))
    assert result.sizes == [10, 100, 120]
    check(result, probes, names, distractors, (0, 1e-3, 0.1))


def test_equal_features_tie_wherever_they_stand():
    probes, names, distractors = make(distractors=900, dimensions=67)
    for place in (0, 13, 500, 899):
        mate = place % len(probes)
        distractors[place] = probes[mate]
    ranks, _, _ = naive(probes, names, distractors)
    assert np.mean(ranks == 1) < 1
    check(identify(probes, names, distractors, seed=3), probes, names, distractors)


def test_bounds_hold_where_features_are_long():
    probes, names, distractors = make(dimensions=64)
    distractors[::7] *= 100
    distractors[1::7] *= 0.01
    check(identify(probes, names, distractors, fars=(1e-3,)), probes, names, distractors, (1e-3,))


@pytest.mark.parametrize("cells, tile", [(1, 16), (40 * 200, 16), (40 * 100, 100)])
def test_the_cut_into_blocks_and_tiles_changes_nothing(monkeypatch, cells, tile):
    probes, names, distractors = make(distractors=1500)
    whole = identify(probes, names, distractors, max_rank=5)
    monkeypatch.setattr(identification, "_CELLS", cells)
    monkeypatch.setattr(identification, "_TILE", tile)
    cut = identify(probes, names, distractors, max_rank=5)
    np.testing.assert_array_equal(cut.cmc, whole.cmc)
    assert cut.tar_at_far == whole.tar_at_far


def test_mates_beyond_the_last_rank_do_not_disturb_the_others():
    probes, names, distractors = make(noise=100, distractors=2000)  # a useless model: ranks everywhere
    whole = identify(probes, names, distractors, max_rank=2001)
    for max_rank in (1, 10):
        part = identify(probes, names, distractors, max_rank=max_rank)
        np.testing.assert_array_equal(part.cmc, whole.cmc[:, :max_rank])
        assert part.tar_at_far == whole.tar_at_far
    assert whole.rate(2000, 2001) == 1 and whole.rate(2000) < 0.2


def test_sizes_are_nested_sets_drawn_by_the_seed():
    probes, names, distractors = make()
    result = identify(probes, names, distractors, sizes=[100, 20], seed=5)
    assert result.sizes == [20, 100] and np.all(np.diff(result.cmc, axis=0) <= 0)
    order = np.random.RandomState(5).permutation(len(distractors))
    for place, size in enumerate(result.sizes):
        ranks, _, _ = naive(probes, names, distractors[order[:size]])
        assert result.cmc[place, 0] == pytest.approx(np.mean(ranks == 1), abs=1e-12)
    assert result.distractors == 100  # the verification is with the largest set
    again = identify(probes, names, distractors, sizes=[100, 20], seed=6)
    assert not np.array_equal(again.cmc, result.cmc)


def test_sizes_of_the_challenge():
    assert identification.check_sizes(None, 10 ** 6) == [10, 100, 1000, 10 ** 4, 10 ** 5, 10 ** 6]
    assert identification.check_sizes(None, 1_027_060)[-2:] == [10 ** 5, 10 ** 6]
    assert identification.check_sizes(None, 1548) == [10, 100, 1000, 1548]
    assert identification.check_sizes(None, 7) == [7]


@pytest.mark.parametrize("cuts", [[], [1, 2, 150], [64, 65, 66, 299]])
def test_blocks_are_taken_in_their_order(cuts):
    probes, names, distractors = make()
    blocks = iter(np.split(distractors, cuts))
    result = identify(probes, names, blocks, count=300, sizes=[50, 300])
    check(result, probes, names, distractors)
    first = identify(probes, names, distractors[:50], sizes=[50])
    np.testing.assert_array_equal(result.cmc[0], first.cmc[0])


def test_memory_maps_are_read(tmp_path):
    probes, names, distractors = make()
    np.save(str(tmp_path / "g.npy"), distractors)
    mapped = identify(probes, names, np.load(str(tmp_path / "g.npy"), mmap_mode="r"))
    np.testing.assert_array_equal(mapped.cmc, identify(probes, names, distractors).cmc)


@given(st.integers(0, 10 ** 6))
@settings(max_examples=15, deadline=None)
def test_a_selection_is_as_if_the_rest_were_not_there(seed):
    probes, names, distractors = make(seed)
    rng = np.random.RandomState(seed)
    kept, kept_distractors = rng.rand(len(probes)) < 0.7, rng.rand(len(distractors)) < 0.8
    fars = (0, 1e-3)
    raw, refined = identify_each([None, Selection(kept, kept_distractors)], probes, names, distractors, max_rank=20,
                                 fars=fars)
    check(raw, probes, names, distractors, fars)
    check(refined, probes[kept], names[kept], distractors[kept_distractors], fars)
    assert refined.sizes == raw.sizes and refined.distractors == kept_distractors.sum()


def test_images_without_a_mate_are_no_probes():
    probes, names, distractors = make(probes=6)
    result = identify(probes, ["a", "b", "a", "c", "b", "d"], distractors)
    assert (result.probes, result.pairs, result.impostors) == (4, 4, 4 * 300)
    check(result, probes, ["a", "b", "a", "c", "b", "d"], distractors)


def test_the_public_call():
    assert public_identify is identify


@given(st.floats(0, 1), st.integers(1, 10 ** 10))
@settings(max_examples=200, deadline=None)
def test_allowed_impostors(far, impostors):
    number = identification.allowed(far, impostors)
    assert number / impostors <= far < (number + 1) / impostors


@pytest.mark.parametrize("change, message", [
    (dict(identities=[0, 1]), r"probes of shape \(40, 12\) for identities of shape \(2,\)"),
    (dict(probes=np.ones((40, 12))), "not L2-normalised: their norms go from 3.46"),
    (dict(probes=np.full((40, 12), np.nan)), "not L2-normalised"),
    (dict(distractors=np.zeros((5, 3))), r"distractors of shape \(5, 3\); expected \(N, 12\)"),
    (dict(distractors=np.full((5, 12), np.nan)), r"distractor 0 \(from 0\) holds values that are not finite"),
    (dict(distractors=np.zeros((0, 12))), "0 distractors"),
    (dict(distractors=iter([])), "say how many there are"),
    (dict(distractors=iter([np.zeros((5, 12))]), count=6), "less than the 6 rows"),
    (dict(distractors=iter([np.zeros((7, 12))]), count=6), "more than the 6 rows"),
    (dict(distractors=iter([np.zeros(12)]), count=6), r"distractors of shape \(12,\)"),
    (dict(sizes=[10, 301]), "sizes 10, 301: expected numbers from 1 to 300"),
    (dict(sizes=[0]), "expected numbers from 1"),
    (dict(sizes=[]), "expected numbers from 1"),
    (dict(max_rank=0), "expected a rank from 1 on"),
    (dict(fars=(2,)), "and fractions"),
    (dict(fars=()), "and fractions")])
def test_wrong_arguments_are_named(change, message):
    probes, names, distractors = make()
    arguments = dict(dict(probes=probes, identities=names, distractors=distractors), **change)
    with pytest.raises(UserError, match=message):
        identify(**arguments)


def test_a_far_that_memory_does_not_hold_is_refused(monkeypatch):
    monkeypatch.setattr(identification, "_MOST_IMPOSTORS", 1000)
    with pytest.raises(UserError, match="FAR 0.5 of 12000 impostor pairs: 6001 distances to keep.*FARs up to 0.08"):
        identify(*make(), fars=(0.5,))
