"""Heads against the original's numbers and against a float64 reference that shares no code with them."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_heads import Reference, run

from common.errors import UserError
from common.mxnet_setup import mx
from recognition import heads, margins

GOLDEN = {  # file: (loss, settings)
    "softmax_bias": ("softmax", {}), "softmax_nobias": ("softmax", dict(fc7_no_bias=True)),
    "nsoftmax": ("nsoftmax", {}), "arcface": ("arcface", {}), "cosface": ("cosface", {}), "combined": ("combined", {}),
    "margin_m1_1.1_m2_0_m3_0.35_s_64": ("combined", dict(loss_m1=1.1, loss_m2=0, loss_m3=0.35)),
    "margin_m1_1.35_m2_0_m3_0_s_64": ("sphereface135", {}),
    "margin_m1_1.5_m2_0_m3_0_s_64": ("combined", dict(loss_m1=1.5, loss_m2=0, loss_m3=0)),
    "margin_m1_1_m2_0.3_m3_0.2_s_16": ("cm1", dict(loss_s=16)),
    "margin_m1_1_m2_0.5_m3_0_s_32": ("arcface", dict(loss_s=32)),
    "margin_m1_1_m2_0_m3_0.35_s_30": ("cosface", dict(loss_s=30)),
    "s18_lt0_softmax": ("softmax", {}), "s18_lt2_cosface_m0.35": ("cosface", {}),
    "s18_lt4_arcface": ("arcface", dict(loss_beyond="line")),
    "s18_lt4_arcface_easy": ("arcface", dict(loss_beyond="easy")),
    "s18_lt6_intra": ("arcface", dict(loss_intra=0.1)),
    "x18_lt0_incay": ("softmax", dict(loss_incay=0.1)),
    "x18_lt2_s0_m0.35": ("cosface", dict(loss_s=0)),
    "x18_lt3_theta_mult_m1.5": ("combined", dict(loss_m1=1.5, loss_m2=0, loss_m3=0)),
    **{f"s18_lt1_sphere_m{m}_beta{beta}_NUMPY": ("sphereface", dict(loss_m1=m, loss_lambda=beta, loss_lambda_min=beta))
       for m, beta in ((2, 5), (4, 0), (4, 1000), (4, 5))},
}
EDGES = dict(edge_parallel_nsoftmax=("nsoftmax", {}), edge_parallel_cosface=("cosface", {}),
             edge_parallel_arcface=("arcface", {}))
STATES = dict(step=37.0, target_mean=0.31, norm_mean=19.0, norm_deviation=7.0)
CASES = [(loss, {}) for loss in heads.LOSSES] + [
    ("softmax", dict(loss_incay=2.0)), ("sphereface", dict(loss_lambda=0.0, loss_lambda_min=0.0)),
    ("sphereface", dict(loss_s=30.0, loss_m1=3)), ("sphereface", dict(loss_m1=2, loss_lambda_freeze=30)),
    ("sphereface", dict(loss_m1=1)), ("lsoftmax", dict(loss_lambda=0.0, loss_lambda_min=0.0, loss_m1=2)),
    ("arcface", dict(loss_intra=1.0)), ("nsoftmax", dict(loss_s=20.0, loss_inter=1.0)), ("nsoftmax", dict(loss_s=0)),
    ("nsoftmax", dict(loss_s=20.0, loss_mhe=0.5)), ("arcface", dict(loss_intra=0.5, loss_inter=2.0, loss_mhe=1.0)),
    ("combined", dict(loss_s=30.0, loss_m1=4.0)), ("arcface", dict(loss_m2=1.5)), ("arcface", dict(loss_m2=-0.1)),
    ("arcface", dict(loss_m2=1.5, loss_beyond="line")), ("arcface", dict(loss_beyond="easy")),
    ("combined", dict(loss_s=1.0, loss_m1=1.2, loss_m2=0.4, loss_m3=0.1)), ("cosface", dict(loss_s=0)),
    ("cm2", dict(margin_warmup=100)), ("arcface", dict(margin_warmup=20)), ("cosface", dict(margin_start=38)),
    ("arcface", dict(margin_start=30, margin_warmup=20, loss_beyond="line")),
    ("arcface", dict(margin_start=30, margin_warmup=20, loss_s_start=16.0)),
    ("nsoftmax", dict(margin_warmup=99, loss_s_start=8.0)), ("nsoftmax", dict(margin_warmup=99)),
    ("subcenter", dict(loss_k=2)),
    ("magface", dict(loss_norm_low=2.0, loss_norm_high=6.0)), ("centre", dict(loss_centre=2.0)),
]


def make_case(loss, classes=5, count=7, **own):
    """Random x, w, y and states for a loss; embeddings as long as its paper's."""
    random = np.random.RandomState(0)
    x = random.standard_normal((count, 6)) * (8.0 if loss in ("magface", "adaface") else 1.5)
    w = random.standard_normal((classes * dict(heads.LOSSES[loss], **own).get("loss_k", 1), 6))
    centres = random.standard_normal((classes, 6)).astype(np.float32)
    return x.astype(np.float32), w.astype(np.float32), random.randint(0, classes, count), dict(STATES, centre=centres)


def reference(loss, x, w, y, states, **own):
    """logits, loss, d_x, d_w in float64."""
    x, w = x.astype(float), w.astype(float)
    expected = Reference(loss, y, states, x, w, **own)
    return (expected.logits_and_penalty(x, w)[0], expected.loss(x, w), *expected.gradients(x, w))


def parts(found):
    return found.logits, found.loss, found.d_x, found.d_w


def relative(found, expected):
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-3)


class TestAgainstTheOriginal:
    def found(self, case, loss, own):
        bias = case["bias"] if "bias" in case else None
        return run(loss, case["embedding"], case["weight"], case["label"], dict(step=0), bias, **own)

    @pytest.mark.parametrize("name", GOLDEN)
    def test_logits_and_gradients(self, golden, name):
        case = np.load(golden / "losses" / f"{name}.npz", allow_pickle=True)
        found = self.found(case, *GOLDEN[name])
        assert relative(found.logits, case["logits"]) < 1e-6
        if "grad_data" in case:  # the original's is that of the mean over the batch
            assert relative(found.d_x / len(found.d_x), case["grad_data"]) < 1e-5
            assert relative(found.d_w / len(found.d_x), case["grad_fc7_weight"]) < 1e-5

    @pytest.mark.parametrize("name", EDGES)
    def test_edges_are_finite(self, golden, name):
        case = np.load(golden / "losses" / f"{name}.npz", allow_pickle=True)
        found = self.found(case, *EDGES[name])
        assert relative(found.logits, case["logits"]) < 1e-6
        assert all(np.isfinite(values).all() for values in parts(found))
        rows = np.isfinite(case["grad_data"]).all(axis=1)  # the original is NaN where a cosine rounds to 1
        assert relative(found.d_x[rows] / len(found.d_x), case["grad_data"][rows]) < 1e-5

    def test_negative_margins_act(self, golden):
        """The original's train.py drops them in silence, its train_parall.py applies them: so do we."""
        case = np.load(golden / "losses" / "margin_m1_1_m2_-0.1_m3_0_s_64.npz", allow_pickle=True)
        found = self.found(case, "arcface", dict(loss_m2=-0.1))
        assert relative(found.logits, case["logits"]) > 0.01

    def test_every_loss_of_the_original_is_compared(self, golden):
        """But its class-parallel head; those left are in test_pair_losses, or not built (docs/losses.md says why)."""
        left = {path.stem for path in (golden / "losses").glob("*.npz")} - {*GOLDEN, *EDGES}
        assert {name for name in left if not name.startswith("parallel_")} == {
            "atriplet", "triplet", "x18_lt12_triplet", "x18_lt11_npair", "x18_lt10_marginal", "x18_lt9_coco",
            "margin_m1_1_m2_-0.1_m3_0_s_64", "margin_m1_1_m2_0.5_m3_-0.1_s_64",
            "s18_lt7_inter", "x18_lt4_c2c", "x18_lt6_adaptive_m"}


class TestAgainstFloat64:
    @pytest.mark.parametrize("loss, own", CASES, ids=str)
    def test_values_and_gradients(self, loss, own):
        case = make_case(loss, **own)
        for found, expected, tolerance in zip(parts(run(loss, *case, **own)), reference(loss, *case, **own),
                                              (1e-5, 1e-5, 2e-4, 2e-4)):
            assert relative(found, expected) < tolerance

    @pytest.mark.parametrize("loss", heads.LOSSES)
    def test_float16_embeddings(self, loss):
        """As a network in float16 gives them: the head itself works in float32, its gradient is rounded once."""
        x, *others = make_case(loss)
        x = x.astype(np.float16)
        found, expected = run(loss, x, *others, dtype="float16"), reference(loss, x, *others)
        assert found.d_x.dtype == np.float16
        for values, wanted, tolerance in zip(parts(found), expected, (1e-5, 1e-5, 1e-3, 2e-4)):
            assert relative(values, wanted) < tolerance

    @pytest.mark.parametrize("loss, own", [case for case in CASES if case[0] not in ("softmax", "centre")], ids=str)
    def test_whole_circle(self, loss, own):
        """The label at 0, at 180 and a little beyond every degree; gradients where they are defined."""
        theta = np.radians(np.r_[0, np.arange(1, 180) + 0.25, 180])
        x = (5 * np.stack([np.cos(theta), np.sin(theta)], axis=1)).astype(np.float32)
        w = np.array([[1, 0], [0, -1], [-1, 0.2]], np.float32)
        centres = dict(heads.LOSSES[loss], **own).get("loss_k", 1)
        w = np.concatenate([[centre, *[[-1, -0.1 * k] for k in range(1, centres)]] for centre in w]).astype(np.float32)
        case = x, w, np.zeros(181, int), STATES
        found, expected = run(loss, *case, **own), reference(loss, *case, **own)
        assert all(np.isfinite(values).all() for values in parts(found))
        np.testing.assert_allclose(found.logits, expected[0], atol=3e-3)
        np.testing.assert_allclose(found.loss, expected[1], atol=2e-3)
        np.testing.assert_allclose(found.d_x[2:-2], expected[2][2:-2], atol=0.02, rtol=2e-3)

    @pytest.mark.parametrize("loss", heads.LOSSES)
    def test_zero_and_huge_embeddings_are_finite(self, loss):
        x = np.array([[0, 0, 0], [1e-20, 0, 0], [1, 2, 3], [1e15, 0, 0]], np.float32)
        x = x[:3] if heads.LOSSES[loss].get("loss_s", 0) == 0 else x
        w = np.eye(3, dtype=np.float32).repeat(heads.LOSSES[loss].get("loss_k", 1), axis=0)
        assert all(np.isfinite(values).all() for values in parts(run(loss, x, w, np.zeros(len(x)), STATES)))

    def test_loss_is_finite_where_the_probability_underflows(self):
        """The original prints inf here: log(softmax) of a probability below 1e-45."""
        found = run("cosface", np.array([[1, 0]]), np.array([[-1, 0], [1, 0]]), np.zeros(1))
        np.testing.assert_allclose(found.loss, 64 * 2.35, rtol=1e-5)


class TestStates:
    def test_next_values(self):
        x, w, y, states = make_case("adaface")
        norms = np.linalg.norm(x, axis=1)
        following = run("adaface", x, w, y, states).next
        np.testing.assert_allclose(following["norm_mean"], 0.99 * 19 + 0.01 * norms.mean(), rtol=1e-5)
        np.testing.assert_allclose(following["norm_deviation"], 0.99 * 7 + 0.01 * norms.std(ddof=1), rtol=1e-5)
        cosines = (x * w[y]).sum(axis=1) / norms / np.linalg.norm(w[y], axis=1)
        following = run("curricularface", x, w, y, states).next
        np.testing.assert_allclose(following["target_mean"], 0.99 * 0.31 + 0.01 * cosines.mean(), rtol=1e-5)
        assert run("sphereface", x, w, y, states).next == {"step": [38]}

    def test_centres_move_to_their_images(self):
        x, w, y, states = make_case("centre")
        expected = Reference("centre", y, states, x, w).moved_centres(x)
        assert len(set(y)) < len(y)  # a class with several images
        np.testing.assert_allclose(run("centre", x, w, y, states).next["centre"], expected, rtol=1e-5, atol=1e-6)


LIMITS = [
    ("arcface", dict(loss_m2=0), "nsoftmax", {}), ("cosface", dict(loss_m3=0), "nsoftmax", {}),
    ("arcface", {}, "combined", dict(loss_m1=1, loss_m2=0.5, loss_m3=0)),
    ("cosface", {}, "combined", dict(loss_m1=1, loss_m2=0, loss_m3=0.35)),
    ("cm1", {}, "combined", {}), ("sphereface135", {}, "combined", dict(loss_m1=1.35, loss_m2=0, loss_m3=0)),
    ("subcenter", dict(loss_k=1), "arcface", {}), ("arcface", dict(margin_start=99), "nsoftmax", {}),
    ("arcface", dict(margin_start=10, margin_warmup=20), "arcface", {}),
    ("sphereface", dict(loss_m1=1), "nsoftmax", dict(loss_s=0)), ("centre", dict(loss_centre=0.0), "softmax", {}),
    ("magface", dict(loss_m_low=0.5, loss_m_high=0.5, loss_norm_weight=0), "arcface", dict(loss_beyond="line")),
    ("lsoftmax", dict(loss_m1=1), "softmax", dict(fc7_no_bias=True)),
]


class TestLimits:
    @pytest.mark.parametrize("loss, own, other, others", LIMITS, ids=str)
    def test_one_loss_is_another(self, loss, own, other, others):
        case = make_case("arcface")
        for found, expected in zip(parts(run(loss, *case, **own)), parts(run(other, *case, **others))):
            assert relative(found, expected) < 1e-5

    def test_only_the_label_is_touched(self):
        case = make_case("arcface")
        plain, margin = (run(loss, *case).logits for loss in ("nsoftmax", "arcface"))
        np.testing.assert_array_equal(plain != margin, np.arange(5) == case[2][:, None])

    def test_correct_marks_the_highest_logit(self):
        x, w, y, states = make_case("nsoftmax")
        found = run("nsoftmax", x, w, y, states)
        np.testing.assert_array_equal(found.correct, found.logits.argmax(axis=1) == y)

    def test_a_margin_adds_one_array_of_logits(self):
        """Planned memory: the original's mask and its products take three arrays of (N, C) more than no margin."""
        def planned(loss):
            inputs = mx.sym.Variable("data"), mx.sym.Variable("label")
            symbol = heads.classification_loss(heads.get_logits(loss, *inputs, 20000, 64), inputs[1])
            text = symbol.simple_bind(mx.cpu(), data=(256, 64), label=(256,)).debug_str()
            return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Total") and "MB" in line)
        assert planned("arcface") - planned("nsoftmax") <= 256 * 20000 * 4 / 2 ** 20 + 1


def evaluate(target, theta):
    """target: cosine symbol -> symbol; at every angle of `theta`."""
    symbol = target(mx.sym.Variable("cosine"))
    return symbol.bind(mx.cpu(), {"cosine": mx.nd.array(np.cos(theta))}).forward()[0].asnumpy()


class TestProperties:
    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(margin=st.floats(0, 1.5, width=32), m1=st.integers(1, 6), m3=st.sampled_from([0, 0.1, 0.35, 1]))
    def test_the_target_falls_with_the_angle(self, margin, m1, m3):
        theta = np.linspace(0, np.pi, 500)
        within = theta[theta + margin <= np.pi]  # combined margins turn back beyond
        for target, angles in ((lambda cosine: margins.sphere(cosine, m1), theta),
                               (lambda cosine: margins.monotonic_arcface(cosine, margin), theta),
                               (lambda cosine: margins.combined(cosine, 1, margin, m3), within),
                               (lambda cosine: margins.combined(cosine, 1, 0, m3), theta)):
            found = evaluate(target, angles)
            assert (np.diff(found) < 2e-6).all()
            assert (found <= np.cos(angles) + 1e-5).all()  # a margin never makes it easier

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(case=st.sampled_from(CASES), scale=st.floats(-12, 6), seed=st.integers(0, 2 ** 31))
    def test_never_nan_or_infinite(self, case, scale, seed):
        loss, own = case
        x, w, y, states = make_case(loss, **own)
        random = np.random.RandomState(seed)
        x = (random.standard_normal(x.shape) * 10.0 ** scale).astype(np.float32)
        x[0], x[1] = w[y[0]], -w[y[1]]  # exactly at a centre, and opposite to one
        found = run(loss, x, w * 10.0 ** random.randint(-3, 3), y, states, **own)
        assert all(np.isfinite(values).all() for values in (*parts(found), *found.next.values()))

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(classes=st.integers(2, 9), scale=st.floats(-3, 3), seed=st.integers(0, 2 ** 31))
    def test_gradient_sums_to_zero_over_the_classes(self, classes, scale, seed):
        random = np.random.RandomState(seed)
        logits, label = mx.sym.Variable("logits"), mx.sym.Variable("label")
        executor = heads.classification_loss(logits, label).simple_bind(mx.cpu(), logits=(6, classes), label=(6,))
        executor.forward(is_train=True, logits=random.standard_normal((6, classes)) * 10 ** scale,
                         label=random.randint(0, classes, 6))
        executor.backward()
        gradient = executor.grad_dict["logits"].asnumpy()
        np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-5)
        assert (np.abs(gradient) <= 1 + 1e-5).all()


class TestRefusals:
    @pytest.mark.parametrize("loss, own, words", [
        ("arkface", {}, "unknown loss 'arkface'; known are: adaface, arcface, centre, .*, subcenter"),
        ("cosface", dict(loss_m4=1), "loss_m4.*loss_m1, .*, loss_s, loss_s_start, margin_start"),
        ("arcface", dict(loss_s=-1), "loss_s -1: expected more than 0"),
        ("arcface", dict(loss_s_start=16), "loss_s_start 16: without --margin-start or --margin-warmup"),
        ("adaface", dict(loss_s=0), "loss_s 0: adaface needs a scale"),
        ("subcenter", dict(loss_k=0), "loss_k 0: expected 1 or more centres"),
        ("arcface", dict(loss_beyond="flat"), "loss_beyond flat: expected cosine, line or easy"),
        ("arcface", dict(loss_beyond="line", loss_m3=0.1), "loss_beyond line: for loss_m1 1 and loss_m3 0 alone"),
    ])
    def test_settings(self, loss, own, words):
        with pytest.raises(UserError, match=words):
            heads.loss_settings(loss, **own)

    @pytest.mark.parametrize("loss, own, words", [
        ("sphereface", dict(loss_m1=1.35), "loss_m1 1.35: .* whole number.*--loss combined"),
        ("subcenter", dict(loss_inter=1.0), "loss_k 3: loss_inter"),
    ])
    def test_heads(self, loss, own, words):
        with pytest.raises(UserError, match=words):
            heads.get_head(loss, mx.sym.Variable("data"), mx.sym.Variable("label"), 4, 6, **own)


def test_sub_centres():
    """The first of each class is the centre itself, the others are near it and differ; the seed decides."""
    weight = np.random.RandomState(0).normal(0, [[1], [2], [50]], (3, 64)).astype(np.float32)
    made = []
    for _ in range(2):
        mx.random.seed(3)
        made.append(heads.sub_centres(mx.nd.array(weight), 4).asnumpy())
    assert (made[0] == made[1]).all() and made[0].shape == (12, 64)
    moved = np.linalg.norm(made[0].reshape(3, 4, 64) - weight[:, None], axis=2)
    assert (moved[:, 0] == 0).all()
    assert moved[:, 1:] / np.linalg.norm(weight, axis=1)[:, None] == pytest.approx(0.1, rel=0.3)
    assert len(np.unique(made[0], axis=0)) == 12
