"""Training sets: the original's format, as we and as others write it, and damaged ones."""
import numpy as np
import pytest

from common.errors import DataError, UserError
from common.mxnet_setup import mx
from datasets.recordio import RecordWriter
from datasets.training_set import TrainingSet, read_property, write_training_set


def write(folder, records, text="3,112,112"):
    """A training set of any records: (number, label or labels, payload)."""
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for record in records:
            writer.write(*record)
    (folder / "property").write_text(text)
    return folder


def headers(*ranges, first=5):
    """Identity records with these ranges, and record 0."""
    return [(first + i, image_range, b"") for i, image_range in enumerate(ranges)] + [
        (0, (first, first + len(ranges)), b"")]


IMAGES = [(1, 0, b"a"), (2, 0, b"b"), (3, [1, 1], b"c"), (4, 2, b"d")]


def read_all(training_set):
    return [training_set.read(i) for i in range(len(training_set))]


def test_round_trip(training_folder, jpegs):
    training_set = TrainingSet(training_folder)
    assert (training_set.num_classes, training_set.image_shape, training_set.num_identities) == (3, (112, 112), 3)
    assert read_all(training_set) == list(zip(jpegs, [0] * 3 + [1] * 4 + [2] * 7))
    assert training_set.numbers.tolist() == list(range(1, 15))
    training_set.close()


def test_the_original_reads_what_we_write(training_folder, jpegs):
    """Follows the 2019 reader: record 0, then the identity records that it names, then their ranges."""
    reader = mx.recordio.MXIndexedRecordIO(*(str(training_folder / name) for name in ("train.idx", "train.rec")), "r")
    header, _ = mx.recordio.unpack(reader.read_idx(0))
    assert header.flag == 2 and header.label.tolist() == [15, 18] and reader.keys[-1] == 0
    images = []
    for identity in range(15, 18):
        header, payload = mx.recordio.unpack(reader.read_idx(identity))
        assert header.flag == 2 and payload == b""
        images += range(*header.label.astype(int))
    read = [mx.recordio.unpack(reader.read_idx(number)) for number in images]
    assert [payload for _, payload in read] == jpegs
    assert [header.label for header, _ in read] == [0] * 3 + [1] * 4 + [2] * 7
    assert (training_folder / "property").read_text() == "3,112,112\n"
    reader.close()


def test_reads_what_mxnet_writes(tmp_path):
    """As face2rec2 writes it: two labels for each image."""
    records = [(n, [label, 1], data) for n, label, data in [(1, 0, b"a"), (2, 2, b"b")]] + [
        (3, [1, 2], b""), (4, [2, 3], b""), (0, [3, 5], b"")]
    writer = mx.recordio.MXIndexedRecordIO(str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "w")
    for number, label, data in records:
        writer.write_idx(number, mx.recordio.pack(mx.recordio.IRHeader(2, label, number, 0), data))
    writer.close()
    (tmp_path / "property").write_text("3,112,112")
    training_set = TrainingSet(tmp_path)
    assert read_all(training_set) == [(b"a", 0), (b"b", 2)] and training_set.num_identities == 2


def test_images_come_in_the_order_of_their_identities(tmp_path):
    training_set = TrainingSet(write(tmp_path, IMAGES + headers((4, 5), (2, 2), (1, 4))))
    assert [image for image, _ in read_all(training_set)] == [b"d", b"a", b"b", b"c"]
    assert training_set.num_identities == 3


def test_without_identity_records_every_record_is_an_image(tmp_path):
    training_set = TrainingSet(write(tmp_path, [(0, 0, b"z"), (1, [1, 1], b"a"), (7, 2, b"b")]))
    assert read_all(training_set) == [(b"z", 0), (b"a", 1), (b"b", 2)] and training_set.num_identities is None
    training_set = TrainingSet(write(tmp_path, [(0, [1, 1], b"z"), (1, [0, 1], b"a")]))
    assert read_all(training_set) == [(b"z", 1), (b"a", 0)]


def test_more_records_than_float32_can_count(tmp_path):
    """Past 2**24 the stored ranges are rounded; the set must be read exactly all the same."""
    base = (1 << 24) - 2
    images = [(base + i, i % 3, b"long image%d" % i) for i in range(9)]
    identities = [(base + 9 + i, (base + 3 * i, base + 3 * i + 3), b"") for i in range(3)]
    training_set = TrainingSet(write(tmp_path, images + identities + [(0, (base + 9, base + 12), b"")]))
    assert read_all(training_set) == [(image, label) for _, label, image in images]
    assert training_set.num_identities == 3


@pytest.mark.parametrize("label", [3, -1, 0.5, float("nan"), float("inf")])
def test_label_that_is_no_class(tmp_path, label):
    training_set = TrainingSet(write(tmp_path, [(0, 0, b"a"), (8, label, b"b")]))
    with pytest.raises(DataError, match=r"train\.rec record 8: label .*expected a whole number in \[0, 3\)"):
        training_set.read(1)


def test_image_record_without_an_image(tmp_path):
    training_set = TrainingSet(write(tmp_path, [(0, 0, b"a"), (8, 1, b"")]))
    with pytest.raises(DataError, match="record 8: holds no image"):
        training_set.read(1)


@pytest.mark.parametrize("records, message", [
    (IMAGES + headers((1, 3), (90, 80)), r"record 6: found \(90, 80\)"),
    (IMAGES + headers((1, 3), (2.5, 4)), r"record 6: found \(2\.5, 4\)"),
    (IMAGES + headers((1, 3), (float("nan"), 4)), r"record 6: found \(nan, 4\)"),
    (IMAGES + headers((1, 3), (3, 1e9)), "record 6: found"),
    (IMAGES + headers((1, 3), (2, 5)), r"ranges \[1, 3\] and \[2, 5\] of two identities overlap"),
    (IMAGES + headers((1, 3), (3, 9000)), "9001|8999 images, but the index lists 7"),
    (IMAGES[:3] + headers((1, 3), (3, 5)), "names record 4, which the index does not list"),
    (IMAGES + headers((1, 3), (3, 5))[1:], "record 0: its range names record 5"),
    (IMAGES + [(0, (5, 4000), b"")], "record 0: 3995 identity records announced, but the index lists 5"),
    (IMAGES + [(0, (5, 4), b"")], r"record 0: found \(5, 4\)"),
    (IMAGES + [(5, 1, b""), (0, (5, 6), b"")], "record 5: 1 labels; expected an identity's range"),
    (IMAGES, "no record 0"),
    (headers((1, 1)), "no image in 2 records"),
])
def test_identity_records_that_do_not_fit(tmp_path, records, message):
    write(tmp_path, records)
    with pytest.raises(DataError, match=message):
        TrainingSet(tmp_path)


def test_missing_and_cut_files(tmp_path, training_folder):
    contents = {name: (training_folder / name).read_bytes() for name in ("train.rec", "train.idx", "property")}
    for name, content in contents.items():
        for kept in (None, 0, len(content) // 2):
            for other in contents:
                (tmp_path / other).write_bytes(contents[other])
            (tmp_path / name).write_bytes(content[:kept or 0])
            if kept is None:
                (tmp_path / name).unlink()
            with pytest.raises(DataError, match=name):
                TrainingSet(tmp_path)


@pytest.mark.parametrize("text, expected", [
    ("85742,112,112", (85742, (112, 112))),
    ("10,112,96\n", (10, (112, 96))),
    ("10, 112, 96\r\nmore\nlines\nof rec2shufrec", (10, (112, 96))),
])
def test_property(tmp_path, text, expected):
    (tmp_path / "property").write_bytes(text.encode())
    assert read_property(tmp_path) == expected


@pytest.mark.parametrize("text", ["", "\n10,112,112", "10,112", "10,112,112,3", "0,112,112", "ten,112,112", "\xff\xfe"])
def test_bad_property(tmp_path, text):
    (tmp_path / "property").write_text(text)
    with pytest.raises(DataError, match="property: found .*; expected 'num_classes,height,width'"):
        read_property(tmp_path)


def test_writer_writes_all_or_nothing(tmp_path):
    def broken():
        yield [b"image"]
        raise RuntimeError

    for identities, error in [(broken(), RuntimeError), ([], UserError), ([[b"image"], []], UserError)]:
        with pytest.raises(error):
            write_training_set(tmp_path, identities)
        assert list(tmp_path.iterdir()) == []


def test_writer_returns_counts(tmp_path):
    assert write_training_set(tmp_path, ((b"x" for _ in range(n)) for n in (2, 5)), (112, 96)) == [2, 5]
    assert TrainingSet(tmp_path).image_shape == (112, 96)


def test_real_faces(tmp_path, face_data):
    folders = sorted(path for path in (face_data / "train_celeba").iterdir() if path.is_dir())[:5]
    images = [[path.read_bytes() for path in sorted(folder.glob("*.jpg"))] for folder in folders]
    counts = write_training_set(tmp_path, images)
    assert counts == [len(identity) for identity in images]
    assert read_all(TrainingSet(tmp_path)) == [(image, k) for k, identity in enumerate(images) for image in identity]
    np.testing.assert_array_equal(TrainingSet(tmp_path).numbers, np.arange(1, sum(counts) + 1))
