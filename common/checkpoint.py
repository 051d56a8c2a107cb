"""Checkpoints in the original's form: `<prefix>-symbol.json` and `<prefix>-%04d.params`, named `prefix,epoch`.

Files are checked here, byte by byte, before MXNet sees them: its own loader can abort or hang on a damaged one.
"""
import glob
import json
import re
import struct
from pathlib import Path

import numpy as np

from common.errors import DataError, UserError
from common.files import replacing, write_text
from common.mxnet_setup import mx

_LIST_MAGIC = 0x112
_ARRAY_V1, _ARRAY_V2, _ARRAY_V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 3: np.uint8, 4: np.int32, 5: np.int8, 6: np.int64}


def parse_model(model):
    """Split 'prefix,epoch' into (prefix, epoch number). Raises UserError for anything else."""
    prefix, comma, epoch = model.rpartition(",")
    if not comma or not prefix or not epoch.strip().isdigit():
        raise UserError(f"model {model!r}: expected PREFIX,EPOCH, for instance ./models/r100,1")
    return prefix, int(epoch)


def params_path(prefix, epoch):
    """The parameter file of an epoch."""
    return Path(f"{prefix}-{epoch:04d}.params")


def find_epochs(prefix):
    """The epochs of a prefix that are on disk, in rising order."""
    found = (re.search(r"-(\d{4,})\.params$", name) for name in glob.glob(f"{glob.escape(str(prefix))}-*.params"))
    return sorted(int(match[1]) for match in found if match)


def save(prefix, epoch, symbol, arg_params, aux_params):
    """Write a checkpoint, each file whole or not at all.

    arg_params, aux_params: dict name -> NDArray. Raises UserError where it cannot be written.
    """
    write_text(f"{prefix}-symbol.json", symbol.tojson())
    arrays = {f"arg:{name}": array for name, array in arg_params.items()}
    arrays.update({f"aux:{name}": array for name, array in aux_params.items()})
    with replacing(params_path(prefix, epoch)) as path:
        try:
            mx.nd.save(str(path), arrays)
        except mx.base.MXNetError as error:
            raise OSError(str(error).strip().splitlines()[-1]) from error


def load(model):
    """Read a checkpoint.

    model: 'prefix,epoch'. Returns (symbol, arg_params, aux_params), the parameters as dict name -> NDArray on the CPU.
    Raises UserError for a bad name or a missing file (the epochs that are there are listed), DataError for a damaged
    one and for parameters that do not go with the symbol.
    """
    prefix, epoch = parse_model(model)
    path = params_path(prefix, epoch)
    if not path.is_file():
        epochs = ", ".join(map(str, find_epochs(prefix))) or "none"
        raise UserError(f"model {model}: no file {path}; epochs found for this prefix: {epochs}")
    symbol = load_symbol(f"{prefix}-symbol.json")
    arg_params, aux_params = load_params(path)
    _check_complete(symbol, arg_params, aux_params, path)
    return symbol, arg_params, aux_params


def load_symbol(path):
    """Read a symbol file. Raises UserError where it is missing, DataError where it is no symbol."""
    try:
        graph = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not a symbol file: {error}") from error
    if not isinstance(graph, dict) or not graph.get("nodes") or not graph.get("heads"):
        raise DataError(f"{path}: not a symbol file: expected JSON with 'nodes' and 'heads'")
    try:
        return mx.sym.load_json(json.dumps(graph))
    except Exception as error:  # MXNet raises whatever its C side says: MXNetError, UnicodeDecodeError, ...
        raise DataError(f"{path}: MXNet cannot read this symbol: {str(error).strip().splitlines()[-1]}") from error


def load_params(path):
    """Read a parameter file into (arg_params, aux_params). Raises DataError where it is damaged."""
    params = {"arg": {}, "aux": {}}
    for name, array in read_arrays(path).items():
        kind, _, rest = name.partition(":")
        if kind not in params or not rest:
            raise DataError(f"{path}: array {name!r}: expected a name that begins with arg: or aux:")
        params[kind][rest] = mx.nd.array(array, dtype=array.dtype)
    return params["arg"], params["aux"]


def _check_complete(symbol, arg_params, aux_params, path):
    inputs = [name for name in symbol.list_arguments() if name not in arg_params]
    missing = [name for name in inputs if name != "data" and not name.endswith("label")]
    missing += [name for name in symbol.list_auxiliary_states() if name not in aux_params]
    if missing:
        raise DataError(f"{path}: {len(missing)} arrays of the symbol are missing, the first is {missing[0]!r}; "
                        "is it of another network?")


def read_arrays(path):
    """Read a file of named NDArrays, as `mx.nd.save` writes it, without MXNet. Returns dict name -> NumPy array.

    Raises DataError, naming the file and the place, where it is truncated or holds something else.
    """
    try:
        cursor = _Cursor(path, Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    magic, _ = cursor.take("QQ")
    if magic != _LIST_MAGIC:
        raise DataError(f"{path}: not a parameter file: begins with {magic:#x}, expected {_LIST_MAGIC:#x}")
    arrays = [_read_array(cursor) for _ in range(cursor.count("arrays"))]
    names = [cursor.bytes(cursor.count("bytes in a name")).decode("utf-8", "replace")
             for _ in range(cursor.count("names"))]
    if len(names) != len(arrays):
        raise DataError(f"{path}: {len(names)} names for {len(arrays)} arrays")
    return dict(zip(names, arrays))


class _Cursor:
    """Takes values from a file's bytes in order, and says where the bytes run out."""

    def __init__(self, path, data):
        self.path, self.data, self.position = path, data, 0

    def bytes(self, size):
        if size > len(self.data) - self.position:
            raise DataError(f"{self.path}: truncated: {size} bytes expected at byte {self.position}, "
                            f"the file ends at {len(self.data)}")
        self.position += size
        return self.data[self.position - size:self.position]

    def take(self, layout):
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}")))

    def count(self, what):
        (count,) = self.take("Q")
        if count > len(self.data):  # each takes a byte at least
            raise DataError(f"{self.path}: damaged: {count} {what} at byte {self.position - 8}")
        return count


def _read_array(cursor):
    (magic,) = cursor.take("I")
    if magic in (_ARRAY_V2, _ARRAY_V3):
        (storage,) = cursor.take("i")
        if storage > 0:
            raise DataError(f"{cursor.path}: a sparse array (storage type {storage}); expected dense ones")
    modern = magic in (_ARRAY_V1, _ARRAY_V2, _ARRAY_V3)
    dimensions = cursor.take("i")[0] if modern else magic  # before version 1 the magic's place held their number
    if not 0 <= dimensions <= 32:
        raise DataError(f"{cursor.path}: damaged: {dimensions} dimensions at byte {cursor.position - 4}")
    shape = cursor.take(f"{dimensions}{'q' if modern else 'I'}")
    if dimensions == 0:
        return np.zeros(0, np.float32)
    _, _, kind = cursor.take("iii")  # device type and number, type of the numbers
    if kind not in _DTYPES or min(shape) < 0:
        raise DataError(f"{cursor.path}: damaged: type {kind}, shape {shape} before byte {cursor.position}")
    dtype = np.dtype(_DTYPES[kind])
    size = dtype.itemsize
    for length in shape:
        size *= length
    return np.frombuffer(cursor.bytes(size), dtype).reshape(shape)
