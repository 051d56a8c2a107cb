"""datasets/clean.py from images to a cleaned set, with a small random network; and the store of embeddings."""
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from pictures import encode, picture

from common import checkpoint
from common.cli import run
from common.embedder import Embedder
from common.errors import DataError, UserError
from common.mxnet_setup import mx
from datasets import clean, embedding_store
from datasets.embedding_store import embed_set, load_embeddings
from datasets.packs import write_pack
from datasets.rendered import render_identity
from datasets.training_set import TrainingSet, write_training_set

ROOT = Path(__file__).resolve().parents[2]
SHOWN = [[0, 0, 0, 0, 4, 0], [1, 1, 1, 1, 1], [2, 2, 2, 3, 2, 2, 2], [1, 1, 1]]  # who the identities' images show


def face(who, number):
    """A rendered face between blocks of colour by which even a random network tells who it is."""
    blocks = picture(who).astype(np.float32)
    faces = render_identity(0, "training", who, 8)[0]
    return np.clip(0.8 * blocks + 0.2 * faces[number], 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images():
    return [[encode(face(who, number)) for number, who in enumerate(shown)] for shown in SHOWN]


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    write_training_set(folder, images)
    return folder


def save_model(folder, seed):
    """Random weights over the pixels' means in blocks of 14 x 14."""
    data = mx.sym.cast(mx.sym.Variable("data"), "float32")
    pooled = mx.sym.Pooling(data, kernel=(14, 14), stride=(14, 14), pool_type="avg")
    symbol = mx.sym.FullyConnected(mx.sym.Flatten(pooled - 127), num_hidden=32, no_bias=True, name="fc1")
    weight = np.random.RandomState(seed).normal(size=(32, 192))
    checkpoint.save(folder / "model", 1, symbol, {"fc1_weight": mx.nd.array(weight)}, {})
    return f"{folder}/model,1"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), 0)


@pytest.fixture
def training_set(folder):
    return TrainingSet(folder)


@pytest.fixture(scope="module")
def embedded(folder, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("embedded")
    embed_set(model, TrainingSet(folder), output, progress=False)
    return output


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process, which starts nothing anew and so takes no time."""
    def call(*args):
        monkeypatch.setattr(sys, "argv", ["clean.py", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            run(clean.main)
        return Done(end.value.code or 0, *capsys.readouterr())
    return call


def test_in_a_process_of_its_own(folder, model, tmp_path):
    args = "embed", "--model", model, "--dataset", folder, "--embeddings", tmp_path / "e"
    done = subprocess.run([sys.executable, str(ROOT / "datasets/clean.py"), *map(str, args)], cwd="/",
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 0 and "21 embeddings of 32 dimensions" in done.stdout


def test_from_images_to_a_cleaned_set(command, folder, model, images, tmp_path):
    common = "--dataset", folder, "--embeddings", tmp_path / "e"
    done = command("embed", "--model", model, *common, "--devices", "cpu,cpu", "--batch-size", 3)
    assert done.returncode == 0 and "21 embeddings of 32 dimensions" in done.stdout and "image/s" in done.stderr
    done = command("judge", *common, "--output", tmp_path / "j", "--drop", 60, "--review", 40)
    assert done.returncode == 0 and "to drop, beyond 60°: 2" in done.stdout
    done = command("merge", *common, "--output", tmp_path / "m")
    assert done.returncode == 0 and "up to 35°: 1" in done.stdout
    (tmp_path / "page-0001.csv").write_text("record,decision\n1,drop\n")
    done = command("apply", *common, "--output", tmp_path / "clean", "--decisions", tmp_path / "j/decisions.csv",
                   tmp_path / "m/decisions.csv", tmp_path / "page-0001.csv")
    assert done.returncode == 0 and "images: 21 before, 18 after" in done.stdout
    assert "identities: 4 before, 3 after, 0 without" in done.stdout
    kept = [images[0][1:4] + images[0][5:], images[1] + images[3], images[2][:3] + images[2][4:]]
    cleaned = TrainingSet(tmp_path / "clean")
    assert [cleaned.read(i) for i in range(18)] == [(image, c) for c, part in enumerate(kept) for image in part]


def lay(path, kind, images):
    """A test set of one kind."""
    if kind == "pack":
        write_pack(path.with_suffix(".bin"), images, [True] * (len(images) // 2))
        return path.with_suffix(".bin")
    if kind == "set":
        write_training_set(path, [images])
        return path
    (path / "deeper").mkdir(parents=True)
    for number, image in enumerate(images):
        (path / "deeper" / f"{number}.jpg").write_bytes(image)
    return path


@pytest.mark.parametrize("kind", ["pack", "set", "images"])
def test_overlap(command, folder, model, embedded, images, tmp_path, kind):
    """Identity 2 in other images and one the same; the others not."""
    png = cv2.imencode(".png", cv2.imdecode(np.frombuffer(images[2][1], np.uint8), 1))[1].tobytes()
    path = lay(tmp_path / "test", kind, [encode(face(9, 0)), encode(face(2, 7)), encode(face(8, 0)), png])
    done = command("overlap", "--dataset", folder, "--embeddings", embedded, "--model", model, "--test", path,
                   "--output", tmp_path / "o", "--drop", 40, "--review", 40, "--apply", tmp_path / "clean")
    assert done.returncode == 0, done.stderr
    assert "within 40° of a test image, to drop: 1" in done.stdout and "as a test image: 1" in done.stdout
    assert (tmp_path / "o/decisions.csv").read_text().startswith("identity,angle,test_image,decision\n2,")
    assert (tmp_path / "o/duplicates.csv").read_text().splitlines()[1:] == ["13,2,3,drop"]  # the pixels are the same
    assert (tmp_path / "clean/identities.csv").read_text().splitlines()[1:] == ["0,6,6,0", "1,5,5,1", "2,7,0,-1",
                                                                              "3,3,3,2"]


class TestErrors:
    @pytest.fixture
    def fails(self, command):
        def check(words, *args):
            done = command(*args)
            assert done.returncode == 2 and "Traceback" not in done.stderr and words in done.stderr.splitlines()[-1]
        return check

    def test_in_one_line(self, fails, folder, embedded, model, tmp_path):
        common = "--dataset", folder, "--embeddings", embedded
        fails("exists already", "judge", *common, "--output", folder)
        fails("embedded.json: cannot be read", "merge", "--dataset", folder, "--embeddings", tmp_path, "--output",
                   tmp_path / "m")
        fails("no test set", "overlap", *common, "--model", model, "--test", tmp_path, "--output", tmp_path / "o")
        fails("invalid choice: 'scrub'", "scrub", *common)
        assert list(tmp_path.iterdir()) == []

    def test_another_model(self, fails, folder, embedded, tmp_path):
        other = save_model(tmp_path, 1)
        fails("not the one that made the embeddings", "overlap", "--dataset", folder, "--embeddings", embedded,
                   "--model", other, "--test", folder, "--output", tmp_path / "o")
        fails("holds embeddings of another model", "embed", "--dataset", folder, "--embeddings", embedded,
                   "--model", other)


class TestStore:
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_what_it_holds(self, training_set, model, images, tmp_path, dtype):
        found = embed_set(model, training_set, tmp_path, batch_size=4, dtype=dtype, progress=False)
        flat = [cv2.imdecode(np.frombuffer(image, np.uint8), 1)[:, :, ::-1] for part in images for image in part]
        expected = Embedder(model)(np.stack(flat).transpose(0, 3, 1, 2))
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found.embeddings, expected, atol=1e-3 if dtype == "float16" else 1e-6)
        assert found.embeddings.dtype == dtype and isinstance(found.embeddings, np.memmap)
        assert found.labels.tolist() == [c for c, part in enumerate(images) for _ in part]
        assert len(set(found.digests.tolist())) == len({image.tobytes() for image in flat}) == 18

    @pytest.mark.parametrize("stop", [0, 2, 5])
    def test_goes_on_where_it_was_stopped(self, training_set, model, embedded, tmp_path, monkeypatch, stop):
        calls = []

        class Stopped(Embedder):
            def __call__(self, images):
                calls.append(len(images))
                if len(calls) > stop:
                    raise KeyboardInterrupt
                return super().__call__(images)

        with monkeypatch.context() as patch:
            patch.setattr(embedding_store, "Embedder", Stopped)
            with pytest.raises(KeyboardInterrupt):
                embed_set(model, training_set, tmp_path, batch_size=4, progress=False)
        assert json.loads((tmp_path / "embedded.json").read_text())["done"] == min(4 * stop, 21)
        with pytest.raises(UserError, match="of 21 images are embedded; run 'clean.py embed' again"):
            load_embeddings(tmp_path, training_set)
        with open(tmp_path / "labels.npy", "ab") as file:
            file.write(b"hal")  # that was written, and not yet noted, when the power failed
        found, whole = embed_set(model, training_set, tmp_path, progress=False), load_embeddings(embedded, training_set)
        np.testing.assert_allclose(found.embeddings, whole.embeddings, atol=1e-3)
        assert found.labels.tolist() == whole.labels.tolist() and found.digests.tolist() == whole.digests.tolist()

    def test_more_than_a_set_has(self, training_set, model, tmp_path):
        embed_set(model, training_set, tmp_path, progress=False)
        state = json.loads((tmp_path / "embedded.json").read_text())
        (tmp_path / "embedded.json").write_text(json.dumps(dict(state, done=8)))
        with open(tmp_path / "labels.npy", "ab") as file:
            file.write(b"?")
        with pytest.raises(DataError, match=r"labels.npy: damaged: expected 8 to 21 rows of shape \(\) and type int32"):
            embed_set(model, training_set, tmp_path, progress=False)

    def test_complete_is_left_alone(self, training_set, model, embedded):
        before = [(path.name, path.stat().st_mtime_ns) for path in sorted(embedded.iterdir())]
        embed_set(model, training_set, embedded, progress=False)
        assert [(path.name, path.stat().st_mtime_ns) for path in sorted(embedded.iterdir())] == before

    def test_another_set(self, images, embedded, tmp_path):
        write_training_set(tmp_path, images[::-1])
        with pytest.raises(UserError, match="embeddings of another set"):
            load_embeddings(embedded, TrainingSet(tmp_path))

    @pytest.mark.parametrize("name, text", [("embedded.json", "{}"), ("embedded.json", "[1"), ("labels.npy", "x")])
    def test_damaged(self, training_set, model, tmp_path, name, text):
        embed_set(model, training_set, tmp_path, progress=False)
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="delete the folder and embed anew"):
            load_embeddings(tmp_path, training_set)

    def test_bad_image(self, images, model, tmp_path):
        write_training_set(tmp_path / "set", [images[0], [b"no image"]])
        with pytest.raises(DataError, match=r"record 7: the image \(8 bytes\) cannot be decoded"):
            embed_set(model, TrainingSet(tmp_path / "set"), tmp_path / "e", progress=False)
