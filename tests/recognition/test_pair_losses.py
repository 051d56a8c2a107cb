"""Pair losses against the original's numbers and against float64 NumPy: values, and gradients by differences."""
import json

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from recognition import pair_losses


def run(loss, embedding, label, **settings):
    """loss_output, correct_output and the gradient of what is trained, in the embedding."""
    symbol = pair_losses.get_loss(loss, mx.sym.Variable("data"), mx.sym.Variable("label"), **settings)
    assert symbol.list_outputs() == ["loss_output", "correct_output"]
    executor = symbol.simple_bind(mx.cpu(), data=embedding.shape, label=label.shape,
                                  grad_req={"data": "write", "label": "null"})
    executor.arg_dict["data"][:], executor.arg_dict["label"][:] = embedding, label
    outputs = [output.asnumpy() for output in executor.forward(is_train=True)]
    executor.backward()
    return outputs + [executor.grad_dict["data"].asnumpy()]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def reference(loss, x, label, setting):
    """The loss of each triplet, or of each pair, in float64."""
    x = unit(x)
    if loss == "contrastive":
        terms = []
        for i in range(len(x)):
            for j in range(i):
                d = np.linalg.norm(x[i] - x[j])
                terms.append(d ** 2 / 2 if label[i] == label[j] else max(0, setting - d) ** 2 / 2)
        return np.array(terms)
    a, p, n = np.split(x, 3)
    if loss == "triplet":
        near, far = ((a - p) ** 2).sum(axis=1), ((a - n) ** 2).sum(axis=1)
    else:
        near, far = (np.arccos((a * other).sum(axis=1)) for other in (p, n))
    return np.maximum(0, near - far + setting)


def differences(function, at, step=1e-6):
    found = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        moved = np.stack([at, at])
        moved[(0, *place)] += step
        moved[(1, *place)] -= step
        found[place] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return found


def case(seed, count=9, width=5):
    random = np.random.RandomState(seed)
    return random.standard_normal((count, width)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2, 1, 2, 0.])[:count]


@pytest.mark.parametrize("name, loss", [("triplet", "triplet"), ("atriplet", "atriplet"),
                                        ("x18_lt12_triplet", "triplet")])
def test_the_original_s_numbers(golden, name, loss):
    expected = np.load(golden / "losses" / f"{name}.npz")
    alpha = pair_losses.LOSSES[loss]["loss_alpha"]
    assert json.loads(str(expected["meta"])).get("alpha", alpha) == alpha  # 2018 keeps no note of it
    found, _, gradient = run(loss, expected["embedding"], expected["label"])
    output, = [expected[key] for key in expected.files if key.startswith("out_makeloss")]
    assert found.mean() == pytest.approx(output[0], rel=1e-6)
    # of the mean over the triplets: the trainer divides by the batch
    np.testing.assert_allclose(gradient / len(expected["label"]), expected["grad_data"], atol=2e-6)


@pytest.mark.parametrize("loss, settings", [
    ("triplet", {}), ("triplet", dict(loss_alpha=2.0)), ("atriplet", {}), ("atriplet", dict(loss_alpha=2.0)),
    ("contrastive", {}), ("contrastive", dict(loss_m=1.8))], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_and_gradients(loss, settings, seed):
    x, label = case(seed)
    setting = dict(pair_losses.LOSSES[loss], **settings).popitem()[1]
    found, _, gradient = run(loss, x, label, **settings)
    wide = x.astype(float)
    terms = reference(loss, wide, label, setting)
    if loss != "contrastive":
        np.testing.assert_allclose(found, terms, atol=1e-6)
    assert found.mean() == pytest.approx(terms.mean(), abs=1e-6)
    expected = differences(lambda at: reference(loss, at, label, setting).mean(), wide)
    np.testing.assert_allclose(gradient / len(x), expected, atol=1e-5 * np.abs(expected).max() + 1e-9)


@pytest.mark.parametrize("loss", pair_losses.LOSSES)
def test_embedding_in_float16(loss):
    x, label = case(0)
    symbol = pair_losses.get_loss(loss, mx.sym.cast(mx.sym.Variable("data"), "float16"), mx.sym.Variable("label"))
    outputs = symbol.eval(data=mx.nd.array(x), label=mx.nd.array(label))
    for found, expected in zip(outputs, run(loss, x.astype(np.float16).astype(np.float32), label)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", pair_losses.LOSSES)
@pytest.mark.parametrize("kind", ["equal", "opposite", "zero"])
def test_edges_are_finite(loss, kind):
    x, label = case(0)
    x[:] = 0 if kind == "zero" else x[0]
    if kind == "opposite":
        x[3:6] *= -1
    assert all(np.isfinite(values).all() for values in run(loss, x, label))


class TestCorrect:
    def test_negative_farther_than_positive(self):
        anchors = np.eye(4, dtype=np.float32)
        near, far = anchors + 0.1, anchors[::-1] + 0.1
        label, other = np.arange(4), np.arange(4) + 1
        for loss in ("triplet", "atriplet"):
            rows = np.concatenate([anchors, [near[0], far[1], near[2], far[3]], [far[0], near[1], far[2], near[3]]])
            assert run(loss, rows, np.concatenate([label, label, other]))[1].tolist() == [1, 0, 1, 0]

    def test_labels_that_are_no_triplet(self):
        x = np.array([[1, 0], [1, 0], [1, 0.1], [1, 0.1], [0, 1], [0, 1]], np.float32)
        assert run("triplet", x, np.array([0, 0, 1, 0, 1, 0]))[1].tolist() == [0, 0]
        assert run("triplet", x, np.array([0, 0, 0, 0, 1, 2]))[1].tolist() == [1, 1]

    def test_pairs_on_their_side(self):
        x, label = case(3)
        close = np.linalg.norm(unit(x)[:, None] - unit(x)[None], axis=2) < 1.0
        right = close == (label[:, None] == label[None])
        np.testing.assert_allclose(run("contrastive", x, label)[1], (right.sum(axis=1) - 1) / (len(x) - 1), rtol=1e-6)


@pytest.mark.parametrize("loss, settings, words", [
    ("arcface", {}, "known are: atriplet, contrastive, triplet"),
    ("triplet", dict(loss_m=1), "unknown setting of loss triplet 'loss_m'"),
    ("triplet", dict(loss_alpha=0), "loss_alpha 0: expected more than 0")])
def test_refusals(loss, settings, words):
    with pytest.raises(UserError, match=words):
        pair_losses.get_loss(loss, mx.sym.Variable("data"), mx.sym.Variable("label"), **settings)
