"""Files of images and features, each with the wrong sizes and the attacks that are its own."""
import io
import os
import pickle
import re
import struct
import tarfile
import zlib

import numpy as np
from damages import Form, nothing, patched

BEHIND = "what lies behind the last record of the index is not read; the doctor tells"
OWN_NUMBER = "readers go by the index, not by the number in the record; the doctor warns"
PIXELS = "the bytes of an image may be any that decode"
NUMBERS_OF = "a number may be any that is finite"


def _frames(data):
    """Where frames begin."""
    starts = []
    while (starts[-1] if starts else 0) < len(data):
        start = starts[-1] if starts else 0
        length = struct.unpack_from("<I", data, start + 4)[0] & (1 << 29) - 1
        starts.append(start + 8 + length + -length % 4)
    return [0, *starts[:-1]]


def _label_count(data, start):
    return struct.unpack_from("<I", data, start + 8)[0]


def _records_hostile(data, canary):
    starts, made = _frames(data), {}
    for name, start in (("first", starts[0]), ("an image's", starts[len(starts) // 3]), ("the last", starts[-1])):
        for value in ((1 << 29) - 1, 1 << 28, 0, 3 << 29, 7 << 29 | 100):
            made[f"{name} record of length word {value:#x}"] = patched(data, start + 4, "I", value)
        for value in ((1 << 32) - 1, 1 << 20, 3):
            made[f"{name} record with {value} labels"] = patched(data, start + 8, "I", value)
        for place in [start + 32 + 4 * number for number in range(_label_count(data, start))] or [start + 12]:
            for value in (float("nan"), float("inf"), -1, 0.5, 1e30, 2.0 ** 24, 1e6):
                made[f"{name} record of label {value:g} at byte {place}"] = patched(data, place, "f", value)
        made[f"{name} record of number 2^63"] = patched(data, start + 16, "Q", 1 << 63)
    return made


def _records_sizes(data, canary):
    start, end = [*_frames(data), len(data)][1:3]
    return {"an image of another size": data[:start + 32] + _png(32, 32).ljust(end - start - 32, b"\0") + data[end:]}


def _records_free(data):
    for start, end in zip(_frames(data), [*_frames(data)[1:], len(data)]):
        yield start + (12 if _label_count(data, start) else 16), start + 32, OWN_NUMBER  # one label, not used
        if not _label_count(data, start):
            yield start + 32, end, PIXELS


RECORDS = Form("records", _records_sizes, _records_hostile, _records_free, {
    "wrong size: twice": BEHIND, "wrong size: 64": BEHIND,
    **{f"hostile: {name} record of number": OWN_NUMBER for name in ("first", "an image's", "the last")}})
CHECKSUMS = Form("checksums", nothing, lambda data, canary: {"a huge length": data[:12] + b"\xff" * 40 + data[52:]})


# Packs


class Runs:
    """Pickled, it makes a file when it is read."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def _pack_hostile(data, canary):
    images, labels = pickle.loads(data)
    runs = {"os.system": Runs(os.system, f"touch {canary}"), "open": Runs(open, str(canary), "w"),
            "eval": Runs(eval, f"open({str(canary)!r}, 'w')"), "os.mkdir": Runs(os.mkdir, str(canary))}
    made = {f"runs {name}, protocol {protocol}": pickle.dumps((images, [bad, *labels[1:]]), protocol)
            for name, bad in runs.items() for protocol in (0, 2, 4)}
    made["runs code, in place of all"] = pickle.dumps(runs["os.system"])
    shared = [0]
    for _ in range(30):
        shared = [shared] * 10
    values = {"labels nested a billionfold": (images, shared), "an int of a million digits": (images, [1 << 3000000]),
              "images that are numbers": (list(range(40)), labels), "labels that are text": (images, ["a"] * 20),
              "labels of nan": (images, [float("nan")] * 20), "an object": (images, np.array([None] * 20)),
              "labels of 2": (images, [2] * 20), "no pair": ([], []), "all genuine": (images, [True] * 20),
              "empty images": ([b""] * 40, labels), "a dict": dict(zip(range(20), labels))}
    made.update({name: pickle.dumps(value, 4) for name, value in values.items()})
    large, larger = (struct.pack("<Q", size) for size in (1 << 40, 1 << 60))
    for name, code in {"bytes of 2^40": b"\x8e" + large, "text of 2^31": b"X\xff\xff\xff\x7f",
                       "an int of 2^31 bytes": b"\x8b\xff\xff\xff\x7f", "a frame of 2^60": b"\x95" + larger,
                       "a memo at 2^32": b"Nr\xff\xff\xff\xff", "a bytearray of 2^40": b"\x96" + large,
                       "a million marks": b"(" * 1000000, "nested deeply": b"(" * 3000 + b"t" * 3000,
                       "no stack": b"0" * 10, "an extension": b"\x82\x01."}.items():
        made[name] = b"\x80\x05" + code
    return made


PICKLE_END = "a pickle tells its own end"
PACK = Form("pickle", lambda data, canary: {
    "an image less": pickle.dumps((pickle.loads(data)[0][:-1], pickle.loads(data)[1])),
    "a label less": pickle.dumps((pickle.loads(data)[0], pickle.loads(data)[1][:-1])),
    "an image of another size": pickle.dumps(([_png(32, 32), *pickle.loads(data)[0][1:]], pickle.loads(data)[1]))},
    _pack_hostile, lambda data: [(place, place + len(image), PIXELS) for image in pickle.loads(data)[0]
                                 for place in [data.index(image)]],
    {"wrong size: twice": PICKLE_END, "wrong size: 64": PICKLE_END})


# Images

def _png(width, height, depth=8, colour=2, body=None):
    """A PNG that says it has this size."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    if body is None:
        body = zlib.compress((b"\0" + bytes(width * {0: 1, 2: 3, 6: 4}[colour] * depth // 8)) * height, 1)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
            + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def _bmp(width, height):
    return b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, width, height, 1, 24) + bytes(124)


def _image_hostile(data, canary):
    jpeg = re.sub(rb"(\xff\xc0\x00\x11\x08)....", lambda found: found[1] + b"\xff\xfa\xff\xfa", data, flags=re.DOTALL)
    huge = zlib.compress(bytes(1 << 20), 9)
    return {"a PNG of 30000 x 30000": _png(30000, 30000, body=huge), "a JPEG of 65530 x 65530": jpeg,
            "a PNG of 2^31 x 2^31": _png((1 << 31) - 1, (1 << 31) - 1, body=huge),
            "a PNG of 1000000 x 1": _png(1000000, 1), "a PNG of 0 x 0": _png(0, 0, body=b""),
            "a BMP of 30000 x 30000": _bmp(30000, 30000), "a BMP of less than 0": _bmp(-5, -1 << 31),
            "a link in its place": b"/etc/passwd", "a page": b"<svg xmlns='http://www.w3.org/2000/svg'></svg>"}


IMAGE_END = "an image tells its own end"
IMAGE = Form("image", lambda data, canary: {"1 x 1": _png(1, 1), "32 x 32": _png(32, 32), "16 x 17": _png(16, 17)},
             _image_hostile, lambda data: [(0, len(data), PIXELS)], {
                 "wrong size: (twice|64)": IMAGE_END, "wrong type: png": "its content counts, not its name"})


# Features

def _feature_hostile(data, canary):
    made = {f"header of {values}": patched(data, 0, "4i", *values) for values in (
        ((1 << 31) - 1, 1, 4, 5), (-1, 1, 4, 5), (0, 1, 4, 5), (8, 2, 4, 5), (8, 1, 8, 6), (1 << 28, 1, 4, 5))}
    for value in (float("nan"), float("inf"), 1e38):
        made[f"a number {value}"] = patched(data, 16, "f", value)
    return {**made, "zeros": data[:16] + bytes(len(data) - 16)}


FEATURE = Form("feature", lambda data, canary: {"a number less": struct.pack("<i", 7) + data[4:-4]}, _feature_hostile,
               lambda data: [(16, len(data), NUMBERS_OF)])


# Tar files

def _tar(*members, **how):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **how) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _member(name, size=0, **more):
    member = tarfile.TarInfo(name)
    member.size = size
    for key, value in more.items():
        setattr(member, key, value)
    return member


def _tar_hostile(data, canary):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        first = tar.next()
        image = tar.extractfile(first).read()
    sample = [(_member("a.jpg", len(image)), image), (_member("a.cls", 1), b"0")]
    made = {}
    for name in ("../../escaped", "/tmp/escaped", "..", "a/../../../b", "n" * 5000, "\x1b[2J", "a\nb"):
        made[f"a member {name!r}"[:60]] = _tar((_member(f"{name}.jpg", len(image)), image),
                                               (_member(f"{name}.cls", 1), b"0"))
    for name, more in {"a link": dict(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
                       "a hard link": dict(type=tarfile.LNKTYPE, linkname="../../escaped"),
                       "a device": dict(type=tarfile.CHRTYPE, devmajor=1, devminor=5),
                       "a pipe": dict(type=tarfile.FIFOTYPE), "an unknown type": dict(type=b"Q"),
                       "a sparse file": dict(type=tarfile.GNUTYPE_SPARSE)}.items():
        made[name] = _tar((_member("a.jpg", **more), b""), sample[1])
    made["headers of 2^40 bytes"] = _tar(*sample, format=tarfile.PAX_FORMAT, pax_headers={"size": str(1 << 40)})
    made["a long name of 2^30 bytes"] = _huge_header(b"L")
    made["an extended header of 2^30 bytes"] = _huge_header(b"x")
    made["no class"] = _tar(sample[0])
    made["two images"] = _tar(sample[0], (_member("a.png", len(image)), image), sample[1])
    for label in (b"-1", b"9" * 30, b"1e9", b"nan", b"16777216", b"\xd9\xa3", b""):
        made[f"class {label[:10]!r}"] = _tar(sample[0], (_member("a.cls", len(label)), label))
    return made


def _huge_header(kind):
    header = bytearray(_member("x", 1 << 30, type=kind).tobuf(tarfile.USTAR_FORMAT))
    return bytes(header) + bytes(1024)


def _tar_free(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            end = member.offset_data + member.size
            if not member.name.endswith(".cls"):
                yield member.offset_data, end, PIXELS
            yield end, end + -end % 512, "what fills up a block is not read"
        yield tar.offset, len(data), "what lies behind the end is not read"


TAR = Form("tar", nothing, _tar_hostile, _tar_free, {
    "missing": "shards are those that are there", "wrong size: (twice|64)": "a tar file tells its own end",
    "truncated": "only zeros behind the end are missing",
    "hostile: a member": "a name is a key and leads nowhere: nothing is unpacked"})
