"""Export: what is written gives MXNet's embeddings, what would not is refused, and cards say where it comes from."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_graph as reference

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from benchmarks.export import draw
from common import checkpoint
from common.embedder import Embedder
from common.errors import DataError, UserError
from common.files import hash_file
from common.mxnet_setup import mx
from datasets.terms import UNKNOWN, terms_of
from eval.results import make_entry, make_trace, table, write_results
from recognition import onnx_graph
from recognition.export import parse_args, summary, write_cards
from recognition.exporting import export
from recognition.model_card import check_folders, gather
from recognition.parity import LIMIT, check, largest_difference, load_faces
from symbols import get_symbol

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (3, 3, 112, 112)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint with its head: its name, embedding symbol and drawn parameters."""
    folder, symbol = tmp_path_factory.mktemp("trained"), get_symbol("y1", emb_size=8, net_blocks=(1, 1, 1, 1))
    params = reference.draw(symbol, SHAPE)
    arguments, states = reference.ndarrays(params)
    fc7 = mx.sym.FullyConnected(symbol, mx.sym.Variable("fc7_weight"), num_hidden=5, no_bias=True, name="fc7")
    checkpoint.save(f"{folder}/model", 7, mx.sym.SoftmaxOutput(fc7, mx.sym.Variable("softmax_label"), name="softmax"),
                    dict(arguments, fc7_weight=mx.nd.ones((5, 8))), states)
    return f"{folder}/model,7", symbol, params


@pytest.fixture(scope="module")
def images():
    return reference.images(SHAPE)


@pytest.fixture(scope="module")
def embeddings(trained, images):
    return reference.embed(trained[1], trained[2], images)


def unit(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("normalised", [False, True])
def test_onnx(trained, images, embeddings, tmp_path, normalised):
    exported = export(trained[0], output=tmp_path / "new" / "m.onnx", normalised=normalised)
    assert exported.files == [tmp_path / "new" / "m.onnx"] and exported.difference < 1e-5 and exported.faces == 8
    embed = Embedder(str(exported.files[0]))
    close(embed(images), unit(embeddings) if normalised else embeddings)
    close(embed(images[1:2]), (unit(embeddings) if normalised else embeddings)[1:2])
    assert not [path.name for path in exported.files[0].parent.iterdir() if path.name != "m.onnx"]


_PLAIN_GLUON = """
import sys
import numpy as np
for name in ("bool", "int", "float", "object", "complex", "str"):
    setattr(np, name, getattr(__builtins__, name)) if name not in np.__dict__ else None
import mxnet as mx
block = mx.gluon.SymbolBlock.imports(sys.argv[1] + "-symbol.json", ["data"], sys.argv[1] + "-0007.params")
images = np.load(sys.argv[2]).astype("float32")
for count in (2, 3, 3):
    found = block(mx.nd.array(images[:count])).asnumpy()
np.save(sys.argv[3], found)
"""


def test_gluon_runs_it_without_this_project(trained, images, embeddings, tmp_path):
    exported = export(trained[0], "gluon", tmp_path / "m", normalised=True)
    assert [path.name for path in exported.files] == ["m-0007.params", "m-symbol.json"]
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run([sys.executable, "-c", _PLAIN_GLUON, *(str(tmp_path / name) for name in (
        "m", "images.npy", "found.npy"))], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    close(np.load(tmp_path / "found.npy"), unit(embeddings))


def test_a_slim_checkpoint(trained, images, embeddings, tmp_path):
    model, symbol, params = trained
    exported = export(model, "mxnet", tmp_path / "m")
    stored, *arrays = checkpoint.load(f"{tmp_path}/m,7")
    assert stored.tojson() == symbol.tojson()
    for found, expected in zip(arrays, params):
        assert set(found) == set(expected)
        assert all((found[name].asnumpy() == expected[name]).all() for name in expected)
    close(Embedder(f"{tmp_path}/m,7")(images), embeddings)
    assert exported.difference < 1e-5


@pytest.mark.parametrize("network, settings", [
    ("mnas025", {}), ("vargfacenet", dict(net_se=1)), ("s4", dict(net_output="D", emb_size=32)),
    ("r18", dict(net_output="GNAP", net_se=1)),
], ids=lambda value: value if isinstance(value, str) else "")
def test_networks(network, settings, tmp_path):
    """One of each kind; benchmarks/export.py exports all."""
    symbol = get_symbol(network, **settings)
    checkpoint.save(tmp_path / "model", 7, symbol, *draw(symbol))
    exported = export(f"{tmp_path}/model,7")
    assert exported.files == [tmp_path / "model-0007.onnx"] and exported.difference < 2e-5
    assert exported.shares_batch == ("GNAP" in settings.values())
    assert ("note: " in "\n".join(summary(exported))) == exported.shares_batch


def test_what_differs_is_not_written(tmp_path, monkeypatch):
    """As MXNet's own exporter would have it: a scale that counts as 1 taken as it is stored."""
    def forgetful(builder, node):
        return builder.add("BatchNormalization", node.name, node.inputs, epsilon=float(node.attrs["eps"]))

    data = mx.sym.BatchNorm((mx.sym.Variable("data") - 127.5) / 128, fix_gamma=True, eps=1e-5, name="bn")
    symbol = mx.sym.FullyConnected(data, num_hidden=8, name="fc1")
    checkpoint.save(f"{tmp_path}/model", 7, symbol, *reference.ndarrays(reference.draw(symbol, SHAPE)))
    monkeypatch.setitem(onnx_graph._RULES, "BatchNorm", forgetful)
    with pytest.raises(UserError, match=r"model-0007.onnx: differs from MXNet by .* of an embedding's length; expected "
                                        "at most 1e-04; it is not written"):
        export(f"{tmp_path}/model,7")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SHA256SUMS", "model-0007.params", "model-symbol.json"]
    monkeypatch.undo()
    export(f"{tmp_path}/model,7")


def test_the_difference():
    expected = np.array([[3.0, 4.0], [0.0, 10.0]])
    assert largest_difference(expected, expected + [[0.003, 0.004], [0.001, 0]]) == pytest.approx(1e-3)
    assert check(expected, expected * (1 + LIMIT / 2), "m") == pytest.approx(LIMIT / 2)
    for factor in (1 + 2 * LIMIT, np.nan):
        with pytest.raises(UserError, match="m: differs from MXNet by (2.0e-04|nan)"):
            check(expected, expected * factor, "m")
    with pytest.raises(UserError, match=r"m: gives embeddings of shape \(2, 1\), MXNet \(2, 2\)"):
        check(expected, expected[:, :1], "m")


def test_faces_to_compare_on(tmp_path):
    faces = load_faces(image_shape=(112, 96))
    assert faces.shape == (8, 3, 112, 96) and faces.dtype == np.uint8
    assert len(np.unique(faces.reshape(8, -1), axis=0)) == 8
    with pytest.raises(DataError, match="no test set"):
        load_faces(tmp_path)


def test_models_that_cannot_be_exported(trained, tmp_path):
    model = trained[0]
    with pytest.raises(UserError, match="unknown format 'tflite'; known are: gluon, int8, mxnet, onnx"):
        export(model, "tflite")
    with pytest.raises(UserError, match="expected a name that ends in .onnx"):
        export(model, output=tmp_path / "m")
    with pytest.raises(UserError, match="is the model itself; choose another --output"):
        export(model, "mxnet", model.rpartition(",")[0])
    with pytest.raises(UserError, match="--normalise: not with --format mxnet"):
        export(model, "mxnet", normalised=True)
    with pytest.raises(DataError, match="does not take images of 64x64"):
        export(model, image_shape=(64, 64))
    symbol, arg_params, aux_params = checkpoint.load(model)
    arg_params["fc1_beta"][:] = np.nan
    checkpoint.save(tmp_path / "broken", 1, symbol, arg_params, aux_params)
    with pytest.raises(UserError, match="array 'arg:fc1_beta' holds numbers that are not finite"):
        export(f"{tmp_path}/broken,1")
    assert not list(tmp_path.glob("*.onnx"))


def test_a_network_that_mxnet_cannot_bind_is_refused_by_name(trained, tmp_path):
    symbol, arg_params, aux_params = checkpoint.load(trained[0])
    for name, value in (("__storage_type__", "7"), ("__dtype__", "99")):
        graph = json.loads(symbol.tojson())
        next(node for node in graph["nodes"] if node["name"] == "fc1_beta")["attrs"] = {name: value}
        checkpoint.save(tmp_path / "odd", 1, mx.sym.load_json(json.dumps(graph)), arg_params, aux_params)
        with pytest.raises(DataError, match="odd,1: MXNet cannot run this network"):
            export(f"{tmp_path}/odd,1", "mxnet", tmp_path / "other")
        assert not list(tmp_path.glob("other*"))


@pytest.fixture
def evaluated(trained, tmp_path):
    """A trained model with what a training and an evaluation leave beside it."""
    prefix, _, _ = trained[0].rpartition(",")
    for name in ("model-symbol.json", "model-0007.params"):
        (tmp_path / name).write_bytes((Path(prefix).parent / name).read_bytes())
    (tmp_path / "settings.json").write_text(json.dumps(dict(
        network="y1", loss="arcface", dataset="datasets/faces_emore", pretrained="models/first", lr=0.1, max_steps=5)))
    start = dict(event="start", time=1.0, step=0, description=["network y1", "data set x: 3 identities, 9 images"],
                 trace=dict(files={"x/property": "ab12"}, commit="c0ffee"))
    (tmp_path / "train.jsonl").write_text(json.dumps(start) + "\n")
    costs = table("What a threshold costs", ["threshold", "cosine from"], [["FAR at most 0.001", "0.3124"]], "Exact.")
    other = dict(make_trace(f"{tmp_path}/model,7"), model_sha256="of another")
    write_results(tmp_path / "verification", [
        make_entry("verification", "lfw", "lfw, model", dict(accuracy=0.995, eer=None), [costs],
                   trace=make_trace(f"{tmp_path}/model,7")),
        make_entry("verification", "agedb_30", "agedb_30, model", dict(accuracy=0.9), [costs], trace=other)])
    return f"{tmp_path}/model,7"


def test_card_and_data_sheet(evaluated, tmp_path):
    exported = export(evaluated, normalised=True)
    lines = write_cards(exported)
    assert lines == [f"card: {tmp_path}/model-0007-card.md", f"data-sheet: {tmp_path}/model-0007-data-sheet.md"]
    card = (tmp_path / "model-0007-card.md").read_text()
    digest = hash_file(tmp_path / "model-0007.onnx")
    for text in ("| network | y1 |", "(N, 8), L2-normalised", digest, hash_file(tmp_path / "model-0007.params"),
                 "accuracy 0.995 |", "| FAR at most 0.001 | 0.3124 |", "* commit: c0ffee", "| loss | arcface |",
                 "MS-Celeb-1M was withdrawn", "models/first; its terms hold here too", "Labeled Faces in the Wild",
                 "Licence of the model: **FILL IN**"):
        assert text in card, text
    assert "agedb" not in card.lower() and "GNAP" not in card
    sheet = (tmp_path / "model-0007-data-sheet.md").read_text()
    for text in ("3 identities, 9 images", "property: SHA-256 `ab12`", "research only, non-commercial"):
        assert text in sheet, text
    (tmp_path / "model-0007-card.md").write_text("mine")
    assert "is kept as it is; delete it" in write_cards(exported)[0]
    assert (tmp_path / "model-0007-card.md").read_text() == "mine"


def test_a_card_of_a_model_from_elsewhere(trained, tmp_path):
    exported = export(trained[0], output=tmp_path / "m.onnx")
    write_cards(exported, [tmp_path])
    card = (tmp_path / "m-card.md").read_text()
    for text in ("| network | **FILL IN** |", "Nothing is known of the training", "No evaluation of this model",
                 "No verification", UNKNOWN):
        assert text in card, text


def test_a_card_names_an_evaluation_as_it_is_called(trained, tmp_path):
    exported = export(trained[0], output=tmp_path / "m.onnx")
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "results.json").symlink_to("/dev/null")
    with pytest.raises(DataError, match="scores/results.json: "):
        gather(exported, [tmp_path / "scores"])


def test_terms():
    assert terms_of("emore") == terms_of("/data/faces_emore/") and "research only" in terms_of("emore")[1]
    assert terms_of("sets/LFW.bin")[0] == "Labeled Faces in the Wild"
    assert terms_of("demo")[1].startswith("no photograph")
    assert terms_of("mine") == ("mine", UNKNOWN) and terms_of("") == ("training data", UNKNOWN)


def test_an_evaluation_of_the_exported_model_is_in_its_card(evaluated, tmp_path):
    exported = export(evaluated)
    write_results(tmp_path / "by_onnxruntime", [make_entry(
        "IJB 1:1", "IJBC", "IJBC, model", dict(tar=0.25), trace=make_trace(str(exported.files[0])))])
    write_cards(exported)
    assert "| IJB 1:1 | IJBC | tar 0.25 |" in (tmp_path / "model-0007-card.md").read_text()


def test_the_command(evaluated, tmp_path):
    command = [sys.executable, str(ROOT / "recognition" / "export.py"), "--model", evaluated]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert "largest difference to MXNet on 8 faces: " in done.stdout and "embedding (N, 8), not L2-norm" in done.stdout
    assert (tmp_path / "model-0007.onnx").is_file() and (tmp_path / "model-0007-card.md").is_file()


def test_flags(tmp_path):
    with pytest.raises(UserError, match="none: no such folder"):
        check_folders([tmp_path, tmp_path / "none"])
    args = parse_args(["--model", "m,1"])
    assert (args.format, args.output, args.normalise, args.card) == ("onnx", "", False, True)


def test_public_checkpoint(face_data, tmp_path):
    """On real faces; its symbol is of an older MXNet, which MXNet 1.9.1 cannot run as it is."""
    for form, output in (("onnx", "m.onnx"), ("gluon", "m")):
        exported = export(f"{face_data}/models/y1/model,0", form, tmp_path / output,
                          faces=face_data / "lfw" / "images")
        assert exported.difference < 1e-5 and exported.network.emb_size() == 128
