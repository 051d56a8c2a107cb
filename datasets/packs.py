"""Verification packs (`lfw.bin`): a pickle of 2N encoded images and N labels; images 2i and 2i + 1 are pair i.

A pickle can run any code when it is read. The reader here builds bytes, numbers, lists and the raw content of NumPy
arrays, and refuses everything else.
"""
import io
import pickle
import re
import reprlib
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.files import read_bytes, replacing
from datasets.images import decode_into


class Pack:
    """Pairs of images to verify.

    name: of the file, without its suffix; images: list of 2N encoded images (bytes); issame: (N,) bool, whether
    images 2i and 2i + 1 show the same identity; image_shape: (height, width) that every image must have.
    """

    def __init__(self, path, images, issame, image_shape):
        self.path, self.name = Path(path), Path(path).stem
        self.files = [self.path]
        self.images, self.issame, self.image_shape = images, issame, tuple(image_shape)

    def decode(self, start, stop):
        """Decode images start to stop - 1; see `decode_these`."""
        return self.decode_these(range(*slice(start, stop).indices(len(self.images))))

    def decode_these(self, numbers):
        """Decode the images with these numbers. Returns (n, 3, H, W) uint8 RGB.

        Raises DataError, with the image's number, where one cannot be decoded or is of another size.
        """
        planes = np.empty((len(numbers), 3, *self.image_shape), np.uint8)
        for row, number in enumerate(numbers):
            decode_into(planes[row], self.images[number], f"{self.path} image {number}")
        return planes

    def distinct(self):
        """The numbers of the images to embed, (M,): of those that are the same, byte for byte, the first.

        LFW's 12,000 images are 7,701 different ones.
        """
        return np.array([number for _, number in self._seen().values()], np.int64)

    def _seen(self):
        """Place among the distinct images, and number, of each of them."""
        seen = {}
        for number, image in enumerate(self.images):
            seen.setdefault(image, (len(seen), number))
        return seen

    def of_pairs(self, values):
        """What the images of the pairs have: (2N, ...), of the values (M, ...) of the distinct images."""
        seen = self._seen()
        return values[[seen[image][0] for image in self.images]]

    def pair(self, number):
        """The two images of a pair, (2, 3, H, W) uint8 RGB."""
        return self.decode(2 * number, 2 * number + 2)


def load_pack(path, image_shape=(112, 112)):
    """Read a verification pack, written under Python 2 or 3. Images stay encoded until Pack.decode.

    image_shape: (height, width) that its images must have. Returns a Pack.
    Raises DataError for a file that is missing, cut short or no such pack, and for 2N images without N labels.
    """
    data = read_bytes(path)
    if not data:
        raise DataError(f"{path}: the file is empty; expected a verification pack")
    images, issame = _unpickle(path, data)
    images = [_image_bytes(path, number, image) for number, image in enumerate(images)]
    issame = _bools(path, issame)
    if not images or len(images) % 2:
        raise DataError(f"{path}: {len(images)} images; expected two for each pair")
    if len(images) != 2 * len(issame):
        raise DataError(f"{path}: {len(issame)} labels for {len(images)} images: expected {len(images) // 2}")
    return Pack(path, images, issame, image_shape)


def read_pack_parts(path):
    """Read what can be read of a pack, for an examination that must not stop at one bad image or label.

    Returns (images, labels): a list of bytes, None for what is no image, and a list of bool, None for what is no label.
    Raises DataError for a file that is missing or no pickle of two lists.
    """
    data = read_bytes(path)
    images, issame = _unpickle(path, data)
    try:
        labels = _items(issame)
    except Exception as error:  # see _bools
        raise DataError(f"{path}: labels that cannot be read: {error}") from error
    return ([_attempt(_image_bytes, path, number, image) for number, image in enumerate(images)],
            [_attempt(lambda path, label: bool(_bools(path, [label])[0]), path, label) for label in labels])


def _attempt(read, *args):
    try:
        return read(*args)
    except DataError:
        return None


def write_pack(path, images, issame):
    """Write a verification pack as the original reads it; whole or not at all.

    images: list of 2N encoded images (bytes); issame: N truth values.
    Raises UserError where the system refuses to write, ValueError when the lengths do not fit.
    """
    images, issame = list(images), [bool(same) for same in issame]
    if len(images) != 2 * len(issame):
        raise ValueError(f"{len(issame)} labels for {len(images)} images: expected {len(images) / 2:g}")
    with replacing(path) as temporary, open(temporary, "wb") as file:
        pickle.dump((images, issame), file, protocol=4)


class _Raw:
    """What a pickled array or NumPy scalar holds: `data`, bytes or list, of the type `dtype`, a str."""

    def __init__(self, *args):
        """The pickle's own arguments (array class, shape, order) do not matter here."""

    def __setstate__(self, state):
        _, dtype, _, self.data = state[-4:]
        self.dtype = dtype.name

    def values(self):
        """The numbers, or the list's items."""
        if isinstance(self.data, list):
            return self.data
        if not re.fullmatch("[biu][1248]|bool|u?int(8|16|32|64)", self.dtype):
            raise ValueError(f"an array of type {self.dtype}")
        return np.frombuffer(self.data, self.dtype).tolist()


class _RawScalar(_Raw):
    """numpy.core.multiarray.scalar(dtype, data)"""

    def __init__(self, dtype, data):
        self.__setstate__((None, dtype, None, data))


class _RawBuffer(_Raw):
    """numpy.core.numeric._frombuffer(data, dtype, shape, order), of pickle protocol 5"""

    def __init__(self, data, dtype, *_):
        self.__setstate__((None, dtype, None, bytes(data)))


class _Dtype:
    """numpy.dtype(name, align, copy)"""

    def __init__(self, name, *_):
        self.name = name.decode("ascii") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state):
        """Byte order and the like: of no matter for bytes and truth values."""


class _Bytes(bytes):
    """Bytes under protocol 0 to 2 of Python 3: bytes(), bytearray(text, 'latin-1'), _codecs.encode(text, 'latin1')"""

    def __new__(cls, text="", *_):
        return bytes(text) if isinstance(text, (bytes, bytearray)) else text.encode("latin-1")

    def __setstate__(self, state):
        raise ValueError("bytes with a state")


_CLASSES = {
    "numpy.core.multiarray._reconstruct": _Raw,
    "numpy.core.multiarray.scalar": _RawScalar,
    "numpy.core.numeric._frombuffer": _RawBuffer,
    "numpy.ndarray": _Raw,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _Bytes,
    "builtins.bytes": _Bytes,
    "builtins.bytearray": _Bytes,
}


class _PackUnpickler(pickle._Unpickler):
    """The unpickler in Python, not the one in C: that one sets aside up to 64 GB when a few bytes tell it to.

    Every class it knows is one of this module, each with a __setstate__, so that a pickle cannot change them either.
    """

    def find_class(self, module, name):
        """The stand-in for a class or function that the pickle names."""
        spelled = f"{module}.{name}".replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
        if spelled not in _CLASSES:
            raise DataError(f"it asks for {module}.{name}, which no verification pack needs; nothing of it was run")
        return _CLASSES[spelled]


def _unpickle(path, data):
    try:
        images, issame = _PackUnpickler(io.BytesIO(data), encoding="bytes").load()
        return _items(images), issame
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except EOFError as error:
        raise DataError(f"{path}: the file ends in the middle of the pack; is it cut short?") from error
    except Exception as error:  # damaged pickles raise nearly everything that Python has
        raise DataError(f"{path}: not a verification pack, which is a pickle of (images, labels): "
                        f"{type(error).__name__}: {error}"[:300]) from error


def _items(value):
    if isinstance(value, _Raw):
        value = value.values()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"a {type(value).__name__} instead of a list")
    return value


def _image_bytes(path, number, image):
    if isinstance(image, _Raw) and isinstance(getattr(image, "data", None), bytes):
        image = image.data
    if not isinstance(image, (bytes, bytearray)):
        raise DataError(f"{path} image {number}: found a {type(image).__name__}; expected the bytes of an image")
    return bytes(image)


def _bools(path, issame):
    try:
        values = [_items(value)[0] if isinstance(value, _RawScalar) else value for value in _items(issame)]
    except Exception as error:  # arrays of another type, without content, of a wrong length
        raise DataError(f"{path}: labels that cannot be read: {error}") from error
    wrong = [value for value in values if value not in (0, 1)]
    if wrong:
        is_large = isinstance(wrong[0], int) and wrong[0].bit_length() > 64  # such as Python refuses to print
        told = f"of {wrong[0].bit_length()} bits" if is_large else reprlib.repr(wrong[0])
        raise DataError(f"{path}: found the label {told}; expected True or False")
    return np.array(values, bool)
