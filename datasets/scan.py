"""A `.rec` file and its `.idx` read past any damage, in one pass: for an examination, which must not stop at an error.

The writer cuts records at every aligned magic number, so an aligned magic marks the start of a frame and nothing else.
Hence the file falls into pieces at its magics, and a wrong length or a hole harms no piece but its own.
"""
import re
import struct
from typing import NamedTuple

import numpy as np

from common.errors import DataError
from common.files import open_plain
from datasets.recordio import FRAME, HEADER, LAST, MAGIC, MIDDLE, WHOLE, aligned_magics, is_index_text, split_word

LARGEST = 1 << 26  # bytes of a record that is still read; more is taken for damage, so that memory is bounded
_BLOCK = 1 << 22  # bytes read at once, a multiple of 4: no aligned magic is cut in two
_LINE = 64  # longest line of an index, in bytes
_CUT = "a record without its last part"


class Record(NamedTuple):
    """A whole record. offset: of its first frame, bytes; number: the one in its own header; labels: the bytes of its
    float32 labels; payload: the bytes behind them, none in identity records."""

    offset: int
    number: int
    labels: bytes
    payload: bytes


class Damage(NamedTuple):
    """A stretch of `size` bytes, from `offset`, that is no record; reason: what is wrong with its first frame."""

    offset: int
    size: int
    reason: str


class _Piece(NamedTuple):
    offset: int
    size: int
    data: bytes  # at most about LARGEST of the `size` bytes


def open_records(path):
    """Open a .rec file for `scan_records`. Raises DataError where it is missing or cannot be read."""
    return open_plain(path)


def scan_records(file):
    """Every Record and every Damage of a .rec file, in file order, together all its bytes but for padding.

    file: a binary file at its start. Never more than about 2 * LARGEST bytes are held. Neighbouring damage is one.
    Raises DataError where the system cannot read on.
    """
    damage = None
    for found in _assembled(map(_frame, _pieces(file))):
        if isinstance(found, Record):
            if damage:
                yield damage
                damage = None
            yield found
        elif damage and damage.offset + damage.size == found.offset:
            damage = damage._replace(size=damage.size + found.size)
        else:
            if damage:
                yield damage
            damage = found
    if damage:
        yield damage


def _pieces(file):
    """The file cut in front of every aligned magic."""
    offset, size, parts, base = 0, 0, [], 0
    for block in iter(lambda: _read(file), b""):
        start = 0
        for cut in [*aligned_magics(block), len(block)]:
            if size < LARGEST:
                parts.append(block[start:cut])
            size += cut - start
            if cut < len(block):
                if size:
                    yield _Piece(offset, size, b"".join(parts))
                offset, size, parts = base + cut, 0, []
            start = cut
        base += len(block)
    if size:
        yield _Piece(offset, size, b"".join(parts))


def _read(file):
    try:
        return file.read(_BLOCK)
    except OSError as error:
        raise DataError(f"{file.name}: cannot be read at byte {file.tell()}: {error.strerror}") from error


def _frame(piece):
    """What a piece holds: (offset, part flag or None for no frame, part, Damage behind it or None)."""
    offset, size, data = piece
    flag = part = behind = None
    if not data.startswith(MAGIC):
        behind = Damage(offset, size, "no record starts here")
    elif size < FRAME.size:
        behind = Damage(offset, size, f"a frame of {size} bytes")
    else:
        _, word = FRAME.unpack_from(data)
        flag, length = split_word(word)
        end = FRAME.size + length + -length % 4
        if flag > LAST:
            flag, behind = None, Damage(offset, size, f"part flag {flag}")
        elif end > size or length > LARGEST:
            flag = None
            behind = Damage(offset, size, f"its frame announces {length} bytes, {size - FRAME.size} are there")
        else:
            part = data[FRAME.size:FRAME.size + length]
            behind = Damage(offset + end, size - end, "bytes behind the end of a record") if end < size else None
    return offset, flag, part, behind


def _assembled(frames):
    """Records made of their parts, and what is left over as Damage."""
    start, size, parts = 0, 0, []  # of the record that is under way; size: bytes in the file
    for offset, flag, part, behind in frames:
        goes_on = flag in (MIDDLE, LAST)
        if parts and (not goes_on or size > LARGEST):
            yield Damage(start, size, _CUT)
            parts = []
        if goes_on and not parts:
            yield Damage(offset, _stored(part), "a part of a record whose first part is missing")
        elif flag is not None:
            start, size = (start, size) if parts else (offset, 0)
            parts.append(part)
            size += _stored(part)
            if flag in (WHOLE, LAST):
                yield _parse(start, size, parts)
                parts = []
        if behind:
            if parts:
                yield Damage(start, size, _CUT)
                parts = []
            yield behind
    if parts:
        yield Damage(start, size, _CUT)


def _stored(part):
    return FRAME.size + len(part) + -len(part) % 4


def _parse(offset, size, parts):
    data = MAGIC.join(parts)
    if len(data) < HEADER.size:
        return Damage(offset, size, f"a record of {len(data)} bytes; expected a header of {HEADER.size}")
    count, _, number, _ = HEADER.unpack_from(data)
    end = HEADER.size + 4 * count
    if end > len(data):
        return Damage(offset, size, f"its header announces {count} labels, the record has {len(data)} bytes")
    labels = data[HEADER.size:end] if count else data[4:8]
    return Record(offset, number if number < 1 << 62 else -1, labels, data[end:])


def first_label(record):
    """A record's class, float, NaN where it is none."""
    return struct.unpack_from("<f", record.labels)[0]


def scan_index(path, report):
    """Read what is right in an index.

    path: the .idx file; report(line number, text): called for every line that is no 'number<TAB>offset'.
    Returns (numbers, offsets), two int64 arrays in the order of the file. Raises DataError where it cannot be read.
    """
    found, line = [np.empty((0, 2), np.int64)], 1
    try:
        with open_plain(path) as file:
            for block in iter(lambda: file.read(_BLOCK), b""):
                block = (block + file.readline(_LINE)).replace(b"\r\n", b"\n")
                block += b"" if block.endswith(b"\n") else b"\n"
                found.append(_entries(block, line, report))
                line += block.count(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return np.concatenate(found).T


def _entries(block, line, report):
    if not is_index_text(np.frombuffer(block, np.uint8)):
        lines = block.split(b"\n")[:-1]
        good = [re.fullmatch(rb"[0-9]{1,18}\t[0-9]{1,18}", text) for text in lines]
        for place, (text, match) in enumerate(zip(lines, good)):
            if not match:
                report(line + place, text[:_LINE].decode("ascii", "backslashreplace"))
        block = b"".join(text + b"\n" for text, match in zip(lines, good) if match)
    return np.fromstring(block, np.int64, sep=" ").reshape(-1, 2) if block else np.empty((0, 2), np.int64)
