"""SHA256SUMS: what the files of a folder were when they were written, in the form that `sha256sum -c` reads."""
import hashlib
from pathlib import Path

from common.errors import DataError
from common.files import read_bytes, write_text

NAME = "SHA256SUMS"


class HashingFile:
    """A file to write to, which hashes what goes through it."""

    def __init__(self, file):
        self._file, self._digest = file, hashlib.sha256()

    def write(self, data):
        """Write bytes, or what has them as a buffer of one dimension."""
        self._digest.update(data)
        self._file.write(data)

    def digest(self):
        """SHA-256 of all that was written, 32 bytes."""
        return self._digest.digest()


def read(folder):
    """The hashes that a folder's SHA256SUMS holds: file name -> list of hexadecimal digests."""
    path, found = Path(folder, NAME), {}
    if path.exists():
        for line in read_bytes(path).decode("utf-8", "replace").splitlines():
            digest, _, name = line.partition("  ")
            found.setdefault(name, []).append(digest)
    return found


def take(folder):
    """Take SHA256SUMS out of a folder whose files are to be moved. Returns its hashes: file name -> digest."""
    found = {name: digests[0] for name, digests in read(folder).items()}
    Path(folder, NAME).unlink(missing_ok=True)
    return found


def announce(folder, hashes):
    """Before files are replaced: beside their old hashes write the new ones, so that whenever the replacing is cut
    short none is taken for damaged. hashes: file name -> the new digest."""
    known = read(folder)
    for name, digest in hashes.items():
        path = Path(folder, name)
        known[name] = [digest, *(known.get(name) or ([hash_bytes(read_bytes(path))] if path.is_file() else []))]
    _write(folder, known)


def settle(folder, hashes):
    """After files were replaced: their new hashes alone."""
    _write(folder, {**read(folder), **{name: [digest] for name, digest in hashes.items()}})


def forget(folder, names):
    """Take files out of SHA256SUMS that were removed."""
    _write(folder, {name: digests for name, digests in read(folder).items() if name not in names})


def _write(folder, hashes):
    if not hashes:
        Path(folder, NAME).unlink(missing_ok=True)
        return
    write_text(Path(folder, NAME), "".join(f"{digest}  {name}\n" for name, digests in sorted(hashes.items())
                                           for digest in dict.fromkeys(digests)))


def hash_bytes(data):
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check(path, data):
    """Raise DataError where the SHA256SUMS beside a file names it, and `data`, its bytes, are not what is meant."""
    expected = read(Path(path).parent).get(Path(path).name)
    found = hash_bytes(data)
    if expected and found not in expected:
        raise DataError(f"{path}: damaged, or replaced by something else: its SHA-256 is {found[:12]}..., in {NAME} "
                        f"beside it {expected[0][:12]}...; if it was replaced on purpose, remove its line from {NAME}")
