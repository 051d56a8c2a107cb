"""ONNX models as embedders: ours and others', and what is said of those that do not fit."""
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from common import checkpoint
from common.embedder import Embedder
from common.errors import DataError, UserError
from common.files import hash_file
from common.mxnet_setup import mx
from common.onnx_network import PARAMS_SHA256, PIXELS

SIZE = (4, 5)
WEIGHT = np.random.RandomState(0).standard_normal((6, 3 * 4 * 5)).astype(np.float32)
IMAGES = np.random.RandomState(1).randint(0, 256, (7, 3, *SIZE)).astype(np.uint8)


def write(path, batch="N", metadata=None, nodes=None, size=SIZE, output=("N", 6), kind=onnx.TensorProto.FLOAT):
    """A model that flattens its images and multiplies them by WEIGHT."""
    make = onnx.helper.make_node
    nodes = nodes or [make("Flatten", ["data"], ["flat"]), make("Gemm", ["flat", "w"], ["out"], transB=1)]
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("data", kind, [batch, 3, *size])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, output)],
        [onnx.numpy_helper.from_array(WEIGHT, "w"), onnx.numpy_helper.from_array(np.float32(127.5), "half")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7)
    onnx.helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return str(path)


def embedded(pixels):
    return pixels.reshape(len(pixels), 60) @ WEIGHT.T.astype(np.float64)


def check(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=0))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_pixels_scaled_inside(tmp_path, batch_size):
    embed = Embedder(write(tmp_path / "m.onnx", metadata={"pixels": PIXELS}), batch_size=batch_size, image_shape=SIZE)
    assert embed.emb_size == 6
    for count in (0, 1, 3, 7):
        check(embed(IMAGES[:count]), embedded(IMAGES[:count].astype(np.float64)))
    with pytest.raises(UserError, match=r"expected \(N, 3, 4, 5\) uint8"):
        embed(IMAGES[:, :, 1:])


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_model_that_leaves_the_scaling_to_its_caller(tmp_path, batch):
    path = write(tmp_path / "m.onnx", batch, output=(batch, 6))
    check(Embedder(path, image_shape=SIZE)(IMAGES), embedded((IMAGES - 127.5) / 127.5))


def test_a_model_from_elsewhere_that_scales_pixels(tmp_path):
    make = onnx.helper.make_node
    nodes = [make("Sub", ["data", "half"], ["a"], name="Sub_0"), make("Mul", ["a", "half"], ["b"], name="Mul_1"),
             make("Flatten", ["b"], ["flat"]), make("Gemm", ["flat", "w"], ["out"], transB=1)]
    embed = Embedder(write(tmp_path / "m.onnx", nodes=nodes), image_shape=SIZE)
    check(embed(IMAGES), embedded((IMAGES - 127.5) * 127.5))


def test_models_that_do_not_fit(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(UserError, match="m.onnx: no such file; recognition/export.py"):
        Embedder(str(path))
    path.write_bytes(b"no model")
    with pytest.raises(DataError, match="m.onnx: cannot be read as an ONNX model") as error:
        Embedder(str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"takes images of \[3, 4, 5\] .*; expected \[3, 112, 112\]"):
        Embedder(write(path))
    with pytest.raises(DataError, match="expected images alone, .* float32"):
        Embedder(write(path, batch=4), image_shape=SIZE)
    flat = [onnx.helper.make_node("Identity", ["data"], ["out"])]
    with pytest.raises(DataError, match=r"first output has shape \(1, 3, 4, 5\)"):
        Embedder(write(path, nodes=flat, output=("N", 3, 4, 5)), image_shape=SIZE)
    with pytest.raises(UserError, match="onnxruntime runs on the CPU here; use --devices cpu"):
        Embedder(write(path), [mx.gpu(0)], image_shape=SIZE)


def test_what_no_network_needs(tmp_path):
    """A graph inside the graph may go round for ever; weights outside may be any file."""
    path, make = tmp_path / "m.onnx", onnx.helper.make_node
    inner = onnx.helper.make_graph([make("Identity", ["data"], ["in"])], "inner", [], [
        onnx.helper.make_tensor_value_info("in", onnx.TensorProto.FLOAT, ["N", 3, *SIZE])])
    model = write(path, nodes=[make("If", ["half"], ["out"], then_branch=inner, else_branch=inner)])
    with pytest.raises(DataError, match="m.onnx: operator If has a graph inside the graph"):
        Embedder(model, image_shape=SIZE)
    outside = onnx.load(write(path))
    onnx.external_data_helper.set_external_data(outside.graph.initializer[0], location="/etc/passwd")
    path.write_bytes(outside.SerializeToString())
    with pytest.raises(DataError, match="m.onnx: has weights in other files"):
        Embedder(str(path), image_shape=SIZE)


def test_parameters_that_have_changed(tmp_path):
    params = tmp_path / "model-0003.params"
    params.write_bytes(b"some")
    path = write(tmp_path / "model-0003.onnx", metadata={"pixels": PIXELS, PARAMS_SHA256: hash_file(params)})
    Embedder(path, image_shape=SIZE)
    params.write_bytes(b"others")
    with pytest.raises(DataError, match="exported from other parameters than .*model-0003.params holds now"):
        Embedder(path, image_shape=SIZE)
    params.unlink()  # the exported model alone, as it is given away
    Embedder(path, image_shape=SIZE)


def test_names(tmp_path):
    prefix = f"{tmp_path}/model"
    assert checkpoint.parse_model("a/m-0012.onnx") == ("a/m", 12)
    assert checkpoint.parse_model("a/m-1.onnx") == ("a/m-1", 0)
    assert checkpoint.on_backend(f"{prefix},3", "mxnet") == f"{prefix},3"
    with pytest.raises(UserError, match=rf"no file {prefix}-0003.onnx .*export.py --model {prefix},3 --format onnx"):
        checkpoint.on_backend(f"{prefix},3", "onnxruntime")
    (tmp_path / "model-0003.onnx").touch()
    assert checkpoint.on_backend(f"{prefix},3", "onnxruntime") == f"{prefix}-0003.onnx"
    assert checkpoint.on_backend(f"{prefix}-0003.onnx", "mxnet") == f"{prefix}-0003.onnx"
    with pytest.raises(UserError, match="an ONNX file, where a checkpoint is needed"):
        checkpoint.load(f"{prefix}-0003.onnx")
