"""Damaged copies of a file: what a broken disk, a wrong path or an attacker makes of it.

A Form tells what can be wrong with a kind of file beyond what can be wrong with any; `damages` gives all of it.
"""
import os
import re
import struct
from functools import partial
from typing import Callable, Dict, NamedTuple

import numpy as np

KINDS = ("missing", "empty", "truncated", "random", "wrong type", "wrong size", "hostile")
PLACES = 20  # at which a file is truncated


class Damage(NamedTuple):
    """kind: of KINDS; name: what was done; apply: called with the path of the file that is damaged; harmless: why it
    may not matter, or ''."""

    kind: str
    name: str
    apply: Callable
    harmless: str = ""


class Form(NamedTuple):
    """A kind of file.

    name: as `strangers` calls files of this kind; sizes, hostile: callables, (the file's bytes, path of a file that
    only code can make) -> dict what was done -> bytes, or a tuple of them that belong together. free: callable, the
    file's bytes -> (start, end, reason) of parts that may hold anything; accepts: expressions that match 'kind: name'
    of damages -> why a command may go on.
    """

    name: str
    sizes: Callable
    hostile: Callable
    free: Callable = lambda data: ()
    accepts: Dict[str, str] = {}

    def harmless(self, kind, name):
        """Why a command may go on after a damage, '' where it must not."""
        return next((reason for what, reason in self.accepts.items() if re.match(what, f"{kind}: {name}")), "")


def nothing(data, canary):
    """For a form that has no wrong sizes or attacks of its own."""
    return {}


def patched(data, place, layout, *values):
    """Bytes with others, packed as `struct` has it, little-endian, from a place on."""
    part = struct.pack(f"<{layout}", *values)
    return data[:place] + part + data[place + len(part):]


def damages(form, data, canary, rng):
    """All damages of a file, a list of Damage. data: its bytes; canary: see Form; rng: RandomState."""
    made = [Damage("missing", "not there", os.remove), Damage("empty", "no bytes", _write(b""))]
    view = memoryview(data)  # so that the damages of a large file do not hold many copies of it
    made += [Damage("truncated", f"to {place} of {len(data)} bytes", _write(view[:place]),
                    "only the end of the last line is missing" * (data[place:] == b"\n")) for place in places(data)]
    free = list(form.free(data))
    for name, start, end, made_up in _random(data, rng):
        harmless = next((reason for first, last, reason in free if first <= start and end <= last), "")
        made.append(Damage("random", name, _write(*made_up), harmless))
    made += [Damage("wrong type", name, _write(other)) for name, other in strangers().items() if name != form.name]
    made += [Damage("wrong type", name, apply) for name, apply in _not_files()]
    for kind, others in (("wrong size", {"twice": (data, data), "64 zeros behind": (data, bytes(64)),
                                         **form.sizes(data, canary)}), ("hostile", form.hostile(data, canary))):
        made += [Damage(kind, name, _write(*(other if isinstance(other, tuple) else [other])))
                 for name, other in others.items()]
    return [damage._replace(harmless=damage.harmless or form.harmless(damage.kind, damage.name))
            for damage in made if not _is_same(damage.apply, data)]


def _is_same(apply, data):
    """Whether what is written is the file as it was."""
    return hasattr(apply, "parts") and b"".join(apply.parts) == data


def places(data):
    """Where a file is cut: 20 places, some in its head, one before its end; fewer in a file shorter than that."""
    early = [1, 2, 4, 7, 8, 12, 16, 24, 40]
    late = np.linspace(0, len(data), PLACES - len(early) + 1).astype(int)[1:-1].tolist() + [len(data) - 1]
    found = sorted({place for place in early + late if 0 < place < len(data)})
    more = (place for place in range(1, len(data)) if place not in found)
    return sorted(found + [place for place, _ in zip(more, range(PLACES - len(found)))])


def _random(data, rng):
    """Random bytes in place of the whole file, of a stretch of it, and single bits turned: (name, first and last byte
    that is changed, parts of the changed bytes)."""
    view = memoryview(data)
    for size in (len(data), len(data), 100, 5000):
        yield f"{size} random bytes", 0, len(data), [rng.bytes(size)]
    for _ in range(6):
        size = min(16, len(data))
        start = rng.randint(len(data) - size + 1)
        changed = view[:start], rng.bytes(size), view[start + size:]
        yield f"{size} random bytes from byte {start}", start, start + size, changed
    for _ in range(10):
        place, bit = rng.randint(len(data)), rng.randint(8)
        turned = bytes([data[place] ^ 1 << bit])
        yield f"bit {bit} of byte {place}", place, place + 1, (view[:place], turned, view[place + 1:])


def strangers():
    """Small sound files of many kinds: name -> bytes."""
    import io
    import pickle
    import tarfile
    import zipfile

    import cv2

    jpeg, png = (cv2.imencode(end, np.full((16, 16, 3), 90, np.uint8))[1].tobytes() for end in (".jpg", ".png"))
    array, archive, tar = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.arange(12, dtype=np.float32))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "text")
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    return {"image": jpeg, "png": png, "npy": array.getvalue(), "zip": archive.getvalue(), "tar": tar.getvalue(),
            "pickle": pickle.dumps({"a": [1, 2]}), "json": b'{"a": [1, 2]}', "json list": b"[1, 2]",
            "text": b"This is a text.\nIt has two lines.\n", "program": b"\x7fELF\x02\x01\x01" + bytes(100),
            "page": b"<!DOCTYPE html><title>404</title><p>Not found\n"}


def _not_files():
    yield "a folder", partial(_replace, os.mkdir)
    yield "an endless device", partial(_replace, partial(os.symlink, "/dev/zero"))
    yield "a pipe that nobody writes to", partial(_replace, os.mkfifo)
    yield "a link to itself", partial(_replace, lambda path: os.symlink(os.path.basename(path), path))


def _replace(make, path):
    os.remove(path)
    make(path)


def _write(*parts):
    def apply(path):
        with open(path, "wb") as file:
            file.writelines(parts)
    apply.parts = parts
    return apply
