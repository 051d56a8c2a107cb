"""Files are written to a temporary name and moved into place, so that nothing half-written is ever seen."""
import csv
import hashlib
import io
import json
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

from common.errors import DataError, UserError

_UMASK = os.umask(0)  # it can only be read by setting it, which is for no thread to do later
os.umask(_UMASK)
_BLOCK = 1 << 20


@contextmanager
def replacing(path):
    """Give a temporary path beside `path`; when the block ends well, flush it to disk and move it to `path`.

    Folders are made as needed. When the block fails, the temporary file is removed and `path` is left as it was.
    Raises UserError where the system refuses to write (full disk, read-only folder).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device, which root could replace by a file
            raise UserError(f"{path}: cannot be written: it is a {'folder' if path.is_dir() else 'device'}")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.fchmod(handle, 0o666 & ~_UMASK)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield Path(name)
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        Path(name).unlink(missing_ok=True)


class _Checked(Exception):
    pass


def check_writable(path):
    """Raise UserError now, before long work, where `replacing(path)` would after it."""
    try:
        with replacing(path):
            raise _Checked  # nothing is moved into place
    except _Checked:
        pass


@contextmanager
def new_folder(output):
    """Give the path of a folder to fill, which is moved to `output` when the block ends well.

    Raises UserError where `output` holds something already, and where the system refuses to write.
    """
    output = Path(output).resolve()
    try:
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise UserError(f"{output}: exists already; name a new folder (nothing is changed in its own place)")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
            folder = Path(temporary, output.name)
            folder.mkdir()
            yield folder
            os.replace(folder, output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


@contextmanager
def adding_to(folder):
    """Give the path of a folder to fill, whose files are moved into `folder` when the block ends well.

    Files of the same names are replaced. Raises UserError where the system refuses to write.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new.", dir=folder) as temporary:
            yield Path(temporary)
            for path in sorted(Path(temporary).iterdir()):
                with replacing(folder / path.name) as place:
                    os.replace(path, place)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error


def open_plain(path, buffering=-1):
    """Open a file to read its bytes. Raises DataError where it is missing, cannot be read or is no plain file: nobody
    may ever write to a pipe, and a device such as /dev/zero has no end."""
    try:
        file = open(path, "rb", buffering, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(f"{path}: cannot be read: it is a device or a pipe; expected a plain file")
    return file


def read_bytes(path):
    """The bytes of a file. Raises DataError as `open_plain` does, and where the system cannot read on."""
    with open_plain(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def read_text(path):
    """The text of a file. Raises DataError as `read_bytes` does, and where it is no UTF-8 or has zeros in it."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8: {error.reason} at byte {error.start}") from error
    if "\0" in text:
        raise DataError(f"{path}: not a text: a zero at byte {data.index(0)}")
    return text


def read_json(path, kind):
    """What a JSON file holds, which must be of a kind: dict or list. Raises DataError as `read_text` does, and for
    anything else."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, kind):
        raise DataError(f"{path}: expected a JSON {'object' if kind is dict else 'list'}, found "
                        f"{type(value).__name__}")
    return value


def read_csv(path):
    """A CSV file with a head: its columns, a list of str, and an iterator of (line number, row: dict).

    Raises DataError as `read_text` does, and, with the line, for what is no CSV; the iterator does so too.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))

    def rows():
        try:
            yield reader.fieldnames
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path} line {reader.line_num}: not CSV: {error}") from error

    rows = rows()
    return next(rows) or [], rows


def remove(path):
    """Remove a file, where it is there. Raises UserError where the system refuses."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be removed: {error.strerror}") from error


def hash_file(path):
    """SHA-256 of a file's bytes, in hexadecimal. Raises DataError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_plain(path) as file:
            for block in iter(lambda: file.read(_BLOCK), b""):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def write_text(path, text):
    """Write `text` to `path` as UTF-8, whole or not at all; a name's bytes that are none are written as \\udcff."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(path, rows):
    """Write rows, dicts of the same keys, as CSV, whole or not at all. Names of files may be of any bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def write_bytes(path, data):
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
