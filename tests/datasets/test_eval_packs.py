"""Packs of the official protocols, from made-up trees in their layouts: all pairs, few people, tiny pictures."""
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError, UserError
from datasets.eval_packs import build_eval_pack
from datasets.packs import load_pack
from datasets.templates import load_templates

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = ["Ann", "Bo_Li", "Cy", "Di"]


def command(*args):
    return subprocess.run([sys.executable, str(ROOT / "datasets" / "build_eval_pack.py"), *map(str, args)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


@pytest.fixture
def put(jpegs):
    """Write an image that differs from all others in its last bytes."""
    count = iter(range(10 ** 6))

    def write(path):
        number = next(count)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpegs[number % len(jpegs)] + b"%d" % number)
        return path
    return write


def draw(people, count, same, seed):
    """Pairs of items of the same person, or of different ones. people: lists of items."""
    rng = random.Random(seed)
    if same:
        return [tuple(rng.sample(rng.choice(people), 2)) for _ in range(count)]
    return [tuple(rng.choice(one) for one in rng.sample(people, 2)) for _ in range(count)]


def draw_folds(people, count):
    """Ten folds of [(first, second, same)], genuine pairs first."""
    return [[(*pair, same) for same in (True, False) for pair in draw(people, count, same, 2 * fold + same)]
            for fold in range(10)]


def assert_pack(path, folds):
    """folds: of (first path, second path, same)."""
    pairs = [pair for fold in folds for pair in fold]
    pack = load_pack(path)
    assert pack.issame.tolist() == [same for *_, same in pairs]
    contents = {image: image.read_bytes() for pair in pairs for image in pair[:2]}
    assert pack.images == [contents[image] for pair in pairs for image in pair[:2]]
    assert pack.decode(0, 2).shape == (2, 3, 112, 112)


@pytest.fixture
def lfw(tmp_path, put):
    people = [[(name, number) for number in (1, 2, 3)] for name in PEOPLE]
    paths = {(name, number): put(tmp_path / "lfw" / name / f"{name}_{number:04d}.jpg")
             for images in people for name, number in images}
    folds = draw_folds(people, 300)
    lines = [f"{a[0]}\t{a[1]}\t{b[1]}" if same else "\t".join(map(str, a + b))
             for fold in folds for a, b, same in fold]
    (tmp_path / "lfw" / "pairs.txt").write_text("\n".join(["10\t300", *lines]))
    return tmp_path / "lfw", [[(paths[a], paths[b], same) for a, b, same in fold] for fold in folds]


def test_lfw(lfw, tmp_path):
    folder, folds = lfw
    made = command("--protocol", "lfw", "--data-dir", folder, "--output", tmp_path / "lfw.bin")
    assert made.returncode == 0, made.stderr
    assert "6000 pairs, 3000 genuine and 3000 impostor" in made.stdout and "left out" not in made.stdout
    assert_pack(tmp_path / "lfw.bin", folds)


CFP_FOLDS = range(1, 11)


@pytest.fixture
def cfp(tmp_path, put):
    """The official layout with 8 of the 500 people. Returns the folder and {kind: folds}."""
    root = tmp_path / "cfp"
    paths = {(kind, person, number): put(root / "Data/Images" / f"{person:03d}" / kind / f"{number:02d}.jpg")
             for kind, images in (("frontal", 10), ("profile", 4)) for person in range(1, 9)
             for number in range(1, images + 1)}
    protocol = root / "Protocol"
    lists = {}
    for kind, letter in (("frontal", "F"), ("profile", "P")):
        lists[letter] = [path for key, path in paths.items() if key[0] == kind]
        protocol.mkdir(exist_ok=True)
        (protocol / f"Pair_list_{letter}.txt").write_text("".join(
            f"{i} ../{path.relative_to(root)}\n" for i, path in enumerate(lists[letter], 1)))
    rng, folds = random.Random(1), {}
    for kind in ("FF", "FP"):
        first, second = (lists[letter] for letter in kind)
        folds[kind] = []
        for fold in CFP_FOLDS:
            folds[kind].append([])
            folder = protocol / "Split" / kind / f"{fold:02d}"
            folder.mkdir(parents=True)
            for name in ("same", "diff"):
                pairs = []
                while len(pairs) < 350:
                    i, j = rng.randrange(len(first)), rng.randrange(len(second))
                    if (first[i].parents[1] == second[j].parents[1]) == (name == "same"):
                        pairs.append((i, j))
                (folder / f"{name}.txt").write_text("".join(f"{i + 1},{j + 1}\n" for i, j in pairs))
                folds[kind][-1] += [(first[i], second[j], name == "same") for i, j in pairs]
    return root, folds


@pytest.mark.parametrize("name, kind", [("cfp_ff", "FF"), ("cfp_fp", "FP")])
def test_cfp(cfp, tmp_path, name, kind):
    root, folds = cfp
    built = build_eval_pack(name, root, tmp_path / f"{name}.bin", progress=False)
    assert len(built.pairs) == 7000 and built.left_out == [0] * 10
    assert_pack(tmp_path / f"{name}.bin", folds[kind])


def test_list_that_lies_elsewhere(cfp, tmp_path):
    root, folds = cfp
    shutil.move(str(root / "Protocol"), str(tmp_path / "lists"))
    with pytest.raises(UserError, match="protocol cfp_fp: no list .*Protocol; name it with --list"):
        build_eval_pack("cfp_fp", root, tmp_path / "out.bin")
    build_eval_pack("cfp_fp", root, tmp_path / "out.bin", tmp_path / "lists", progress=False)
    assert_pack(tmp_path / "out.bin", folds["FP"])


def edit(path, change):
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def exchange_columns(lines):
    return [",".join(reversed(line.split(","))) for line in lines]


@pytest.mark.parametrize("name, change, message", [
    ("Split/FP/04/same.txt", lambda lines: lines[1:], "6999 pairs; the official list has 7000"),
    ("Split/FP/04/same.txt", lambda lines: [*lines, "1,81"],
     "same.txt line 351: found '1,81'; expected 'i,j', numbers in the lists of 80 and 32 images"),
    ("Split/FP/10/diff.txt", lambda lines: ["a,b", *lines], "diff.txt line 1: found 'a,b'"),
    ("Split/FP/10/diff.txt", lambda lines: ["7", *lines], "diff.txt line 1: found '7'"),
    ("Pair_list_F.txt", lambda lines: [*lines, lines[0]], "Pair_list_F.txt line 81: .*each number once"),
    ("Pair_list_P.txt", lambda lines: ["1 2 3", *lines[1:]], "Pair_list_P.txt line 1: found '1 2 3'"),
    ("Pair_list_P.txt", lambda lines: [f"{i} {line.split()[1]}" for i, line in enumerate(lines[::-1], 1)],
     "names contradict the labels of .* of 7000 pairs; the first is a genuine pair of 00"),
])
def test_cfp_lists_that_are_not_the_protocol(cfp, tmp_path, name, change, message):
    edit(cfp[0] / "Protocol" / name, change)
    with pytest.raises(DataError, match=message):
        build_eval_pack("cfp_fp", cfp[0], tmp_path / "out.bin")
    assert not (tmp_path / "out.bin").exists()


def test_cfp_columns_that_are_exchanged(cfp, tmp_path):
    """i counts frontal images, j profile ones: the other way round it is no list of this protocol."""
    for path in (cfp[0] / "Protocol" / "Split" / "FP").rglob("*.txt"):
        edit(path, exchange_columns)
    with pytest.raises(DataError, match="in the lists of 80 and 32 images"):
        build_eval_pack("cfp_fp", cfp[0], tmp_path / "out.bin")


@pytest.fixture
def agedb(tmp_path, put):
    """Flat, as AgeDB comes. Returns the folder and its folds of (first name, second name, same)."""
    people = [[f"{3 * person + i}_{name.replace('_', '')}_{20 + 30 * i}_f.jpg" for i in range(3)]
              for person, name in enumerate(PEOPLE)]
    for images in people:
        for name in images:
            put(tmp_path / "agedb" / name)
    return tmp_path / "agedb", draw_folds(people, 300)


def write_agedb(path, folds, form="{0} {1} {2:d}"):
    path.write_text("".join(form.format(*pair) + "\n" for fold in folds for pair in fold))


@pytest.mark.parametrize("form", ["{0} {1} {2:d}", "{0}\t{1}\t{2:d}", "{2:d} {0} {1}"])
def test_agedb_30(agedb, tmp_path, form):
    folder, folds = agedb
    write_agedb(folder / "agedb_30_pairs.txt", folds, form)
    build_eval_pack("agedb_30", folder, tmp_path / "agedb_30.bin", progress=False)
    assert_pack(tmp_path / "agedb_30.bin", [[(folder / a, folder / b, same) for a, b, same in fold] for fold in folds])


def test_agedb_list_whose_labels_are_the_other_way_round(agedb, tmp_path):
    folder, folds = agedb
    write_agedb(tmp_path / "list.txt", [[(a, b, not same) for a, b, same in fold] for fold in folds])
    with pytest.raises(DataError, match="list.txt: protocol agedb_30: names contradict the labels of 6000 of 6000"):
        build_eval_pack("agedb_30", folder, tmp_path / "out.bin", tmp_path / "list.txt")


def test_agedb_list_with_a_single_contradiction(agedb, tmp_path, caplog):
    folder, folds = agedb
    folds[0][0] = (*folds[0][-1][:2], True)
    write_agedb(tmp_path / "list.txt", folds)
    build_eval_pack("agedb_30", folder, tmp_path / "out.bin", tmp_path / "list.txt", progress=False)
    assert "names contradict the labels of 1 of 6000 pairs; the first is a genuine pair of" in caplog.text


def test_agedb_list_that_is_not_sorted_by_folds(agedb, tmp_path):
    folder, folds = agedb
    ordered = sorted((pair for fold in folds for pair in fold), key=lambda pair: not pair[2])
    write_agedb(tmp_path / "list.txt", [ordered])
    with pytest.raises(DataError, match="fold 1 has 600 genuine and 0 impostor pairs; .* 300 of each, fold by fold"):
        build_eval_pack("agedb_30", folder, tmp_path / "out.bin", tmp_path / "list.txt")


@pytest.mark.parametrize("line", ["a.jpg b.jpg", "a.jpg b.jpg 2", "a.jpg b.jpg c.jpg 1", "a.jpg"])
def test_agedb_bad_line(agedb, tmp_path, line):
    (tmp_path / "list.txt").write_text(f"a.jpg b.jpg 1\n{line}\n")
    with pytest.raises(DataError, match="list.txt line 2: found .*; expected 'name name 0|1' or '0|1 name name'"):
        build_eval_pack("agedb_30", agedb[0], tmp_path / "out.bin", tmp_path / "list.txt")


@pytest.fixture
def two_lines(tmp_path, put):
    people = [[f"{name}_{i:04d}.jpg" for i in range(1, 4)] for name in PEOPLE]
    for images in people:
        for name in images:
            put(tmp_path / "data" / "images" / name)
    return tmp_path / "data", draw_folds(people, 300)


def write_two_lines(path, pairs, separator="\t"):
    path.write_text("".join(f"{name}{separator}{number}\n" for a, b, number in pairs for name in (a, b)))


@pytest.mark.parametrize("name", ["calfw", "cplfw"])
@pytest.mark.parametrize("order", ["kinds, numbered", "kinds, 1", "folds, 1", "folds mixed, numbered"])
def test_calfw_and_cplfw(two_lines, tmp_path, name, order):
    folder, folds = two_lines
    pairs = [(a, b, same * (fold if "numbered" in order else 1)) for fold, content in enumerate(folds, 1)
             for a, b, same in content]
    if "kinds" in order:
        pairs.sort(key=lambda pair: pair[2] == 0)
    elif "mixed" in order:
        pairs.sort(key=lambda pair: -pair[2])  # genuine pairs of the last fold first; then impostor pairs as they were
    write_two_lines(folder / f"pairs_{name.upper()}.txt", pairs)
    build_eval_pack(name, folder, tmp_path / f"{name}.bin", progress=False)
    images = folder / "images"
    assert_pack(tmp_path / f"{name}.bin", [[(images / a, images / b, same) for a, b, same in fold] for fold in folds])


@pytest.mark.parametrize("text, message", [
    ("Ann_0001.jpg 1\n", "1 lines; expected two for each pair"),
    ("Ann_0001.jpg 1\nAnn_0002.jpg 2\n", "line 1: found 'Ann_0001.jpg 1 Ann_0002.jpg 2'; .* the same number"),
    ("Ann_0001.jpg 11\nAnn_0002.jpg 11\n", "line 1"),
    ("Ann_0001.jpg\nAnn_0002.jpg\n", "line 1"),
    ("", "0 pairs; the official list has 6000"),
])
def test_calfw_bad_lists(two_lines, tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=f"list.txt.*{message}"):
        build_eval_pack("calfw", two_lines[0], tmp_path / "out.bin", tmp_path / "list.txt")


def test_missing_images_are_all_listed(lfw, tmp_path):
    folder, folds = lfw
    gone = {folder / name / f"{name}_{i:04d}.jpg" for name in ("Cy", "Di") for i in (1, 2, 3)}
    for path in gone:
        path.unlink()
    flags = "--protocol", "lfw", "--data-dir", folder, "--output", tmp_path / "lfw.bin"
    made = command(*flags)
    assert made.returncode == 2 and len(made.stderr.splitlines()) == 1 and not (tmp_path / "lfw.bin").exists()
    assert made.stderr.startswith("error: 6 of 12 images are missing: ")
    assert sum(str(path) in made.stderr for path in gone) == 5 and "lfw.bin.missing.txt" in made.stderr
    assert set((tmp_path / "lfw.bin.missing.txt").read_text().splitlines()) == set(map(str, gone))

    kept = [[pair for pair in fold if not gone & set(pair[:2])] for fold in folds]
    left_out = [600 - len(fold) for fold in kept]
    made = command(*flags, "--skip-missing")
    assert made.returncode == 0, made.stderr
    assert f"{sum(left_out)} pairs; of each fold: {', '.join(map(str, left_out))}." in made.stdout
    assert "not comparable" in made.stdout
    assert_pack(tmp_path / "lfw.bin", kept)


def test_list_of_missing_images_goes_when_none_is(lfw, tmp_path):
    image = lfw[0] / "Cy" / "Cy_0001.jpg"
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(DataError):
        build_eval_pack("lfw", lfw[0], tmp_path / "lfw.bin")
    image.write_bytes(content)
    build_eval_pack("lfw", lfw[0], tmp_path / "lfw.bin", progress=False)
    assert not (tmp_path / "lfw.bin.missing.txt").exists()


def test_no_pair_is_left(lfw, tmp_path):
    for path in lfw[0].rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="no pairs"):
        build_eval_pack("lfw", lfw[0], tmp_path / "lfw.bin", skip_missing=True)


@pytest.mark.parametrize("flags, message", [
    (["--protocol", "ijb"], "unknown protocol 'ijb'; known are: agedb_30, calfw, cfp_ff, cfp_fp, cplfw, lfw, ytf"),
    (["--protocol", "lfw", "--max-frames", 3], "max-frames is for protocols of videos; lfw compares images"),
    (["--protocol", "lfw", "--image-size", "112,96"], "the image is 112x112; expected 112x96"),
    (["--protocol", "lfw", "--data-dir", "nowhere"], "nowhere: no such folder"),
    (["--protocol", "lfw", "--list", "nowhere.txt"], "no list nowhere.txt"),
])
def test_bad_flags(lfw, tmp_path, flags, message):
    made = command("--data-dir", lfw[0], "--output", tmp_path / "out.bin", *flags)
    assert made.returncode == 2 and "Traceback" not in made.stderr and not (tmp_path / "out.bin").exists()
    assert message in made.stderr.splitlines()[-1]


@pytest.fixture
def ytf(tmp_path, put):
    """Four people with two videos of 1 to 12 frames, in the official layout."""
    people = [[f"{name}/{video}" for video in (0, 1)] for name in PEOPLE]
    frames = {}
    for place, name in enumerate(video for videos in people for video in videos):
        number = name.split("/")[1]
        frames[name] = [put(tmp_path / "ytf" / "aligned_images_DB" / name / f"aligned_detect_{number}.{frame}.jpg")
                        for frame in range(5, 5 + (1 if place == 3 else 12))]
    folds = draw_folds(people, 250)
    lines = [f"{fold}, {a}, {b}, {same:d}, {same:d}" for fold, content in enumerate(folds, 1) for a, b, same in content]
    (tmp_path / "ytf" / "splits.txt").write_text(
        "\n".join(["split, first name, second name, is same, is same identity", *lines]))
    return tmp_path / "ytf", frames, [pair for fold in folds for pair in fold]


def assert_templates(folder, frames, pairs):
    found = load_templates(folder)
    names = np.array(found.names)
    assert list(map(tuple, names[found.pairs])) == [pair[:2] for pair in pairs]
    assert found.issame.tolist() == [same for *_, same in pairs]
    shown = {name: [] for name in found.names}
    for i in range(len(found.images)):
        image, label = found.images.read(i)
        shown[found.names[label]].append(image)
    assert shown == {name: [path.read_bytes() for path in frames[name]] for name in found.names}
    found.images.close()


def test_ytf(ytf, tmp_path):
    folder, frames, pairs = ytf
    made = command("--protocol", "ytf", "--data-dir", folder, "--output", tmp_path / "out", "--max-frames", 3)
    assert made.returncode == 0, made.stderr
    assert "5000 pairs, 2500 genuine" in made.stdout
    assert_templates(tmp_path / "out", {name: [paths[i] for i in (2, 6, 10)] if len(paths) == 12 else paths
                                        for name, paths in frames.items()}, pairs)
    build_eval_pack("ytf", folder, tmp_path / "all", progress=False)
    assert_templates(tmp_path / "all", frames, pairs)


def test_ytf_videos_that_are_missing(ytf, tmp_path):
    folder, frames, pairs = ytf
    for path in (*frames["Cy/0"], *frames["Di/1"]):
        path.unlink()
    (folder / "aligned_images_DB" / "Di" / "1").rmdir()
    with pytest.raises(DataError, match="2 of 8 videos are missing"):
        build_eval_pack("ytf", folder, tmp_path / "out")
    assert len((tmp_path / "out.missing.txt").read_text().splitlines()) == 2 and not (tmp_path / "out").exists()
    built = build_eval_pack("ytf", folder, tmp_path / "out", skip_missing=True, progress=False)
    kept = [pair for pair in pairs if not {"Cy/0", "Di/1"} & set(pair)]
    assert len(built.pairs) == len(kept) == 5000 - sum(built.left_out)
    assert_templates(tmp_path / "out", frames, kept)


def test_ytf_bad_lines(ytf, tmp_path):
    for line in ("11, Ann/0, Ann/1, 1, 1", "1, Ann/0, Ann/1, yes, 1", "1, Ann/0, Ann/1", "1 Ann/0 Ann/1 1 1"):
        (tmp_path / "splits.txt").write_text(f"split, first name, second name\n{line}\n")
        with pytest.raises(DataError, match="splits.txt line 2: found .*splits 1 to 10"):
            build_eval_pack("ytf", ytf[0], tmp_path / "out", tmp_path / "splits.txt")


def test_real_lfw(tmp_path, face_data):
    """The list that build_eval_pack and lfw2pack make of it is the same; the images are those of the list."""
    build_eval_pack("lfw", face_data / "lfw", tmp_path / "lfw.bin", progress=False)
    pack = load_pack(tmp_path / "lfw.bin")
    assert len(pack.issame) == 6000 and pack.issame.reshape(10, 2, 300).all(axis=2).tolist() == [[True, False]] * 10
    first = face_data / "lfw" / "images" / "Abel_Pacheco"
    assert pack.images[:2] == [(first / f"Abel_Pacheco_000{i}.jpg").read_bytes() for i in (1, 4)]
