"""The embedder: every batch and device gives the same rows, and none of MXNet's inference faults reaches it."""
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import reference_graph as reference

from common import checkpoint
from common.embedder import Embedder, embedding_of
from common.errors import DataError, UserError
from common.mxnet_setup import mx
from symbols import get_symbol

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(emb_size=8, net_blocks=(1, 1, 1, 1))
BATCH = 3


class Network:
    """A network with drawn parameters and its embeddings in float64."""

    def __init__(self, size, images=11, **settings):
        self.size = (size, size)
        self.symbol = get_symbol("y1", **SMALL, **settings)
        self.images = reference.images((images, 3, size, size), seed=size)
        self.params = reference.draw(self.symbol, self.images.shape)
        self.embeddings = reference.embed(self.symbol, self.params, self.images)

    def embedder(self, devices=None, batch_size=BATCH):
        return Embedder.from_params(self.symbol, *reference.ndarrays(self.params), devices, batch_size, self.size)


@pytest.fixture(scope="module")
def flat():
    """A network with the output E, for images of 32x32."""
    return Network(32, net_output="E")


@pytest.fixture(scope="module")
def pooled():
    """A network with the output GDC, which needs 112x112."""
    return Network(112, net_output="GDC")


def _close(found, expected):
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=0))


@pytest.mark.parametrize("devices", [None, [mx.cpu(0), mx.cpu(1)]], ids=["one", "two"])
@pytest.mark.parametrize("network", ["flat", "pooled"])
def test_any_number_of_images(request, network, devices):
    """Each number in turn through one embedder: no call spoils a later one."""
    network = request.getfixturevalue(network)
    embed = network.embedder(devices)
    assert embed.emb_size == 8
    for number in (0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 2, BATCH, 1):
        _close(embed(network.images[:number]), network.embeddings[:number])
    _close(np.concatenate([embed(image[np.newaxis]) for image in network.images]), network.embeddings)


def test_batches_larger_than_all_images(flat):
    _close(flat.embedder(batch_size=100)(flat.images), flat.embeddings)
    _close(flat.embedder([mx.cpu(0), mx.cpu(1), mx.cpu(2)], batch_size=100)(flat.images), flat.embeddings)


def test_images_in_any_memory_order(flat):
    strided = np.ascontiguousarray(flat.images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    _close(flat.embedder()(strided), flat.embeddings)
    _close(flat.embedder()(flat.images[::-1]), flat.embeddings[::-1])
    _close(flat.embedder()(list(flat.images)), flat.embeddings)


def test_what_is_returned_stays(flat):
    """MXNet hands out the array it will write the next output into."""
    embed = flat.embedder()
    first = embed(flat.images[:3])
    embed(flat.images[3:6])
    _close(first, flat.embeddings[:3])


@pytest.mark.parametrize("network", ["flat", "pooled"])
def test_new_parameters_give_new_embeddings(request, network):
    """An MXNet graph bound for inference would go on with its first weights."""
    network = request.getfixturevalue(network)
    images = network.images[:BATCH]
    _close(network.embedder()(images), network.embeddings[:BATCH])
    for seed in (1, 2):
        params = reference.draw(network.symbol, network.images.shape, seed)
        embed = Embedder.from_params(network.symbol, *reference.ndarrays(params), None, BATCH, network.size)
        expected = reference.embed(network.symbol, params, images)
        assert np.abs(expected - network.embeddings[:BATCH]).max() > 0.1
        for _ in range(2):
            _close(embed(images), expected)


def test_parameters_that_change_later(flat):
    """As a training module's do: its arrays are written over at the next step."""
    arguments, states = reference.ndarrays(flat.params)
    embed = Embedder.from_params(flat.symbol, arguments, states, None, BATCH, flat.size)
    for array in [*arguments.values(), *states.values()]:
        array[:] = 7
    arguments.clear()
    _close(embed(flat.images), flat.embeddings)


def test_parameters_of_a_training_module(flat):
    """Verification in the midst of training: embeddings follow the module's parameters, step by step."""
    label = mx.sym.Variable("softmax_label")
    fc7 = mx.sym.FullyConnected(flat.symbol, num_hidden=5, name="fc7")
    module = mx.mod.Module(mx.sym.SoftmaxOutput(fc7, label, name="softmax"))
    images = mx.nd.array(flat.images[:4])
    module.bind([("data", images.shape)], [("softmax_label", (4,))])
    mx.random.seed(0)
    module.init_params(mx.init.Xavier())
    module.init_optimizer(optimizer_params=dict(learning_rate=0.1))
    seen = []
    for _ in range(3):
        module.forward_backward(mx.io.DataBatch([images], [mx.nd.array([0, 1, 2, 3])]))
        module.update()
        params = module.get_params()
        seen.append(Embedder.from_params(flat.symbol, *params, None, BATCH, flat.size)(flat.images))
        drawn = [{name: array.asnumpy() for name, array in part.items() if name in flat.symbol.list_inputs()}
                 for part in params]
        _close(seen[-1], reference.embed(flat.symbol, drawn, flat.images))
    assert np.abs(seen[0] - seen[1]).max() > 1e-3 < np.abs(seen[1] - seen[2]).max()


def test_checkpoint_of_a_whole_training_graph(flat, tmp_path):
    fc7 = mx.sym.FullyConnected(flat.symbol, mx.sym.Variable("fc7_weight"), num_hidden=5, name="fc7", no_bias=True)
    whole = mx.sym.SoftmaxOutput(fc7, mx.sym.Variable("softmax_label"), name="softmax")
    assert embedding_of(whole).list_outputs() == ["fc1_output"]
    arguments, states = reference.ndarrays(flat.params)
    arguments["fc7_weight"] = mx.nd.ones((5, 8))
    mx.model.save_checkpoint(str(tmp_path / "model"), 3, whole, arguments, states)
    embed = Embedder(f"{tmp_path}/model,3", batch_size=BATCH, image_shape=flat.size)
    _close(embed(flat.images), flat.embeddings)


def test_parameters_in_half_precision(flat, tmp_path):
    halves = tuple({name: array.astype(np.float16) for name, array in part.items()} for part in flat.params)
    checkpoint.save(str(tmp_path / "model"), 1, flat.symbol, *reference.ndarrays(halves))
    embed = Embedder(f"{tmp_path}/model,1", batch_size=BATCH, image_shape=flat.size)
    _close(embed(flat.images), reference.embed(flat.symbol, halves, flat.images))


@pytest.mark.parametrize("images, found", [
    (np.zeros((2, 3, 32, 32)), r"\(2, 3, 32, 32\) and type float64"),
    (np.zeros((2, 3, 31, 32), np.uint8), r"\(2, 3, 31, 32\) and type uint8"),
    (np.zeros((2, 32, 32, 3), np.uint8), r"\(2, 32, 32, 3\)"),
    (np.zeros((3, 32, 32), np.uint8), r"\(3, 32, 32\)"),
    (np.zeros((2, 1, 32, 32), np.uint8), r"\(2, 1, 32, 32\)"),
    ([], r"\(0,\)"),
], ids=str)
def test_images_of_another_kind(flat, images, found):
    with pytest.raises(UserError, match=rf"^images of shape {found}.*; expected \(N, 3, 32, 32\) uint8$"):
        flat.embedder()(images)


def _error(kind, symbol, params, size, **settings):
    with pytest.raises(kind) as refused:
        Embedder.from_params(symbol, *reference.ndarrays(params), image_shape=size, **settings)
    message = str(refused.value)
    assert "\n" not in message and message.startswith("the model: ")
    return message


def test_image_size_that_does_not_fit(flat, pooled, capfd):
    message = _error(DataError, flat.symbol, flat.params, (64, 64))
    assert "array 'pre_fc1_weight' has shape (8, 2048), the symbol expects (8, 8192) for images of 64x64" in message
    message = _error(DataError, pooled.symbol, pooled.params, (48, 64))
    assert "does not take images of 48x64 pixels" in message and "conv_6dw7_7_conv2d" in message
    assert capfd.readouterr().out == ""  # MXNet's shape inference prints what it was asked
    _error(DataError, pooled.symbol, pooled.params, (160, 160))


def test_parameters_that_do_not_fit(flat):
    arguments, states = flat.params
    lacking = {name: array for name, array in arguments.items() if name != "conv_1_relu_gamma"}
    assert "has no array 'conv_1_relu_gamma'" in _error(DataError, flat.symbol, (lacking, states), flat.size)
    assert "has no array 'fc1_moving_var'" in _error(
        DataError, flat.symbol, (arguments, {k: v for k, v in states.items() if k != "fc1_moving_var"}), flat.size)
    turned = dict(arguments, pre_fc1_bias=np.zeros(9, np.float32))
    assert "'pre_fc1_bias' has shape (9,), the symbol expects (8,)" in _error(
        DataError, flat.symbol, (turned, states), flat.size)


def test_networks_of_another_kind(tmp_path):
    data = mx.sym.Variable("data")
    with pytest.raises(DataError, match="^m,1: the network has no output named 'fc1_output'"):
        embedding_of(mx.sym.FullyConnected(data, num_hidden=2, name="score"), "m,1")
    other = mx.sym.FullyConnected(mx.sym.Variable("pixels"), num_hidden=2, name="fc1")
    assert "no input named 'data'" in _error(DataError, other, ({}, {}), (8, 8))
    maps = mx.sym.Convolution(data, num_filter=2, kernel=(3, 3), name="fc1")
    params = reference.draw(maps, (1, 3, 8, 8))
    assert "fc1_output has shape (1, 2, 6, 6)" in _error(DataError, maps, params, (8, 8))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_that_is_none(flat, batch_size):
    with pytest.raises(UserError, match=f"batch size {batch_size}"):
        flat.embedder(batch_size=batch_size)


_WITHOUT_ONEDNN = """
import json, sys
import numpy as np
from common.mxnet_setup import mx
symbol, arguments, states = mx.model.load_checkpoint(sys.argv[1], int(sys.argv[2]))
images = np.load(sys.argv[3]).astype(np.float32)
executor = symbol.get_internals()["fc1_output"].simple_bind(mx.cpu(), grad_req="null", data=images.shape)
executor.copy_params_from(arguments, states)
np.save(sys.argv[4], executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy())
"""


@pytest.fixture(scope="module")
def faces(face_data):
    """Three genuine and three impostor LFW pairs, (12, 3, 112, 112) uint8 RGB, the images of a pair side by side."""
    lines = [line.split() for line in (face_data / "lfw" / "pairs.txt").read_text().splitlines()[1:]]
    genuine = [(line[0], line[1], line[0], line[2]) for line in lines if len(line) == 3][:3]
    impostor = [tuple(line) for line in lines if len(line) == 4][:3]
    paths = [face_data / "lfw" / "images" / name / f"{name}_{int(number):04d}.jpg"
             for pair in genuine + impostor for name, number in (pair[:2], pair[2:])]
    return np.stack([cv2.imread(str(path))[:, :, ::-1].transpose(2, 0, 1) for path in paths])


def test_public_checkpoint_on_real_faces(face_data, faces, tmp_path):
    """As MXNet gives it with oneDNN off, which is the only way it runs the checkpoint by itself."""
    prefix = str(face_data / "models" / "y1" / "model")
    np.save(tmp_path / "images.npy", faces)
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_ONEDNN, prefix, "0", str(tmp_path / "images.npy"), str(tmp_path / "out.npy")],
        env=dict(os.environ, MXNET_MKLDNN_ENABLED="0", PYTHONPATH=str(ROOT)), stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    expected = np.load(tmp_path / "out.npy")
    for devices in (None, [mx.cpu(0), mx.cpu(1)]):
        embed = Embedder(f"{prefix},0", devices, batch_size=5)
        for _ in range(2):
            found = embed(faces)
            assert found.shape == (12, 128)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = (unit[::2] * unit[1::2]).sum(axis=1)
    assert cosines[:3].min() > cosines[3:].max()


def test_public_checkpoint_keeps_its_names(face_data):
    """Its symbol file is of an older MXNet; what is read back has every array, in order."""
    prefix = str(face_data / "models" / "y1" / "model")
    symbol, arguments, states = checkpoint.load(f"{prefix},0")
    nodes = json.loads(Path(f"{prefix}-symbol.json").read_text())["nodes"]
    variables = [node["name"] for node in nodes if node["op"] == "null"]
    assert set(variables) == {"data", *arguments, *states}
    assert symbol.list_inputs() == variables
