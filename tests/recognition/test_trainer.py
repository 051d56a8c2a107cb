"""The trainer against two steps of the original, and against itself on other devices."""
import zlib

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from recognition.heads import classification_loss, get_head, get_logits
from recognition.trainer import Callback, NotFinite, Trainer, fit
from symbols import get_symbol


def golden_array(name, shape, is_slope):
    """The parameters that anyone can regenerate: see the rule in the golden folder's README (gain 2)."""
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ 727) & 0xffffffff)
    if name.endswith("_weight"):
        return random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    low, high = -0.10, 0.10
    if name.endswith("_bias"):
        low, high = -0.05, 0.05
    elif is_slope:
        low, high = 0.10, 0.40
    elif name.endswith(("_gamma", "_var")):
        low, high = 0.80, 1.20
    return random.uniform(low, high, shape)


def golden_images(batch):
    n, c, i, j = np.ogrid[:batch, :3, :112, :112]
    return ((7 * i + 13 * j + 29 * c + 31 * n + (i * j) % 17 + ((i // 8) * (j // 8) * 11) % 97) % 256).astype(np.uint8)


class Batches(mx.io.NDArrayIter):
    """Images and labels in memory, as uint8."""

    def __init__(self, images, label, batch_size):
        super().__init__({"data": mx.nd.array(images, dtype=np.uint8)}, {"softmax_label": mx.nd.array(label)},
                         batch_size, last_batch_handle="discard")


def arcface(num_classes, emb_size):
    def loss(embedding, label):
        return classification_loss(get_logits("arcface", embedding, label, num_classes, emb_size), label)
    return loss


@pytest.fixture(scope="module")
def small():
    """Random images of 4 identities and a small network."""
    random = np.random.RandomState(0)
    images, label = random.randint(0, 256, (16, 3, 112, 112)).astype(np.uint8), np.arange(16) % 4
    return images, label, get_symbol("y1", net_blocks=(1, 1, 1, 1), emb_size=16)


def train(small, devices, steps=3, batch_size=8, **settings):
    images, label, symbol = small
    batches = Batches(images, label, batch_size)
    mx.random.seed(1)
    trainer = Trainer(symbol, arcface(4, 16), devices, batches, mx.init.Xavier("gaussian", "out", 2), **settings)
    fit(trainer, batches, [], max_steps=steps)
    return trainer


def arrays(trainer):
    return {name: array.asnumpy() for params in trainer.params() for name, array in params.items()}


def test_two_steps_of_the_original(golden):
    expected = np.load(golden / "train_step_y1_arcface.npz")
    symbol = get_symbol("y1")
    shapes = symbol.infer_shape(data=(1, 3, 112, 112))
    slopes = {name for name in symbol.list_arguments() if name.endswith("relu_gamma")}
    make = {name: mx.nd.array(golden_array(name, shape, name in slopes)) for name, shape in
            [*zip(symbol.list_arguments(), shapes[0]), *zip(symbol.list_auxiliary_states(), shapes[2])]
            if name != "data"}
    make["fc7_weight"] = mx.nd.array(golden_array("fc7_weight", (10, 128), False))
    batches = Batches(golden_images(4), expected["label"], 4)
    trainer = Trainer(symbol, arcface(10, 128), [mx.cpu()], batches, mx.init.Zero(), make,
                      {name: make[name] for name in symbol.list_auxiliary_states()})
    for step, tolerance in (("s1", 1e-3), ("s2", 3e-2)):  # so large a step multiplies rounding by hundreds
        batches.reset()
        trainer.step(batches.next())
        loss, _ = trainer.take_metrics()
        np.testing.assert_allclose(loss, expected[f"{step}_ce"][0], rtol=tolerance)
        found = arrays(trainer)
        norms = [np.linalg.norm(found[name]) for name in expected["param_names"]]
        np.testing.assert_allclose(norms, expected[f"{step}_param_norm"], rtol=tolerance, atol=tolerance)
        if step == "s1":
            for name in ("fc7_weight", "pre_fc1_weight", "conv_1_conv2d_weight", "fc1_beta", "fc1_gamma"):
                after = expected[f"s1_after_{name}"]
                assert np.linalg.norm(found[name] - after) < 5e-3 * np.linalg.norm(after)


class TestDevices:
    def test_two_devices_are_the_sum_of_their_halves(self, small):
        """A network without BatchNorm: gradients of the halves must add up exactly."""
        images, label, _ = small
        flat = mx.sym.Flatten(mx.sym.cast(mx.sym.Variable("data"), "float32") / 128)
        symbol = mx.sym.FullyConnected(flat, num_hidden=16, name="fc1")
        found = []
        for devices in ([mx.cpu()], [mx.cpu(0), mx.cpu(1)]):
            found.append(arrays(train((images, label, symbol), devices, steps=3)))
        for name in found[0]:
            np.testing.assert_allclose(found[0][name], found[1][name], rtol=2e-3, atol=2e-6)

    def test_uneven_share_is_refused(self, small):
        with pytest.raises(UserError, match="batch of 7 images.*2 devices"):
            train(small, [mx.cpu(0), mx.cpu(1)], batch_size=7)


class TestSchedule:
    def test_same_seed_same_parameters(self, small):
        one, other = arrays(train(small, [mx.cpu()])), arrays(train(small, [mx.cpu()]))
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])

    def test_rate_falls_after_its_steps(self, small):
        rates = []

        class Watch(Callback):
            def step(self, trainer):
                rates.append(trainer.lr)

        images, label, symbol = small
        batches = Batches(images, label, 8)
        trainer = Trainer(symbol, arcface(4, 16), [mx.cpu()], batches, mx.init.Xavier(), lr=0.1, lr_steps=[2, 3])
        fit(trainer, batches, [Watch()], max_steps=4)
        np.testing.assert_allclose(rates, [0.1, 0.01, 0.001, 0.001])

    def test_rate_is_what_the_optimizer_uses(self, small):
        """A thousandth of the rate moves the weights a thousandth as far (no momentum, no decay)."""
        images, label, symbol = small

        def moved(lr_steps):
            batches = Batches(images, label, 8)
            mx.random.seed(1)
            trainer = Trainer(symbol, arcface(4, 16), [mx.cpu()], batches, mx.init.Xavier(), momentum=0, wd=0,
                              lr_steps=lr_steps)
            trainer.step(batches.next())
            before = arrays(trainer)["fc7_weight"]
            batches.reset()
            trainer.step(batches.next())
            return np.abs(arrays(trainer)["fc7_weight"] - before).max()

        assert moved([1]) == pytest.approx(moved([5]) / 10, rel=1e-2)

    def test_multipliers_act(self, small):
        frozen = arrays(train(small, [mx.cpu()], multipliers={"fc7_weight": (0.0, 1.0)}))["fc7_weight"]
        start = arrays(train(small, [mx.cpu()], lr=0.0))["fc7_weight"]
        np.testing.assert_array_equal(frozen, start)

    def test_epochs_end_the_run(self, small):
        images, label, symbol = small
        batches = Batches(images, label, 8)
        trainer = Trainer(symbol, arcface(4, 16), [mx.cpu()], batches, mx.init.Xavier())
        fit(trainer, batches, [], epochs=2)
        assert (trainer.steps, trainer.epoch) == (4, 2)


def test_numbers_that_are_not_finite_stop_the_training(small):
    trainer = train(small, [mx.cpu()], steps=1, lr=1e38)
    with pytest.raises(NotFinite, match="arrays are not finite after step 1, "):
        trainer.params()
    with pytest.raises(NotFinite, match="the loss became (nan|inf) at step 2"):
        train(small, [mx.cpu()], steps=5, lr=1e38)


def test_metrics_are_those_of_each_step(small):
    """Read after every step, and once after all: later steps do not write over what earlier ones gave."""
    images, label, symbol = small
    means = {}
    for every in (1, 4):
        batches = Batches(images, label, 4)
        mx.random.seed(1)
        trainer, seen = Trainer(symbol, arcface(4, 16), [mx.cpu()], batches, mx.init.Xavier(), lr=0.01), []
        for batch in batches:
            trainer.step(batch)
            if trainer.steps % every == 0:
                seen.append(trainer.take_metrics()[0])
        means[every] = np.mean(seen)
    assert trainer.steps == 4 and means[4] == pytest.approx(means[1], rel=1e-6)




def test_states_follow_the_steps(small):
    """Arguments whose next value is an output: here the number of the step, by which SphereFace's annealing goes."""
    def sphereface(embedding, label):
        return classification_loss(get_head("sphereface", embedding, label, 4, 16), label)

    images, label, symbol = small
    for devices in ([mx.cpu()], [mx.cpu(0), mx.cpu(1)]):
        batches = Batches(images, label, 8)
        mx.random.seed(1)
        trainer = Trainer(symbol, sphereface, devices, batches, mx.init.Xavier("gaussian", "out", 2), wd=0.1)
        assert arrays(trainer)["fc7_step_state"] == [0]
        fit(trainer, batches, [], max_steps=3)
        assert arrays(trainer)["fc7_step_state"] == [3]
        loss, accuracy = trainer.take_metrics()
        assert np.isfinite(loss) and 0 <= accuracy <= 1


def test_learning_rate_warm_up(small):
    images, label, symbol = small
    batches = Batches(images, label, 4)
    trainer = Trainer(symbol, arcface(4, 16), [mx.cpu()], batches, mx.init.Xavier(), lr=0.4, lr_steps=[6], lr_warmup=4)
    rates = []
    for _ in range(2):
        for batch in batches:
            rates.append(trainer.lr)
            trainer.step(batch)
        batches.reset()
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.04, 0.04])
