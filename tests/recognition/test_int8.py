"""INT8: the float32 network stays the same, the integers come close to it, and what loses too much is refused."""
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.export import draw
from common import checkpoint, graph, int8
from common.embedder import Embedder
from common.errors import DataError, UserError
from common.mxnet_setup import mx
from datasets.packs import write_pack
from datasets.training_set import write_training_set
from recognition.calibration import equalised, measure
from recognition.exporting import export
from recognition.int8_export import Calibration, behind_whole_maps, compare
from recognition.parity import load_faces
from symbols import get_symbol

ROOT = Path(__file__).resolve().parents[2]
CPU = [mx.cpu()]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small MobileFaceNet with drawn parameters."""
    folder, symbol = tmp_path_factory.mktemp("model"), get_symbol("y1", emb_size=16, net_blocks=(1, 1, 1, 1))
    checkpoint.save(folder / "model", 3, symbol, *draw(symbol))
    return f"{folder}/model,3"


@pytest.fixture(scope="module")
def faces():
    return load_faces()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, faces):
    """A training set of 32 images, the faces shifted in their colours, and a pack of 20 pairs of them."""
    folder, random = tmp_path_factory.mktemp("set"), np.random.RandomState(0)
    images = [np.clip(face.transpose(1, 2, 0)[:, :, ::-1] + random.randint(-40, 40, 3), 0, 255) for face in
              np.tile(faces, (4, 1, 1, 1))]
    encoded = [cv2.imencode(".jpg", image)[1].tobytes() for image in images]
    write_training_set(folder, [encoded[i::4] for i in range(4)])
    write_pack(folder / "pairs.bin", [encoded[i % 32] for i in range(40)], [i % 2 == 0 for i in range(20)])
    return folder


@pytest.fixture(scope="module")
def exported(model, dataset, tmp_path_factory):
    return export(model, "int8", tmp_path_factory.mktemp("int8") / "m", calibration=Calibration(
        dataset, 30, dataset / "pairs.bin", 100))


def test_the_embedder_runs_it(model, exported, faces):
    assert [path.name for path in exported.files] == ["m-0003.params", "m-symbol.json"]
    assert exported.difference < 1e-5 and "on 6 images held out: mean 0.9" in exported.measured[0]
    assert exported.measured[1].startswith("accuracy on 20 pairs of pairs: float32 0.")
    embed = Embedder(f"{exported.files[0].parent}/m,3", CPU, batch_size=4)
    found, expected = embed(faces), Embedder(model, CPU)(faces)
    assert found.shape == (8, 16) and 1e-4 < np.abs(found - expected).max()
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.95
    np.testing.assert_allclose(embed(faces[4:5]), found[4:5], atol=1e-4 * np.abs(found).max())


def test_layers_compute_in_integers(exported):
    symbol, arg_params, _ = checkpoint.load(f"{exported.files[0].parent}/m,3")
    assert {array.dtype for array in arg_params.values()} == {np.float32}
    quantised, _ = int8.quantised(symbol, arg_params)
    kinds = [(node["op"], node.get("attrs", {}).get("quantized")) for node in json.loads(quantised.tojson())["nodes"]
             if node["op"].startswith("_sg")]
    layers = sum(node["op"] == "Convolution" for node in json.loads(symbol.tojson())["nodes"])
    assert kinds.count(("_sg_mkldnn_conv", "true")) >= layers - 3 > 10
    assert {op for op, integers in kinds if integers != "true"} <= {"_sg_mkldnn_conv", "_sg_mkldnn_fully_connected"}


def _network(network, **settings):
    symbol = get_symbol(network, **settings)
    symbol, *params = graph.for_inference(symbol, *draw(symbol), data=(1, 3, 112, 112))
    symbol = graph.rewrite(symbol, graph.CPU_RULES, data=(1, 3, 112, 112))
    symbol, params[0] = graph.settled(symbol, params[0])
    return symbol, params


@pytest.mark.parametrize("network, settings", [("y1", dict(net_blocks=(1, 1, 1, 1))), ("r18", dict(net_se=1))])
def test_equal_channels_leave_embeddings_as_they_are(network, settings, faces):
    symbol, params = _network(network, **settings)
    ranges = measure(symbol, *params, faces[:1])
    found, *changed, new_ranges = equalised(symbol, *params, ranges)
    before, after = (Embedder.from_params(*each, CPU)(faces[:1]) for each in ((symbol, *params), (found, *changed)))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    measured = measure(found, *changed, faces[:1])
    for name, (low, high) in new_ranges.items():
        scale = max(np.abs(low).max(), np.abs(high).max())
        np.testing.assert_allclose(measured[name], (low, high), rtol=0, atol=1e-4 * scale)
    spread = [np.maximum(-low, high) for low, high in new_ranges.values() if len(low) > 16]
    assert sum(each.max() < 1.001 * each.min() for each in spread) > 10


def test_what_stays_float32():
    symbol, _ = _network("y1", net_blocks=(1, 1, 1, 1))
    assert "fc1" in behind_whole_maps(symbol, (1, 3, 112, 112))
    assert len(behind_whole_maps(symbol, (1, 3, 112, 112))) < 12
    assert not behind_whole_maps(get_symbol("r18", net_se=1), (1, 3, 112, 112))


def test_settled():
    data, slope = mx.sym.Variable("data"), mx.sym.Variable("slope")
    symbol = mx.sym.broadcast_mul(data, mx.sym.exp(slope, name="up"), name="out")
    found, params = graph.settled(symbol, {"slope": mx.nd.zeros((1, 2))})
    assert found.list_arguments() == ["data", "up_weight"] and params["up_weight"].asnumpy().tolist() == [[1, 1]]


def test_flags_that_do_not_go_together(model, dataset, tmp_path):
    for form, calibration in ("int8", None), ("onnx", Calibration(dataset)):
        with pytest.raises(UserError, match="expected both or neither"):
            export(model, form, tmp_path / "m.onnx", calibration=calibration)
    with pytest.raises(UserError, match="4 images to calibrate on; expected at least 5"):
        export(model, "int8", tmp_path / "m", calibration=Calibration(dataset, 4))
    with pytest.raises(DataError):
        export(model, "int8", tmp_path / "m", calibration=Calibration(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_command(model, dataset, tmp_path):
    command = [sys.executable, str(ROOT / "recognition" / "export.py"), "--model", model, "--format", "int8",
               "--calibration", str(dataset), "--calibration-images", "10", "--output", str(tmp_path / "m")]
    # below 0 points stands for a loss that is not allowed
    done = subprocess.run([*command, "--check-pairs", str(dataset / "pairs.bin"), "--most-lost", "-100"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: accuracy on 20 pairs")
    assert done.stderr.endswith("loses more than -100 points (--most-lost); it is not written\n")
    assert not list(tmp_path.iterdir())


def test_compare():
    images = np.ones((2, 3, 4, 4), np.uint8)
    cosines = compare(lambda _: np.eye(2), lambda _: np.array([[2.0, 0], [1, 1]]), images, "m,1")
    np.testing.assert_allclose(cosines, [1, 0.5 ** 0.5])


def test_ranges_are_noted():
    symbol, params = _network("y1", net_blocks=(1, 1, 1, 1))
    assert int8.ranges_of(symbol) == {}
    noted = int8.noted(symbol, {"fc1": (-1.5, 2.25)})
    assert int8.ranges_of(noted) == {"fc1": (-1.5, 2.25)}
    for note in "1", "2,1", "a,b", "nan,1", "0,inf":
        with pytest.raises(DataError, match="node 'x': __range__ is .*; expected two numbers, the greater one last"):
            int8.ranges_of(mx.sym.exp(mx.sym.Variable("data"), name="x", attr={int8.RANGE: note}))
