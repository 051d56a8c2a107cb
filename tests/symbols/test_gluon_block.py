"""The Gluon block against Module, checkpoints and the embedder: the same network, whichever way it is used."""
import json

import cv2
import numpy as np
import pytest

from common import checkpoint, graph
from common.embedder import Embedder
from common.errors import DataError, UserError
from common.mxnet_setup import mx
from symbols import NETWORKS, get_block, get_symbol
from symbols.blocks import IMAGE_SHAPE

Y1 = ("y1", dict(net_blocks=(1, 1, 1, 1), emb_size=32))
R18 = ("r18", dict(net_act="relu", net_input=0, net_output="GAP", emb_size=32))
BATCH, STEPS, CLASSES = 4, 2, 10  # a third step, and rounding outgrows the learning on some processors
SGD = dict(learning_rate=0.05, momentum=0.9, wd=0.01)


def _images(number, seed):
    """Random images (number, 3, 112, 112) uint8, smooth as photographs are."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 220, (number, 3, 14, 14)).repeat(8, axis=2).repeat(8, axis=3)
    return (coarse + random.randint(0, 36, coarse.shape)).astype(np.uint8)


BATCHES = [(_images(BATCH, seed), np.random.RandomState(seed).randint(0, CLASSES, BATCH)) for seed in range(STEPS)]


def _start(symbol, seed=0):
    """dict name -> float32 array to begin with: everything off its usual start, so that weight decay shows."""
    random, slopes = np.random.RandomState(seed), _second_inputs(symbol, "LeakyReLU")
    arguments, (embedding,), states = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    shapes = dict(zip(names, arguments + states), fc7_weight=(CLASSES, embedding[1]), fc7_bias=(CLASSES,))
    del shapes["data"]
    start = {}
    for name, shape in shapes.items():
        usual = 0.25 if name in slopes else float(name.endswith(("_gamma", "_var")))
        values = usual + random.uniform(-0.1, 0.1, shape)
        if name.endswith("_weight"):
            values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        start[name] = values.astype(np.float32)
    return start


def _second_inputs(symbol, operator, **attrs):
    """Names of the parameters that come second, behind the data, in an operator with these attributes."""
    nodes = json.loads(symbol.tojson())["nodes"]
    return {nodes[node["inputs"][1][0]]["name"] for node in nodes
            if node["op"] == operator and attrs.items() <= node["attrs"].items()}


def _set(block, values):
    for name, parameter in block.collect_params().items():
        parameter.set_data(mx.nd.array(values[name]))


def _train_module(symbol, start, devices):
    """Parameters and moving statistics after the steps of SGD by Module, as dict name -> array."""
    fc7 = mx.sym.FullyConnected(symbol, num_hidden=CLASSES, name="fc7")
    label = mx.sym.Variable("softmax_label")
    module = mx.mod.Module(mx.sym.SoftmaxOutput(fc7, label, name="softmax"), context=devices)
    module.bind([("data", (BATCH, *IMAGE_SHAPE))], [("softmax_label", (BATCH,))])
    values = {name: mx.nd.array(value) for name, value in start.items()}
    module.init_params(None, values, values, allow_extra=True)
    module.init_optimizer(optimizer=mx.optimizer.SGD(rescale_grad=1 / BATCH, **SGD))
    for images, labels in BATCHES:
        module.forward_backward(mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(labels)]))
        module.update()
    mx.nd.waitall()
    return _arrays(*module.get_params())


def _train_gluon(block, start, devices, **hybridize):
    """The same by gluon.Trainer."""
    net, head = mx.gluon.nn.HybridSequential(), mx.gluon.nn.Dense(CLASSES, prefix="fc7_")
    net.add(block, head)
    net.initialize(mx.init.Xavier(), devices)
    net.hybridize(**hybridize)
    net(mx.nd.array(BATCHES[0][0], devices[0]))  # the head learns its shape
    _set(net, start)
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", SGD, update_on_kvstore=False)
    trainer.allreduce_grads()  # the first device's statistics go to the others now, not amidst the first step
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    for arrays in BATCHES:
        images, labels = (mx.gluon.utils.split_and_load(mx.nd.array(array, dtype=array.dtype), devices)
                          for array in arrays)
        with mx.autograd.record():
            losses = [loss(net(part), label) for part, label in zip(images, labels)]
        mx.autograd.backward(losses)
        trainer.step(BATCH)
    of_head = {name: parameter.data(devices[0]) for name, parameter in head.collect_params().items()}
    return _arrays(*block.get_params(), of_head)


def _arrays(*parts):
    return {name: array.asnumpy() for part in parts for name, array in part.items()}


@pytest.mark.parametrize("network, devices, hybridize", [
    (Y1, [mx.cpu()], dict(active=False)),
    (Y1, [mx.cpu(0), mx.cpu(1)], dict(static_alloc=True, static_shape=True)),
    (R18, [mx.cpu()], dict(active=True)),
], ids=["y1", "y1-two-devices", "r18-relu"])
def test_trains_as_module_does(network, devices, hybridize):
    """They differ as little as Module differs from itself when all it begins with is moved by one unit of float32.

    Rounding grows through layers and steps, unlike from array to array: that is its measure. Without weight decay,
    for instance, some arrays would be ten thousand times as far apart.
    """
    name, settings = network
    symbol = get_symbol(name, **settings)
    start = _start(symbol)
    if network is Y1:  # MXNet's own PReLU gives other gradients of the slopes (see common.graph)
        symbol = graph.for_device(symbol, devices[0], data=(1, *IMAGE_SHAPE))
    expected = _train_module(symbol, start, devices)
    moved = {key: np.nextafter(value, np.float32(np.inf)) for key, value in start.items()}
    moved = _train_module(symbol, moved, devices)
    found = _train_gluon(get_block(name, **settings), start, devices, **hybridize)
    assert found.keys() == expected.keys() == start.keys()
    unused = _second_inputs(symbol, "BatchNorm", fix_gamma="True")  # such a scale counts as 1, whatever becomes of it
    for key, value in expected.items():
        if key in unused:
            continue
        rounding, change = np.linalg.norm(moved[key] - value), np.linalg.norm(value - start[key])
        assert rounding < 0.1 * change, key
        assert np.linalg.norm(found[key] - value) <= 10 * rounding, key


def _assert_embeds(block, images, expected=None):
    """In every batch size and type, as the Embedder does with the parameters that the block has now."""
    if expected is None:
        expected = Embedder.from_params(block.symbol, *block.get_params())(images)
    for number, kind in ((len(images), np.uint8), (1, np.float32), (len(images), np.float32)):
        found = block(mx.nd.array(images[:number], dtype=kind)).asnumpy()
        assert found.shape == (number, expected.shape[1]) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:number], rtol=0, atol=1e-4 * np.abs(expected).max())
    return expected


@pytest.mark.parametrize("hybridize", [
    dict(active=False), dict(active=True), dict(static_alloc=True, static_shape=True), dict(backend="MKLDNN")], ids=str)
def test_hybridized_in_any_way(hybridize):
    """MobileFaceNet has what MXNet breaks on (FC on a 1x1 map, BatchNorm behind it), or goes on with stale weights."""
    block = get_block(Y1[0], **Y1[1])
    block.initialize()
    block.hybridize(**hybridize)
    _set(block, _start(block.symbol))
    trainer = mx.gluon.Trainer(block.collect_params(), "sgd", SGD)
    before = _assert_embeds(block, BATCHES[0][0])
    with mx.autograd.record():
        loss = (block(mx.nd.array(BATCHES[0][0])) ** 2).sum()
    loss.backward()
    trainer.step(BATCH)
    after = _assert_embeds(block, BATCHES[0][0])
    assert np.abs(after - before).max() > 0.01 * np.abs(before).max()


def _firsts():
    """The first network of each family."""
    return {family.__name__: name for name, (family, _) in reversed(list(NETWORKS.items()))}.values()


@pytest.mark.parametrize("network", _firsts())
def test_every_parameter_has_its_start(network):
    """By the place that it has in the graph, whatever it is called; the initializer draws the weights alone."""
    block = get_block(network, emb_size=8)
    block.initialize(mx.init.Constant(7))
    places = {"Convolution": (7, 0), "FullyConnected": (7, 0), "LeakyReLU": (0.25,), "BatchNorm": (1, 0, 0, 1)}
    nodes, expected = json.loads(block.symbol.tojson())["nodes"], {}
    for node in nodes:
        values = places.get(node["op"], ())
        expected.update({nodes[entry[0]]["name"]: value for entry, value in zip(node["inputs"][1:], values)})
    found = _arrays(*block.get_params())
    assert {name: (array.min(), array.max()) for name, array in found.items()} == {
        name: (value, value) for name, value in expected.items()}


def test_weights_are_drawn_by_the_initializer():
    block = get_block(Y1[0], **Y1[1])
    mx.random.seed(0)
    block.initialize(mx.init.Xavier("gaussian", "out", 2))
    weight = block.get_params()[0]["conv_6sep_conv2d_weight"].asnumpy()  # 512 of 128 taps
    assert abs(weight.std() / np.sqrt(2 / 512) - 1) < 0.02


def test_checkpoints(tmp_path):
    """What a block writes is what `common` writes and reads, to the bit; and back into a block, on other devices."""
    block, prefix = get_block(Y1[0], **Y1[1]), f"{tmp_path}/models/y1"
    block.initialize()
    start = _start(block.symbol)
    _set(block, start)
    embeddings = _assert_embeds(block, BATCHES[0][0])
    block.export(prefix, 12)
    symbol, *params = checkpoint.load(f"{prefix},12")
    assert symbol.tojson() == get_symbol(Y1[0], **Y1[1]).tojson()
    stored = _arrays(*params)
    assert stored.keys() == start.keys() - {"fc7_weight", "fc7_bias"}
    assert all(np.array_equal(array, start[name]) for name, array in stored.items())
    np.testing.assert_allclose(Embedder(f"{prefix},12")(BATCHES[0][0]), embeddings, rtol=0,
                               atol=1e-6 * np.abs(embeddings).max())
    other = get_block(Y1[0], **Y1[1])
    other.load_checkpoint(f"{prefix},12")
    _assert_embeds(other, BATCHES[0][0], embeddings)
    other.load_checkpoint(f"{prefix},12", [mx.cpu(1), mx.cpu(2)])
    for device in mx.cpu(1), mx.cpu(2):
        found = other(mx.nd.array(BATCHES[0][0], device))
        assert found.context == device
        np.testing.assert_allclose(found.asnumpy(), embeddings, rtol=0, atol=1e-4 * np.abs(embeddings).max())
    other.reset_ctx(mx.cpu())
    _assert_embeds(other, BATCHES[0][0], embeddings)
    assert all(np.array_equal(array, start[name]) for name, array in _arrays(*other.get_params()).items())


def test_public_checkpoint(face_data):
    prefix = face_data / "models" / "y1" / "model"
    block = get_block("y1")
    block.load_checkpoint(f"{prefix},0")
    images = np.stack([cv2.imread(str(path))[:, :, ::-1].transpose(2, 0, 1)
                       for path in sorted((face_data / "lfw" / "images").glob("A*/*_0001.jpg"))[:4]])
    _assert_embeds(block, images, Embedder(f"{prefix},0")(images))


def test_the_device_of_the_images_chooses_the_graph():
    block = get_block(Y1[0], **Y1[1])
    block.initialize()
    traced = {}
    for device in mx.cpu(), mx.gpu(), mx.Context("cpu_shared"):
        with device:  # as Gluon traces a block around this one
            traced[device.device_type] = block(mx.sym.Variable("data"))
        assert traced[device.device_type].list_inputs() == block.symbol.list_inputs()
    operators = {kind: {node["op"] for node in json.loads(symbol.tojson())["nodes"]} for kind, symbol in traced.items()}
    assert "LeakyReLU" in operators["gpu"] and "LeakyReLU" not in operators["cpu"]
    assert operators["cpu_shared"] == operators["cpu"]
    _assert_embeds(block, BATCHES[0][0])


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="unknown network 'r17'; known are: "):
        get_block("r17")
    with pytest.raises(UserError, match="network y1 has no setting 'net_se'"):
        get_block("y1", net_se=1)
    block = get_block(Y1[0], **Y1[1])
    block.initialize()
    for shape in (4, 112, 112, 3), (4, 3, 112, 96), (3, 112, 112):
        with pytest.raises(UserError, match=rf"^images of shape \({shape[0]}, .*; expected \(N, 3, 112, 112\)$"):
            block(mx.nd.zeros(shape))
    block.export(f"{tmp_path}/m", 1)
    other = get_block(Y1[0], **dict(Y1[1], emb_size=16))
    with pytest.raises(UserError, match=r"'pre_fc1_weight' has shape \(32, 512\), expected \(16, 512\)"):
        other.load_checkpoint(f"{tmp_path}/m,1")
    with pytest.raises(UserError, match="has no array 'conv0_weight'"):
        get_block(R18[0], **R18[1]).load_checkpoint(f"{tmp_path}/m,1")
    with pytest.raises(UserError, match="expected PREFIX,EPOCH"):
        other.load_checkpoint(f"{tmp_path}/m")
    with pytest.raises(UserError, match="epochs found for this prefix: 1"):
        other.load_checkpoint(f"{tmp_path}/m,2")
    (tmp_path / "m-0001.params").write_bytes(b"nothing")
    with pytest.raises(DataError, match="truncated"):
        other.load_checkpoint(f"{tmp_path}/m,1")
