"""The mathematics of IJB's protocols, against brute force in float64."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from common.errors import UserError
from eval import ijb, ijb_1n, ijb_11, metrics

SEEDS = st.integers(0, 2 ** 32 - 1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def made_images(seed, count=60, num_templates=9):
    """features (N, 2, D), templates, medias and scores; media numbers recur in other templates, order is random."""
    random = np.random.RandomState(seed)
    templates = random.choice(1000, num_templates, replace=False)[random.randint(0, num_templates, count)]
    return (random.standard_normal((count, 2, 6)).astype(np.float32), templates, random.randint(0, 4, count),
            random.uniform(0.5, 1, count).astype(np.float32))


def brute_template(features, templates, medias, scores, variant, template):
    """As the original's loop does it."""
    values = features.astype(float).sum(1) if variant.flip else features[:, 0].astype(float)
    values = values if variant.norm else unit(values)
    values = values * scores[:, None] if variant.detector else values
    here = templates == template
    means = [values[here & (medias == medium)].mean(0) for medium in np.unique(medias[here])]
    return unit(np.sum(means, 0))


@given(SEEDS, st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_templates_are_the_originals(seed, block):
    images = made_images(seed)
    numbers, vectors = ijb.build_templates(*images, block=block)
    assert numbers.tolist() == sorted(set(images[1].tolist())) and tuple(vectors) == ijb.VARIANTS
    for variant, found in vectors.items():
        expected = [brute_template(*images, variant, template) for template in numbers]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_chosen_variants_alone_in_their_order():
    images, chosen = made_images(1), ijb.parse_variants("n0d0f0, N1D1F1,N0D1F0")
    assert [variant.name for variant in chosen] == ["N0D0F0", "N1D1F1", "N0D1F0"]
    numbers, vectors = ijb.build_templates(*images, variants=chosen)
    assert list(vectors) == chosen
    for variant, found in vectors.items():
        np.testing.assert_array_equal(found, ijb.build_templates(*images)[1][variant])
    assert ijb.parse_variants("all") == list(ijb.VARIANTS) and ijb.VARIANTS[0].name == "N1D1F1"
    assert ijb.VARIANTS[0].meaning == ("norm of each image's feature kept, times the detector score, mirrored image's "
                                       "embedding added")


@pytest.mark.parametrize("text", ["", "N1", "N1D1F2", "N1D1F1,N1D1F1"])
def test_variants_that_are_none(text):
    with pytest.raises(UserError, match=r"expected 'all' or names .* N1D1F1, N1D0F1, .*N0D0F0"):
        ijb.parse_variants(text)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_features_without_a_direction(value):
    features, *rest = made_images(2)
    features[17] = value
    with pytest.raises(UserError, match="^the feature of image number 17 is zero or not finite"):
        ijb.build_templates(features, *rest)


def test_a_template_that_cancels_out():
    features = np.ones((2, 2, 3), np.float32)
    features[1] *= -1
    with pytest.raises(UserError, match="^template 8 is zero"):
        ijb.build_templates(features, np.array([8, 8]), np.array([1, 2]), np.ones(2))


@given(SEEDS, st.integers(1, 12), st.integers(1, 300), st.integers(1, 80), st.booleans())
@settings(max_examples=40, deadline=None)
def test_pair_scores(seed, num_templates, num_pairs, chunk, in_order):
    """Dense chunks and sparse ones, sorted pairs and others."""
    random = np.random.RandomState(seed)
    vectors = unit(random.standard_normal((num_templates, 5))).astype(np.float32)
    first, second = random.randint(0, num_templates, (2, num_pairs))
    first = np.sort(first) if in_order else first
    scores = ijb.pair_scores(vectors, first, second, chunk)
    np.testing.assert_allclose(scores, (vectors.astype(float)[first] * vectors[second]).sum(1), atol=1e-6)


def test_pairs_too_scattered_for_a_matrix_product():
    random = np.random.RandomState(0)
    vectors = unit(random.standard_normal((400, 5))).astype(np.float32)
    first, second = random.permutation(400), random.permutation(400)
    np.testing.assert_allclose(ijb.pair_scores(vectors, first, second),
                               (vectors.astype(float)[first] * vectors[second]).sum(1), atol=1e-6)


coarse = st.lists(st.integers(0, 12), min_size=1, max_size=60).map(lambda values: np.sort(values).astype(np.float32))


@given(coarse, coarse, st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_tar_is_the_exact_one_of_metrics(genuine, impostor, fars):
    fars += [1 / len(impostor), 0, 1]
    issame = np.arange(len(genuine) + len(impostor)) < len(genuine)
    expected = metrics.tar_at_far(np.concatenate([genuine, impostor]), issame, np.array(fars))
    found = ijb.tar_at_far(genuine, impostor, fars)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@given(coarse, coarse, st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_nearest_point_is_the_originals(genuine, impostor, fars):
    labels = np.arange(len(genuine) + len(impostor)) < len(genuine)
    far, tar, _ = roc_curve(labels, np.concatenate([genuine, impostor]))
    far, tar = np.flipud(far), np.flipud(tar)
    places = [min(zip(abs(far - asked), range(len(far))))[1] for asked in fars]
    found = ijb.nearest_tar(genuine, impostor, np.array(fars))
    np.testing.assert_array_equal(found[0], tar[places])
    np.testing.assert_array_equal(found[1], far[places])


@pytest.mark.parametrize("far, count", [(0.29, 100), (np.nextafter(5 / 6, 0), 6), (5 / 6, 6)])
def test_rates_that_rounding_would_miss(far, count):
    """0.29 * 100 is less than 29, and yet 29 / 100 is no more than 0.29; and the other way round."""
    impostor, genuine = np.arange(float(count)), np.arange(count) + 0.5
    expected = max(accepted for accepted in range(count) if accepted / count <= far)
    assert ijb.tar_at_far(genuine, impostor, [far])[1] == [impostor[count - 1 - expected] + 0.5]


def test_of_two_points_equally_near_the_laxer_counts():
    impostor, genuine = np.array([0, 1, 2, 3.0]), np.array([0.5, 1.5, 2.5])
    assert [part[0] for part in ijb.nearest_tar(genuine, impostor, [0.375])] == [pytest.approx(2 / 3), 0.5]


def test_the_nearest_point_flatters():
    """With too few impostors it takes a point beyond the FAR asked for; the exact one does not."""
    genuine, impostor = np.array([0.2, 0.4, 0.9]), np.array([-0.1, 0, 0.1, 0.5])
    assert ijb.tar_at_far(genuine, impostor, [0.2])[0] == [pytest.approx(1 / 3)]
    assert [part[0] for part in ijb.nearest_tar(genuine, impostor, [0.2])] == [1, 0.25]


def made_search(seed, ties):
    """Templates of 7 subjects, of whom 4 are enrolled in the order of `gallery`, and 40 probes."""
    random = np.random.RandomState(seed)
    centres = random.standard_normal((7, 4))
    subjects = random.randint(0, 7, 40)
    subjects[:2] = 0, 6
    gallery = random.permutation(4)
    probes = centres[subjects] + random.standard_normal((40, 4))
    if ties:  # few directions, so that equal scores abound
        return np.sign(probes).astype(np.float32), subjects, np.sign(centres[gallery]).astype(np.float32), gallery
    return unit(probes).astype(np.float32), subjects, unit(centres[gallery]).astype(np.float32), gallery


def brute_search(probes, subjects, gallery, enrolled):
    rows = []
    for probe, subject in zip(probes.astype(float), subjects):
        scores = dict(zip(enrolled.tolist(), (gallery @ probe).tolist()))
        mate = scores.pop(int(subject), None)
        rows.append((mate, 0 if mate is None else 1 + sum(score >= mate for score in scores.values()),
                     max(scores.values()), sorted(scores.values())))
    return rows


@given(SEEDS, st.booleans(), st.integers(1, 45))
@settings(max_examples=50, deadline=None)
def test_search(seed, ties, block):
    made = made_search(seed, ties)
    probes, subjects, gallery, enrolled = made
    found = ijb.search(probes, gallery, ijb.find_mates(subjects, enrolled), keep=7, block=block)
    rows = brute_search(*made)
    assert found.rank.tolist() == [row[1] for row in rows]
    np.testing.assert_allclose(found.mate, [np.nan if row[0] is None else row[0] for row in rows], atol=1e-5)
    np.testing.assert_allclose(found.wrong, [row[2] for row in rows], atol=1e-5)
    np.testing.assert_allclose(found.top_wrong, sorted(sum((row[3] for row in rows), []))[-7:], atol=1e-5)
    mated = [row[1] for row in rows if row[1]]
    np.testing.assert_array_equal(ijb.rank_rates(found.rank, (1, 2, 4)),
                                  [np.mean([rank <= k for rank in mated]) for k in (1, 2, 4)])
    for max_rank in (None, 1):
        tpir, thresholds = ijb.tpir_at_fpir(found, (0.05, 0.3), max_rank)
        for asked, rate, threshold in zip((0.05, 0.3), tpir, thresholds):
            candidates = [wrong >= threshold for wrong, rank in zip(found.wrong, found.rank) if not rank]
            assert np.mean(candidates) <= asked
            assert rate == np.mean([mate >= threshold and (max_rank is None or rank <= max_rank)
                                    for mate, rank in zip(found.mate, found.rank) if rank])
            lower = [score for score in [*found.wrong, *found.mate] if score < threshold]  # and no laxer one would do
            if lower and max_rank is None:
                assert rate == 1 or any(np.mean([wrong >= score for wrong, rank in zip(found.wrong, found.rank)
                                                 if not rank]) > asked for score in lower)


def test_who_scores_as_high_as_the_mate_ranks_before_it():
    gallery = np.eye(3, dtype=np.float32)
    found = ijb.search(np.ones((1, 3), np.float32), gallery, np.array([1]))
    assert found.rank.tolist() == [3]


def test_the_originals_recall():
    """The threshold is a wrong score among those of all probes; the mate must lie above it."""
    found = ijb.Search(np.array([0.9, 0.5, 0.4], np.float32), np.array([1, 1, 1]), None,
                       np.array([0.4, 0.45, 0.5], np.float32))
    rates, limits = ijb.original_tpir(found, (0.3, 0.6, 1))
    np.testing.assert_allclose(limits, [0.5, 0.45, 0.4])
    np.testing.assert_allclose(rates, [1 / 3, 2 / 3, 2 / 3])


def identified(seed=0):
    random = np.random.RandomState(seed)
    subjects = np.arange(30) % 10
    vectors = unit(random.standard_normal((10, 8))[subjects] + 0.8 * random.standard_normal((30, 8)))
    vectors, galleries = vectors.astype(np.float32), {"G1": np.arange(5), "G2": np.arange(5, 10)}
    probes = np.arange(10, 30)
    return vectors, probes, subjects[probes], {name: (rows, subjects[rows]) for name, rows in galleries.items()}


def test_galleries_count_each_for_itself():
    vectors, probes, subjects, galleries = identified()
    result = ijb_1n.identify_templates(vectors, probes, subjects, galleries)
    for name, (rows, enrolled) in galleries.items():
        brute = brute_search(vectors[probes], subjects, vectors[rows], enrolled)
        assert result.galleries[name].ranks[0] == np.mean([row[1] == 1 for row in brute if row[1]])
        assert (result.galleries[name].mated, result.galleries[name].unmated) == (10, 10)
    ranks = [one.ranks for one in result.galleries.values()]
    np.testing.assert_allclose(result.mean("ranks"), np.mean(ranks, axis=0))
    both = [np.concatenate(part) for part in zip(*galleries.values())]
    brute = brute_search(vectors[probes], subjects, vectors[both[0]], both[1])
    np.testing.assert_allclose(result.merged.ranks, [np.mean([row[1] <= k for row in brute]) for k in ijb.RANKS])
    wrong = sorted(sum((row[3] for row in brute), []))
    np.testing.assert_allclose(result.merged.tpir, [np.mean([row[0] > wrong[-count] + 1e-7 for row in brute])
                                                    for count in (1, 2)])


@pytest.mark.parametrize("subjects, message", [
    ([0, 1, 2, 3, 3], "gallery G1: subject 3 has 2 templates; expected one"),
    ([90, 91, 92, 93, 94], "gallery G1: no probe has a mate in it"),
])
def test_galleries_that_cannot_be_searched(subjects, message):
    vectors, probes, probe_subjects, galleries = identified()
    galleries["G1"] = galleries["G1"][0], np.array(subjects)
    with pytest.raises(UserError, match=message):
        ijb_1n.identify_templates(vectors, probes, probe_subjects, galleries)


def test_a_gallery_with_a_mate_for_all():
    vectors, probes, subjects, galleries = identified()
    with pytest.raises(UserError, match="gallery G1: every probe has a mate"):
        ijb_1n.identify_templates(vectors, probes, subjects % 5, galleries)


def test_pairs_of_one_kind():
    with pytest.raises(UserError, match="3 genuine and 0 impostor pairs"):
        ijb_11.verify_templates({}, [0, 1, 2], [1, 2, 0], np.ones(3, bool))


def test_a_picture_of_rates():
    from eval.plots import rates_figure

    curves = {"a": ([1e-3, 1], [0.5, 1]), "b": ([1e-3, 1], [0.7, 1], dict(linestyle="--"))}
    (axes,) = rates_figure(curves, "title", "x", "y", (0.1,)).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"] and axes.get_xscale() == "log"
    assert axes.get_lines()[-1].get_linestyle() == "--" and axes.get_ylim()[0] < 0.5 < 1 < axes.get_ylim()[1]
    assert rates_figure(curves, "title", "x", "y", logarithmic=False).axes[0].get_xscale() == "linear"
