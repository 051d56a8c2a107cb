"""Files are written to a temporary name and moved into place, so that nothing half-written is ever seen."""
import csv
import io
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from common.errors import DataError, UserError

_UMASK = os.umask(0)  # it can only be read by setting it, which is for no thread to do later
os.umask(_UMASK)


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


def read_bytes(path):
    """The bytes of a file. Raises DataError where it is missing or cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def remove(path):
    """Remove a file, where it is there. Raises UserError where the system refuses."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be removed: {error.strerror}") from error


def write_text(path, text):
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path, rows):
    """Write rows, dicts of the same keys, as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_bytes(path, data):
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
