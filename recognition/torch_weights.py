"""PyTorch weights without PyTorch: `.pth` files in both of their forms, `.safetensors`, `.npz`.

A `.pth` file holds a pickle, and a pickle can run any code when it is read. The reader here builds dicts, lists,
numbers and the description of tensors, and refuses everything else.
"""
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.arrays import check_packing, read_npz
from common.errors import DataError
from common.files import read_bytes

_MAGIC = 0x1950A86A20F9469CFC6C  # what a file from before PyTorch 1.6 begins with, as a pickled number
_BFLOAT16 = "bfloat16"  # NumPy has no such type
_STORAGES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": _BFLOAT16, "Byte": "u1", "Char": "i1",
             "Short": "<i2", "Int": "<i4", "Long": "<i8", "Bool": "?"}
_SAFE_TENSORS = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": _BFLOAT16, "U8": "u1", "I8": "i1", "I16": "<i2",
                 "I32": "<i4", "I64": "<i8", "BOOL": "?"}
_WRAPPERS = ("state_dict_backbone", "state_dict", "model", "backbone")  # under which trainings keep the network's dict


def read_tensors(path):
    """Read a state dict. Returns dict name -> array, float32 where the tensor is of floating point numbers.

    path: of a .pth or .pt file (of `torch.save`, whatever the suffix), .safetensors or .npz. Of a whole training's
    checkpoint the network's dict is taken, and a prefix that all names share, such as 'module.', is left out.
    Raises DataError for a file that is missing, damaged or holds something else, with nothing of it run.
    """
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    try:
        tensors = readers.get(Path(path).suffix.lower(), _read_pickled)(path)
    except DataError:
        raise
    except EOFError as error:
        raise DataError(f"{path}: the file ends in the middle; is it cut short?") from error
    except Exception as error:  # damaged files raise nearly everything that Python has
        raise DataError(f"{path}: cannot be read as weights: {type(error).__name__}: {error}"[:300]) from error
    return _without_prefix(tensors)


def _without_prefix(tensors):
    while True:
        prefixes = {name.partition(".")[0] for name in tensors}
        if len(prefixes) != 1 or not all("." in name for name in tensors):
            return tensors
        tensors = {name.partition(".")[2]: array for name, array in tensors.items()}


def _numbers(data, kind):
    """Bytes as a flat array; floating point numbers as float32."""
    if kind == _BFLOAT16:  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    numbers = np.frombuffer(data, kind)
    return numbers.astype(np.float32) if numbers.dtype.kind == "f" else numbers


def _read_npz(path):
    arrays = read_npz(path)
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{path}: array {name!r} is of {array.dtype}; expected numbers")
    return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in arrays.items()}


def _read_safetensors(path):
    """https://github.com/huggingface/safetensors: the length of a JSON header, the header, the numbers."""
    data = memoryview(read_bytes(path))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]).decode())
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    _check_spans([entry["data_offsets"] for entry in entries.values()], len(data) - start)
    return {name: _safe_tensor(data[start:], **entry) for name, entry in entries.items()}


def _safe_tensor(data, dtype, shape, data_offsets):
    first, end = data_offsets
    return _numbers(data[first:end], _SAFE_TENSORS[dtype]).reshape(shape)


def _check_spans(spans, size):
    """Raise ValueError unless tensors lie one behind the other in `size` bytes, with nothing between or behind them."""
    place = 0
    for first, end in sorted(spans):
        if first != place or end < first:
            raise ValueError(f"numbers at {first} to {end}, where those before end at {place}")
        place = end
    if place != size:
        raise ValueError(f"numbers of {place} bytes; the file has {size}")


class _Stored:
    """What a pickle may name: every class of this module that it can reach has a __setstate__ that refuses, so that a
    pickle cannot change it."""

    def __setstate__(self, state):
        raise ValueError("a state where there should be none")


class _Kind(_Stored):
    """The type of a storage, such as torch.FloatStorage."""

    def __init__(self, dtype):
        self.dtype = dtype


class _Storage(NamedTuple):
    key: str
    dtype: str


class _Tensor(_Stored):
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)"""

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)

    def count(self):
        """How many numbers it has; tensors may share those of a storage."""
        return max(0, int(np.prod(self.size, dtype=object)))

    def array(self, numbers):
        """The tensor's numbers out of its storage's."""
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.size, self.stride))
        count = self.count()
        if len(self.size) != len(self.stride) or min(self.offset, *self.size, *self.stride, 0) < 0 or (
                count > len(numbers) or count and last >= len(numbers)):
            raise ValueError(f"a tensor of shape {self.size} in {len(numbers)} numbers")
        strides = [stride * numbers.itemsize for stride in self.stride]
        return np.lib.stride_tricks.as_strided(numbers[self.offset:], self.size, strides).copy()


class _Parameter(_Stored):
    """torch._utils._rebuild_parameter(data, requires_grad, hooks): the tensor itself"""

    def __new__(cls, tensor, *_):
        return tensor


class _Dict(dict):
    """collections.OrderedDict; what PyTorch keeps beside its items does not matter"""

    def __setstate__(self, state):
        """Nothing of it is kept."""


_CLASSES = {"collections.OrderedDict": _Dict, "torch._utils._rebuild_tensor_v2": _Tensor,
            "torch._utils._rebuild_parameter": _Parameter}


class _WeightsUnpickler(pickle._Unpickler):
    """The unpickler in Python: the one in C sets aside gigabytes when a few bytes tell it to."""

    def find_class(self, module, name):
        """The stand-in for a class or function that the pickle names."""
        if module == "torch" and name.endswith("Storage") and name[:-7] in _STORAGES:
            return _Kind(_STORAGES[name[:-7]])
        if f"{module}.{name}" not in _CLASSES:
            raise DataError(f"it asks for {module}.{name}, which no state dict needs; nothing of it was run. Save the "
                            "network's state_dict() alone")
        return _CLASSES[f"{module}.{name}"]

    def persistent_load(self, pid):
        """A storage, of which the pickle has no more than the name."""
        word, kind, key = pid[:3]
        if word != "storage" or not isinstance(kind, _Kind):
            raise ValueError(f"a reference to {word!r}")
        return _Storage(str(key), kind.dtype)


def _read_pickled(path):
    data = read_bytes(path)
    try:
        found, storage = (_open_zip if data[:2] == b"PK" else _open_legacy)(data)
        return _arrays(found, storage, len(data))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _arrays(found, storage, size):
    """The tensors of what was pickled, as arrays. storage: callable, _Storage -> its bytes; size: of the file."""
    for name in _WRAPPERS:
        found = found[name] if isinstance(found.get(name), dict) else found
    tensors = {str(name): value for name, value in found.items() if isinstance(value, _Tensor)}
    if not tensors:
        raise DataError(f"holds no tensors by name; its keys are: {', '.join(map(str, list(found)[:8]))}")
    check_packing(sum(map(_Tensor.count, tensors.values())), size)
    kept = {}
    for tensor in tensors.values():
        if tensor.storage.key not in kept:
            kept[tensor.storage.key] = _numbers(storage(tensor.storage), tensor.storage.dtype)
    return {name: tensor.array(kept[tensor.storage.key]) for name, tensor in tensors.items()}


def _open_zip(data):
    """PyTorch from 1.6 on. Returns what is pickled, and a callable, _Storage -> its bytes."""
    file = zipfile.ZipFile(io.BytesIO(data))
    names = [name for name in file.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise DataError(f"a zip file with {len(names)} entries data.pkl; expected one, as torch.save writes it")
    folder = names[0][:-len("data.pkl")]

    def read(name):
        if file.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise DataError(f"its entry {name} is compressed, as torch.save writes none")
        return file.read(name)

    if f"{folder}byteorder" in file.namelist() and read(f"{folder}byteorder") != b"little":
        raise DataError("its numbers are big-endian; expected little-endian ones")
    return _unpickled(io.BytesIO(read(names[0]))), lambda storage: read(f"{folder}data/{storage.key}")


def _open_legacy(data):
    """PyTorch before 1.6: pickles one after the other, then the storages: how many numbers, and the numbers."""
    file = io.BytesIO(data)
    if _WeightsUnpickler(file).load() != _MAGIC:
        raise DataError("not written by torch.save")
    for _ in range(2):  # version of the form, description of the machine
        _WeightsUnpickler(file).load()
    found, places = _unpickled(file), {}
    keys = _WeightsUnpickler(file).load()
    sizes = {kind: 2 if kind == _BFLOAT16 else np.dtype(kind).itemsize for kind in _STORAGES.values()}
    kinds = {tensor.storage.key: tensor.storage.dtype for tensor in _tensors(found)}
    for key in map(str, keys):
        count = int.from_bytes(file.read(8), "little")
        if key not in kinds:
            raise DataError(f"a storage {key} that no tensor names")
        places[key] = file.tell(), count * sizes[kinds[key]]
        file.seek(places[key][1], io.SEEK_CUR)

    def read(storage):
        first, size = places[storage.key]
        if first + size > len(data):
            raise EOFError
        return data[first:first + size]
    return found, read


def _tensors(value):
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(value, _Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _unpickled(file):
    found = _WeightsUnpickler(file).load()
    if not isinstance(found, dict):
        raise DataError(f"holds a {type(found).__name__} instead of a state dict; save the network's state_dict()")
    return found
