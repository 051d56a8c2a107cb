"""Merging, cutting, relabelling and unpacking of training sets, against lists of what they hold."""
import csv
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, picture

from common.errors import DataError, UserError
from common.mxnet_setup import mx
from datasets import training_set as training_set_module
from datasets.identity_folder import pack_folder
from datasets.recordio import RecordWriter
from datasets.set_tools import merge_sets, read_classes, relabel, subset, unpack
from datasets.training_set import TrainingSet, copy_images, write_training_set

ROOT = Path(__file__).resolve().parents[2]
SETS = st.lists(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=6), min_size=1, max_size=6)
quick = settings(max_examples=20, deadline=None, derandomize=True)


def command(name, *args):
    return subprocess.run([sys.executable, str(ROOT / "datasets" / f"{name}.py"), *map(str, args)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """A new path at each call; hypothesis runs a test many times in one tmp_path."""
    folder, count = tmp_path_factory.mktemp("tools"), itertools.count()
    return lambda: folder / str(next(count))


def write(folder, identities):
    write_training_set(folder, identities)
    return folder


def read(folder):
    """The images of each class, as a list of lists; header and property are held against the records."""
    training_set = TrainingSet(folder)
    images = [[] for _ in range(training_set.num_classes)]
    for i in range(len(training_set)):
        image, label = training_set.read(i)
        assert training_set.label(i) == label
        images[label].append(image)
    assert training_set.num_identities == training_set.num_classes
    training_set.close()
    return images


def table(folder):
    with open(folder / "identities.csv", encoding="utf-8") as file:
        return [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]


def with_empty_class(folder):
    """Classes 0 and 2 of three have images: b"a", b"b" and b"c"."""
    folder.mkdir()
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for record in [(1, 0, b"a"), (2, [0, 1], b"b"), (3, 2, b"c"), (4, [1, 3], b""), (5, [3, 4], b""),
                       (0, [4, 6], b"")]:
            writer.write(*record)
    (folder / "property").write_text("3,112,112")
    return folder


@quick
@given(parts=st.lists(SETS, min_size=1, max_size=3))
def test_merge_lays_identities_one_behind_the_other(new, parts):
    folders = [write(new(), part) for part in parts]
    output = new()
    made = merge_sets(folders, output, progress=False)
    expected = [images for part in parts for images in part]
    assert read(output) == expected and made == (len(expected), sum(map(len, expected)))
    rows = [(place, i, len(images)) for place, part in enumerate(parts) for i, images in enumerate(part)]
    assert [tuple(row.values()) for row in table(output)] == [(*row, i) for i, row in enumerate(rows)]


@quick
@given(parts=st.lists(SETS, min_size=2, max_size=3), data=st.data())
def test_merge_of_people_who_are_in_several_sets(new, parts, data):
    """Against the plain way: groups of (set, class), joined until nothing changes."""
    nodes = [(place, i) for place, part in enumerate(parts) for i in range(len(part))]
    same = data.draw(st.lists(st.tuples(st.sampled_from(nodes), st.sampled_from(nodes)), max_size=6))
    groups = [{node} for node in nodes]
    for one, other in same:
        first, second = (next(group for group in groups if node in group) for node in (one, other))
        if first is not second:
            first |= second
            groups = [group for group in groups if group is not second]
    groups = sorted(map(sorted, groups))
    mapping = new().with_suffix(".csv")
    mapping.write_text("set,class,same_set,same_class\n" + "".join(
        f"{a[0]},{a[1]},{b[0]},{b[1]}\n" for a, b in same))
    output = new()
    merge_sets([write(new(), part) for part in parts], output, mapping, progress=False)
    assert read(output) == [[image for place, i in group for image in parts[place][i]] for group in groups]
    assert [row["identity"] for row in table(output)] == [
        next(i for i, group in enumerate(groups) if node in group) for node in nodes]


def test_merge_leaves_out_classes_without_images(new):
    output = new()
    merge_sets([with_empty_class(new()), write(new(), [[b"d"]])], output, progress=False)
    assert read(output) == [[b"a", b"b"], [b"c"], [b"d"]]
    assert [(row["original"], row["images"], row["identity"]) for row in table(output)] == [
        (0, 2, 0), (1, 0, -1), (2, 1, 1), (0, 1, 2)]


@pytest.mark.parametrize("text, message", [
    ("set,class\n0,1\n", "no column 'same_set'; expected a header with set,class,same_set,same_class"),
    ("", "no column 'set'"),
    ("set,class,same_set,same_class\n0,0,1,9\n", "line 2: there is no class 9 of set 1"),
    ("set,class,same_set,same_class\n0,0,2,0\n", "line 2: there is no class 0 of set 2"),
    ("set,class,same_set,same_class\n0,-1,1,0\n", "line 2: there is no class -1 of set 0"),
    ("set,class,same_set,same_class\n0,0,1,0\n0,x,1,0\n", "line 3: found '0,x,1,0'; expected whole numbers"),
    ("set,class,same_set,same_class\n0,0\n", "line 2: found '0,0,,'; expected whole numbers"),
])
def test_merge_with_a_bad_list_of_people(new, text, message):
    mapping, output = new().with_suffix(".csv"), new()
    mapping.write_text(text)
    with pytest.raises(DataError, match=f"{mapping.name}.*{message}"):
        merge_sets([write(new(), [[b"a"]]), write(new(), [[b"b"]])], output, mapping, progress=False)
    assert not output.exists()


def test_merge_of_other_sizes(new):
    folder = new()
    write_training_set(folder, [[b"a"]], (112, 96))
    with pytest.raises(UserError, match=r"\(112, 112\), .* of \(112, 96\)"):
        merge_sets([write(new(), [[b"a"]]), folder], new(), progress=False)


@quick
@given(identities=SETS, data=st.data())
def test_subset(new, identities, data):
    classes = data.draw(st.none() | st.sets(st.integers(0, len(identities) - 1), min_size=1))
    least, most = data.draw(st.integers(1, 3)), data.draw(st.none() | st.integers(1, 4))
    share, seed = data.draw(st.sampled_from([1.0, 0.5])), data.draw(st.integers(0, 9))
    fitting = [i for i, images in enumerate(identities)
               if len(images) >= least and (classes is None or i in classes)]
    number = data.draw(st.none() | st.integers(1, max(1, len(fitting))))
    source, output = write(new(), identities), new()
    try:
        made = subset(source, output, classes, least, number, most, share, seed, progress=False)
    except UserError as error:
        assert "identities to draw" in str(error) or "no image is left" in str(error)
        assert not fitting or share < 1
        return
    rows, found = table(output), read(output)
    kept = [row["original"] for row in rows if row["identity"] >= 0]
    assert [row["identity"] for row in rows if row["identity"] >= 0] == list(range(len(found)))
    assert set(kept) <= set(fitting) and (number is None or share < 1 or len(kept) == number)
    assert [row["images"] for row in rows] == [len(images) for images in identities]
    assert [rows[i]["kept"] for i in kept] == [len(images) for images in found]
    for original, images in zip(kept, found):
        assert not Counter(images) - Counter(identities[original])
        assert is_subsequence(images, identities[original])
        assert share < 1 or len(images) == min(len(identities[original]), most or 99)
    if share < 1 and most is None and number is None:
        total = sum(len(identities[i]) for i in fitting)
        assert made.images == round(share * total)


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(item in rest for item in part)


def test_subset_hangs_on_its_seed(new):
    source = write(new(), [[b"%d" % i] * 3 for i in range(30)])
    drawn = []
    for seed in (1, 1, 2):
        output = new()
        subset(source, output, identities=10, seed=seed, progress=False)
        drawn.append(read(output))
    assert drawn[0] == drawn[1] != drawn[2]


def test_drawn_images_are_drawn_evenly(new):
    """Each of four images of an identity is drawn about as often as the others."""
    source = write(new(), [[b"0", b"1", b"2", b"3"]] * 400)
    output = new()
    subset(source, output, max_images=1, progress=False)
    counts = Counter(images[0] for images in read(output))
    assert len(counts) == 4 and all(70 < count < 130 for count in counts.values())  # 100, sigma 8.7


@pytest.mark.parametrize("flags, message", [
    (dict(min_images=0), "min-images 0; expected at least 1"),
    (dict(identities=0), "identities 0"),
    (dict(max_images=-1), "max-images -1"),
    (dict(share=0), "share 0; expected more than 0, and 1 at most"),
    (dict(share=float("nan")), "share nan"),
    (dict(seed=-1), "seed -1"),
    (dict(classes=[2]), "no class 2; its classes are 0 to 1"),
    (dict(identities=3), "2 identities to draw 3 of"),
    (dict(min_images=3), "no image is left"),
    (dict(share=0.01), "no image is left"),
])
def test_subsets_that_cannot_be(new, flags, message):
    source, output = write(new(), [[b"a"], [b"b", b"c"]]), new()
    with pytest.raises(UserError, match=message):
        subset(source, output, progress=False, **flags)
    assert not output.exists()


def test_list_of_classes(new):
    path = new()
    path.write_text("3 1\n\n4\n")
    assert read_classes(path) == [3, 1, 4]
    path.write_text("3\n1,4\n")
    with pytest.raises(DataError, match="line 2: found '1,4'; expected class numbers"):
        read_classes(path)


@quick
@given(identities=SETS, data=st.data())
def test_relabel(new, identities, data):
    mapping = data.draw(st.lists(st.integers(-1, 2), min_size=len(identities), max_size=len(identities)))
    path, output = new().with_suffix(".csv"), new()
    path.write_text("identity,note,original\n" + "".join(f"{b},x,{a}\n" for a, b in enumerate(mapping)))
    source = write(new(), identities)
    used = set(mapping) - {-1}
    if used != set(range(len(used))) or not used:
        with pytest.raises(UserError, match="without a gap|no image is left|expected each class"):
            relabel(source, output, path, progress=False)
        assert not output.exists()
        return
    relabel(source, output, path, progress=False)
    assert read(output) == [[image for images, new_class in zip(identities, mapping) if new_class == wanted
                             for image in images] for wanted in sorted(used)]
    assert [row["identity"] for row in table(output)] == mapping


def test_relabel_takes_what_subset_writes(new):
    source, small, again = write(new(), [[b"%d" % i] for i in range(9)]), new(), new()
    subset(source, small, identities=4, progress=False)
    relabel(source, again, small / "identities.csv", progress=False)
    assert (small / "train.rec").read_bytes() == (again / "train.rec").read_bytes()
    assert (small / "identities.csv").read_text() == (again / "identities.csv").read_text()


@pytest.mark.parametrize("text, message", [
    ("old,new\n0,0\n", "no column 'original'"),
    ("original,identity\n0,0\n", "class 1 is not listed; give it -1 to leave it out"),
    ("original,identity\n0,0\n0,1\n", "line 3: found 0, 1; expected each class, 0 to 1 .*, once"),
    ("original,identity\n0,0\n2,1\n", "line 3: found 2, 1"),
    ("original,identity\n0,-2\n", "line 2: found 0, -2"),
    ("original,identity\n0,0\n1,99999999999999999999\n", "line 3: found '1,9"),
    ("original,identity\n0,0\n1,1.5\n", "line 3: found '1,1.5'; expected whole numbers"),
])
def test_relabel_with_a_bad_mapping(new, text, message):
    path, output = new().with_suffix(".csv"), new()
    path.write_text(text)
    with pytest.raises(DataError, match=f"{path.name}.*{message}"):
        relabel(write(new(), [[b"a"], [b"b"]]), output, path, progress=False)
    assert not output.exists()


def test_unpack_and_pack_again(new, training_folder, jpegs):
    """Names sort as the set does, so that dir2rec makes the same set of them again."""
    faces, again = new(), new()
    made = unpack(training_folder, faces, progress=False)
    assert made == (3, 14)
    assert [path.name for path in sorted((faces / "1").iterdir())] == ["04.jpg", "05.jpg", "06.jpg", "07.jpg"]
    assert [path.read_bytes() for path in sorted(faces.rglob("*.jpg"))] == jpegs
    pack_folder(faces, again, progress=False)
    for name in ("train.rec", "train.idx", "property"):
        assert (again / name).read_bytes() == (training_folder / name).read_bytes()


def test_names_sort_as_classes_do(new):
    image = encode(picture(0, (8, 8)))
    faces = new()
    unpack(write(new(), [[image]] * 11), faces, progress=False)
    assert [path.name for path in sorted(faces.iterdir())] == [f"{i:02d}" for i in range(11)]


def test_unpack_several_sets_and_other_formats(new):
    kinds = {suffix: encode(picture(1, (8, 8)), suffix) for suffix in (".jpg", ".png", ".bmp", ".webp")}
    folders = [write(new(), [list(kinds.values())]), write(new(), [[kinds[".png"]]] * 2)]
    faces = new()
    assert unpack(folders, faces, progress=False) == (3, 6)
    assert {str(path.relative_to(faces)) for path in faces.rglob("*.*")} == {
        "0_0/1.jpg", "0_0/2.png", "0_0/3.bmp", "0_0/4.webp", "1_0/1.png", "1_1/2.png"}
    assert all(path.read_bytes() == kinds[path.suffix] for path in faces.rglob("*.*"))


def test_unpack_stops_at_what_is_no_image(new):
    faces = new()
    with pytest.raises(DataError, match=r"train.rec record 1: begins with b'GIF89a', as no JPEG"):
        unpack(write(new(), [[b"GIF89a"]]), faces, progress=False)
    assert not faces.exists()


def test_nothing_is_written_in_place(new, training_folder, tmp_path):
    mapping = tmp_path / "m.csv"
    mapping.write_text("original,identity\n0,0\n1,1\n2,2\n")
    before = {path.name: path.read_bytes() for path in training_folder.iterdir()}
    for call in (lambda: merge_sets([training_folder], training_folder, progress=False),
                 lambda: subset(training_folder, training_folder, progress=False),
                 lambda: relabel(training_folder, training_folder, mapping, progress=False),
                 lambda: unpack(training_folder, training_folder, progress=False)):
        with pytest.raises(UserError, match="exists already; name a new folder"):
            call()
    assert {path.name: path.read_bytes() for path in training_folder.iterdir()} == before


def test_the_original_reads_a_merged_set(new, training_folder, jpegs):
    output = new()
    merge_sets([training_folder, training_folder], output, progress=False)
    reader = mx.recordio.MXIndexedRecordIO(str(output / "train.idx"), str(output / "train.rec"), "r")
    header, _ = mx.recordio.unpack(reader.read_idx(0))
    images = []
    for identity in range(*header.label.astype(int)):
        images += range(*mx.recordio.unpack(reader.read_idx(identity))[0].label.astype(int))
    found = [mx.recordio.unpack(reader.read_idx(number)) for number in images]
    assert [image for _, image in found] == jpegs * 2
    assert [header.label for header, _ in found] == [0] * 3 + [1] * 4 + [2] * 7 + [3] * 3 + [4] * 4 + [5] * 7
    reader.close()


@pytest.fixture
def small_float32(monkeypatch):
    """As if float32 counted to 16 alone."""
    monkeypatch.setattr(training_set_module, "EXACT", 16)


def test_more_images_than_float32_can_count(new, small_float32, caplog):
    identities = [[b"a long image %d, %d" % (i, j) for j in range(5)] for i in range(4)]
    source, output = write(new(), identities), new()
    assert "20 images: beyond record number 16 the identity records, float32, are rounded" in caplog.text
    caplog.clear()
    merge_sets([source, source], output, progress=False)
    assert read(output) == identities * 2 and "40 images: beyond" in caplog.text


def test_more_classes_than_float32_can_count(new, small_float32):
    output = new()
    with pytest.raises(UserError, match="more than 16 classes; labels are float32"):
        write(output, [[b"a"]] * 17)
    assert len(read(write(new(), [[b"a long image, over 40 bytes with its head"]] * 16))) == 16


def test_labels_are_read_without_images(new):
    """Of every form of record: one label, several, cut at a magic number, at the end of the file."""
    folder, magic = new(), bytes.fromhex("0a23d7ce")
    folder.mkdir()
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for record in [(0, 1, b"a"), (1, [2, 7], b"b" * 50), (2, [1, 1, 0.5], magic * 3), (3, 0, magic),
                       (4, 2, b"c")]:
            writer.write(*record)
    (folder / "property").write_text("3,112,112")
    training_set = TrainingSet(folder)
    assert training_set.labels(progress=False).tolist() == [1, 2, 1, 0, 2] == [
        training_set.read(i)[1] for i in range(5)]
    training_set.close()
    (folder / "property").write_text("2,112,112")
    with pytest.raises(DataError, match="record 1: label 2; expected a whole number in"):
        TrainingSet(folder).labels(progress=False)


def test_labels_of_a_damaged_file(new):
    folder = write(new(), [[b"a" * 60, b"b" * 60]])
    data = bytearray((folder / "train.rec").read_bytes())
    data[:4] = bytes(4)
    (folder / "train.rec").write_bytes(data)
    with pytest.raises(DataError, match="record 1: no record starts at byte 0"):
        TrainingSet(folder).labels(progress=False)


def test_copy_images_without_a_class(new, training_folder):
    with pytest.raises(UserError, match="no image is of class 1, but some are of class 2"):
        copy_images(new(), TrainingSet(training_folder), [0, 1], [0, 2], progress=False)


@pytest.mark.parametrize("name, flags, line", [
    ("rec2image", ["--include", "{0},{0}"], "6 identities, 28 images"),
    ("rec2image", ["--input", "{0}"], "3 identities, 14 images"),
    ("dataset_merge", ["--include", "{0},{0}", "--same", "{1}"], "5 identities, 28 images"),
    ("subset", ["--input", "{0}", "--classes", "{2}", "--max-images", 5, "--seed", 3], "2 identities, 9 images"),
    ("relabel", ["--input", "{0}", "--mapping", "{3}"], "2 identities, 10 images"),
])
def test_commands(training_folder, tmp_path, name, flags, line):
    texts = {"same.csv": "set,class,same_set,same_class\n0,1,1,0\n", "classes.txt": "1\n2\n",
             "mapping.csv": "original,identity\n0,1\n1,-1\n2,0\n"}
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
    flags = [str(flag).format(training_folder, *map(tmp_path.joinpath, texts)) for flag in flags]
    made = command(name, *flags, "--output", tmp_path / "out")
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{tmp_path / 'out'}: {line}\n"
    assert "image/s" in made.stderr
    refused = command(name, *flags, "--output", tmp_path / "out")
    assert refused.returncode == 2 and refused.stderr.startswith(f"error: {tmp_path / 'out'}: exists already")
