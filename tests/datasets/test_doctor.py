"""The doctor: healthy sets, every kind of damage, flipped bytes, truncations, repaired copies, checksums, the page."""
import csv
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, picture

from common.errors import DataError, UserError
from datasets.examination import examine
from datasets.findings import KINDS, Findings
from datasets.identity_ranges import EXACT, HEAD, UNKNOWN, classes_by_range
from datasets.near_duplicates import DHASH_BITS, exact_duplicates, near_duplicates, popcount
from datasets.packs import load_pack, write_pack
from datasets.recordio import RecordWriter
from datasets.training_set import TrainingSet, write_training_set

ROOT = Path(__file__).resolve().parents[2]
FILES = ("train.rec", "train.idx", "property")
SMALL = (24, 24)  # of images in the sets that are damaged many times


def look(path, **settings):
    return examine(path, progress=False, **settings)


def kinds(path, *severities, **settings):
    findings = look(path, **settings).findings
    return {kind: findings.counts[kind] for kind in findings.kinds(*(severities or ("error", "warning")))}


def command(*args, cwd):
    return subprocess.run([sys.executable, str(ROOT / "datasets" / "doctor.py"), *map(str, args)], cwd=str(cwd),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


def contents(folder):
    """The class and the pixels of every image, by the strict reader alone; DataError where it stops."""
    training_set = TrainingSet(folder)
    try:
        return training_set.num_classes, [_content(training_set, i) for i in range(len(training_set))]
    finally:
        training_set.close()


def _content(training_set, i):
    data, label = training_set.read(i)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape[:2] != training_set.image_shape:
        raise DataError("no such image")
    return label, image.tobytes()


def write_records(folder, records, text="3,112,112\n"):
    """A set of the records as they are given: (number, label or labels, image)."""
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for record in records:
            writer.write(*record)
    (folder / "property").write_text(text)


@pytest.fixture
def records(jpegs):
    """A healthy set of three identities with 2, 2 and 3 images, as records 1 to 7, 8 to 10, 0."""
    images = [(number, label, jpegs[number]) for number, label in enumerate([0, 0, 1, 1, 2, 2, 2], 1)]
    return images + [(8, (1, 3), b""), (9, (3, 5), b""), (10, (5, 8), b""), (0, (8, 11), b"")]


@pytest.fixture
def folder(tmp_path, training_folder):
    """A healthy set, to be damaged: three identities with 3, 4 and 7 images."""
    return Path(shutil.copytree(training_folder, tmp_path / "set"))


def test_healthy(folder):
    found = look(folder)
    assert found.errors == 0 and found.findings.kinds() == []
    assert any("14 images of 3 identities, 4 records without an image" in line for line in found.lines)
    rows = found.examination.rows
    training_set = TrainingSet(folder)
    pixels = [cv2.imdecode(np.frombuffer(training_set.read(i)[0], np.uint8), cv2.IMREAD_GRAYSCALE) for i in range(14)]
    np.testing.assert_allclose(rows["brightness"], [image.mean() for image in pixels], atol=0.5)
    np.testing.assert_allclose(rows["contrast"], [image.std() for image in pixels], atol=0.5)
    assert rows["bytes"].tolist() == [len(training_set.read(i)[0]) for i in range(14)]
    assert found.examination.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 7


def test_a_set_without_identity_records_is_healthy(tmp_path, jpegs):
    write_records(tmp_path, [(number, (number % 3, 1), image) for number, image in enumerate(jpegs)])
    assert kinds(tmp_path) == {}


DAMAGE = {
    "undecodable": ([1], lambda records, jpegs: (1, 0, b"no image")),
    "truncated": ([1], lambda records, jpegs: (1, 0, jpegs[1][:-900])),
    "wrong_size": ([1], lambda records, jpegs: (1, 0, encode(picture(1, (112, 96))))),
    "label": ([2], lambda records, jpegs: (3, 1.5, jpegs[3])),
    "label high": ([2], lambda records, jpegs: (3, 3, jpegs[3])),
    "label nan": ([2], lambda records, jpegs: (3, float("nan"), jpegs[3])),
    "label_range": ([2], lambda records, jpegs: (3, 2, jpegs[3])),
    "range": ([8], lambda records, jpegs: (9, (2, 5), b"")),
    "range out of file": ([9], lambda records, jpegs: (10, (5, 12), b"")),
    "range reversed": ([8], lambda records, jpegs: (9, (5, 3), b"")),
    "range fraction": ([8], lambda records, jpegs: (9, (3.5, 5), b"")),
    "no_range": ([8], lambda records, jpegs: (9, (4, 5), b"")),
    "header": ([8], None),
    "header lost": ([10], None),
    "header 0": ([10], lambda records, jpegs: (0, (8, 99), b"")),
    "header 0 large": ([10], lambda records, jpegs: (0, (EXACT, EXACT + 3), b"")),
    "empty": ([10], lambda records, jpegs: (0, (8, 10), b"")),
    "empty image": ([0], lambda records, jpegs: (1, 0, b"")),
    "duplicate_within": ([1], lambda records, jpegs: (2, 0, jpegs[1])),
    "duplicate_across": ([6], lambda records, jpegs: (7, 2, jpegs[1])),
    "near_within": ([1], lambda records, jpegs: (2, 0, _again(jpegs[1]))),
    "near_across": ([6], lambda records, jpegs: (7, 2, _again(jpegs[1]))),
    "blank": ([1], lambda records, jpegs: (2, 0, encode(np.full((112, 112, 3), 90, np.uint8)))),
}
NAMES = {"truncated": "undecodable"}


def detailed(seed):
    """A picture with as much detail as a face has; `picture` is smoother."""
    coarse = np.random.RandomState(seed).randint(0, 256, (14, 14, 3)).astype(np.uint8)
    return encode(cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC))


def _again(jpeg):
    """The same picture in another quality and a little brighter."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    brighter = cv2.convertScaleAbs(image, alpha=1.0, beta=3)
    return cv2.imencode(".jpg", brighter, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()


@pytest.mark.parametrize("name", DAMAGE)
def test_each_kind_of_damage_is_found_and_repaired(tmp_path, records, jpegs, name):
    (place,), change = DAMAGE[name]
    jpegs = [jpegs[0], detailed(1), *jpegs[2:]]
    records[0] = (1, 0, jpegs[1])
    records[place:place + 1] = [change(records, jpegs)] if change else []
    write_records(tmp_path, records)
    found = look(tmp_path, fix=tmp_path / "new")
    kind = NAMES.get(name, name.split(" ")[0])
    assert found.findings.counts[kind], found.lines
    assert (found.errors > 0) == any(KINDS[one].severity == "error" for one in found.findings.kinds())
    assert look(tmp_path / "new").errors == 0
    lost = {"undecodable", "wrong_size", "label", "label_range", "duplicate_within"}
    assert len(TrainingSet(tmp_path / "new")) == (6 if kind in lost or name == "empty image" else 7)


@pytest.mark.parametrize("text, message", [
    ("4,112,112\n", "4 classes; the set has 3"), ("2,112,112\n", "2 classes; the set has 3"),
    ("3,112,96\n", "image size 112x96; most images are 112x112"), ("3,112\n", "expected 'num_classes"),
    (None, "cannot be read")])
def test_property(folder, tmp_path, text, message):
    (folder / "property").unlink() if text is None else (folder / "property").write_text(text)
    found = look(folder, fix=tmp_path / "new")
    assert found.findings.kinds("error") == ["property"] and message in found.findings.first["property"][0][1]
    assert (tmp_path / "new" / "property").read_text() == "3,112,112\n"
    assert contents(tmp_path / "new")[0] == 3 and look(tmp_path / "new").errors == 0


@pytest.mark.parametrize("change, expected", [
    (lambda lines: lines[1:], {"not_indexed": 1}),
    (lambda lines: lines + ["99\t4\n"], {"index_dangling": 1}),
    (lambda lines: lines + ["99\t400000000\n"], {"index_dangling": 1}),
    (lambda lines: lines + ["99\t0\n"], {"index_twice": 1}),
    (lambda lines: lines + ["1\tx\n"], {"index_line": 1}),
    (lambda lines: lines[:-1], {"not_indexed": 1}),
    (lambda lines: ["1\t0\n"] + lines, {"index_twice": 2}),  # number and place
    (lambda lines: [], {"index_missing": 1}),
])
def test_index(folder, tmp_path, change, expected):
    lines = (folder / "train.idx").read_text().splitlines(keepends=True)
    (folder / "train.idx").write_text("".join(change(lines)))
    assert kinds(folder) == expected
    look(folder, fix=tmp_path / "new")
    assert contents(tmp_path / "new") == contents_of_identities()
    assert look(tmp_path / "new").errors == 0


def contents_of_identities():
    labels = [0] * 3 + [1] * 4 + [2] * 7
    images = [cv2.imdecode(np.frombuffer(encode(picture(seed)), np.uint8), cv2.IMREAD_COLOR) for seed in range(14)]
    return 3, [(label, image.tobytes()) for label, image in zip(labels, images)]


def test_no_index_and_bytes_at_the_end(folder):
    (folder / "train.idx").unlink()
    with open(folder / "train.rec", "ab") as file:
        file.write(b"more")
    assert kinds(folder) == {"index_missing": 1, "damaged": 1}


def test_classes_without_images_and_with_one(tmp_path, jpegs):
    write_records(tmp_path, [(0, 0, jpegs[0]), (1, 0, jpegs[1]), (2, 4, jpegs[2])], "5,112,112\n")
    found = look(tmp_path, fix=tmp_path / "new")
    assert found.errors == 0 and found.findings.first["missing_class"] == [("1 to 3 (3)", "no image")]
    assert found.findings.first["single"] == [("class 4", "one image")]
    assert (tmp_path / "new" / "identities.txt").read_text() == "0\t0\t2\n1\t4\t1\n"


def test_classes_in_another_order_than_identities(tmp_path, records):
    renamed = [(number, label if np.ndim(label) else 40 + 7 * label, image) for number, label, image in records]
    write_records(tmp_path, renamed, "55,112,112\n")
    assert kinds(tmp_path) == {"missing_class": 3}
    renamed[4] = (5, 40, renamed[4][2])
    write_records(tmp_path, renamed, "55,112,112\n")
    assert kinds(tmp_path) == {"missing_class": 3, "label_range": 1}


def _count_runs(numbers):
    return sum(number - 1 not in numbers for number in numbers)


def test_a_file_cut_short_is_few_findings(folder):
    """One cause is told once, not once for every record behind it."""
    rec = folder / "train.rec"
    rec.write_bytes(rec.read_bytes()[:rec.stat().st_size // 3])
    found = look(folder)
    assert found.errors <= 6
    where, message = found.findings.first["index_dangling"][-1]
    assert re.fullmatch(r"\d+ to \d+ \(\d+\)", where) and "from byte" in message


@settings(max_examples=150, deadline=None, derandomize=True)
@given(bounds=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), min_size=1, max_size=6),
       numbers=st.sets(st.integers(1, 14), min_size=1))
def test_classes_by_range(bounds, numbers):
    """Against the ranges as they read, one by one."""
    ranges = [(start, start + length) for start, length in bounds]
    heads = np.array([(20 + i, 0, *one, 0) for i, one in enumerate(ranges)] + [(0, 0, 20, 20 + len(ranges), 0)], HEAD)
    findings, numbers = Findings(), np.array(sorted(numbers))
    classes, count = classes_by_range(numbers, heads, findings)
    owners = [[i for i, (start, end) in enumerate(ranges) if start <= number < end] for number in numbers]
    assert count == len(ranges) and findings.counts["no_range"] == _count_runs(
        [int(number) for number, owner in zip(numbers, owners) if not owner])
    for found, owner in zip(classes, owners):
        assert found == owner[0] if len(owner) == 1 and findings.counts["range"] == 0 else found in owner + [UNKNOWN]
    overlap = any(len(owner) > 1 for owner in owners)
    short = any(not set(range(*one)) <= set(numbers) for one in ranges)
    assert findings.counts["range"] or not (overlap or short)


def test_copies_against_all_pairs():
    random = np.random.RandomState(0)
    phash = random.randint(0, 1 << 62, 400).astype(np.uint64)
    phash[200:300] = phash[:100]
    for row in range(200, 300):  # up to four bits away
        for bit in random.permutation(64)[:row % 5]:
            phash[row] ^= np.uint64(1 << int(bit))
    dhash = np.zeros(400, np.uint64)
    dhash[250:260] = (1 << (DHASH_BITS + 1)) - 1
    labels = np.arange(400) % 100 + (np.arange(400) % 3 == 0)
    for bits in (0, 2, 3):
        expected = {}, {}  # the earliest picture that looks like each, of the same label and of others
        for j in range(400):
            for i in range(j - 1, -1, -1):
                if bin(int(phash[i] ^ phash[j])).count("1") <= bits and (
                        bin(int(dhash[i] ^ dhash[j])).count("1") <= DHASH_BITS):
                    expected[labels[i] != labels[j]][j] = i
        for found, wanted in zip(near_duplicates(phash, dhash, labels, bits), expected):
            assert wanted and {late: early for early, late in found} == wanted
    assert popcount(np.array([0, 5, (1 << 64) - 1], np.uint64)).tolist() == [0, 2, 64]


def test_many_copies_of_one_picture_are_linked():
    nothing = np.zeros(3000, np.uint64)
    same, other = near_duplicates(nothing, nothing, np.zeros(3000, int), 3)
    assert same[:, 1].tolist() == list(range(1, 3000)) and not len(other)
    assert len(near_duplicates(nothing, nothing, np.arange(3000), 3)[1]) == 2999


@given(content=st.lists(st.integers(0, 5), max_size=12))
@settings(deadline=None, derandomize=True)
def test_exact_copies(content):
    expected = [(content.index(value), place) for place, value in enumerate(content) if content.index(value) < place]
    assert [tuple(pair) for pair in exact_duplicates(np.array(content, np.uint64))] == expected


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A sealed set of small images and a sealed pack, to be damaged many times."""
    base = tmp_path_factory.mktemp("small")
    images = [cv2.imencode(".jpg", picture(seed, SMALL), [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
              for seed in range(9)]
    write_training_set(base / "set", [images[:2], images[2:5], images[5:]], SMALL)
    write_pack(base / "small.bin", images[:8], [True, False] * 2)
    for path in (base / "set", base / "small.bin"):
        assert look(path, seal=True, image_shape=SMALL, nfolds=2).lines[-2].startswith("sealed")
    return base


def flips(data, count, seed):
    """(place, data with another byte there), spread evenly over the places."""
    random = np.random.RandomState(seed)
    for place in (np.arange(count) * len(data) // count + random.randint(0, 1 + len(data) // count, count)):
        place = min(place, len(data) - 1)
        yield place, data[:place] + bytes([data[place] ^ random.randint(1, 256)]) + data[place + 1:]


@pytest.mark.parametrize("name, count, sealed", [
    ("train.rec", 250, True), ("train.rec", 250, False), ("train.idx", 60, True), ("train.idx", 60, False),
    ("property", 20, True), ("property", 20, False), ("train.checksums", 20, True)])
def test_a_flipped_byte_is_found_or_harmless(small, tmp_path, name, count, sealed):
    folder = Path(shutil.copytree(small / "set", tmp_path / "set"))
    classes, before = contents(folder)
    if not sealed:
        (folder / "train.checksums").unlink()
    whole = (small / "set" / name).read_bytes()
    for place, data in flips(whole, count, seed=1):
        (folder / name).write_bytes(data)
        found = look(folder)
        if not found.errors:
            assert name != "train.checksums", place
            now, after = contents(folder)
            assert now == classes and [label for label, _ in after] == [label for label, _ in before], place
            changed = sum(one != other for one, other in zip(before, after))
            assert changed <= (0 if sealed else 1), (place, changed)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_found_or_harmless(small, tmp_path, name):
    folder = Path(shutil.copytree(small / "set", tmp_path / "set"))
    (folder / "train.checksums").unlink()
    before, whole = contents(folder), (folder / name).read_bytes()
    for cut in {*range(0, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 12, len(whole))}:
        (folder / name).write_bytes(whole[:max(0, cut)])
        assert look(folder).errors or contents(folder) == before, cut


@pytest.mark.parametrize("name", FILES)
def test_random_bytes_are_found(small, tmp_path, name):
    folder = Path(shutil.copytree(small / "set", tmp_path / "set"))
    (folder / "train.checksums").unlink()
    random = np.random.RandomState(0)
    for size in (0, 1, 3, 4, 100, 5000):
        (folder / name).write_bytes(random.bytes(size))
        assert look(folder).errors


def pack_contents(path):
    pack = load_pack(path, SMALL)
    return pack.issame.tolist(), pack.decode(0, len(pack.images)).tobytes(), len(pack.images)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_flipped_byte_of_a_pack(small, tmp_path, sealed):
    path = tmp_path / "small.bin"
    whole = (small / "small.bin").read_bytes()
    if sealed:
        shutil.copy(small / "small.checksums", tmp_path)
    shutil.copy(small / "small.bin", path)
    before = pack_contents(path)
    for place, data in flips(whole, 200, seed=2):
        path.write_bytes(data)
        if not look(path, image_shape=SMALL, nfolds=2).errors:
            after = pack_contents(path)
            assert after == before if sealed else after[2] == before[2], place
    for cut in {*range(0, len(whole), len(whole) // 60), *range(len(whole) - 12, len(whole))}:
        path.write_bytes(whole[:cut])
        assert look(path, image_shape=SMALL, nfolds=2).errors, cut


def test_another_picture_is_found_where_there_are_checksums(folder, jpegs):
    assert look(folder, seal=True).lines[-2].startswith("sealed")
    found = look(folder)
    assert found.errors == 0 and found.examination.sealed
    write_training_set(folder, [jpegs[:3], jpegs[3:7], [*jpegs[7:13], encode(picture(99))]])
    assert look(folder).findings.first["changed"] == [(14, "another content")]
    write_training_set(folder, [jpegs[:3], jpegs[3:7], jpegs[7:13]])
    assert (14, "it is gone") not in look(folder).findings.first["changed"] and look(folder).errors
    assert "not sealed" in look(folder, seal=True).lines[-2]


@pytest.fixture
def pack(tmp_path, jpegs):
    """Write a pack of (first, second, same), pictures by number; returns its path."""
    def write(*pairs):
        images = [image if isinstance(image, bytes) else jpegs[image] for pair in pairs for image in pair[:2]]
        write_pack(tmp_path / "some.bin", images, [pair[2] for pair in pairs])
        return tmp_path / "some.bin"
    return write


def test_pack_figures(pack):
    found = look(pack((0, 1, True), (2, 3, False), (0, 4, True), (5, 6, False)), nfolds=2)
    assert found.findings.kinds() == [] and found.errors == 0
    assert "4 pairs, 2 genuine and 2 impostor; 8 images, 7 of them distinct" in found.lines
    assert "genuine/impostor in 2 folds: 1/1 1/1" in found.lines


@pytest.mark.parametrize("pairs, expected, left", [
    ([(0, 0, True), (2, 3, False)], {"genuine_same": 1}, 2),
    ([(0, 1, True), (3, 3, False)], {"impostor_same": 1}, 1),
    ([(0, 1, True), (2, 3, False), (1, 0, True), (4, 5, False)], {"repeated": 1}, 4),
    ([(0, 1, True), (2, 3, False), (4, 5, True), (1, 0, False)], {"contradiction": 1}, 2),
    ([(0, 1, True), (2, 3, False), (4, 5, True)], {"folds": 4}, 3),
    ([(0, 1, True), (2, 3, True), (4, 5, False), (6, 7, False)], {"folds": 3}, 4),
    ([(detailed(0), _again(detailed(0)), True), (1, 2, False)], {"near_genuine": 1}, 2),
    ([(1, 2, True), (detailed(0), _again(detailed(0)), False)], {"near_impostor": 1}, 2),
    ([(0, b"no image", True), (2, 3, False)], {"pack_undecodable": 1}, 1),
    ([(0, 1, True), (2, encode(picture(1, (96, 112))), False)], {"pack_size": 1}, 1),
])
def test_pack_findings_and_repair(pack, tmp_path, pairs, expected, left):
    found = look(pack(*pairs), nfolds=2 if len(pairs) > 2 else 1, fix=tmp_path / "new.bin")
    counts = {kind: found.findings.counts[kind] for kind in found.findings.kinds()}
    assert counts.keys() == expected.keys() and all(counts[kind] for kind in counts if kind == "folds")
    assert all(counts[kind] == expected[kind] for kind in counts if kind != "folds")
    assert look(tmp_path / "new.bin", nfolds=1).errors == 0 and len(load_pack(tmp_path / "new.bin").issame) == left
    assert any("cannot be compared" in line for line in found.lines)


@pytest.mark.parametrize("content, kind", [
    (([b"x", b"y"], [True, False]), "counts"), (([b"x"], [True]), "counts"), (([], []), "counts"),
    (([b"x", 7], [True]), "pack_image"), (([b"x", b"y"], [5]), "pack_label"), (([b"x", b"y"], 5), "pack"),
    ("text", "pack")])
def test_packs_that_do_not_fit(tmp_path, content, kind):
    (tmp_path / "some.bin").write_bytes(pickle.dumps(content))
    found = look(tmp_path / "some.bin")
    assert found.findings.counts[kind] and found.errors
    with pytest.raises(UserError, match="no sound pair"):
        look(tmp_path / "some.bin", fix=tmp_path / "new.bin")


def test_empty_and_random_packs(tmp_path):
    for size in (0, 1, 10, 1000):
        (tmp_path / "some.bin").write_bytes(np.random.RandomState(size).bytes(size))
        assert look(tmp_path / "some.bin").findings.kinds("error")[0] == "pack"


def test_the_examined_is_never_changed(folder, tmp_path):
    with open(folder / "train.rec", "r+b") as file:
        file.seek(0)
        file.write(b"damage")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    look(folder, fix=tmp_path / "new", output=tmp_path / "out", seal=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for target in (folder, tmp_path / "new"):
        with pytest.raises(UserError, match="a repaired copy goes to a new folder"):
            look(folder, fix=target)


def test_command_and_page(tmp_path, records, jpegs):
    (tmp_path / "set").mkdir()
    records[6], records[1] = (7, 2, jpegs[1]), (2, 0, jpegs[2][:-5000])
    write_records(tmp_path / "set", records)
    made = command("set", "--output", "out", "--fix", "new", cwd=tmp_path)
    assert made.returncode == 1, made.stderr
    assert "error: 1 images that cannot be decoded: 2: " in made.stdout and "image/s" in made.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png") == 4 and page.count("data:image/jpeg") > 2
    assert 'name="viewport"' in page and not re.search(r"(src|href)=.(?!data:)", page)
    with open(tmp_path / "out" / "findings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["severity"], row["kind"], row["where"]) for row in rows] == [
        ("error", "undecodable", "2"), ("warning", "duplicate_across", "7")]
    assert command("new", cwd=tmp_path).returncode == 0


def test_command_refuses(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "lfw.bin").touch()
    for args, message in [(["none"], "none: no such file"), (["empty"], "no train.rec in this folder; .*: lfw.bin"),
                          (["set", "--near-bits", "9"], "expected 0 to 8"), (["set", "--folds", "0"], "0 folds"),
                          (["set", "--output", "empty/lfw.bin/x"], "cannot be written")]:
        made = command(*args, cwd=tmp_path)
        assert made.returncode == 2 and "Traceback" not in made.stderr
        assert re.search(f"^error: .*{message}", made.stderr, re.M), made.stderr
    shown = command("--help", cwd=tmp_path)
    assert shown.returncode == 0 and "--seal" in shown.stdout


def test_every_kind_is_in_the_docs():
    page = (ROOT / "docs" / "doctor.md").read_text()
    for kind in KINDS.values():
        assert f"| {kind.title} | {kind.severity} | {kind.remedy} |" in page


def test_hostile_sizes_are_refused_by_the_command(tmp_path, jpegs):
    """A JPEG that says it is 32000 pixels wide and high would take three gigabytes."""
    start = jpegs[1].index(b"\xff\xc0") + 5
    huge = jpegs[1][:start] + b"\x7d\x00\x7d\x00" + jpegs[1][start + 4:]
    write_records(tmp_path, [(0, 0, jpegs[0]), (1, 0, huge)], "1,112,112\n")
    made = command(tmp_path, cwd=tmp_path)
    assert made.returncode == 1 and "1 images that cannot be decoded" in made.stdout


def test_real_pack(face_data, tmp_path):
    """LFW's pairs use 7,701 photographs for 12,000 places, and none is wrong."""
    from datasets.pairs import pack_pairs, read_lfw_pairs
    pairs = read_lfw_pairs(face_data / "lfw" / "pairs.txt", face_data / "lfw")[:1200]
    pack_pairs(pairs, tmp_path / "lfw.bin", progress=False)
    found = look(tmp_path / "lfw.bin", nfolds=2)
    assert found.errors == 0
    assert f"{len({path for pair in pairs for path in pair[:2]})} of them distinct" in found.lines[1]
