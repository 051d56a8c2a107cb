"""`train.checksums`, `<pack>.checksums`: what every record held when the set was sealed, to find any later change."""
import hashlib
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import read_bytes, replacing

_START = b"checksums 1\n"
SEAL = np.dtype([("number", "<i8"), ("label", "<u4"), ("content", "<u8")])  # label: the bits of its float32
_DIGEST = 8


def write_checksums(path, rows):
    """Write rows, (N,) of SEAL, one for each record; whole or not at all."""
    data = _START + _ordered(rows).tobytes()
    with replacing(path) as temporary:
        temporary.write_bytes(data + hashlib.blake2b(data, digest_size=_DIGEST).digest())


def read_checksums(path):
    """Read what `write_checksums` wrote. Raises DataError where it is missing or damaged."""
    data = read_bytes(path)
    body = data[:-_DIGEST]
    if not data.startswith(_START) or hashlib.blake2b(body, digest_size=_DIGEST).digest() != data[-_DIGEST:] or (
            (len(body) - len(_START)) % SEAL.itemsize):
        raise DataError(f"{path}: the checksums are damaged; remove them, and seal anew what is known to be right")
    return np.frombuffer(body, SEAL, offset=len(_START))


def _ordered(rows):
    return rows[np.lexsort((rows["content"], rows["number"]))]


def check_checksums(path, rows, findings):
    """Hold rows, (N,) of SEAL, against the checksums at `path`."""
    try:
        sealed = read_checksums(path)
    except DataError as error:
        findings.add("changed", Path(path).name, str(error))
        return
    rows = _ordered(rows)
    if np.array_equal(sealed, rows):
        return
    gone, new = ({int(row["number"]): row for row in np.setdiff1d(one, other)}
                 for one, other in ((sealed, rows), (rows, sealed)))
    for number in sorted(gone.keys() | new.keys()):
        findings.add("changed", number, _difference(gone.get(number), new.get(number)))
    if not gone and not new:
        findings.add("changed", Path(path).name, f"{len(sealed)} records were sealed, {len(rows)} are there")


def _difference(before, now):
    if now is None:
        return "it is gone"
    if before is None:
        return "it is new"
    return "another content" if before["content"] != now["content"] else "another label"
