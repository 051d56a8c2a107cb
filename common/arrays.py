"""Arrays in .npy and .npz files, opened without trust in what their headers say."""
import io
import os
import zipfile

import numpy as np

from common.errors import DataError
from common.files import open_plain, read_bytes

_MOST_PACKED = 8  # times the size of its file that contents may have; numbers that were trained are hardly packed


def open_array(path, shape, kinds="f"):
    """Map an array of a .npy file into memory, so that only what is looked at is read.

    shape: that it must have, with None for any length; kinds: letters of NumPy's kinds of numbers that it may be of.
    Raises DataError for a missing or damaged file and for another shape or type. Objects, which could run code, are
    never read.
    """
    open_plain(path).close()
    try:
        found = np.load(str(path), mmap_mode="r", allow_pickle=False)
        found_shape, found_type = found.shape, found.dtype
    except Exception as error:  # damaged headers raise nearly everything that Python has
        raise DataError(f"{path}: not an array in NumPy's form: {type(error).__name__}: {error}"[:300]) from error
    fits = len(found_shape) == len(shape) and all(want in (None, size) for want, size in zip(shape, found_shape))
    if not fits or found_type.kind not in kinds or not found.flags.c_contiguous:
        told = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(f"{path}: {found_type} of shape {found_shape}; expected shape ({told}) of kind {kinds!r}, row "
                        "by row")
    size = os.path.getsize(path)
    if size != found.offset + found.nbytes:
        raise DataError(f"{path}: {size} bytes; its header announces {found.offset + found.nbytes}")
    return found


def read_npz(path, otherwise="not arrays in NumPy's form"):
    """Read a .npz file: dict name -> array.

    otherwise: what a message says of a file that is none. Raises DataError for a missing or damaged file, and for one
    that comes to far more than its size. Objects, which could run code, are never read.
    """
    data = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            check_packing(sum(entry.file_size for entry in file.infolist()), len(data))
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # damaged files raise nearly everything that Python has
        kind = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
        raise DataError(f"{path}: {otherwise}: {kind}{error}"[:300]) from error


def check_packing(announced, size):
    """Raise DataError where a file of `size` bytes announces contents far beyond them, which would fill the memory."""
    if announced > _MOST_PACKED * size:
        raise DataError(f"its {size} bytes announce {announced} of numbers; expected at most {_MOST_PACKED} times as "
                        "many")


def open_rows(path, dtype, shape, done):
    """Open a .npy file of its final shape to append behind the first `done` rows; begun where that is 0.

    Raises DataError where it does not hold these rows.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, dict(descr=np.dtype(dtype).str, fortran_order=False, shape=shape))
    header = header.getvalue()
    row = int(np.prod(shape[1:], initial=np.dtype(dtype).itemsize))
    size, full = len(header) + done * row, len(header) + shape[0] * row
    if done or os.path.exists(path):
        with open_plain(path) as file:  # neither a pipe nor a device is written to
            whole = file.read(len(header)) == header and size <= os.fstat(file.fileno()).st_size <= full
            if done and not whole:
                raise DataError(f"{path}: damaged: expected {done} to {shape[0]} rows of shape {shape[1:]} and type "
                                f"{dtype}")
    file = open(path, "r+b" if done else "wb")
    if not done:
        file.write(header)
    file.truncate(size)
    file.seek(size)
    return file
