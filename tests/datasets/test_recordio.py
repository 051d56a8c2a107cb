"""RecordIO against MXNet's own writer and reader, and against damaged files."""
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from common.mxnet_setup import mx
from datasets.recordio import MAGIC, RecordReader, RecordWriter, read_index

PAYLOADS = st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=6).map(b"".join)
LABELS = st.one_of(st.integers(0, 1 << 20), st.floats(width=32, allow_nan=False),
                   st.lists(st.integers(0, 1 << 20), min_size=1, max_size=4))
RECORDS = st.lists(st.tuples(LABELS, PAYLOADS), min_size=1, max_size=5)
MAGIC_LABEL = struct.unpack("<f", MAGIC)[0]


def write_ours(folder, records):
    with RecordWriter(folder / "a.rec", folder / "a.idx") as writer:
        for number, (label, payload) in enumerate(records, 1):
            writer.write(number, label, payload)
    return folder / "a.rec", folder / "a.idx"


def write_mxnet(folder, records):
    writer = mx.recordio.MXIndexedRecordIO(str(folder / "mx.idx"), str(folder / "mx.rec"), "w")
    for number, (label, payload) in enumerate(records, 1):
        writer.write_idx(number, mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), payload))
    writer.close()
    return folder / "mx.rec", folder / "mx.idx"


def read_all(rec, idx):
    reader = RecordReader(rec)
    numbers, offsets, _ = read_index(idx, reader.size)
    return [reader.read(offset, number) for number, offset in zip(numbers, offsets)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recordio")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(records=RECORDS)
def test_same_bytes_as_mxnet_and_read_back(folder, records):
    ours, theirs = write_ours(folder, records), write_mxnet(folder, records)
    assert ours[0].read_bytes() == theirs[0].read_bytes()
    assert ours[1].read_bytes() == theirs[1].read_bytes()
    for (label, payload), (labels, read) in zip(records, read_all(*theirs)):
        assert read == payload
        np.testing.assert_array_equal(labels, np.atleast_1d(np.array(label, np.float32)))


def test_mxnet_reads_what_we_write(folder):
    records = [(3, b"one" + MAGIC), ([4, 5], MAGIC * 3), (MAGIC_LABEL, b""), ([MAGIC_LABEL] * 2, b"abc" + MAGIC)]
    rec, idx = write_ours(folder, records)
    reader = mx.recordio.MXIndexedRecordIO(str(idx), str(rec), "r")
    for number, (label, payload) in enumerate(records, 1):
        header, read = mx.recordio.unpack(reader.read_idx(number))
        assert read == payload and header.id == number
        np.testing.assert_array_equal(header.label, np.array(label, np.float32))
    reader.close()


def test_every_truncation_is_found(folder):
    rec, idx = write_ours(folder, [(1, b"image"), ([1, 2], b"x" * 4 + MAGIC + b"y" * 5)])
    whole, (first, last) = rec.read_bytes(), read_index(idx, rec.stat().st_size)[1]
    for cut in range(len(whole)):
        rec.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"a\.rec"):
            RecordReader(rec).read(last, 2)
        if cut > last:
            assert RecordReader(rec).read(first, 1)[1] == b"image"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.binary(min_size=1, max_size=200), place=st.integers(0, 150), framed=st.booleans())
def test_random_bytes_give_a_record_or_a_data_error(folder, data, place, framed):
    path = folder / "random.rec"
    path.write_bytes(MAGIC + data if framed else data)
    reader = RecordReader(path)
    for offset in (0, place):
        try:
            labels, payload = reader.read(offset, 7)
            assert labels.dtype == np.float32 and isinstance(payload, bytes)
        except DataError as error:
            assert "random.rec record 7" in str(error)


@pytest.mark.parametrize("words, message", [
    ([(1 << 29) - 1], "ends at byte"),  # half a gigabyte announced in a file of a few bytes
    ([7 << 29 | 4, 0], "part flag 7"),
    ([2 << 29 | 4, 0], "part flag 2"),
    ([1 << 29 | 0], "cut short"),  # a first part and no more
    ([8, 0, 0], "expected a header"),
    ([24, 1 << 31, 0, 0, 0, 0, 0], "announces 2147483648 labels"),
])
def test_bad_frames_are_named(tmp_path, words, message):
    (tmp_path / "a.rec").write_bytes(MAGIC + struct.pack(f"<{len(words)}I", *words))
    with pytest.raises(DataError, match=f"a.rec record 5: .*{message}"):
        RecordReader(tmp_path / "a.rec").read(0, 5)


def test_offset_between_records(folder):
    rec, _ = write_ours(folder, [(1, b"image")])
    with pytest.raises(DataError, match="record 9: no record starts at byte 4"):
        RecordReader(rec).read(4, 9)


def test_missing_and_empty_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        RecordReader(tmp_path / "none.rec")
    (tmp_path / "a.rec").touch()
    with pytest.raises(DataError, match="empty"):
        RecordReader(tmp_path / "a.rec")


def test_one_reader_for_many_threads(folder):
    records = [(number, bytes([number % 256]) * (number * 7 % 500)) for number in range(1, 400)]
    rec, idx = write_ours(folder, records)
    reader = RecordReader(rec)
    offsets = read_index(idx, reader.size)[1]
    order = np.random.RandomState(0).permutation(len(records) * 5) % len(records)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda i: reader.read(offsets[i], i), order))
    assert [payload for _, payload in read] == [records[i][1] for i in order]
    assert [int(labels[0]) for labels, _ in read] == [records[i][0] for i in order]


@pytest.mark.parametrize("text, message", [
    ("", "empty"),
    ("\n \n", "empty"),
    ("1\t0\n2\n", "line 2: found '2'"),
    ("1\t0\nx\t40\n", "line 2"),
    ("1\t0\n2\t-4\n", "line 2"),
    ("1 0\n2 40\n", "line 1"),
    ("1\t0\t2\t40\n", "line 1"),
    ("1\n2\t0\t40\n", "line 1"),
    ("1\t0\n\n2\t40\n", "line 2"),
    ("1\t0\n2\t\n", "line 2"),
    ("1\t" + "9" * 19 + "\n", "line 1"),
    ("1\t0\n2\t72\n", "record 2 at byte 72 is not in a.rec of 80 bytes"),
    ("1\t0\n2\t41\n", "record 2 at byte 41"),
    ("1\t0\n1\t40\n", "record 1 is listed twice"),
    ("1\t40\n2\t40\n", "line 1: record 1 at byte 40 has 0 bytes before the next one"),
    ("1\t0\n2\t28\n", "line 1: record 1 at byte 0 has 28 bytes before the next one"),
])
def test_bad_index(tmp_path, text, message):
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(DataError, match=f"a.idx.*{message}"):
        read_index(tmp_path / "a.idx", 80)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.binary(max_size=40))
def test_random_index_is_read_or_refused(folder, data):
    (folder / "random.idx").write_bytes(data)
    try:
        numbers, offsets, _ = read_index(folder / "random.idx", 1 << 20)
        assert [line.split() for line in data.splitlines()] == [[b"%d" % n, b"%d" % o] for n, o in
                                                                zip(numbers, offsets)] or b"0" in data
    except DataError as error:
        assert "random.idx" in str(error)


def test_index_without_last_newline_and_from_windows(tmp_path):
    (tmp_path / "a.idx").write_bytes(b"5\t0\r\n0\t40")
    numbers, offsets, sizes = read_index(tmp_path / "a.idx", 80)
    assert (numbers.tolist(), offsets.tolist(), sizes.tolist()) == ([5, 0], [0, 40], [40, 40])


def test_a_failed_writer_leaves_what_was_there(tmp_path):
    rec, idx = write_ours(tmp_path, [(1, b"old")])
    before = rec.read_bytes(), idx.read_bytes()
    with pytest.raises(RuntimeError), RecordWriter(rec, idx) as writer:
        writer.write(1, 2, b"new")
        raise RuntimeError
    assert (rec.read_bytes(), idx.read_bytes()) == before
    assert sorted(tmp_path.iterdir()) == [idx, rec]


def test_nothing_to_see_before_close(tmp_path):
    writer = RecordWriter(tmp_path / "a.rec", tmp_path / "a.idx")
    writer.write(1, 2, b"new")
    assert not (tmp_path / "a.rec").exists()
    writer.close()
    assert [payload for _, payload in read_all(tmp_path / "a.rec", tmp_path / "a.idx")] == [b"new"]
