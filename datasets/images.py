"""Encoded images: checked, decoded to the RGB planes that networks take, and brought to one size."""
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
