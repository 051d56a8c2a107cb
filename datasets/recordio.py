"""RecordIO files (`train.rec` with `train.idx`), read and written without MXNet's own reader.

MXNet's reader may end the process on a damaged file and must not be shared by threads. This one checks every length
before it reads, and reads with `os.pread`, which knows no current position. The format is in docs/data-format.md.
"""
import os
import re
import struct
from collections import namedtuple
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import open_plain, read_bytes, replacing

MAGIC = struct.pack("<I", 0xCED7230A)
FRAME = struct.Struct("<4sI")  # magic, then 3 bits of part flag and 29 bits of length
HEADER = struct.Struct("<IfQQ")  # number of labels in the array behind it (0: none), the one label, record number, 0
_START = struct.Struct("<4sIIfQQ")  # both
_FLOAT = struct.Struct("<f")
EXACT = 1 << 24  # labels are float32, which holds all whole numbers up to this one only
_LENGTH_BITS = 29
_AT_ONCE = 1 << 20  # bytes; a damaged index may announce a frame as long as the file
WHOLE, FIRST, MIDDLE, LAST = range(4)  # part flags


def _padded(length):
    return length + -length % 4


class RecordReader:
    """Random access to the records of one file, from any number of threads.

    path: the .rec file. Raises DataError where it is missing or empty.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._file = open_plain(path, buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        if self.size == 0:
            raise DataError(f"{path}: the file is empty; expected records")

    def close(self):
        """Close the file; nothing can be read afterwards."""
        self._file.close()

    def read(self, offset, number):
        """Read one record.

        offset: where it starts, in bytes; number: its number, for messages.
        Returns (labels, payload): a 1-D float32 array and the bytes behind the header, which may be none.
        Raises DataError, with file and record number, for anything that is not a whole record.
        """
        record = self._read_parts(offset, number)
        if len(record) < HEADER.size:
            self._fail(number, f"{len(record)} bytes; expected a header of {HEADER.size}")
        count, label, _, _ = HEADER.unpack_from(record)
        end = HEADER.size + 4 * count
        if end > len(record):
            self._fail(number, f"its header announces {count} labels, but the record has {len(record)} bytes")
        if count == 0:
            return np.array([label], np.float32), record[end:]
        return np.frombuffer(record, "<f4", count, HEADER.size).astype(np.float32), record[end:]

    def end(self, offset, number):
        """Where a record ends, in bytes from the file's start. Arguments and errors as for `read`."""
        flag = FIRST
        while flag not in (WHOLE, LAST):
            flag, _, offset = self._read_part(offset, number)
        return offset

    def read_image(self, offset, number, size):
        """Read one record as `read` does, but give its first label alone, a float. size: of its frame, in bytes."""
        data = self._glance(min(size, _AT_ONCE), offset)
        found = _whole_record(data)
        if found is not None and found.end <= len(data):
            return found.label, data[found.start:found.end]
        labels, image = self.read(offset, number)  # several parts, or damage, of which this tells
        return float(labels[0]), image

    def read_label(self, offset, number):
        """The first label of a record, a float, without reading its payload. Arguments and errors as for `read`."""
        found = _whole_record(self._glance(_START.size + _FLOAT.size, offset))
        return float(self.read(offset, number)[0][0]) if found is None else found.label

    def _glance(self, length, offset):
        """Up to so many bytes; none where the system cannot read, of which `read` tells."""
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError:
            return b""

    def _read_parts(self, offset, number):
        parts = []
        while True:
            flag, part, offset = self._read_part(offset, number)
            if flag not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
                self._fail(number, f"part flag {flag} in part {len(parts) + 1} of the record")
            parts.append(part)
            if flag in (WHOLE, LAST):
                return MAGIC.join(parts)  # the writer cut the record at these, and left them out

    def _read_part(self, offset, number):
        frame = self._pread(FRAME.size, offset, number)
        magic, word = FRAME.unpack(frame)
        if magic != MAGIC:
            self._fail(number, f"no record starts at byte {offset}; the index and the file do not belong together, "
                               "or the file is damaged")
        flag, length = split_word(word)
        start, end = offset + FRAME.size, offset + FRAME.size + _padded(length)
        if end > self.size:
            self._fail(number, f"it ends at byte {end}, but the file has {self.size}; is the file cut short?")
        return flag, self._pread(length, start, number), end

    def _pread(self, length, offset, number):
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            self._fail(number, f"cannot be read: {error.strerror}")
        if len(data) < length:
            self._fail(number, f"{length} bytes expected at byte {offset}, but the file has {self.size} bytes; "
                               "is it cut short?")
        return data

    def _fail(self, number, message):
        raise DataError(f"{self.path} record {number}: {message}")


_Found = namedtuple("_Found", "label start end")  # the first label; where the payload is, in bytes from the frame


def _whole_record(data):
    """What the first bytes of a frame say of a record that is whole; None for one in parts, and for damage."""
    if len(data) < _START.size:
        return None
    magic, word, count, label, _, _ = _START.unpack_from(data)
    start, end = _START.size + 4 * count, FRAME.size + word  # the part flag of a whole record is 0
    if magic != MAGIC or word >> _LENGTH_BITS != WHOLE or start > end:
        return None
    if not count:
        return _Found(label, start, end)
    return _Found(_FLOAT.unpack_from(data, _START.size)[0], start, end) if len(data) >= _START.size + 4 else None


def split_word(word):
    """Part flag and length, of the word behind a frame's magic."""
    return word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)


def pack_record(number, label, payload):
    """The bytes of a record: header, labels, payload; as `mx.recordio.pack` makes them.

    label: one number, or a sequence of them; payload: bytes.
    """
    labels = np.asarray(label, "<f4")
    if labels.ndim == 0:
        return HEADER.pack(0, labels, number, 0) + payload
    return HEADER.pack(labels.size, 0, number, 0) + labels.tobytes() + payload


def frame_record(record):
    """A record as it stands in the file: cut at every aligned magic number, so that one marks only a frame's start."""
    parts, start = [], 0
    for cut in aligned_magics(record):
        parts.append(record[start:cut])
        start = cut + len(MAGIC)
    parts.append(record[start:])
    flags = [WHOLE] if len(parts) == 1 else [FIRST] + [MIDDLE] * (len(parts) - 2) + [LAST]
    return b"".join(FRAME.pack(MAGIC, flag << _LENGTH_BITS | len(part)) + part + bytes(-len(part) % 4)
                    for flag, part in zip(flags, parts))


def aligned_magics(record):
    """Places, multiples of 4, at which the magic number stands in `record` (bytes)."""
    position = record.find(MAGIC)
    while position >= 0:
        if position % 4 == 0:
            yield position
            position += 3
        position = record.find(MAGIC, position + 1)


class RecordWriter:
    """Writes a .rec file and its index; use it in a `with` block.

    Both files come into being when the block ends well, or not at all. Byte for byte what
    `mx.recordio.MXIndexedRecordIO` writes. Raises UserError where the system refuses to write.
    """

    def __init__(self, rec_path, idx_path):
        with ExitStack() as stack:
            idx = stack.enter_context(replacing(idx_path))
            rec = stack.enter_context(replacing(rec_path))
            self._idx = stack.enter_context(open(idx, "w", encoding="ascii", newline="\n"))
            self._rec = stack.enter_context(open(rec, "wb"))
            self._stack = stack.pop_all()
        self._offset = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def close(self):
        """Move both files into place."""
        self._stack.close()

    def write(self, number, label, payload):
        """Append one record. number: its key in the index; label: a number or a sequence; payload: bytes."""
        record = pack_record(number, label, payload)
        if len(record) >= 1 << _LENGTH_BITS:
            raise DataError(f"record {number}: {len(record)} bytes; a record holds less than {1 << _LENGTH_BITS}")
        frame = frame_record(record)
        self._rec.write(frame)
        self._idx.write(f"{number}\t{self._offset}\n")
        self._offset += len(frame)


def read_index(path, rec_size):
    """Read an index: one line `number<TAB>offset` for each record.

    path: the .idx file; rec_size: bytes in its .rec file, in which every offset must leave room for a record.
    Returns (numbers, offsets, sizes) in the order of the file: two int64 arrays, and int32, the bytes from each record
    to the one behind it, or to the end.
    Raises DataError, with the line, for a file that is missing, empty or holds anything else.
    """
    data = read_bytes(path).replace(b"\r\n", b"\n")
    if not data.strip():
        raise DataError(f"{path}: the index is empty; expected a line 'number<TAB>offset' for each record")
    if not data.endswith(b"\n"):
        data += b"\n"
    if not is_index_text(np.frombuffer(data, np.uint8)):
        raise _bad_line(path, data)
    numbers, offsets = np.fromstring(data, np.int64, sep=" ").reshape(-1, 2).T
    return numbers, offsets, _frame_sizes(path, numbers, offsets, rec_size)


def is_index_text(text):
    """Whether bytes are digits, a tab, digits, a newline, over and over: millions of lines at once."""
    is_digit = np.zeros(256, bool)
    is_digit[ord("0"):ord("9") + 1] = True
    ends = np.flatnonzero(~is_digit[text])
    widths = np.diff(ends, prepend=-1) - 1
    return (len(ends) % 2 == 0 and np.all((widths >= 1) & (widths <= 18))
            and np.all(text[ends[0::2]] == ord("\t")) and np.all(text[ends[1::2]] == ord("\n")))


def _bad_line(path, data):
    line, text = next((line, text) for line, text in enumerate(data.split(b"\n"), 1)
                      if not re.fullmatch(rb"[0-9]{1,18}\t[0-9]{1,18}", text))
    found = text[:60].decode("ascii", "backslashreplace")
    return DataError(f"{path} line {line}: found {found!r}; expected 'number<TAB>offset'")


def _frame_sizes(path, numbers, offsets, rec_size):
    bad = np.flatnonzero((offsets + FRAME.size + HEADER.size > rec_size) | (offsets % 4 != 0))
    if len(bad):
        raise DataError(f"{path} line {bad[0] + 1}: record {numbers[bad[0]]} at byte {offsets[bad[0]]} is not in "
                        f"{Path(path).stem}.rec of {rec_size} bytes; is that cut short, or of another data set?")
    ordered = np.sort(numbers)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise DataError(f"{path}: record {ordered[twice[0]]} is listed twice")
    order = np.argsort(offsets, kind="stable")
    sizes = np.empty(len(offsets), np.int32)
    sizes[order] = np.minimum(np.diff(offsets[order], append=rec_size), np.iinfo(np.int32).max)
    bad = np.flatnonzero(sizes < FRAME.size + HEADER.size)
    if len(bad):
        raise DataError(f"{path} line {bad[0] + 1}: record {numbers[bad[0]]} at byte {offsets[bad[0]]} has "
                        f"{sizes[bad[0]]} bytes before the next one; is the index of another data set?")
    return sizes
