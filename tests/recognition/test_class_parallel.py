"""A head in parts against the plain head: values, gradients, states, many steps of training, checkpoints."""
import re

import numpy as np
import pytest
from reference_heads import run
from test_heads import CASES, make_case, relative
from test_trainer import Batches

from common.mxnet_setup import mx
from recognition import class_parallel, heads
from recognition.split_trainer import SplitTrainer
from recognition.trainer import Trainer, fit

SPLITS = [[3, 2], [2, 2, 1], [2, 1, 1, 1]]


def run_split(loss, counts, x, w, y, states, bias=None, **settings):
    """What `reference_heads.run` gives, of a head in parts on so many CPU contexts."""
    data, label = mx.sym.Variable("data"), mx.sym.Variable("label")
    symbol = class_parallel.split_loss(loss, data, label, counts, x.shape[1], **settings)
    plain = dict(fc7_weight=w, fc7_bias=np.zeros(len(w)) if bias is None else bias,
                 **{f"fc7_{name}_state": np.reshape(value, np.shape(value) or 1) for name, value in states.items()})
    values = class_parallel.split_params({name: mx.nd.array(value) for name, value in plain.items()}, counts)
    values.update(data=mx.nd.array(x), label=mx.nd.array(y))
    executor = symbol.simple_bind(
        mx.cpu(0), group2ctx={class_parallel.group(part): mx.cpu(part) for part in range(len(counts))},
        data=x.shape, label=y.shape,
        grad_req={name: "null" if name == "label" or name.endswith("_state") else "write"
                  for name in symbol.list_arguments()})
    for name, array in executor.arg_dict.items():
        values[name].copyto(array)
    outputs = dict(zip(symbol.list_outputs(), executor.forward(is_train=True)))
    executor.backward()
    gradients = class_parallel.merge_params({name: array for name, array in executor.grad_dict.items()
                                             if array is not None})
    following = class_parallel.merge_params({name[:-len("_next_output")]: value for name, value in outputs.items()
                                             if name.endswith("_next_output")})
    return (outputs["loss_output"].asnumpy(), outputs["correct_output"].asnumpy(), gradients["data"].asnumpy(),
            gradients["fc7_weight"].asnumpy(),
            {name[len("fc7_"):-len("_state")]: value.asnumpy() for name, value in following.items()})


@pytest.mark.parametrize("counts", SPLITS, ids=str)
@pytest.mark.parametrize("loss, own", CASES, ids=str)
def test_a_split_head_is_the_plain_one(loss, own, counts):
    case = make_case(loss, **own)
    expected = run(loss, *case, **own)
    found_loss, correct, d_x, d_w, following = run_split(loss, counts, *case, **own)
    assert relative(found_loss, expected.loss) < 2e-6
    np.testing.assert_array_equal(correct, expected.correct)
    assert relative(d_x, expected.d_x) < 1e-5 and relative(d_w, expected.d_w) < 1e-5
    assert following.keys() == expected.next.keys()
    for name, value in expected.next.items():
        np.testing.assert_allclose(following[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("classes, parts", [(7, 3), (4, 4), (85742, 4)])
def test_parts_are_even(classes, parts):
    counts = class_parallel.split_evenly(classes, parts)
    assert sum(counts) == classes and max(counts) - min(counts) <= 1 and len(counts) == parts


def test_a_part_has_few_rows(monkeypatch):
    monkeypatch.setattr(class_parallel, "BLOCK", 10)
    assert class_parallel.split_classes(10, 1) == [10] and class_parallel.split_classes(3, 4) == [1, 1, 1, 0]
    assert class_parallel.split_classes(25, 1) == [9, 8, 8]
    assert class_parallel.split_classes(25, 2) == [7, 6, 6, 6]  # two on each device
    assert class_parallel.split_classes(25, 1, centres=2) == [5, 5, 5, 5, 5]
    assert class_parallel.split_classes(100, 1, rate=0.2) == [50, 50]
    assert class_parallel.split_classes(4, 2, centres=30) == [1, 1, 1, 1]  # a class is never torn
    assert [class_parallel.device_of(part, 4, ["a", "b"]) for part in range(4)] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("loss, own", [("arcface", {}), ("softmax", dict(fc7_no_bias=True)), ("magface", {}),
                                       ("sphereface", {}), ("adaface", {})], ids=str)
@pytest.mark.parametrize("parts", [4, 20])
def test_one_part_at_a_time_is_held(loss, own, parts):
    """MXNet's own plan: beside what the graph is given, a few arrays as large as one part's, however many parts."""
    batch, size, classes = 64, 64, 40000
    counts = class_parallel.split_evenly(classes, parts)
    symbol = class_parallel.split_loss(loss, mx.sym.Variable("data"), mx.sym.Variable("label"), counts, size, **own)
    executor = symbol.simple_bind(
        mx.cpu(), group2ctx={class_parallel.group(part): mx.cpu() for part in range(parts)}, data=(batch, size),
        label=(batch,), grad_req={name: "null" if name == "label" or name.endswith("_state") else "write"
                                  for name in symbol.list_arguments()})
    planned = int(re.findall(r"Total (\d+) MB allocated", executor.debug_str())[0])
    part = classes / parts * (batch + size) * 4 / 2 ** 20  # its logits and its normalised rows
    assert planned < 4 * part + 2


@pytest.mark.parametrize("centres", [1, 3])
def test_arrays_are_split_and_merged_without_loss(centres):
    random = np.random.RandomState(0)
    plain = {"fc7_weight": random.standard_normal((11 * centres, 4)), "fc7_bias": random.standard_normal(11),
             "fc7_centre_state": random.standard_normal((11, 4)), "fc7_step_state": np.array([7.0]),
             "fc1_gamma": random.standard_normal(11)}
    plain = {name: mx.nd.array(value) for name, value in plain.items()}
    for first, second in (([4, 4, 3], [6, 5]), ([11], [3, 3, 3, 2])):
        split = class_parallel.split_params(plain, first)
        assert split["fc7_weight_part0"].shape == (first[0] * centres, 4)
        assert split["fc7_step_state"].shape == (1,) and split["fc1_gamma"].shape == (11,)
        again = class_parallel.merge_params(class_parallel.split_params(class_parallel.merge_params(split), second))
        assert again.keys() == plain.keys()
        for name, array in plain.items():
            np.testing.assert_array_equal(again[name].asnumpy(), array.asnumpy())


def images_of(identities, count):
    random = np.random.RandomState(0)
    return random.randint(0, 256, (count, 3, 8, 8)).astype(np.uint8), np.arange(count) % identities


def network():
    """A network without BatchNorm, which would multiply rounding errors from step to step."""
    data = (mx.sym.cast(mx.sym.Variable("data"), "float32") - 127.5) / 128
    hidden = mx.sym.Activation(mx.sym.FullyConnected(data, num_hidden=32, name="hidden"), act_type="tanh")
    return mx.sym.FullyConnected(hidden, num_hidden=16, name="fc1")


SGD = dict(lr=0.2, lr_steps=(15,), lr_warmup=5, multipliers={"fc7_weight": (2.0, 0.5), "fc7_bias": (0.5, 3.0)})


def split_trainer(loss, counts, batches, arg_params=None, devices=None, **own):
    def head(embedding, label):
        return class_parallel.split_loss(loss, embedding, label, counts, 16, **own)
    return SplitTrainer(network(), head, counts, devices or [mx.cpu(part) for part in range(len(counts))], batches,
                        mx.init.Xavier(), arg_params, **SGD)


def plain_trainer(loss, classes, devices, batches, **own):
    def head(embedding, label):
        return heads.classification_loss(heads.get_head(loss, embedding, label, classes, 16, **own), label)
    mx.random.seed(3)
    return Trainer(network(), head, devices, batches, mx.init.Xavier(), **SGD)


def run_steps(trainer, batches, steps):
    batches.reset()
    fit(trainer, batches, [], max_steps=trainer.steps + steps)
    return trainer.take_metrics()


@pytest.mark.parametrize("loss, counts, devices, own", [
    ("arcface", [3, 2], 2, dict(loss_s=16.0, margin_warmup=3)), ("softmax", [2, 2, 1], 3, {}),
    ("curricularface", [5], 1, dict(loss_s=16.0)), ("subcenter", [2, 1, 1, 1], 4, dict(loss_s=16.0)),
    ("arcface", [2, 2, 1], 1, dict(loss_s=16.0)), ("cosface", [2, 1, 1, 1], 2, dict(loss_s=16.0))], ids=str)
def test_many_steps_are_those_of_the_plain_head(loss, counts, devices, own):
    batches, devices = Batches(*images_of(5, 60), 12), [mx.cpu(device) for device in range(devices)]
    plain = plain_trainer(loss, 5, devices, batches, **own)
    split = split_trainer(loss, counts, batches, plain.params()[0], devices, **own)
    first = None
    for _ in range(5):
        expected, found = run_steps(plain, batches, 4), run_steps(split, batches, 4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        first = first or expected
    assert expected[0] < 0.7 * first[0]
    for name, array in plain.params()[0].items():
        np.testing.assert_allclose(split.params()[0][name].asnumpy(), array.asnumpy(), rtol=1e-3, atol=1e-4,
                                   err_msg=name)
    assert split.lr == plain.lr == pytest.approx(0.02)


def test_a_split_model_goes_on_with_other_parts():
    batches = Batches(*images_of(5, 12), 12)
    first = split_trainer("arcface", [3, 2], batches, loss_s=16.0)
    run_steps(first, batches, 1)
    again = split_trainer("arcface", [2, 2, 1], batches, first.params()[0], loss_s=16.0)
    for name, array in first.params()[0].items():
        np.testing.assert_array_equal(again.params()[0][name].asnumpy(), array.asnumpy())


def test_biases_begin_at_zero():
    trainer = split_trainer("softmax", [3, 2], Batches(*images_of(5, 60), 12))
    np.testing.assert_array_equal(trainer.params()[0]["fc7_bias"].asnumpy(), np.zeros(5))
