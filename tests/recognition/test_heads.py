"""Heads against the original's numbers and against a float64 reference that shares no code with them."""
import json

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from recognition import heads

MARGIN_FILES = ["softmax_bias", "softmax_nobias", "nsoftmax", "arcface", "cosface", "combined",
                "margin_m1_1.1_m2_0_m3_0.35_s_64", "margin_m1_1.35_m2_0_m3_0_s_64", "margin_m1_1.5_m2_0_m3_0_s_64",
                "margin_m1_1_m2_0.3_m3_0.2_s_16", "margin_m1_1_m2_0.5_m3_0_s_32", "margin_m1_1_m2_0_m3_0.35_s_30"]
EDGE_FILES = ["edge_parallel_nsoftmax", "edge_parallel_cosface", "edge_parallel_arcface"]


def run_head(loss, embedding, weight, label, bias=None, **settings):
    """Logits (N, C), loss (N,), correct (N,) and the gradients of the summed loss in embedding and weight."""
    inputs = mx.sym.Variable("data"), mx.sym.Variable("label")
    logits = heads.get_logits(loss, *inputs, len(weight), weight.shape[1], **settings)
    symbol = mx.sym.Group([mx.sym.BlockGrad(logits), heads.classification_loss(logits, inputs[1])])
    executor = symbol.simple_bind(mx.cpu(), data=embedding.shape, label=label.shape,
                                  grad_req={name: "null" if name == "label" else "write"
                                            for name in symbol.list_arguments()})
    values = dict(data=embedding, label=label, fc7_weight=weight, **({} if bias is None else {"fc7_bias": bias}))
    for name, value in values.items():
        executor.arg_dict[name][:] = value
    outputs = [output.asnumpy() for output in executor.forward(is_train=True)]
    executor.backward()
    return outputs + [executor.grad_dict[name].asnumpy() for name in ("data", "fc7_weight")]


def reference(embedding, weight, label, s, m1, m2, m3):
    """The same in float64, from the definition; derivatives by the chain rule written out."""
    x, w, y = embedding.astype(np.float64), weight.astype(np.float64), label.astype(int)
    x_norm, w_norm = (np.linalg.norm(a, axis=1, keepdims=True) for a in (x, w))
    x_hat, w_hat = x / x_norm, w / w_norm
    cos = x_hat @ w_hat.T
    rows = np.arange(len(y))
    theta = np.arccos(np.clip(cos[rows, y], -1, 1))
    logits = s * cos
    logits[rows, y] = s * (np.cos(m1 * theta + m2) - m3)
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    d_logits = np.exp(logits - log_sum[:, None])
    d_logits[rows, y] -= 1
    slope = np.full(len(y), float(m1))
    inner = np.sin(theta) > 1e-3
    slope[inner] = m1 * np.sin(m1 * theta[inner] + m2) / np.sin(theta[inner])
    d_cos = s * d_logits
    d_cos[rows, y] *= slope
    d_x, d_w = d_cos @ w_hat, d_cos.T @ x_hat
    d_x = (d_x - (d_x * x_hat).sum(axis=1, keepdims=True) * x_hat) / x_norm
    d_w = (d_w - (d_w * w_hat).sum(axis=1, keepdims=True) * w_hat) / w_norm
    return logits, log_sum - logits[rows, y], d_x, d_w


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def golden_case(golden, name):
    case = np.load(golden / "losses" / f"{name}.npz", allow_pickle=True)
    meta = json.loads(str(case["meta"]))
    loss = meta["loss"] if meta["loss"] in heads.LOSSES else "combined"
    settings = {f"loss_{key}": meta[key] for key in ("s", "m1", "m2", "m3") if key in meta}
    if loss == "softmax":
        settings = {"fc7_no_bias": "bias" not in case}
    found = run_head(loss, case["embedding"], case["weight"], case["label"],
                     case["bias"] if "bias" in case else None, **settings)
    return case, found


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("name", MARGIN_FILES)
    def test_logits_and_gradients(self, golden, name):
        case, (logits, _, _, d_embedding, d_weight) = golden_case(golden, name)
        batch = len(logits)  # the original's gradient is that of the mean over the batch
        assert relative(logits, case["logits"]) < 1e-6
        assert relative(d_embedding / batch, case["grad_data"]) < 1e-5
        assert relative(d_weight / batch, case["grad_fc7_weight"]) < 1e-5

    @pytest.mark.parametrize("name", EDGE_FILES)
    def test_edges_are_finite(self, golden, name):
        case, (logits, loss, _, d_embedding, d_weight) = golden_case(golden, name)
        assert relative(logits, case["logits"]) < 1e-6
        assert all(np.isfinite(values).all() for values in (loss, d_embedding, d_weight))
        rows = np.isfinite(case["grad_data"]).all(axis=1)  # the original is NaN where a cosine rounds to 1
        assert relative(d_embedding[rows] / len(logits), case["grad_data"][rows]) < 1e-5

    def test_negative_margins_act(self, golden):
        """The original's train.py drops them in silence, its train_parall.py applies them: so do we."""
        case, (logits, *_) = golden_case(golden, "margin_m1_1_m2_-0.1_m3_0_s_64")
        expected = reference(case["embedding"], case["weight"], case["label"], 64, 1, -0.1, 0)[0]
        assert relative(logits, expected) < 1e-6
        assert relative(logits, case["logits"]) > 0.01


class TestAgainstFloat64:
    @pytest.mark.parametrize("s, m1, m2, m3", [
        (64, 1, 0, 0), (64, 1, 0.5, 0), (64, 1, 0, 0.35), (64, 1, 0.3, 0.2), (64, 0.9, 0.4, 0.15), (64, 1.35, 0, 0),
        (30, 4, 0, 0), (64, 1, 1.5, 0), (1, 1.2, 0.4, 0.1)])
    def test_values_and_gradients(self, s, m1, m2, m3):
        random = np.random.RandomState(7)
        embedding = (random.randn(24, 16) * 3).astype(np.float32)
        weight, label = random.randn(10, 16).astype(np.float32), random.randint(0, 10, 24).astype(np.float32)
        found = run_head("combined", embedding, weight, label, loss_s=s, loss_m1=m1, loss_m2=m2, loss_m3=m3)
        logits, loss, d_embedding, d_weight = reference(embedding, weight, label, s, m1, m2, m3)
        for values, expected in zip((found[0], found[1], found[3], found[4]), (logits, loss, d_embedding, d_weight)):
            assert relative(values, expected) < 2e-5

    @pytest.mark.parametrize("m1, m2, m3", [(1, 0.5, 0), (1.35, 0, 0), (1, 0.3, 0.2), (1, 0, 0.35), (1, 0, 0)])
    def test_whole_circle(self, m1, m2, m3):
        """The label's logit at every degree, 0 and 180 among them: θ + m goes beyond π."""
        degrees = np.arange(181)
        theta = np.radians(degrees)
        embedding = np.stack([np.cos(theta), np.sin(theta)], axis=1).astype(np.float32)
        weight, label = np.array([[1, 0], [0, -1]], np.float32), np.zeros(181, np.float32)
        found = run_head("combined", embedding, weight, label, loss_m1=m1, loss_m2=m2, loss_m3=m3)
        expected = reference(embedding, weight, label, 64, m1, m2, m3)
        np.testing.assert_allclose(found[0], expected[0], atol=2e-3)
        np.testing.assert_allclose(found[1], expected[1], atol=2e-3)
        np.testing.assert_allclose(found[3], expected[2], atol=0.02, rtol=1e-3)
        assert all(np.isfinite(values).all() for values in found)

    @pytest.mark.parametrize("loss", sorted(heads.LOSSES))
    def test_zero_and_huge_embeddings_are_finite(self, loss):
        embedding = np.array([[0, 0, 0], [1e-20, 0, 0], [1e15, 0, 0], [1, 2, 3]], np.float32)
        if loss == "softmax":
            embedding = embedding[[0, 1, 3]]
        found = run_head(loss, embedding, np.eye(3, dtype=np.float32), np.zeros(len(embedding), np.float32))
        assert all(np.isfinite(values).all() for values in found)

    def test_loss_is_finite_where_the_probability_underflows(self):
        """The original prints inf here: log(softmax) of a probability below 1e-45."""
        embedding, weight = np.array([[1, 0]], np.float32), np.array([[-1, 0], [1, 0]], np.float32)
        found = run_head("cosface", embedding, weight, np.zeros(1, np.float32))
        np.testing.assert_allclose(found[1], 64 * 2.35, rtol=1e-5)


class TestLimits:
    def case(self):
        random = np.random.RandomState(3)
        return random.randn(8, 16).astype(np.float32), random.randn(10, 16).astype(np.float32), np.arange(8.0)

    @pytest.mark.parametrize("loss, m1, m2, m3", [
        ("nsoftmax", 1, 0, 0), ("arcface", 1, 0.5, 0), ("cosface", 1, 0, 0.35)])
    def test_combined_margin_contains_the_others(self, loss, m1, m2, m3):
        one, other = (run_head(name, *self.case(), **settings) for name, settings in
                      ((loss, {}), ("combined", dict(loss_m1=m1, loss_m2=m2, loss_m3=m3))))
        for found, expected in zip(one, other):
            np.testing.assert_array_equal(found, expected)

    def test_only_the_label_is_touched(self):
        plain, margin = (run_head(loss, *self.case())[0] for loss in ("nsoftmax", "arcface"))
        changed = plain != margin
        np.testing.assert_array_equal(changed, np.arange(10) == np.arange(8)[:, None])

    def test_correct_marks_the_highest_logit(self):
        logits, _, correct, *_ = run_head("nsoftmax", *self.case())
        np.testing.assert_array_equal(correct, logits.argmax(axis=1) == np.arange(8))

    def test_a_margin_adds_one_array_of_logits(self):
        """Planned memory: the original's mask and its products take three arrays of (N, C) more than no margin."""
        def planned(loss):
            inputs = mx.sym.Variable("data"), mx.sym.Variable("label")
            symbol = heads.classification_loss(heads.get_logits(loss, *inputs, 20000, 64), inputs[1])
            text = symbol.simple_bind(mx.cpu(), data=(256, 64), label=(256,)).debug_str()
            return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Total") and "MB" in line)
        assert planned("arcface") - planned("nsoftmax") <= 256 * 20000 * 4 / 2 ** 20 + 1


class TestRefusals:
    def test_unknown_loss_lists_the_known(self):
        with pytest.raises(UserError, match="unknown loss 'arkface'; known are: arcface, combined, cosface"):
            heads.loss_settings("arkface")

    def test_unknown_setting_lists_the_known(self):
        with pytest.raises(UserError, match="loss_m4.*loss_m1, loss_m2, loss_m3, loss_s"):
            heads.loss_settings("arcface", loss_m4=1)

    def test_scale_must_be_positive(self):
        with pytest.raises(UserError, match="loss_s 0"):
            heads.loss_settings("arcface", loss_s=0)
