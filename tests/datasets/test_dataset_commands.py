"""dir2rec, lfw2pack and pairs2pack, as calls and as commands."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, picture

from common.errors import DataError, UserError
from datasets.identity_folder import pack_folder
from datasets.images import decode_bgr, parse_image_size
from datasets.packs import load_pack
from datasets.pairs import Pair, describe_pairs, pack_pairs, read_lfw_pairs, read_pairs
from datasets.training_set import TrainingSet

ROOT = Path(__file__).resolve().parents[2]


def command(name, *args, cwd):
    return subprocess.run([sys.executable, str(ROOT / "datasets" / f"{name}.py"), *map(str, args)], cwd=str(cwd),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


@pytest.fixture
def faces(tmp_path, jpegs):
    """Folders: b has three JPEGs, a a PNG and a JPEG, c an empty file; beside them what is no identity."""
    folder = tmp_path / "faces"
    for name in ("a", "b", "c", "empty", ".hidden"):
        (folder / name).mkdir(parents=True)
    for number in range(3):
        (folder / "b" / f"{number}.JPG").write_bytes(jpegs[number])
    (folder / "a" / "1.png").write_bytes(encode(picture(3), ".png"))
    (folder / "a" / "2.jpeg").write_bytes(jpegs[4])
    (folder / "c" / "1.jpg").write_bytes(b"")
    for extra in ("a/notes.txt", "readme.txt", ".hidden/1.jpg"):
        (folder / extra).write_bytes(b"no image")
    return folder


def test_dir2rec(faces, tmp_path, jpegs):
    (faces / "c" / "2.jpg").symlink_to("nowhere.jpg")
    made = command("dir2rec", "--input", "faces", "--output", "out", "--skip-bad", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "2 identities, 5 images; skipped 2 unreadable images, left out 1 identities" in made.stdout
    assert "c/1.jpg: the image" in made.stdout and "c/2.jpg: cannot be read" in made.stdout
    assert "image/s" in made.stderr
    assert (tmp_path / "out" / "identities.txt").read_text() == "0\ta\t2\n1\tb\t3\n"
    training_set = TrainingSet(tmp_path / "out")
    read = [training_set.read(i) for i in range(5)]
    assert [label for _, label in read] == [0, 0, 1, 1, 1]
    assert [image for image, _ in read[1:]] == [jpegs[4], *jpegs[:3]]  # JPEGs byte by byte
    error = np.abs(decode_bgr(read[0][0], "a/1.png")[:, :, ::-1].astype(int) - picture(3))
    assert read[0][0].startswith(b"\xff\xd8\xff") and error.mean() < 2


def test_dir2rec_stops_at_a_bad_image(faces, tmp_path):
    made = command("dir2rec", "--input", faces, "--output", tmp_path / "out", cwd=tmp_path)
    assert made.returncode == 2 and "Traceback" not in made.stderr
    assert made.stderr.splitlines()[-1].startswith(f"error: {faces}/c/1.jpg: the image (0 bytes) cannot be decoded")
    assert list((tmp_path / "out").iterdir()) == []


def test_dir2rec_image_of_another_size(faces, tmp_path):
    (faces / "c" / "1.jpg").write_bytes(encode(picture(5, (100, 250))))
    with pytest.raises(DataError, match=r"c/1\.jpg: the image is 100x250; expected 112x112"):
        pack_folder(faces, tmp_path / "out", skip_bad=True, progress=False)
    made = pack_folder(faces, tmp_path / "out", resize=True, progress=False)
    assert made.identities == [("a", 2), ("b", 3), ("c", 1)] and made.skipped == []
    image = decode_bgr(TrainingSet(tmp_path / "out").read(5)[0], "c/1.jpg")[:, :, ::-1]
    middle = picture(5, (100, 250))[:, 75:175]  # what is left when the sides are cut off
    assert image.shape == (112, 112, 3)
    assert np.abs(image[::28, ::28].astype(int) - middle[::25, ::25]).mean() < 8


def test_dir2rec_min_images(faces, tmp_path):
    made = pack_folder(faces, tmp_path / "out", skip_bad=True, min_images=3, progress=False)
    assert made.identities == [("b", 3)] and made.left_out == ["a", "c"] and len(made.skipped) == 1
    with pytest.raises(UserError, match="no identities"):
        pack_folder(faces, tmp_path / "other", skip_bad=True, min_images=4, progress=False)


def test_dir2rec_bad_settings(faces, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        pack_folder(tmp_path / "none", tmp_path / "out")
    with pytest.raises(DataError, match="no images; expected a sub-folder for each identity"):
        pack_folder(faces / "b", tmp_path / "out")
    with pytest.raises(UserError, match="quality 0"):
        pack_folder(faces, tmp_path / "out", quality=0)
    for text in ("112", "112,0", "a,b", "112x112"):
        with pytest.raises(UserError, match="expected height,width"):
            parse_image_size(text)
    assert parse_image_size("112, 96") == (112, 96)


@pytest.fixture
def lfw(tmp_path, jpegs):
    """Two people with three images each, and pairs.txt: one fold of 2 genuine and 2 impostor pairs."""
    for person, name in enumerate(("Ann_Lee", "Bob")):
        (tmp_path / "lfw" / "images" / name).mkdir(parents=True)
        for number in (1, 2, 3):
            (tmp_path / "lfw" / "images" / name / f"{name}_{number:04d}.jpg").write_bytes(jpegs[person * 3 + number])
    (tmp_path / "lfw" / "pairs.txt").write_text("1\t2\nAnn_Lee\t1\t2\nBob\t3\t1\n"
                                                "Ann_Lee\t1\tBob\t1\nBob\t2\tAnn_Lee\t3\n")
    return tmp_path / "lfw"


def test_lfw2pack(lfw, tmp_path, jpegs):
    made = command("lfw2pack", "--data-dir", "lfw", "--output", "lfw.bin", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "lfw.bin: 4 pairs, 2 genuine and 2 impostor" in made.stdout
    pack = load_pack(tmp_path / "lfw.bin")
    assert pack.issame.tolist() == [True, True, False, False]
    assert [jpegs.index(image) for image in pack.images] == [1, 2, 6, 4, 1, 4, 5, 3]


def test_lfw_images_without_images_folder_and_as_png(lfw):
    (lfw / "images" / "Bob").rename(lfw / "Bob")
    (lfw / "Bob" / "Bob_0001.jpg").rename(lfw / "Bob" / "Bob_0001.png")
    found = {path.relative_to(lfw).as_posix() for pair in read_lfw_pairs(lfw / "pairs.txt", lfw) for path in pair[:2]}
    assert {"Bob/Bob_0001.png", "Bob/Bob_0003.jpg", "images/Ann_Lee/Ann_Lee_0001.jpg"} < found


@pytest.mark.parametrize("text, message", [
    ("1\t2\nAnn_Lee\t1\t2\n", "1 pairs; its first line announces 4"),
    ("300\nAnn_Lee\t1\t2\n", "1 pairs; its first line announces 600"),
    ("ten\t2\n", r"line 1: found 'ten 2'; expected 'folds pairs'"),
    ("Ann_Lee\t1\ttwo\n", "line 1: found 'Ann_Lee 1 two'; expected 'name i j'"),
    ("Ann_Lee\t1\t2\n\nAnn_Lee\tBob\n", "line 3: found 'Ann_Lee Bob'"),
    ("Ann_Lee\t1\tBob\t2\t3\n", "line 1"),
])
def test_bad_lfw_pairs(lfw, text, message):
    (lfw / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=f"pairs.txt.*{message}"):
        read_lfw_pairs(lfw / "pairs.txt", lfw)


def test_missing_images_are_counted_and_nothing_is_written(lfw, tmp_path):
    for number in (1, 3):
        (lfw / "images" / "Bob" / f"Bob_000{number}.jpg").unlink()
    made = command("lfw2pack", "--data-dir", lfw, "--output", tmp_path / "out" / "lfw.bin", cwd=tmp_path)
    assert made.returncode == 2 and not (tmp_path / "out").exists()
    assert made.stderr == (f"error: 2 of 6 images are missing: {lfw}/images/Bob/Bob_0003.jpg, "
                           f"{lfw}/images/Bob/Bob_0001.jpg\n")


@pytest.mark.parametrize("bad, message", [(b"no image", "cannot be decoded"),
                                          (encode(picture(1, (96, 112))), "the image is 96x112; expected 112x112")],
                         ids=["no image", "other size"])
def test_bad_image_in_a_pair(lfw, tmp_path, bad, message):
    (lfw / "images" / "Bob" / "Bob_0002.jpg").write_bytes(bad)
    with pytest.raises(DataError, match=f"Bob_0002.jpg: .*{message}"):
        pack_pairs(read_lfw_pairs(lfw / "pairs.txt", lfw), tmp_path / "lfw.bin", progress=False)
    assert not (tmp_path / "lfw.bin").exists()


def test_pairs2pack(lfw, tmp_path, jpegs):
    (tmp_path / "list.txt").write_text("Ann_Lee/Ann_Lee_0001.jpg Bob/Bob_0001.jpg 0\n\n"
                                       "Bob/Bob_0001.jpg\tBob/Bob_0002.jpg\t1\n")
    made = command("pairs2pack", "--pairs", "list.txt", "--root", "lfw/images", "--output", "own.bin", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    pack = load_pack(tmp_path / "own.bin")
    assert pack.issame.tolist() == [False, True]
    assert [jpegs.index(image) for image in pack.images] == [1, 4, 4, 5]


@pytest.mark.parametrize("line", ["a.jpg b.jpg", "a.jpg b.jpg 2", "a.jpg b.jpg c.jpg 1"])
def test_bad_pairs(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"a.jpg b.jpg 1\n{line}\n")
    with pytest.raises(DataError, match="list.txt line 2: .*expected 'path1 path2 0|1'"):
        read_pairs(tmp_path / "list.txt", tmp_path)


def test_no_pairs(tmp_path):
    (tmp_path / "list.txt").touch()
    with pytest.raises(DataError, match="no pairs"):
        pack_pairs(read_pairs(tmp_path / "list.txt", tmp_path), tmp_path / "own.bin")
    with pytest.raises(DataError, match="none.txt: cannot be read"):
        read_pairs(tmp_path / "none.txt", tmp_path)


def test_uneven_folds_show(lfw):
    pairs = [Pair("a", "b", i < 10) for i in range(20)]
    assert describe_pairs(pairs) == ("20 pairs, 10 genuine and 10 impostor; genuine pairs in each of 10 folds: 0 to 2")


@pytest.mark.parametrize("name", ["dir2rec", "lfw2pack", "pairs2pack"])
def test_flags(name, tmp_path):
    shown = command(name, "--help", cwd=tmp_path)
    assert shown.returncode == 0 and "--image-size" in shown.stdout
    wrong = command(name, "--inptu", cwd=tmp_path)
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1 and wrong.stderr.startswith("error: ")


def test_lfw_pairs_of_the_real_list(face_data):
    pairs = read_lfw_pairs(face_data / "lfw" / "pairs.txt", face_data / "lfw")
    assert describe_pairs(pairs).endswith("genuine pairs in each of 10 folds: 300 to 300") and len(pairs) == 6000
    assert all(path.is_file() for pair in pairs for path in pair[:2])
