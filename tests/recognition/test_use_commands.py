"""The commands embed.py, compare.py and search.py: what they say and write, and one line for what is wrong."""
import csv
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import use_files as files

from common.embedder import Embedder
from common.mxnet_setup import mx
from datasets.packs import load_pack, write_pack
from eval import verification
from eval.results import make_entry, make_trace, write_results
from eval.verification_report import as_dict

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in: models/small,1; people/Ada/{1,2}.png, people/Grace.png; stranger.png, bad.png."""
    monkeypatch.chdir(tmp_path)
    files.write_model(tmp_path / "models")
    images = files.draw_images(4)
    for name, image in zip(("people/Ada/1.png", "people/Ada/2.png", "people/Grace.png", "stranger.png"), images):
        files.write_image(tmp_path / name, image)
    (tmp_path / "bad.png").write_bytes(b"none")
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command of recognition/ in this process: (exit code, lines it printed, lines of errors)."""
    def run(name, *args):
        model = [] if args[0] in ("list", "remove") else ["--model", "models/model,1", "--image-size", "32,32"]
        monkeypatch.setattr(sys, "argv", [name, *map(str, args), *model])
        monkeypatch.setattr(sys, "path", sys.path[:])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "recognition" / name), run_name="__main__")
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out.splitlines(), captured.err.splitlines()
    return run


def similarity(first, second):
    rows = files.reference(files.draw_images(4))
    return rows[first] @ rows[second]


def test_compare_by_onnxruntime(here, command):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    code, _, errors = command("compare.py", "people/Ada/1.png", "stranger.png", "--backend", "onnxruntime")
    assert code == 2 and "no file models/model-0001.onnx" in errors[-1] and "export.py" in errors[-1]
    assert command("export.py", "--format", "onnx")[0] == 0
    code, lines, _ = command("compare.py", "people/Ada/1.png", "stranger.png", "--backend", "onnxruntime")
    assert code == 0 and abs(float(lines[0].split()[1]) - similarity(0, 3)) < 2e-4


def test_compare(here, command):
    code, lines, _ = command("compare.py", "people/Ada/1.png", "stranger.png")
    assert code == 0 and lines[0] == f"similarity {similarity(0, 3):.4f} (cosine)"
    assert lines[1].startswith("no threshold is known") and lines[2] == "comparison.png: both faces"
    assert cv2.imread(str(here / "comparison.png")).shape[1] > 600
    for threshold, verdict in ((similarity(0, 3) - .01, "same person"), (similarity(0, 3) + .01, "different people")):
        flags = "--threshold", threshold, "--output", "none"
        lines = command("compare.py", "people/Ada/1.png", "stranger.png", *flags)[1]
        assert lines[1:] == [f"{verdict}: the threshold is {threshold:.4f}"]


def test_compare_at_a_far(here, command):
    """The threshold is that of the impostor pairs' own scores: one of 1000 may be accepted."""
    random, embed = np.random.RandomState(0), Embedder("models/model,1", image_shape=files.SIZE)
    pairs = random.permutation([(a, b) for a in range(60) for b in range(a)])[:1000]
    images, pairs = files.draw_images(60, seed=3), np.concatenate([[(i, i) for i in range(20)], pairs])
    issame = [True] * 20 + [False] * 1000
    write_pack(here / "small.bin", [files.encode(images[i]) for pair in pairs for i in pair], issame)
    pack = load_pack(here / "small.bin", files.SIZE)
    found = as_dict(verification.test(pack, embed, progress=False))
    entry = make_entry("verification", "small", "small", {}, trace=make_trace("models/model,1"), flip="sum", **found)
    write_results(here, [entry])
    flags = ("people/Ada/1.png", "stranger.png", "--output", "none", "--thresholds", "results.json", "--far")
    code, lines, _ = command("compare.py", *flags, "1e-3")
    threshold = float(lines[1].partition("the threshold is ")[2].split()[0])
    rows = files.reference(images)
    scores = np.sort((rows[pairs[20:, 0]] * rows[pairs[20:, 1]]).sum(axis=1))
    assert code == 0 and scores[-2] - 1e-4 < threshold <= scores[-1] + 1e-4
    assert lines[1].endswith("(FAR 0.001 on small)")
    code, _, errors = command("compare.py", *flags, "1e-4")
    assert code == 2 and "small has too few impostor pairs for FAR 0.0001; usable are 0.001, 0.01, 0.1" in errors[-1]


def test_a_picture_that_cannot_be_written(here, command):
    code, lines, errors = command("compare.py", "stranger.png", "stranger.png", "--output", "people")
    assert code == 2 and errors[-1] == "error: people: cannot be written: it is a folder"
    assert lines[0] == "similarity 1.0000 (cosine)"


def test_compare_photographs(here, command):
    files.write_detector(here / "mtcnn")
    for number, name in ((0, "a.png"), (3, "b.png")):
        bright = np.maximum(files.draw_images(4)[number], 150)
        files.write_image(here / name, files.photograph_of(bright, 6, 80))
    code, lines, errors = command("compare.py", "a.png", "b.png", "--detector", "mtcnn", "--threshold", 0.5)
    assert code == 0 and len(lines) == 3 and (here / "comparison.png").is_file()
    code, _, errors = command("compare.py", "a.png", "b.png")
    assert code == 2 and errors[-1].startswith("error: a.png: 352x352 pixels; expected an aligned face of 32x32")


def test_embed(here, command):
    (here / "people" / "bad.jpg").write_bytes(b"")
    code, lines, errors = command("embed.py", "people", "stranger.png", "--output", "faces.npy")
    assert code == 0 and lines[0].startswith("left out: people/bad.jpg: begins with")
    assert lines[1] == "faces.npy: 4 embeddings of 6 dimensions; left out: 1; faces.csv: which image each row is of"
    assert "100%" in errors[-1] and "image/s" in errors[-1]
    with open(here / "faces.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows if row["row"]] == ["people/Grace.png", "people/Ada/1.png", "people/Ada/2.png",
                                                           "stranger.png"]
    expected = files.reference(files.draw_images(4)[[2, 0, 1, 3]])
    np.testing.assert_allclose(np.load(here / "faces.npy"), expected, atol=1e-5)


def test_search(here, command):
    code, lines, _ = command("search.py", "enrol", "people", "--gallery", "g.npz")
    assert code == 0 and lines == ["g.npz: 2 identities with 3 pictures; added 3, there already 0, left out 0"]
    assert command("search.py", "list", "--gallery", "g.npz")[1] == [
        "2\tAda", "1\tGrace", "2 identities with 3 pictures, model models/model,1, --flip sum"]
    code, lines, _ = command("search.py", "query", "people/Grace.png", "stranger.png", "bad.png", "--gallery", "g.npz",
                             "--threshold", 0.99, "--output", "found.csv", "--most", 1)
    assert code == 0 and lines[0] == "people/Grace.png: Grace 1.0000" and lines[3] == "threshold 0.9900"
    assert lines[1].startswith("stranger.png: unknown (nearest ") and lines[2].startswith("left out: bad.png: begins")
    with open(here / "found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["picture"], row["name"] and row["accepted"]) for row in rows] == [
        ("people/Grace.png", "1"), ("stranger.png", "0"), ("bad.png", "")]
    code, lines, _ = command("search.py", "query", "stranger.png", "--gallery", "g.npz")
    assert lines[0].startswith("stranger.png: nearest ") and lines[1].startswith("no threshold is known")
    assert command("search.py", "remove", "Ada", "--gallery", "g.npz")[1] == [
        "g.npz: 1 identities with 1 pictures are left"]


def test_names_of_any_bytes(here, command):
    """As file systems have them: neither text nor UTF-8."""
    name = os.fsdecode(b"\xff\n.png")
    (here / "stranger.png").rename(here / "people" / name)
    code, lines, _ = command("search.py", "enrol", "people", "--gallery", "g.npz")
    assert code == 0 and lines[0].startswith("g.npz: 3 identities")
    code, lines, _ = command("search.py", "query", f"people/{name}", "--gallery", "g.npz", "--output", "q.csv")
    assert code == 0 and b"\xff\n" in (here / "q.csv").read_bytes()
    assert command("search.py", "list", "--gallery", "g.npz")[0] == 0
    code, lines, _ = command("embed.py", "people", "--output", "e.npy")
    assert code == 0 and b"\xff\n" in (here / "e.csv").read_bytes()


def test_outputs_that_cannot_be_written_show_at_once(here, command, monkeypatch):
    command("search.py", "enrol", "people", "--gallery", "g.npz")
    monkeypatch.setattr("recognition.recogniser.Recogniser.embed_all", lambda *_, **__: pytest.fail("embedded"))
    for args in (("enrol", "people", "--gallery", "bad.png/g.npz"),
                 ("query", "stranger.png", "--gallery", "g.npz", "--output", "people")):
        code, _, errors = command("search.py", *args)
        assert code == 2 and "cannot be written" in errors[-1]


def test_search_all_faces_of_a_photograph(here, command):
    command("search.py", "enrol", "people", "--gallery", "g.npz")
    files.write_detector(here / "mtcnn")
    bright = files.photograph_of(np.maximum(files.draw_images(4)[0], 150), 6, 80)
    files.write_image(here / "two.png", np.hstack([bright, bright]))
    lines = command("search.py", "query", "two.png", "--gallery", "g.npz", "--detector", "mtcnn", "--faces", 2)[1]
    assert [line.partition(": ")[0].partition(" face at ")[0] for line in lines[:2]] == ["two.png"] * 2
    assert " face at " in lines[0] and lines[0] != lines[1]


@pytest.mark.parametrize("args, message", [
    (("compare.py", "bad.png", "stranger.png"), "bad.png: begins with b'none'"),
    (("compare.py", "none.png", "stranger.png"), "none.png: cannot be read: No such file"),
    (("compare.py", "stranger.png", "stranger.png", "--far", "1e-3"), "--far: for --thresholds, which is not given"),
    (("compare.py", "stranger.png", "stranger.png", "--thresholds", "r.json"), "at which FAR?"),
    (("compare.py", "stranger.png", "stranger.png", "--thresholds", "r.json", "--threshold", "1"), "not allowed with"),
    (("compare.py", "stranger.png", "bad.png", "--thresholds", "r.json", "--far", "1e-3"), "r.json: cannot be read"),
    (("compare.py", "stranger.png", "stranger.png", "--threshold", "30"), "threshold 30; expected a cosine"),
    (("embed.py", "bad.png", "--output", "e.npy"), "none of 1 pictures can be used; the first: bad.png"),
    (("embed.py", "people", "--output", "e.txt"), "e.txt: expected a name that ends in .npy"),
    (("embed.py", "nothing", "--output", "e.npy"), "nothing: cannot be read"),
    (("search.py", "query", "stranger.png", "--gallery", "g.npz"), "g.npz: no such gallery; make it with search.py"),
    (("search.py", "enrol", "none", "--gallery", "g.npz"), "none: no such folder"),
    (("search.py", "list", "--gallery", "bad.png"), "bad.png: no gallery, or damaged"),
    (("search.py", "remove", "Ada", "--gallery", "none.npz"), "none.npz: no such gallery"),
    (("search.py", "enrol", "people", "--gallery", "g.npz", "--detector", "people"), "det1"),
    (("serve.py", "--gallery", "none.npz"), "none.npz: no such gallery"),
    (("serve.py", "--host", "256.0.0.1"), "cannot listen on 256.0.0.1 port 8000"),
    (("serve.py", "--port", "99999"), "cannot listen on 127.0.0.1 port 99999"),
], ids=str)
def test_one_line_for_what_is_wrong(here, command, args, message):
    before = sorted(here.rglob("*"))
    code, lines, errors = command(*args)
    assert code == 2 and message in errors[-1] and lines == []
    assert errors[-1].startswith("error: ") and not any("Traceback" in line for line in errors)
    assert sorted(here.rglob("*")) == before


def test_nothing_to_enrol_leaves_the_gallery(here, command):
    command("search.py", "enrol", "people", "--gallery", "g.npz")
    before = (here / "g.npz").read_bytes()
    (here / "none").mkdir()
    (here / "bad.png").rename(here / "none" / "bad.png")
    code, lines, errors = command("search.py", "enrol", "none", "--gallery", "g.npz")
    assert code == 2 and "none of 1 pictures can be used; g.npz is as it was" in errors[-1]
    assert (here / "g.npz").read_bytes() == before


@pytest.mark.parametrize("name", ["embed.py", "compare.py", "search.py", "serve.py"])
def test_run_from_anywhere(name):
    """In a process of its own, quickly: the flags are told without MXNet."""
    done = subprocess.run([sys.executable, "-X", "importtime", str(ROOT / "recognition" / name), "--help"], cwd="/",
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0 and name.encode() in done.stdout and b"mxnet" not in done.stderr


def test_on_real_faces(face_data, tmp_path, command, monkeypatch):
    """Two people of the aligned set, then two photographs of one of them."""
    from recognition.recogniser import Recogniser
    faces = Recogniser(str(face_data / "models" / "y1" / "model,0"), threshold=0.3222, devices=[mx.cpu()],
                       detector=face_data / "models" / "mtcnn")
    aligned = sorted((face_data / "train_celeba" / "celebA_07201").glob("*.jpg"))[:3]
    other = sorted((face_data / "train_celeba" / "celebA_07203").glob("*.jpg"))[0]
    photographs = sorted((face_data / "photographs" / "celebA_07201").glob("*.jpg"))[:2]
    assert faces.compare(aligned[0], aligned[1]).same and not faces.compare(aligned[0], other).same
    assert faces.compare(*photographs).same and faces.compare(photographs[0], aligned[2]).same
    for name, path in (("Naturi", aligned[0]), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(path.read_bytes())
    faces.enrol(tmp_path, tmp_path / "g.npz", progress=False)
    assert faces.search(photographs[1], tmp_path / "g.npz")[0][::2] == ("Naturi", True)
    stranger = next((face_data / "identification" / "distractors").glob("*/*.jpg"))
    assert not faces.search(stranger, tmp_path / "g.npz")[0].accepted
