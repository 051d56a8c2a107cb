"""The command as a user runs it, on a small training set: what it writes, and what bad input gets."""
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from in_process import run_here

from common import checkpoint
from common.embedder import Embedder
from common.mxnet_setup import mx
from datasets.packs import write_pack
from datasets.training_set import write_training_set

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--report", "0", "--network", "y1", "--net-blocks", "1,1,1,1", "--emb-size", "16", "--per-batch-size", "8"]


def encoded(random, colour):
    """A noisy image of one colour: an identity that a network can tell in a few steps."""
    image = np.clip(random.normal(colour, 20, (112, 112, 3)), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Four identities of eight images, and a pack of 20 pairs."""
    folder, random = tmp_path_factory.mktemp("colours"), np.random.RandomState(0)
    colours = [(200, 60, 60), (60, 200, 60), (60, 60, 200), (180, 180, 60)]
    write_training_set(folder, [[encoded(random, colour) for _ in range(8)] for colour in colours])
    pairs = [(i % 4, (i + (i % 2)) % 4) for i in range(20)]
    write_pack(folder / "colours.bin", [encoded(random, colours[k]) for pair in pairs for k in pair],
               [one == other for one, other in pairs])
    return folder


def run(*flags, cwd=None):
    return run_here("recognition/train.py", *flags, cwd=cwd)


def fails(*flags, cwd=None):
    """Run what must fail; returns its one line."""
    done = run(*flags, cwd=cwd)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A finished run from another working directory; (its output, the model's folder)."""
    root = tmp_path_factory.mktemp("models")
    flags = [*SMALL, "--dataset", dataset, "--max-steps", 6, "--verbose", 3, "--frequent", 2, "--ckpt", 2,
             "--models-root", root, "--lr-steps", "4", "--report", 1]
    done = subprocess.run([sys.executable, ROOT / "recognition/train.py", *map(str, flags)], cwd=root, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, root / f"y1-arcface-{dataset.name}"


class TestRun:
    def test_log_lines(self, trained):
        output, _ = trained
        for words in ("Speed:", "samples/sec", "loss=", "acc=", "lr=0.01", "left", "[colours][3]XNorm:",
                      "[colours][6]Accuracy-Flip:", "[6]Accuracy-Highest:", "network=y1", "GFLOPs a face"):
            assert words in output

    def test_files(self, trained):
        _, folder = trained
        assert {path.name for path in folder.iterdir()} == {
            "model-symbol.json", "model-0001.params", "model-0002.params", "settings.json", "train.log", "train.jsonl",
            "report.html", "SHA256SUMS", "model-00000004.state", "model-00000006.state"}
        events = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        assert [event["step"] for event in events if event["event"] == "progress"] == [2, 4, 6]
        assert [event["step"] for event in events if event["event"] == "checkpoint"] == [3, 6]
        assert json.loads((folder / "settings.json").read_text())["emb_size"] == 16

    def test_start_and_report(self, trained, dataset):
        output, folder = trained
        start = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
        assert (start["event"], start["step"]) == ("start", 0) and "--max-steps 6" in start["trace"]["command"]
        assert start["trace"]["files"][str(dataset / "colours.bin")] == hashlib.sha256(
            (dataset / "colours.bin").read_bytes()).hexdigest()
        page = (folder / "report.html").read_text()
        assert f"report: {folder / 'report.html'}" in output and "--max-steps 6" in page and page.count("<svg") >= 6

    def test_no_report_is_one_line(self, dataset, tmp_path):
        folder = tmp_path / f"y1-arcface-{dataset.name}"
        (folder / "report.html").mkdir(parents=True)
        done = run(*SMALL, "--dataset", dataset, "--max-steps", 1, "--models-root", tmp_path, "--report", 1)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith(f"warning: no report: UserError: {folder / 'report.html'}")

    def test_model_is_the_original_s_network_alone(self, trained):
        symbol, arg_params, _ = checkpoint.load(f"{trained[1]}/model,2")
        assert "fc7_weight" not in arg_params and symbol.list_outputs() == ["fc1_output"]
        assert '"prelu"' in symbol.tojson() and "data_float32" not in symbol.tojson()

    def test_model_verifies(self, trained, dataset):
        done = run_here("eval/verification.py", "--model", trained[1] / "model,2", "--data-dir", dataset)
        assert done.returncode == 0, done.stderr
        line = next(line for line in trained[0].splitlines() if line.startswith("[colours][6]Accuracy-Flip"))
        assert line.split(": ")[1] in done.stdout  # the command finds what the training found

    def test_training_goes_on_from_a_model(self, trained, dataset, tmp_path):
        done = run(*SMALL, "--dataset", dataset, "--max-steps", 1, "--models-root", tmp_path, "--lr", "0",
                   "--pretrained", trained[1] / "model", "--pretrained-epoch", 2, "--ckpt", 2)
        assert done.returncode == 0, done.stderr
        images = np.random.RandomState(0).randint(0, 256, (2, 3, 112, 112)).astype(np.uint8)
        symbol, arg_params, _ = checkpoint.load(f"{tmp_path}/{trained[1].name}/model,1")
        before = checkpoint.load(f"{trained[1]}/model,2")[1]
        changed = [name for name in before if not np.array_equal(arg_params[name].asnumpy(), before[name].asnumpy())]
        assert set(changed) <= {"fc1_gamma"}  # the network holds it at 1, whatever decay makes of it in between
        assert Embedder(f"{trained[1]}/model,2")(images).shape == (2, 16)

    def test_numbers_that_are_not_finite_stop_the_run(self, dataset, tmp_path):
        """A momentum that multiplies every step until float32 is at its end; what was saved before stays good."""
        said = fails(*SMALL, "--dataset", dataset, "--max-steps", 50, "--verbose", 1, "--models-root", tmp_path,
                     "--ckpt", 2, "--mom", "1e15", "--lr", "0.001", "--report", 1)
        saved = sorted((tmp_path / f"y1-arcface-{dataset.name}").glob("*.params"))
        assert f"the last good checkpoint is {saved[-1]}; try a lower --lr than 0.001, or a longer --lr-warmup" in said
        assert len(saved) < 8 and (saved[-1].parent / "report.html").exists()
        for path in saved:
            assert all(np.isfinite(array.asnumpy()).all() for array in mx.nd.load(str(path)).values())

    def test_two_devices(self, dataset, tmp_path):
        done = run(*SMALL[:-1], "4", "--dataset", dataset, "--max-steps", 2, "--models-root", tmp_path,
                   "--devices", "cpu,cpu", "--ckpt", 0)
        assert done.returncode == 0, done.stderr
        assert "4 steps of 8 images an epoch on cpu(0), cpu(1)" in done.stdout

    def test_class_parallel(self, dataset, tmp_path):
        """From the same model the same losses as with a plain head on the same devices; models in the plain form."""
        losses, shared = [], [*SMALL[:-1], "4", "--dataset", dataset, "--max-steps", 2, "--frequent", 1, "--ckpt", 2,
                              "--ckpt-embedding", 0, "--lr", 0.001]
        folder = f"y1-arcface-{dataset.name}"
        runs = dict(first=["cpu,cpu", "--class-parallel"], plain=["cpu,cpu,cpu"],
                    split=["cpu,cpu,cpu", "--class-parallel", "1"])
        for name, flags in runs.items():
            start = ["--pretrained", tmp_path / "first" / folder / "model"] if losses else []
            done = run(*shared, *start, "--models-root", tmp_path / name, "--devices", *flags)
            assert done.returncode == 0, done.stderr
            lines = (tmp_path / name / folder / "train.jsonl").read_text().splitlines()
            losses.append([json.loads(line)["loss"] for line in lines if '"progress"' in line])
            head = mx.nd.load(str(tmp_path / name / folder / "model-0001.params"))["arg:fc7_weight"]
            assert head.shape == (4, 16)
        np.testing.assert_allclose(*losses[1:], rtol=1e-3)

    def test_class_parallel_needs_classes(self, dataset, tmp_path):
        assert "--loss contrastive has no classes to split" in fails(
            *SMALL, "--loss", "contrastive", "--dataset", dataset, "--class-parallel", "--models-root", tmp_path)
        assert "4 classes for 5 devices" in fails(
            *SMALL[:-1], "4", "--dataset", dataset, "--class-parallel", "--models-root", tmp_path, "--devices",
            "cpu,cpu,cpu,cpu,cpu")

    def test_partial_fc(self, dataset, tmp_path):
        flags = [*SMALL, "--dataset", dataset, "--models-root", tmp_path, "--max-steps", 2]
        done = run(*flags, "--sample-rate", 0.5)
        assert done.returncode == 0, done.stderr
        assert "expected a share of the classes" in fails(*flags, "--sample-rate", 0)
        assert "--fc7-no-bias 1" in fails(*flags, "--sample-rate", 0.5, "--loss", "softmax")

    def test_benchmark_and_test_io(self, dataset):
        for flags in (["--benchmark", "--num-classes", 9, "--max-steps", 2], ["--test-io", "--dataset", dataset]):
            done = run(*SMALL, *flags)
            assert done.returncode == 0, done.stderr
            rate, unit = done.stdout.splitlines()[-1].split()
            assert float(rate) > 0 and unit == "samples/s"


class TestBadInput:
    def test_unknown_data_set(self, tmp_path):
        assert "known are: demo, emore, retina" in fails(*SMALL, "--dataset", "nowhere", cwd=tmp_path)
        assert not list(tmp_path.iterdir())

    def test_unknown_target(self, dataset, tmp_path):
        line = fails(*SMALL, "--dataset", dataset, "--targets", "lfw", "--models-root", tmp_path)
        assert "lfw.bin" in line and "colours" in line and not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["train.rec", "train.idx", "property", "colours.bin"])
    @pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
    def test_damaged_data(self, dataset, tmp_path, name, damage):
        folder = tmp_path / "data"
        folder.mkdir()
        for path in dataset.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        if damage == "missing" and name == "colours.bin":
            pytest.skip("a data set need not have packs")
        if damage == "missing":
            (folder / name).unlink()
        else:
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[:len(content) // 2 if damage == "truncated" else 0])
        line = fails(*SMALL, "--dataset", folder, "--models-root", tmp_path / "models", "--max-steps", 4)
        assert name in line or (name == "train.idx" and "train.rec" in line)
        assert not list(tmp_path.glob("models/*/model*"))

    def test_label_beyond_the_classes(self, dataset, tmp_path):
        for path in dataset.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "property").write_text("3,112,112")
        line = fails(*SMALL, "--dataset", tmp_path, "--models-root", tmp_path / "models", "--max-steps", 4)
        assert "train.rec" in line and "3" in line

    def test_image_of_another_size(self, dataset, tmp_path):
        for path in dataset.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "property").write_text("4,112,96")
        line = fails(*SMALL[:-2], "--net-output", "E", "--per-batch-size", 8, "--dataset", tmp_path,
                     "--models-root", tmp_path / "models", "--max-steps", 4)
        assert "112x112" in line and "112x96" in line

    def test_pretrained_head_of_another_class_count(self, trained, dataset, tmp_path):
        run(*SMALL, "--dataset", dataset, "--max-steps", 1, "--models-root", tmp_path, "--ckpt-embedding", "0")
        other = tmp_path / "other"
        other.mkdir()
        for path in dataset.iterdir():
            (other / path.name).write_bytes(path.read_bytes())
        (other / "property").write_text("7,112,112")
        symbol, *_ = checkpoint.load(f"{tmp_path}/{trained[1].name}/model,1")
        assert symbol.simple_bind(mx.cpu(), data=(2, 3, 112, 112), softmax_label=(2,)).outputs[0].shape == (2, 4)
        line = fails(*SMALL, "--dataset", other, "--pretrained", f"{tmp_path}/{trained[1].name}/model,1")
        assert "(4, 16)" in line and "(7, 16)" in line
        line = fails(*SMALL, "--loss", "subcenter", "--dataset", other, "--pretrained",
                     f"{tmp_path}/{trained[1].name}/model,1")
        assert "(4, 16)" in line and "(21, 16)" in line

    def test_sub_centres_begin_with_a_head_of_one_centre(self, trained, dataset, tmp_path):
        common = ["--dataset", dataset, "--models-root", tmp_path, "--ckpt-embedding", "0", "--max-steps", 1]
        run(*SMALL, *common)
        before = f"{tmp_path}/{trained[1].name}/model"
        run(*SMALL, "--loss", "subcenter", *common, "--lr", 0, "--pretrained", before)
        after, = tmp_path.glob("*subcenter*/model-0001.params")
        heads = [checkpoint.load(f"{prefix},1")[1]["fc7_weight"].asnumpy()
                 for prefix in (before, str(after)[:-len("-0001.params")])]
        assert heads[1].shape == (12, 16) and (heads[1][::3] == heads[0]).all()
        symbol, arguments, states = checkpoint.load(f"{before},1")
        checkpoint.save(before, 2, symbol, dict(arguments, fc7_weight=arguments["fc7_weight"].astype("int32")), states)
        line = fails(*SMALL, "--loss", "subcenter", *common, "--pretrained", f"{before},2")
        assert "array 'fc7_weight' is of int32; expected floats" in line

    @pytest.mark.parametrize("damage", ["missing", "truncated", "symbol", "network"])
    def test_damaged_model(self, trained, dataset, tmp_path, damage):
        for path in trained[1].glob("model*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        params, symbol = tmp_path / "model-0001.params", tmp_path / "model-symbol.json"
        network = SMALL
        if damage == "missing":
            params.unlink()
        elif damage == "truncated":
            params.write_bytes(params.read_bytes()[:1000])
        elif damage == "symbol":
            symbol.write_text(symbol.read_text()[:1000])
        else:
            network = ["--network", "r18", "--per-batch-size", "8"]
        line = fails(*network, "--dataset", dataset, "--pretrained", tmp_path / "model", "--max-steps", 1)
        assert "model" in line
