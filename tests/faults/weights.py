"""Weights of an iresnet18 as PyTorch and others store them, made without PyTorch."""
import io
import json
import pickle
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

EMB_SIZE = 2  # few, so that the files are small; and numbers of one byte each
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


class Named(str):
    """What a pickle names instead of holding it: 'module name'."""


class Call(tuple):
    """A call in a pickle: (Named, arguments)."""


class Stored(tuple):
    """A reference of a pickle to numbers beside it, as PyTorch writes it."""


class TorchPickler(pickle._Pickler):
    """Writes names, calls and references without looking for what they mean."""

    def persistent_id(self, obj):
        return tuple(obj) if isinstance(obj, Stored) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            self.write(pickle.GLOBAL + obj.replace(" ", "\n").encode() + b"\n")
        elif isinstance(obj, Call):
            for part in obj:
                self.save(part)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def pickled(value):
    """A value as PyTorch pickles it."""
    file = io.BytesIO()
    TorchPickler(file, 2).dump(value)
    return file.getvalue()


@lru_cache(None)
def state_dict():
    """An iresnet18: name -> array of int8, all that are not below zero."""
    shapes = dict(_layer("conv1", "bn1", 3, 64, 3), **{"prelu.weight": (64,)})
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for number in (0, 1):
            before = width if number or stage == 1 else width // 2
            name = f"layer{stage}.{number}"
            shapes.update(_norm(f"{name}.bn1", before), **_layer(f"{name}.conv1", f"{name}.bn2", before, width, 3),
                          **{f"{name}.prelu.weight": (width,)},
                          **_layer(f"{name}.conv2", f"{name}.bn3", width, width, 3))
            if not number:
                shapes.update(_layer(f"{name}.downsample.0", f"{name}.downsample.1", before, width, 1))
    shapes.update(_norm("bn2", 512), **{"fc.weight": (EMB_SIZE, 512 * 49), "fc.bias": (EMB_SIZE,)})
    shapes.update(_norm("features", EMB_SIZE))
    rng = np.random.RandomState(0)
    return {name: rng.randint(0, 100, shape).astype(np.int8) for name, shape in shapes.items()}


def _norm(name, width):
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}


def _layer(convolution, norm, before, width, kernel):
    return {f"{convolution}.weight": (width, before, kernel, kernel), **_norm(norm, width)}


def tensor(array, key, size=None, **changes):
    """A tensor in a pickle. changes: of its offset, shape and stride."""
    stride = tuple(step // array.itemsize for step in array.strides)
    told = dict(dict(offset=0, shape=array.shape, stride=stride), **changes)
    stored = Stored(("storage", Named("torch CharStorage"), str(key), "cpu", array.size if size is None else size))
    return Call((Named("torch._utils _rebuild_tensor_v2"),
                 (stored, told["offset"], told["shape"], told["stride"], False, {})))


def tensors(arrays):
    """Arrays as tensors of storages of their own, numbered from 0."""
    return {name: tensor(array, key) for key, (name, array) in enumerate(arrays.items())}


def zip_bytes(value, storages, compression=zipfile.ZIP_STORED):
    """A file of torch.save from PyTorch 1.6 on. storages: key -> bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in {"data.pkl": pickled(value), "byteorder": b"little", "version": b"3\n",
                           **{f"data/{key}": data for key, data in storages.items()}}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data, compression)
    return file.getvalue()


def legacy_bytes(value, storages):
    """A file of torch.save before PyTorch 1.6, of numbers of one byte."""
    parts = [pickled(part) for part in (MAGIC, VERSION, dict(little_endian=True), _legacy(value),
                                        [str(key) for key in storages])]
    return b"".join(parts + [struct.pack("<q", len(data)) + data for data in storages.values()])


def _legacy(value):
    """References of the older form have one part more."""
    if isinstance(value, Stored):
        return Stored((*value, None))
    if isinstance(value, dict):
        return {name: _legacy(part) for name, part in value.items()}
    return type(value)(map(_legacy, value)) if type(value) in (tuple, Call) else value


def safetensors_bytes(header, numbers):
    """A .safetensors file. header: what its JSON holds, or the text itself."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def safetensors_header(arrays):
    """Its header for arrays of int8, one behind the other."""
    ends = np.cumsum([array.size for array in arrays.values()]).tolist()
    return {name: dict(dtype="I8", shape=list(array.shape), data_offsets=[end - array.size, end])
            for (name, array), end in zip(arrays.items(), ends)}


def storages(arrays):
    """The numbers of arrays by the keys of `tensors`."""
    return {key: array.tobytes() for key, array in enumerate(arrays.values())}


def write_weights(kind):
    """Write backbone.pth, backbone.pt (the older form), backbone.safetensors or backbone.npz in the current folder."""
    arrays = state_dict()
    if kind == "npz":
        np.savez("backbone.npz", **arrays)
        return
    data = {"pth": zip_bytes, "pt": legacy_bytes}[kind](tensors(arrays), storages(arrays)) if kind != "safetensors" \
        else safetensors_bytes(safetensors_header(arrays), b"".join(storages(arrays).values()))
    Path(f"backbone.{kind}").write_bytes(data)
