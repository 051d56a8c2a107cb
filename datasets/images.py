"""Encoded images: checked, decoded to the RGB planes that networks take, and brought to one size."""
import struct

import cv2
import numpy as np

from common.errors import DataError, UserError
from common.files import read_bytes

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


class UnreadableImage(DataError):
    """An image that cannot be read or decoded; one that is only of another size is a plain DataError."""


def parse_image_size(text):
    """'112,112' (height, width in pixels) as (112, 112). Raises UserError for anything else."""
    fields = text.replace(" ", "").split(",")
    if len(fields) != 2 or not all(field.isdecimal() and int(field) > 0 for field in fields):
        raise UserError(f"image size {text!r}; expected height,width in pixels, such as 112,112")
    return int(fields[0]), int(fields[1])


def read_image(path):
    """The bytes of an image file. Raises UnreadableImage where it cannot be read."""
    try:
        return read_bytes(path)
    except DataError as error:
        raise UnreadableImage(str(error)) from error


def decode_bgr(data, where):
    """Decode an image. data: bytes; where: what a message calls it. Returns (H, W, 3) uint8, BGR.

    Raises UnreadableImage.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # no bytes at all, or more pixels than OpenCV accepts
        image = None
    # older OpenCV fills what a JPEG lost at its end with grey, and says nothing
    if image is None or _is_jpeg(data) and data.rfind(_JPEG_END) < 0:
        raise UnreadableImage(f"{where}: the image ({len(data)} bytes) cannot be decoded; is it damaged?")
    return image


def _is_jpeg(data):
    return data.startswith(_JPEG_START)


def suffix_of(data, where):
    """The suffix that a file of these bytes gets: .jpg, .png, .bmp or .webp. Raises UnreadableImage for others."""
    kinds = {".jpg": _is_jpeg(data), ".png": data.startswith(b"\x89PNG"), ".bmp": data.startswith(b"BM"),
             ".webp": data.startswith(b"RIFF") and data[8:12] == b"WEBP"}
    found = [suffix for suffix, fits in kinds.items() if fits]
    if not found:
        raise UnreadableImage(f"{where}: begins with {data[:8]!r}, as no JPEG, PNG, BMP or WebP does; is it damaged?")
    return found[0]


def announced_size(data, where):
    """The (height, width) that an image's header announces, in pixels; nothing is decoded.

    data: bytes of a JPEG, PNG, BMP or WebP. Raises UnreadableImage for others, and for a header that is cut short.
    """
    suffix = suffix_of(data, where)
    try:
        return {".jpg": _jpeg_size, ".png": _png_size, ".bmp": _bmp_size, ".webp": _webp_size}[suffix](data)
    except (struct.error, IndexError, ValueError) as error:
        raise UnreadableImage(f"{where}: the image ({len(data)} bytes) has no whole header; is it damaged?") from error


def _jpeg_size(data):
    """Of the first start-of-frame segment (ITU-T T.81, sections B.1.1 and B.2.2)."""
    place = 2
    while True:
        place = data.index(b"\xff", place) + 1
        marker = data[place]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack_from(">HH", data, place + 4)
        if marker not in (0x00, 0x01, 0xFF) and not 0xD0 <= marker <= 0xD8:  # all others say how long they are
            place += 1 + struct.unpack_from(">H", data, place + 1)[0]


def _png_size(data):
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _bmp_size(data):
    width, height = struct.unpack_from("<HH" if struct.unpack_from("<I", data, 14)[0] == 12 else "<ii", data, 18)
    return abs(height), width  # below zero: the rows stand from top to bottom


def _webp_size(data):
    """Of the three forms of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[place:place + 3], "little") + 1 for place in (24, 27))
        struct.unpack_from("<HHH", data, 24)  # that both are there
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return height, width


def check_shape(image, image_shape, where, advice=""):
    """Raise DataError, ending in `advice`, when an (H, W, 3) image is not of image_shape (height, width)."""
    if image.shape[:2] != tuple(image_shape):
        raise DataError(f"{where}: the image is {_size(image.shape)}; expected {_size(image_shape)} (height x width)"
                        + advice)


def _size(shape):
    return f"{shape[0]}x{shape[1]}"


def decode_into(planes, data, where, change=None):
    """Decode an image into planes, (3, H, W) uint8 RGB; change: a function on the image, (H, W, 3) uint8 BGR.

    The OpenCV calls used here run in the calling thread alone, so that a pool of threads may call this.
    Raises UnreadableImage, and DataError for an image of another size.
    """
    image = decode_bgr(data, where)
    check_shape(image, planes.shape[1:], where)
    if change is not None:
        image = change(image)
    red, green, blue = planes
    cv2.split(image, [blue, green, red])


def to_jpeg(data, image_shape, where, quality=95, resize=False):
    """Make an encoded image fit for a training set.

    data: bytes of an image in any format. A JPEG of the right size is given back as it is. quality: of a JPEG encoded
    anew, 1 to 100; resize: bring another size to image_shape (height, width), aspect ratio kept, the rest cut off
    evenly. Returns bytes. Raises UnreadableImage, and DataError for an image of another size without `resize`.
    """
    image = decode_bgr(data, where)
    if image.shape[:2] == tuple(image_shape) and _is_jpeg(data):
        return data
    if resize:
        image = cover(image, *image_shape)
    check_shape(image, image_shape, where, "; align the faces to one size, or resize them with --resize")
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def cover(image, height, width):
    """The middle of an image (H, W, 3) as large as the shape allows, resized to (height, width, 3)."""
    scale = max(height / image.shape[0], width / image.shape[1])
    size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top:top + height, left:left + width]
