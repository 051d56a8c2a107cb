"""The scanner that goes on past damage, against the strict reader, and against hostile files."""
import io
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from datasets import scan
from datasets.recordio import MAGIC, RecordReader, RecordWriter, read_index
from datasets.scan import Damage, Record, open_records, scan_index, scan_records

PAYLOADS = st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=6).map(b"".join)
LABELS = st.one_of(st.integers(0, 99), st.tuples(st.integers(0, 99), st.integers(0, 99)))
RECORDS = st.lists(st.tuples(LABELS, PAYLOADS), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scan")


def write(folder, records):
    """Write records, numbered from 1. Returns (bytes of the file, offsets)."""
    with RecordWriter(folder / "a.rec", folder / "a.idx") as writer:
        for number, (label, payload) in enumerate(records, 1):
            writer.write(number, label, payload)
    data = (folder / "a.rec").read_bytes()
    return data, read_index(folder / "a.idx", len(data))[1]


def scanned(data):
    return list(scan_records(io.BytesIO(data)))


def assert_in_order(found, size):
    """Nothing overlaps, all lies in the file, damage is never next to damage."""
    end, damaged = 0, False
    for event in found:
        assert event.offset >= end and not (damaged and isinstance(event, Damage) and event.offset == end)
        damaged = isinstance(event, Damage)
        end = event.offset + (event.size if damaged else 32)
    assert end <= size


@settings(max_examples=100, deadline=None, derandomize=True)
@given(records=RECORDS)
def test_a_sound_file_gives_what_the_strict_reader_gives(folder, records):
    data, offsets = write(folder, records)
    found = scanned(data)
    reader = RecordReader(folder / "a.rec")
    assert [record.offset for record in found] == offsets.tolist()
    for number, record in enumerate(found, 1):
        labels, payload = reader.read(record.offset, number)
        assert record.number == number and record.payload == payload
        np.testing.assert_array_equal(np.frombuffer(record.labels, "<f4"), labels)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(records=RECORDS, data=st.data())
def test_one_flipped_byte_harms_one_record(folder, records, data):
    whole, offsets = write(folder, records)
    place = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[place] ^= data.draw(st.integers(1, 255))
    hit = np.searchsorted(offsets, place, side="right") - 1
    found = scanned(bytes(broken))
    assert_in_order(found, len(whole))
    expected = [record for record in scanned(whole) if record.offset != offsets[hit]]
    assert set(expected) <= set(found)


def test_every_truncation_keeps_the_records_before_it(folder):
    records = [(1, b"image"), ((1, 2), b"x" * 4 + MAGIC + b"y" * 5), (3, b"z" * 30), ((4, 5), b"")]
    whole, offsets = write(folder, records)
    records, ends = scanned(whole), [*offsets[1:], len(whole)]
    for cut in range(len(whole)):
        found = scanned(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert found[:kept] == records[:kept]
        rest = found[kept:]
        if cut and cut not in ends:  # without its padding the last record is cut off too
            assert len(rest) == 1 and isinstance(rest[0], Damage) and rest[0].offset + rest[0].size == cut


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=6), st.just(struct.pack("<I", 4)),
                               st.integers(0, 7).map(lambda flag: MAGIC + struct.pack("<I4x", flag << 29 | 4)))).map(
    b"".join), block=st.sampled_from([4, 8, 1 << 22]))
def test_random_bytes(data, block):
    expected = scanned(data)
    assert_in_order(expected, len(data))
    assert bool(expected) == bool(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_BLOCK", block)
        assert scanned(data) == expected


@pytest.mark.parametrize("data, reason", [
    (b"no record at all", "no record starts here"),
    (MAGIC, "a frame of 4 bytes"),
    (MAGIC + struct.pack("<I", (1 << 29) - 1) + bytes(40), "announces 536870911 bytes, 40 are there"),
    (MAGIC + struct.pack("<I", 7 << 29), "part flag 7"),
    (MAGIC + struct.pack("<I", 8) + bytes(8), "a record of 8 bytes"),
    (MAGIC + struct.pack("<II", 24, 1 << 31) + bytes(20), "announces 2147483648 labels"),
    (MAGIC + struct.pack("<I", 2 << 29), "first part is missing"),
    (MAGIC + struct.pack("<I", 1 << 29 | 4) + bytes(4), "without its last part"),
])
def test_damage_is_named(data, reason):
    (found,) = scanned(data)
    assert isinstance(found, Damage) and reason in found.reason and (found.offset, found.size) == (0, len(data))


def test_bytes_behind_a_record(folder):
    whole, _ = write(folder, [(1, b"image")])
    record, damage = scanned(whole + b"rest")
    assert isinstance(record, Record) and record.payload == b"image"
    assert damage == Damage(len(whole), 4, "bytes behind the end of a record")


@pytest.mark.parametrize("unit", [bytes(16), MAGIC, MAGIC + struct.pack("<I", 1 << 29),
                                  MAGIC + struct.pack("<I", 2 << 29),
                                  MAGIC + struct.pack("<I", (1 << 29) - 1) + bytes(8000)],
                         ids=["zeros", "magics", "first parts", "middle parts", "lengths"])
def test_hostile_files_take_bounded_memory(tmp_path, monkeypatch, unit):
    monkeypatch.setattr(scan, "LARGEST", 1 << 12)
    monkeypatch.setattr(scan, "_BLOCK", 1 << 10)
    start = MAGIC + struct.pack("<I", 1 << 29 | 32) + bytes(32)
    for size in (1 << 14, 1 << 18):  # the first time is for what Python itself sets aside once
        (tmp_path / "a.rec").write_bytes(start + unit * (size // len(unit)))
        tracemalloc.start()
        with open_records(tmp_path / "a.rec") as file:
            found = sum(1 for _ in scan_records(file))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found == 1 and peak < 1 << 16


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="none.rec: cannot be read: No such file"):
        open_records(tmp_path / "none.rec")
    with pytest.raises(DataError, match="none.idx: cannot be read"):
        scan_index(tmp_path / "none.idx", print)


def index(path, data, block=1 << 22):
    bad = []
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_BLOCK", block)
        numbers, offsets = scan_index(path, lambda *found: bad.append(found))
    return numbers.tolist(), offsets.tolist(), bad


def test_what_is_right_in_an_index(tmp_path):
    data = b"1\t0\r\nx\t40\n2\t-4\n\n3\t80\t1\n" + b"9" * 19 + b"\t1\n4\t120"
    assert index(tmp_path / "a.idx", data) == ([1, 4], [0, 120], [
        (2, "x\t40"), (3, "2\t-4"), (4, ""), (5, "3\t80\t1"), (6, "9" * 19 + "\t1")])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lines=st.lists(st.one_of(st.tuples(st.integers(0, 10 ** 17), st.integers(0, 10 ** 17)).map(
    lambda pair: b"%d\t%d" % pair), st.binary(max_size=20).filter(lambda line: b"\n" not in line)), max_size=9),
    block=st.sampled_from([1, 7, 50, 1 << 22]))
def test_index_line_by_line(folder, lines, block):
    """Against a plain reading of the lines, whatever the blocks in which the file is read."""
    data = b"".join(line + b"\n" for line in lines)
    good, bad = [], []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        fields = line[:-1].split(b"\t") if line.endswith(b"\r") else line.split(b"\t")
        if len(fields) == 2 and all(0 < len(field) < 19 and set(field) <= set(b"0123456789") for field in fields):
            good.append(tuple(map(int, fields)))
        else:
            bad.append(number)
    numbers, offsets, reported = index(folder / "b.idx", data, block)
    assert list(zip(numbers, offsets)) == good and [line for line, _ in reported] == bad


def test_an_endless_line_is_cut(tmp_path):
    numbers, _, bad = index(tmp_path / "a.idx", b"7" * 100000 + b"\n1\t0\n", block=1000)
    assert numbers == [1] and all(len(text) <= 64 for _, text in bad)
