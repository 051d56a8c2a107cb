"""Weights of PyTorch's iresnet: read without PyTorch, and the same embeddings come out."""
import collections
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from common import checkpoint
from common.embedder import Embedder
from common.errors import DataError, UserError
from common.mxnet_setup import mx
from recognition.import_torch import import_weights
from recognition.iresnet import convert
from recognition.torch_weights import read_tensors

ROOT = Path(__file__).resolve().parents[2]
EMB_SIZE = 16


@pytest.fixture(scope="module")
def faces():
    random = np.random.RandomState(0)
    return (random.randint(0, 220, (3, 3, 14, 14)).repeat(8, axis=2).repeat(8, axis=3)
            + random.randint(0, 36, (3, 3, 112, 112))).astype(np.uint8)


# The network in MXNet's operators, under PyTorch's names: the reference where PyTorch is not there.

def norm(data, name):
    """Batch norm as PyTorch defines it, of nothing but arithmetic."""
    scale, shift, mean, var = (mx.sym.Variable(f"{name}.{part}")
                               for part in ("weight", "bias", "running_mean", "running_var"))
    normed = mx.sym.broadcast_div(mx.sym.broadcast_sub(data, mean), mx.sym.sqrt(var + 1e-5))
    return mx.sym.broadcast_add(mx.sym.broadcast_mul(normed, scale), shift)


def conv(data, name, filters, kernel, stride=1):
    return mx.sym.Convolution(data, mx.sym.Variable(f"{name}.weight"), num_filter=filters, kernel=(kernel, kernel),
                              stride=(stride, stride), pad=(kernel // 2, kernel // 2), no_bias=True)


def prelu(data, name):
    return mx.sym.relu(data) - mx.sym.broadcast_mul(mx.sym.relu(-data), mx.sym.Variable(f"{name}.weight"))


def iresnet18():
    """A symbol from pixels 0..255."""
    body = conv((mx.sym.Variable("data") - 127.5) / 127.5, "conv1", 64, 3)
    body = prelu(norm(body, "bn1"), "prelu")
    for stage, filters in enumerate((64, 128, 256, 512), 1):
        for number in range(2):
            name, stride = f"layer{stage}.{number}", 1 if number else 2
            inner = norm(conv(norm(body, f"{name}.bn1"), f"{name}.conv1", filters, 3), f"{name}.bn2")
            inner = norm(conv(prelu(inner, f"{name}.prelu"), f"{name}.conv2", filters, 3, stride), f"{name}.bn3")
            if not number:
                body = norm(conv(body, f"{name}.downsample.0", filters, 1, 2), f"{name}.downsample.1")
            body = inner + body
    body = mx.sym.Flatten(norm(body, "bn2"))
    body = mx.sym.FullyConnected(body, mx.sym.Variable("fc.weight"), mx.sym.Variable("fc.bias"), num_hidden=EMB_SIZE)
    return norm(body, "features")


WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512}


@pytest.fixture(scope="module")
def network(faces):
    """(State dict: name -> float32 array, embeddings in float64)."""
    symbol, tensors, channels = iresnet18(), {}, channels_of_units()
    for name in symbol.list_arguments():
        if name != "data":
            tensors[name] = draw(name, channels)
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=faces.shape, type_dict=dict.fromkeys(
        symbol.list_arguments(), np.float64), **{name: broadcast(name, array).shape for name, array in tensors.items()})
    for name, array in tensors.items():
        executor.arg_dict[name][:] = mx.nd.array(broadcast(name, array), dtype=np.float64)
    executor.arg_dict["data"][:] = mx.nd.array(faces, dtype=np.float64)
    for name in [name for name in tensors if name.endswith("running_var")]:
        tensors[name.replace("running_var", "num_batches_tracked")] = np.array(7)
    return tensors, executor.forward(is_train=False)[0].asnumpy()


def broadcast(name, array):
    if array.ndim > 1 or name == "fc.bias":
        return array
    return array.reshape((1, -1) if name.startswith("features") else (1, -1, 1, 1))


def channels_of_units():
    """Channels of every layer with one number for each: name -> count."""
    found = {"bn1": 64, "prelu": 64, "bn2": 512, "features": EMB_SIZE, "fc": EMB_SIZE}
    for stage, width in WIDTHS.items():
        for number in range(2):
            before = width if number else WIDTHS.get(stage - 1, 64)
            found.update({f"layer{stage}.{number}.{name}": width for name in ("bn2", "bn3", "prelu", "downsample.1")})
            found[f"layer{stage}.{number}.bn1"] = before
    return found


def draw(name, channels):
    random, layer = np.random.RandomState(zlib.crc32(name.encode())), name.rpartition(".")[0]
    if layer in channels and name != "fc.weight":
        low, high = (0.5, 1.5) if name.endswith("var") else (0.1, 1.2) if name.endswith("weight") else (-0.2, 0.2)
        drawn = random.uniform(low, high, channels[layer])
        if name in ("bn1.running_var", "features.running_var"):
            drawn[::7] = 1e-5  # as small as what is added to it, where the two networks differ most
        return drawn.astype(np.float32)
    stage, _, rest = name[5:].partition(".")
    width = WIDTHS.get(int(stage) if stage.isdigit() else 0, 64)
    before = WIDTHS.get(int(stage) - 1, 64) if stage.isdigit() and rest[0] == "0" else width
    shape = {"conv1.weight": (64, 3, 3, 3), "fc.weight": (EMB_SIZE, 512 * 7 * 7)}.get(name) or (
        (width, before, 1, 1) if "downsample" in name else (width, width if "conv2" in name else before, 3, 3))
    return (random.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))).astype(np.float32)


# What torch.save writes, without PyTorch.

class Stored:
    """A tensor as torch.save pickles it: a rebuilding function, and a reference to its storage."""

    def __init__(self, array, key, dtype="Float", transposed=False):
        self.array, self.key, self.dtype, self.transposed = array, key, dtype, transposed


class TorchPickler(pickle._Pickler):
    def __init__(self, file, torch, legacy=False):
        super().__init__(file, protocol=2)
        self.torch, self.legacy = torch, legacy

    def persistent_id(self, obj):
        if not isinstance(obj, types.SimpleNamespace):
            return None
        kind = getattr(self.torch, f"{obj.stored.dtype}Storage")
        return ("storage", kind, str(obj.stored.key), "cpu", obj.stored.array.size) + (None,) * self.legacy

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Stored):
            shape = obj.array.shape[::-1] if obj.transposed else obj.array.shape
            strides = [stride // obj.array.itemsize for stride in obj.array.strides]
            arguments = (types.SimpleNamespace(stored=obj), 0, tuple(shape),
                         tuple(strides[::-1] if obj.transposed else strides), False, collections.OrderedDict())
            return self.save_reduce(self.torch._utils._rebuild_tensor_v2, arguments)
        return super().save(obj, save_persistent_id)


@pytest.fixture
def torch_names(monkeypatch):
    """Modules in which pickle finds the names that it writes down."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for dtype in ("Float", "Half", "BFloat16", "Long", "Double"):
        setattr(torch, f"{dtype}Storage", type(f"{dtype}Storage", (), dict(__module__="torch")))

    def rebuild():
        """Never called."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = rebuild, utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def pickled(value, torch, legacy=False):
    file = io.BytesIO()
    TorchPickler(file, torch, legacy).dump(value)
    return file.getvalue()


def write_zip(path, value, stored, torch, byteorder="little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled(value, torch))
        file.writestr("archive/byteorder", byteorder)
        for tensor in stored:
            file.writestr(f"archive/data/{tensor.key}", tensor.array.tobytes())


def write_legacy(path, value, stored, torch):
    data = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, dict(little_endian=True)))
    data += pickled(value, torch, legacy=True) + pickle.dumps([str(tensor.key) for tensor in stored], 2)
    for tensor in stored:
        data += struct.pack("<q", tensor.array.size) + tensor.array.tobytes()
    path.write_bytes(data)


def state_dict(arrays):
    kinds = {"f": "Float", "i": "Long"}
    return collections.OrderedDict(
        (name, Stored(array, number, kinds[array.dtype.kind])) for number, (name, array) in enumerate(arrays.items()))


def check(model, faces, embeddings, atol=2e-6):
    found = Embedder(model)(faces)
    np.testing.assert_allclose(found, embeddings, rtol=0, atol=atol * np.abs(embeddings).max())


def test_the_same_embeddings(network, faces, tmp_path):
    tensors, embeddings = network
    np.savez(tmp_path / "weights.npz", **{f"module.{name}": array for name, array in tensors.items()})
    name, symbol = import_weights(tmp_path / "weights.npz", tmp_path / "model", "r18")
    assert name == "r18" and symbol.list_outputs() == ["fc1_output"]
    check(f"{tmp_path}/model,1", faces, embeddings)
    _, arg_params, aux_params = checkpoint.load(f"{tmp_path}/model,1")
    assert (aux_params["bn0_moving_var"].asnumpy() == tensors["bn1.running_var"]).all()  # statistics stay what they are
    assert (arg_params["fc1_gamma"].asnumpy() == 1).all()


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_what_torch_saves(network, torch_names, tmp_path, write):
    small = {name: array for name, array in network[0].items() if array.size < 1e5}
    arrays = state_dict(small)
    write(tmp_path / "backbone.pth", arrays, arrays.values(), torch_names)
    found = read_tensors(tmp_path / "backbone.pth")
    assert list(found) == list(small) and len(small) > 100
    for name, array in small.items():
        assert found[name].dtype == array.dtype and (found[name] == array).all()


def test_kinds_of_numbers_and_views(torch_names, tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
    bfloat16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    stored = [Stored(values.astype(np.float16), 0, "Half"), Stored(values.astype(np.float64), 1, "Double"),
              Stored(bfloat16, 2, "BFloat16"), Stored(values, 3, transposed=True)]
    value = dict(epoch=3, state_dict_backbone={f"a.{number}": tensor for number, tensor in enumerate(stored)})
    write_zip(tmp_path / "w.pt", value, stored, torch_names)
    found = read_tensors(tmp_path / "w.pt")
    assert [array.dtype for array in found.values()] == [np.float32] * 4
    for array in list(found.values())[:3]:
        np.testing.assert_array_equal(array, values)
    np.testing.assert_array_equal(found["3"], values.T)


def test_safetensors(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    header = json.dumps({"__metadata__": {"format": "pt"}, "a.b": dict(
        dtype="F32", shape=[2, 3], data_offsets=[0, 24])}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    np.testing.assert_array_equal(read_tensors(tmp_path / "w.safetensors")["b"], values)


@pytest.mark.parametrize("spans", [[(0, 24), (0, 24)], [(0, 24), (25, 49)], [(4, 28)], [(0, 16)], [(-24, -1)]], ids=str)
def test_safetensors_lie_one_behind_the_other(tmp_path, spans):
    """As the form has it: so a small file cannot hold many large tensors, and one that is cut or grown shows."""
    header = json.dumps({str(number): dict(dtype="F32", shape=[2, 3], data_offsets=span)
                         for number, span in enumerate(spans)}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    with pytest.raises(DataError, match="w.safetensors: cannot be read as weights: ValueError: numbers "):
        read_tensors(tmp_path / "w.safetensors")


def test_more_than_the_file_can_hold(torch_names, tmp_path):
    """Tensors that share their numbers, and numbers packed to a thousandth, would fill the memory."""
    tensor = Stored(np.ones((100, 100), np.float32), 0)
    for write in (write_zip, write_legacy):
        write(tmp_path / "w.pth", {str(number): tensor for number in range(500)}, [tensor], torch_names)
        with pytest.raises(DataError, match=r"w.pth: its \d+ bytes announce 5000000 of numbers"):
            read_tensors(tmp_path / "w.pth")
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(10 ** 6, np.float32))
    with pytest.raises(DataError, match=r"w.npz: .*its \d+ bytes announce 4000128 of numbers"):
        read_tensors(tmp_path / "w.npz")


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_nothing_is_run(torch_names, tmp_path):
    tensor = Stored(np.ones(2, np.float32), 0)
    for write in (write_zip, write_legacy):
        write(tmp_path / "w.pth", dict(a=tensor, b=Hostile(tmp_path / "ran")), [tensor], torch_names)
        with pytest.raises(DataError, match="it asks for (posix|nt).mkdir, .* nothing of it was run"):
            read_tensors(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def test_tensors_outside_of_their_storage(torch_names, tmp_path):
    tensor = Stored(np.ones((4, 4), np.float32), 0)
    small = Stored(np.ones(3, np.float32), 0)
    for write in (write_zip, write_legacy):
        write(tmp_path / "w.pth", dict(a=tensor), [small], torch_names)
        with pytest.raises(DataError, match=r"w.pth: cannot be read as weights.*\(4, 4\) in 3|ends in the middle"):
            read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("change", [
    lambda data: b"", lambda data: data[:len(data) // 2], lambda data: b"no weights", lambda data: data[::-1],
    lambda data: pickle.dumps([1, 2]), lambda data: pickle.dumps(0x1950A86A20F9469CFC6C)], ids=range(6))
def test_damaged_files(torch_names, tmp_path, change):
    tensor = Stored(np.ones(2, np.float32), 0)
    for write in (write_zip, write_legacy):
        write(tmp_path / "w.pth", dict(a=tensor), [tensor], torch_names)
        (tmp_path / "w.pth").write_bytes(change((tmp_path / "w.pth").read_bytes()))
        with pytest.raises(DataError, match="w.pth") as error:
            read_tensors(tmp_path / "w.pth")
        assert "\n" not in str(error.value)


def test_files_that_hold_something_else(torch_names, tmp_path):
    tensor, path = Stored(np.ones(2, np.float32), 0), tmp_path / "w.pth"
    write_zip(path, dict(epoch=1), [], torch_names)
    with pytest.raises(DataError, match="no tensors by name; its keys are: epoch"):
        read_tensors(path)
    write_zip(path, [tensor], [tensor], torch_names)
    with pytest.raises(DataError, match="a list instead of a state dict"):
        read_tensors(path)
    write_zip(path, dict(a=tensor), [tensor], torch_names, byteorder="big")
    with pytest.raises(DataError, match="big-endian"):
        read_tensors(path)
    write_zip(path, dict(a=tensor), [tensor], torch_names, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="is compressed"):
        read_tensors(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_tensors(tmp_path / "none.pth")


def refused(network, **changes):
    """What is said of a state dict with other arrays (None: left out)."""
    tensors = {**network[0], **{name.replace("__", "."): array for name, array in changes.items()}}
    with pytest.raises(DataError) as error:
        convert({name: array for name, array in tensors.items() if array is not None}, "w.npz")
    assert str(error.value).startswith("w.npz: ")
    return str(error.value)


def test_networks_that_are_not_the_same(network):
    extra = np.ones((64, 64, 3, 3), np.float32)
    assert "'bn0_moving_var' here, a variance, is below 0" in refused(
        network, bn1__running_var=np.full(64, -1, np.float32))
    assert "'bn0_beta' here has numbers that are not finite" in refused(
        network, bn1__bias=np.full(64, np.nan, np.float32))
    assert "'layer1.0.se.fc1', which no iresnet" in refused(network, layer1__0__se__fc1__weight=extra)
    assert "iresnet of [2, 2, 2, 60] units" in refused(network, layer4__59__conv1__weight=extra)
    assert "'stage2_unit1_conv1_weight' here has shape (128, 64, 1, 1)" in refused(
        network, layer2__0__conv1__weight=np.ones((128, 64, 1, 1), np.float32))
    assert "lacks what becomes 'stage1_unit1_conv2_weight'" in refused(network, layer1__0__conv2__weight=None)
    assert "layer 'bn1' has no weight" in refused(network, bn1__weight=None)
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert "not the whole of an iresnet: 'fc1_gamma'" in refused(
        network, **{f"features__{part}": None for part in parts})
    with pytest.raises(DataError, match="not the weights of an iresnet: .* body.0.weight, head.weight"):
        convert({"body.0.weight": extra, "head.weight": extra}, "w.npz")


def test_another_network_than_expected(network, tmp_path):
    np.savez(tmp_path / "w.npz", **network[0])
    with pytest.raises(UserError, match="is r18, not r50"):
        import_weights(tmp_path / "w.npz", tmp_path / "model", "r50")
    assert not list(tmp_path.glob("model*"))


def test_the_command(network, tmp_path):
    np.savez(tmp_path / "w.npz", **network[0])
    command = [sys.executable, str(ROOT / "recognition" / "import_torch.py"), "--weights", str(tmp_path / "w.npz"),
               "--output", str(tmp_path / "new" / "model")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/new/model,1: r18, embeddings of {EMB_SIZE} dimensions; images are RGB, 0..255\n"
    assert checkpoint.find_epochs(tmp_path / "new" / "model") == [1]


def test_against_pytorch(faces, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_iresnet

    peer = torch_iresnet.drawn(emb_size=EMB_SIZE)
    for zipped in (True, False):
        torch.save(peer.state_dict(), str(tmp_path / "w.pth"), _use_new_zipfile_serialization=zipped)
        import_weights(tmp_path / "w.pth", tmp_path / f"model{zipped}")
    with torch.no_grad():
        expected = peer.double()(torch.tensor((faces.astype(np.float64) - 127.5) / 127.5)).numpy()
    check(f"{tmp_path}/modelTrue,1", faces, expected)
    first, second = (checkpoint.params_path(tmp_path / f"model{zipped}", 1).read_bytes() for zipped in (True, False))
    assert first == second
