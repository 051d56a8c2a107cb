"""The size that an image's header announces, against what OpenCV decodes."""
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.images import UnreadableImage, announced_size

FORMS = {"jpg": (".jpg", []), "progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
         "restarts": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]), "png": (".png", []), "bmp": (".bmp", []),
         "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]), "lossless": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101])}


def encode(form, height, width, channels=3, seed=0):
    image = np.random.RandomState(seed).randint(0, 256, (height, width, channels)).astype(np.uint8)
    suffix, settings = FORMS[form]
    return cv2.imencode(suffix, image, settings)[1].tobytes()


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_announced_is_decoded(form, height, width):
    data = encode(form, height, width)
    assert announced_size(data, "x") == (height, width) == cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape[:2]


def test_further_forms():
    assert announced_size(encode("png", 20, 31, 4), "x") == (20, 31)
    transparent = encode("webp", 20, 31, 4)
    assert b"VP8X" in transparent[:16] and announced_size(transparent, "x") == (20, 31)
    old = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 31, 20, 1, 24)
    assert announced_size(old, "x") == (20, 31)
    downwards = b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 31, -20, 1, 24)
    assert announced_size(downwards, "x") == (20, 31)


def test_segments_before_the_frame():
    """Comments that hold a false start of a frame, and fill bytes between the segments."""
    data = encode("jpg", 20, 31)
    comment = b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff"
    longer = data[:2] + b"\xff\xff\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]
    assert announced_size(longer, "x") == (20, 31)
    assert cv2.imdecode(np.frombuffer(longer, np.uint8), 1).shape == (20, 31, 3)


@pytest.mark.parametrize("form", FORMS)
def test_cut_short(form):
    data = encode(form, 20, 31)
    for length in range(0, 40):
        try:
            assert announced_size(data[:length], "x") == (20, 31)
        except UnreadableImage as error:
            assert str(error).startswith("x: ")


@settings(deadline=None)
@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF0000WEBPVP8 ", b"RIFF0000WEBPVP8X", b""]),
       st.binary(max_size=60))
def test_anything_else(start, rest):
    try:
        height, width = announced_size(start + rest, "x")
        assert height >= 0 and isinstance(width, int)
    except UnreadableImage as error:
        assert str(error).startswith("x: ")
