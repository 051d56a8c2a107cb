"""The align command with rendered faces and a landmark file, and with a detector that is made up."""
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import datasets.alignment as alignment
from common.errors import DataError, UserError
from common.face_align import TEMPLATE, align
from datasets.alignment import align_folder, choose_face
from datasets.identity_folder import pack_folder
from datasets.landmarks import COLUMNS, LandmarkTable
from datasets.rendered import render_identity

COMMAND = [sys.executable, str(Path(__file__).resolve().parents[2] / "datasets" / "align.py")]
PHOTOGRAPHS = ("a/1.jpg", "a/2.png", "b/deep/1.jpg", "c.jpeg")


def command(*args):
    return subprocess.run([*COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


def photograph(number):
    """A rendered face, itself aligned, turned and set into a larger picture: the picture (BGR) and its landmarks."""
    face = render_identity(0, "training", number, 1)[0][0][:, :, ::-1]
    matrix = cv2.getRotationMatrix2D((56, 56), 10 * number - 15, 1.6) + [[0, 0, 60 + number], [0, 0, 70]]
    return cv2.warpAffine(face, matrix, (260, 280)), TEMPLATE @ matrix[:, :2].T + matrix[:, 2]


def line(image, landmarks):
    box = np.concatenate([landmarks.min(0) - 20, landmarks.max(0) + 20])
    return ",".join([image, *(f"{value:.2f}" for value in np.concatenate([box, landmarks.ravel()]))])


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A tree of four photographs and landmarks.csv beside it."""
    folder = tmp_path_factory.mktemp("originals")
    lines = [",".join(COLUMNS)]
    for number, name in enumerate(PHOTOGRAPHS):
        image, landmarks = photograph(number)
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "in" / name), image)
        lines.append(line(name, landmarks))
    (folder / "landmarks.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def photographs(originals, tmp_path):
    """A copy of it to change, with times in the past."""
    for path in [*originals.rglob("*.*g"), originals / "landmarks.csv"]:
        copy = tmp_path / path.relative_to(originals)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        os.utime(copy, (1000, 1000))
    return tmp_path


def run(folder, output="out", **settings):
    settings = dict(dict(landmarks=folder / "landmarks.csv", workers=1, progress=False), **settings)
    return align_folder(folder / "in", folder / output, **settings)


def test_the_tree_is_kept_and_the_faces_are_those_that_were_set_in(photographs):
    made = command("--input", photographs / "in", "--output", photographs / "out", "--landmarks",
                   photographs / "landmarks.csv", "--workers", 2)
    assert made.returncode == 0, made.stderr
    assert "aligned 4, there already 0, in dropped.csv 0" in made.stdout and "image/s" in made.stderr
    found = sorted(path.relative_to(photographs / "out").as_posix() for path in (photographs / "out").rglob("*.jpg"))
    assert found == ["a/1.jpg", "a/2.jpg", "b/deep/1.jpg", "c.jpg"]
    for number, name in enumerate(found):
        face = render_identity(0, "training", number, 1)[0][0][:, :, ::-1]
        error = np.abs(cv2.imread(str(photographs / "out" / name)).astype(int) - face)
        assert error.shape == (112, 112, 3) and error.mean() < 5
    table, given = (LandmarkTable(photographs / path) for path in ("out/landmarks.csv", "landmarks.csv"))
    for name in PHOTOGRAPHS:
        np.testing.assert_allclose(table.find(name), given.find(name), atol=0.006)
    assert len(table) == 4 and table.find("a/3.jpg") is None


def test_from_photographs_to_a_training_set(photographs):
    (photographs / "in" / "c.jpeg").unlink()
    (photographs / "in" / "b" / "deep" / "1.jpg").rename(photographs / "in" / "b" / "1.jpg")
    text = (photographs / "landmarks.csv").read_text().replace("b/deep/1.jpg", "b/1.jpg")
    (photographs / "landmarks.csv").write_text(text)
    run(photographs)
    made = pack_folder(photographs / "out", photographs / "set", progress=False)
    assert made.identities == [("a", 2), ("b", 1)]


def test_sizes_and_formats(photographs):
    run(photographs, "narrow", image_size=(112, 96), format="png")
    image, landmarks = cv2.imread(str(photographs / "in" / "a" / "2.png")), photograph(1)[1]
    np.testing.assert_array_equal(cv2.imread(str(photographs / "narrow" / "a" / "2.png")),
                                  align(image, np.round(landmarks, 2), (112, 96)))
    small, large = (run(photographs, f"q{quality}", quality=quality) and
                    (photographs / f"q{quality}" / "a" / "1.jpg").stat().st_size for quality in (30, 95))
    assert small < large


def test_what_is_done_is_skipped_and_what_changed_is_not(photographs):
    assert run(photographs).aligned == 4
    made = run(photographs)
    assert (made.aligned, made.skipped) == (0, 4)
    os.utime(photographs / "in" / "a" / "1.jpg", (5000, 5000))  # another photograph
    (photographs / "out" / "c.jpg").unlink()
    text = (photographs / "landmarks.csv").read_text().splitlines()
    text[3] = line("b/deep/1.jpg", photograph(2)[1] + 1)  # other landmarks
    (photographs / "landmarks.csv").write_text("\n".join(text))
    made = run(photographs)
    assert (made.aligned, made.skipped) == (3, 1)
    assert run(photographs).skipped == 4


def test_a_run_that_was_killed_goes_on(photographs):
    run(photographs, "whole")
    run(photographs)
    found = photographs / "out" / "landmarks.csv"
    found.write_bytes(found.read_bytes()[:-50])  # killed within the last line, and while it wrote an image
    (photographs / "out" / "a" / ".1.jpg.abcdefgh.tmp").write_bytes(b"half")
    made = run(photographs)
    assert (made.aligned, made.skipped) == (1, 3)
    for path in (photographs / "whole").rglob("*.*"):
        if path.is_file():
            assert (photographs / "out" / path.relative_to(photographs / "whole")).read_bytes() == path.read_bytes()
    assert not list((photographs / "out").rglob("*.tmp"))


def test_killed_while_it_runs(photographs):
    """Nothing half-written under a final name, no process left over, and the next run completes the tree."""
    names, image = [f"many/{number}.jpg" for number in range(300)], (photographs / "in" / "a" / "1.jpg").read_bytes()
    (photographs / "in" / "many").mkdir()
    for name in names:
        (photographs / "in" / name).write_bytes(image)
    with open(photographs / "landmarks.csv", "a") as file:
        file.writelines(line(name, photograph(0)[1]) + "\n" for name in names)
    args = ["--input", str(photographs / "in"), "--output", str(photographs / "out"),
            "--landmarks", str(photographs / "landmarks.csv")]
    process = subprocess.Popen([*COMMAND, *args, "--workers", "2"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    limit = time.monotonic() + 60
    while len(list((photographs / "out").rglob("*.jpg"))) < 20 and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.stderr.read()  # ends when the last process that holds it has ended
    before = len(list((photographs / "out").rglob("*.jpg")))
    assert all(cv2.imread(str(path)).shape == (112, 112, 3) for path in (photographs / "out").rglob("*.jpg"))
    made = run(photographs)
    assert 20 <= before and made.skipped > 0 and made.aligned + made.skipped == 304
    assert len({image for image, *_ in rows(photographs / "out" / "landmarks.csv")}) == 304


def test_dropped_photographs(photographs):
    """Each with its reason; none of them ends the run."""
    folder = photographs / "in"
    (folder / "a" / "2.png").rename(folder / "a" / "no lines.png")
    (folder / "a" / "1.png").write_bytes((folder / "c.jpeg").read_bytes())
    (folder / "b" / "bad.jpg").write_bytes(b"no image")
    (folder / "b" / "notes.txt").write_text("no photograph")
    (folder / ".hidden.jpg").write_bytes(b"")
    (folder / "c.jpeg").rename(folder / "small.jpeg")
    (folder / "d.jpg").write_bytes((folder / "a" / "1.jpg").read_bytes())
    with open(photographs / "landmarks.csv", "a") as file:
        file.write(f"{line('small.jpeg', photograph(0)[1] / 20)}\n{line('d.jpg', np.full((5, 2), 40))}\n")
    made = command("--input", folder, "--output", photographs / "out", "--landmarks", photographs / "landmarks.csv",
                   "--workers", 1, "--min-size", 50)
    assert made.returncode == 0, made.stderr
    reasons = dict(rows(photographs / "out" / "dropped.csv"))
    assert reasons.pop("b/bad.jpg").startswith("unreadable: ") and f"{folder}/b/bad.jpg: the image" in made.stdout
    assert reasons.pop("d.jpg").startswith("face smaller than 50 pixels")
    assert reasons == {"a/no lines.png": "no landmarks in the file", "small.jpeg": "face smaller than 50 pixels",
                       "a/1.png": "has the name of: 1.jpg"}
    assert "2 photographs: face smaller than 50 pixels" in made.stdout
    assert "aligned 2, there already 0, in dropped.csv 5" in made.stdout
    run(photographs, "again", min_size=1)
    reasons = dict(rows(photographs / "again" / "dropped.csv"))
    assert reasons["d.jpg"].startswith("degenerate landmarks: ") and "all in one place" in reasons["d.jpg"]


def test_a_face_that_is_no_longer_there_is_taken_away(photographs):
    run(photographs)
    (photographs / "in" / "a" / "1.jpg").write_bytes(b"no image")
    assert run(photographs).dropped == {"unreadable": 1}
    assert not (photographs / "out" / "a" / "1.jpg").exists()


def test_centre_crop(photographs):
    (photographs / "landmarks.csv").write_text(",".join(COLUMNS) + "\n")
    (photographs / "in" / "a" / "1.jpg").write_bytes(b"no image")
    made = run(photographs, centre_crop=True)
    assert made.aligned == 3 and made.dropped == {"centre crop, no landmarks in the file": 3, "unreadable": 1}
    middle = cv2.resize(photograph(1)[0][10:270], (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(cv2.imread(str(photographs / "out" / "a" / "2.jpg")).astype(int) - middle).mean() < 2


class Faces:
    """In place of a detector: two faces, the smaller one in the middle, or none in pictures of another size."""

    boxes = np.array([[0, 0, 90, 90, 0.9], [90, 100, 170, 180, 0.8], [100, 120, 120, 140, 0.99]])

    def __call__(self, image):
        found = self.boxes[:3 if image.shape[0] == 280 else 0]
        return found, TEMPLATE / 112 * 50 + np.pi + found[:, None, :2]


def test_with_a_detector_then_with_what_it_found(photographs, monkeypatch):
    monkeypatch.setattr(alignment, "_detector", lambda settings: Faces())
    cv2.imwrite(str(photographs / "in" / "c.jpeg"), np.zeros((100, 100, 3), np.uint8))
    made = run(photographs, landmarks=None, detector="mtcnn")
    assert made.aligned == 3 and made.dropped == {"no face found": 1}
    found = rows(photographs / "out" / "landmarks.csv")
    assert [row[1:5] for row in found] == [["90.00", "100.00", "170.00", "180.00"]] * 3
    assert run(photographs, "large", landmarks=None, detector="mtcnn", min_size=85).aligned == 3
    assert rows(photographs / "large" / "landmarks.csv")[0][1] == "0.00"
    monkeypatch.undo()
    made = run(photographs, "second", landmarks=photographs / "out" / "landmarks.csv")
    assert made.aligned == 3 and made.dropped == {"no landmarks in the file": 1}
    for name in ("a/1.jpg", "a/2.jpg", "b/deep/1.jpg"):
        assert (photographs / "second" / name).read_bytes() == (photographs / "out" / name).read_bytes()


def test_which_face():
    assert choose_face(np.array([[0, 0, 10, 10], [0, 0, 40, 40]]), (100, 100)) == 1
    assert choose_face(np.array([[45, 45, 55, 55], [0, 0, 20, 20]]), (100, 100)) == 0
    assert choose_face(np.array([[0, 0, 80, 80], [40, 40, 60, 60]]), (100, 100)) == 0  # 6400 - 200 over 400


def test_other_settings_need_a_new_folder(photographs):
    run(photographs)
    args = ("--input", photographs / "in", "--output", photographs / "out", "--landmarks",
            photographs / "landmarks.csv", "--workers", 1)
    refused = command(*args, "--quality", 80)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "was begun with quality 95, now it is 80" in refused.stderr
    made = command(*args, "--quality", 80, "--overwrite")
    assert "aligned 4, there already 0" in made.stdout
    assert json.loads((photographs / "out" / "align.json").read_text())["quality"] == 80
    (photographs / "out" / "align.json").write_text("[")
    with pytest.raises(DataError, match="align.json: (not JSON|expected|damaged).*--overwrite"):
        run(photographs)


@pytest.mark.parametrize("wrong, message", [
    (dict(landmarks=None), "either a landmark file or a detector"), (dict(detector="x"), "either"),
    (dict(image_size=(112, 100)), "square"), (dict(format="gif"), "format 'gif'"), (dict(quality=0), "quality 0"),
    (dict(min_size=0), "smallest face 0"), (dict(workers=0), "0 workers"),
    (dict(output="in/out"), "lies in"), (dict(output="in"), "lies in"),
    (dict(landmarks="none.csv"), "none.csv: cannot be read"), (dict(output="."), "holds files but no align.json"),
    (dict(landmarks=None, detector="none"), "det1"),
])
def test_refused(photographs, wrong, message):
    before = sorted(photographs.rglob("*"))
    with pytest.raises(UserError, match=message):
        run(photographs, **wrong)
    assert sorted(photographs.rglob("*")) == before


def test_no_photographs(tmp_path, photographs):
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "no photographs"), ("none", "no such folder")):
        with pytest.raises(DataError, match=message):
            align_folder(tmp_path / folder, tmp_path / "out", photographs / "landmarks.csv")


@pytest.mark.parametrize("text, message", [
    ("", "line 1: no column 'image'"), ("image,x1,y1\n", "line 1: no column 'x2'"),
    (",".join(COLUMNS) + "\na.jpg,1,2,3\n", "line 2: expected a path and 14 numbers, found 'a.jpg,1,2,3'"),
    (",".join(COLUMNS) + "\n\na.jpg" + ",x" * 14, "line 3: expected a path and 14 numbers"),
    (",".join(COLUMNS) + "\na.jpg" + ",nan" * 14, "line 2: expected finite numbers"),
])
def test_bad_landmark_files(tmp_path, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=f"bad.csv: {message}"):
        LandmarkTable(tmp_path / "bad.csv")


def test_landmark_files_in_other_orders(tmp_path):
    """Columns in any order, others left alone, a byte order mark, and the last line for an image counting."""
    names = ("score", *COLUMNS[::-1])
    lines = [",".join(["0.9", *map(str, range(14, 0, -1)), "é.jpg"]), ",".join(["1", *["7"] * 14, "b.jpg"]),
             ",".join(["1", *["8"] * 14, "b.jpg"])]
    (tmp_path / "own.csv").write_text("\ufeff" + "\n".join([",".join(names), *lines]), encoding="utf-8")
    table = LandmarkTable(tmp_path / "own.csv")
    assert table.find("é.jpg").tolist() == list(range(1, 15)) and set(table.find("b.jpg")) == {8}


def test_real_photographs_give_the_aligned_faces(face_data, tmp_path):
    """MTCNN's crops of eight photographs against the set's own, made with its landmark file."""
    if not (face_data / "models" / "mtcnn").is_dir():
        pytest.skip(f"no MTCNN checkpoints at {face_data / 'models' / 'mtcnn'}")
    for identity in ("celebA_07201", "celebA_07204"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / identity).symlink_to((face_data / "photographs" / identity).resolve())
    (tmp_path / "in" / "celebA_07201_again").symlink_to(tmp_path / "in")  # leads round in circles
    align_folder(tmp_path / "in", tmp_path / "found", detector=face_data / "models" / "mtcnn", workers=1)
    align_folder(tmp_path / "in", tmp_path / "given", face_data / "photographs" / "landmarks.csv", workers=1)
    for name in ("found", "given"):
        errors = []
        for path in (tmp_path / name).rglob("*.jpg"):
            expected = face_data / "train_celeba" / path.parent.name / f"{int(path.stem):04d}.jpg"
            errors.append(np.abs(cv2.imread(str(path)).astype(int) - cv2.imread(str(expected))).mean())
        assert len(errors) == 8 and max(errors) < (25 if name == "found" else 1.5)


def test_flags(tmp_path):
    assert "--detector" in command("--help").stdout
    for args, message in ((("--input", "a", "--output", "b"), "required"),
                          (("--input", "a", "--output", "b", "--landmarks", "c", "--thresholds", "high"), "'high'")):
        refused = command(*args)
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and message in refused.stderr
