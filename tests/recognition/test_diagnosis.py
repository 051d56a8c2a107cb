"""Which layer stopped being finite: against networks in which it is known, and NumPy."""
import numpy as np
import pytest
from test_class_parallel import images_of, plain_trainer, split_trainer
from test_trainer import Batches, arrays

from common.mxnet_setup import mx
from recognition import diagnosis
from recognition.guards import FiniteGuard
from recognition.heads import classification_loss, get_head
from recognition.trainer import Callback, NotFinite, Trainer, fit

IMAGES = np.random.RandomState(0).randint(1, 256, (16, 3, 8, 8)).astype(np.uint8)


def layers(*parts):
    """A network of parts, each the name of a FullyConnected of four outputs or a function on symbols."""
    symbol = mx.sym.Flatten(mx.sym.cast(mx.sym.Variable("data"), "float32") / 128)
    for part in parts:
        symbol = mx.sym.FullyConnected(symbol, num_hidden=4, name=part) if isinstance(part, str) else part(symbol)
    return symbol


def softmax(embedding, label):
    return classification_loss(get_head("softmax", embedding, label, 4, 4), label)


def make(symbol, arg_params, devices=None):
    mx.random.seed(0)
    batches = Batches(IMAGES, np.arange(16) % 4, 8)
    return Trainer(symbol, softmax, devices or [mx.cpu()], batches, mx.init.Xavier(), arg_params), batches


def filled(value, *shape):
    return mx.nd.full(shape, value)


class TestForward:
    @pytest.mark.parametrize("devices", [[mx.cpu()], [mx.cpu(0), mx.cpu(1)]], ids=len)
    def test_names_the_operator(self, devices):
        """The second layer multiplies beyond float32; parameters stay as they were before that step."""
        weights = dict(one_weight=filled(1e20, 4, 192), two_weight=filled(1e20, 4, 4))
        trainer, batches = make(layers("one", "two", "fc1"), weights, devices)
        before = arrays(trainer)
        words = "at step 1: the first output that is not finite is two_output, behind two_bias: "
        with pytest.raises(NotFinite, match=rf"the loss became (nan|inf) {words}\d+ of {32 // len(devices)} values$"):
            trainer.step(batches.next())
        for name, array in arrays(trainer).items():
            np.testing.assert_array_equal(array, before[name])

    def test_counts_the_values(self):
        weight = np.random.RandomState(1).standard_normal((4, 192)).astype(np.float32)
        weight[2] *= 3e38 / np.abs(weight[2]).max()
        with np.errstate(over="ignore", invalid="ignore"):
            expected = np.count_nonzero(~np.isfinite((IMAGES[:8].reshape(8, -1) / np.float32(128)) @ weight.T))
        trainer, batches = make(layers("fc1"), dict(fc1_weight=mx.nd.array(weight)))
        with pytest.raises(NotFinite, match=f"fc1_output, behind fc1_bias: {expected} of 32 values$"):
            trainer.step(batches.next())
        assert 0 < expected <= 8

    def test_in_the_head(self):
        trainer, batches = make(layers("fc1"), dict(fc7_weight=filled(1e38, 4, 4), fc1_weight=filled(1, 4, 192)))
        with pytest.raises(NotFinite, match="first output that is not finite is fc7_output, behind fc7_bias: 32 of 32"):
            trainer.step(batches.next())

    def test_in_a_split_head(self):
        batches = Batches(*images_of(5, 60), 12)
        weight = np.ones((5, 16), np.float32)
        weight[3] = 1e38  # of the second part
        head = dict(fc7_weight=mx.nd.array(weight), fc7_bias=mx.nd.zeros(5))
        trainer = split_trainer("softmax", [3, 2], batches, head)
        with pytest.raises(NotFinite, match="the first output that is not finite is .*, behind fc7_bias_part1"):
            trainer.step(batches.next())

    def test_parameters_of_a_split_head(self):
        trainer = split_trainer("arcface", [3, 2], Batches(*images_of(5, 60), 12))
        trainer.check_params()
        trainer._arrays["fc7_weight_part1"][1, 2] = np.inf
        with pytest.raises(NotFinite, match="1 of .* after step 0, of which fc7_weight is the nearest"):
            trainer.params()
        with pytest.raises(NotFinite, match="1 of .* after step 0, of which fc7_weight_part1 is the nearest"):
            trainer.check_params()

    def test_nothing_found_the_second_time(self):
        symbol = layers("fc1")
        executor = symbol.simple_bind(mx.cpu(), data=(2, 3, 8, 8))
        found = diagnosis.find_operator([executor], lambda: executor.forward(is_train=True), {"data"})
        assert found.startswith("a second forward pass of the batch was finite")


def root(symbol):
    """√x², whose gradient at 0 is not finite, while its value is."""
    return mx.sym.sqrt(mx.sym.square(symbol))


class TestGradient:
    def make(self):
        return make(layers("one", "two", root, "fc1"), dict(two_weight=filled(0, 4, 4), two_bias=filled(0, 4)))

    def test_names_where_it_began(self):
        """Of the layers up to `two`, which gets the first gradient that is not finite; those behind it stay sound."""
        trainer, batches = self.make()
        trainer.step(batches.next())
        words = "4 of 8 arrays are not finite after step 1, of which two_bias is the nearest to the loss"
        with pytest.raises(NotFinite, match=words):
            trainer.params()
        with pytest.raises(NotFinite, match=f"the loss became nan at step 2: {words}"):
            trainer.step(batches.next())
        assert np.isfinite(trainer.take_metrics()[0])  # of the first step

    def test_is_caught_while_the_loss_is_finite(self):
        """At the next line of progress, here the second step: a weight that no loss hangs on."""
        steps = []

        class Watch(Callback):
            def step(self, trainer):
                steps.append(trainer.steps)
                if trainer.steps == 1:
                    trainer.module._exec_group.execs[0].arg_dict["unused_weight"][:] = np.nan

        def with_unused(symbol):
            unused = mx.sym.FullyConnected(mx.sym.BlockGrad(symbol), num_hidden=1, name="unused")
            return symbol + mx.sym.broadcast_mul(mx.sym.zeros_like(symbol), mx.sym.zeros_like(unused))

        trainer, batches = make(layers("one", with_unused, "fc1"), {})
        with pytest.raises(NotFinite, match="1 of 8 arrays are not finite after step 2, of which unused_weight is"):
            fit(trainer, batches, [Watch(), FiniteGuard(2)], max_steps=6)
        assert steps == [1, 2]

    def test_is_caught_at_the_end(self):
        trainer, batches = self.make()
        with pytest.raises(NotFinite, match="4 of 8 arrays"):
            fit(trainer, batches, [FiniteGuard(100)], max_steps=1)


def test_not_finite_looks_at_every_array():
    """More arrays than one call takes, on two devices."""
    found = {f"{k}": mx.nd.ones((2, 2), mx.cpu(k % 2)) for k in range(450)}
    assert diagnosis.not_finite(found) == []
    for name, value in ("3", np.inf), ("444", np.nan):
        found[name][1, 0] = value
    assert diagnosis.not_finite(found) == ["3", "444"]


def test_an_ordinary_network_is_finite():
    plain_trainer("curricularface", 5, [mx.cpu()], Batches(*images_of(5, 60), 12)).check_params()
