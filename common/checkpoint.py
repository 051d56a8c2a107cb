"""Checkpoints in the original's form: `<prefix>-symbol.json` and `<prefix>-%04d.params`, named `prefix,epoch`.

Files are checked here, byte by byte, before MXNet sees them: its own loader can abort or hang on a damaged one.
"""
import glob
import json
import os
import re
import struct
from math import prod
from pathlib import Path

import numpy as np

from common import files, sums
from common.errors import DataError, UserError
from common.files import read_bytes, replacing, write_text
from common.mxnet_setup import mx, reason

_LIST_MAGIC = 0x112
_ARRAY_V1, _ARRAY_V2, _ARRAY_V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES = dict(enumerate(map(np.dtype, ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?"))))  # by MXNet's numbers
_KINDS = {dtype: kind for kind, dtype in _DTYPES.items()}
_FOREIGN = re.compile(r"_?Custom.*|_Native|_NDArray|_NoGradient|_CachedOp.*|_foreach|_while_loop|_cond|_sg_.*|.*_cv.*|"
                      r"_?imdecode|.*_backward_.*|_contrib_dgl_.*")
_SIZES = dict(num_group=1, num_filter=1, num_hidden=1, kernel=1, stride=1, dilate=1, pad=0)  # attribute: the least
_MOST = 1 << 24
_MOST_MAPS = 512  # numbers that a layer makes of a pixel; 172 is the most of all networks here
_MODEL = re.compile(r"(.+),\s*(\d{1,9})\s*", re.DOTALL)
_ONNX_MODEL = re.compile(r"(.+?)(?:-(\d{4,9}))?\.onnx", re.DOTALL)


def is_onnx(model):
    """Whether a model's name is the path of an ONNX file."""
    return str(model).endswith(".onnx")


def parse_model(model):
    """Split 'prefix,epoch' or '<prefix>-<epoch>.onnx' into (prefix, epoch number; 0 where an ONNX file tells none).

    Raises UserError for anything else.
    """
    found = (_ONNX_MODEL if is_onnx(model) else _MODEL).fullmatch(model)
    if not found:
        raise UserError(f"model {model!r}: expected PREFIX,EPOCH, for instance ./models/r100,1")
    return found[1], int(found[2] or 0)


def onnx_path(model):
    """The path under which recognition/export.py writes a model, <prefix>-<epoch>.onnx. model: 'prefix,epoch'."""
    return params_path(*parse_model(model)).with_suffix(".onnx")


def on_backend(model, backend):
    """The name of a model as `backend` runs it: for onnxruntime the path of its ONNX file, else `model` itself.

    model: 'prefix,epoch', or the path of an ONNX file, which is onnxruntime's in any case. Raises UserError where that
    file is missing.
    """
    if backend != "onnxruntime" or is_onnx(model):
        return model
    path = onnx_path(model)
    if not path.is_file():
        raise UserError(f"model {model}: no file {path} for --backend onnxruntime; write it with: "
                        f"python recognition/export.py --model {model} --format onnx")
    return str(path)


def weights_path(model):
    """The file that holds a model's weights: its parameter file, or the ONNX file."""
    return Path(model) if is_onnx(model) else params_path(*parse_model(model))


def params_path(prefix, epoch):
    """The parameter file of an epoch."""
    return Path(f"{prefix}-{epoch:04d}.params")


def find_epochs(prefix):
    """The epochs of a prefix that are on disk, in rising order."""
    ends = (name[len(str(prefix)):] for name in glob.glob(f"{glob.escape(str(prefix))}-*.params"))
    found = (re.fullmatch(r"-(\d{4}|[1-9]\d{4,})\.params", end) for end in ends)
    return sorted(int(match[1]) for match in found if match)


def save(prefix, epoch, symbol, arg_params, aux_params):
    """Write a checkpoint, each file whole or not at all, and their hashes into SHA256SUMS (see `common.sums`).

    arg_params, aux_params: dict name -> NDArray. Raises UserError where it cannot be written.
    """
    symbol_path, path, text = Path(f"{prefix}-symbol.json"), params_path(prefix, epoch), symbol.tojson()
    arrays = {f"arg:{name}": array for name, array in arg_params.items()}
    arrays.update({f"aux:{name}": array for name, array in aux_params.items()})
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            hashing = sums.HashingFile(file)
            write_arrays(hashing, arrays)
        hashes = {symbol_path.name: sums.hash_bytes(text.encode()), path.name: hashing.digest().hex()}
        sums.announce(path.parent, hashes)
        write_text(symbol_path, text)
    sums.settle(path.parent, hashes)


def remove(prefix, epoch):
    """Remove an epoch's parameters. Raises UserError where the system refuses."""
    path = params_path(prefix, epoch)
    files.remove(path)
    sums.forget(path.parent, [path.name])


def write_arrays(file, arrays):
    """Byte for byte what `mx.nd.save` writes of arrays on the CPU; that one does not notice when a disk is full.

    file: to write bytes to; arrays: dict name -> NDArray.
    """
    file.write(struct.pack("<QQQ", _LIST_MAGIC, 0, len(arrays)))
    for array in arrays.values():
        head = struct.pack(f"<Iii{array.ndim}q", _ARRAY_V2, 0, array.ndim, *array.shape)  # 0: dense
        file.write(head + struct.pack("<iii", 1, 0, _KINDS[np.dtype(array.dtype)]))  # 1, 0: the device cpu(0)
        file.write(array.asnumpy().reshape(-1))  # as it lies in memory, without a copy
    file.write(struct.pack("<Q", len(arrays)))
    for name in map(str.encode, arrays):
        file.write(struct.pack("<Q", len(name)) + name)


def load(model):
    """Read a checkpoint.

    model: 'prefix,epoch'. Returns (symbol, arg_params, aux_params), the parameters as dict name -> NDArray on the CPU.
    Raises UserError for a bad name or a missing file (the epochs that are there are listed), DataError for a damaged
    one and for parameters that do not go with the symbol.
    """
    if is_onnx(model):
        raise UserError(f"model {model}: an ONNX file, where a checkpoint is needed: PREFIX,EPOCH")
    prefix, epoch = parse_model(model)
    path = params_path(prefix, epoch)
    if not os.path.isfile(path):
        epochs = ", ".join(map(str, find_epochs(prefix))) or "none"
        raise UserError(f"model {model}: no file {path}; epochs found for this prefix: {epochs}")
    symbol = load_symbol(f"{prefix}-symbol.json")
    arg_params, aux_params = load_params(path)
    _check_complete(symbol, arg_params, aux_params, path)
    return symbol, arg_params, aux_params


def load_symbol(path):
    """Read a symbol file. Raises DataError where it is missing or no symbol."""
    data = read_bytes(path)
    try:
        graph = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a symbol file: {error}") from error
    if not isinstance(graph, dict) or not graph.get("nodes") or not graph.get("heads"):
        raise DataError(f"{path}: not a symbol file: expected JSON with 'nodes' and 'heads'")
    damage = next(filter(None, map(_wrong_node, _nodes(graph))), None)
    if damage:
        raise DataError(f"{path}: {damage}")
    try:
        symbol = mx.sym.load_json(json.dumps(graph))
        damage = _wrong_edge(symbol)
    except Exception as error:  # MXNet raises whatever its C side says: MXNetError, UnicodeDecodeError, ...
        raise DataError(f"{path}: MXNet cannot read this symbol: {reason(error)}") from error
    if damage:
        raise DataError(f"{path}: damaged: {damage}")
    sums.check(path, data)
    return symbol


def _nodes(graph):
    """The nodes that are dicts; MXNet refuses others."""
    return (node for node in graph["nodes"] if isinstance(node, dict)) if isinstance(graph["nodes"], list) else ()


def _wrong_node(node):
    """What a node has that no network needs, as text, or None: MXNet would run what it names, or divide by zero."""
    name = f"node {str(node.get('name'))[:60]!r}"
    if _FOREIGN.fullmatch(str(node.get("op"))):
        return f"{name}: operator {node['op'][:60]}, which runs what is not in the graph; nothing of it was run"
    if node.get("subgraphs"):
        return f"{name}: a graph inside the graph; expected a plain network"
    parts = [node[part] for part in ("attrs", "attr", "param") if isinstance(node.get(part), dict)]  # names over time
    attrs = {key: value for part in parts for key, value in part.items()}
    for key, least in _SIZES.items():
        numbers = re.findall(r"-?\d+", str(attrs.get(key, "")))
        if not all(len(number) < 9 and least <= int(number) <= _MOST for number in numbers):
            return f"{name}: {key} is {str(attrs[key])[:60]}; expected whole numbers from {least} to {_MOST}"
    return None


def _wrong_edge(symbol):
    """An edge that leads nowhere, as text, or None: MXNet would follow it out of its own memory."""
    graph, internals = (json.loads(part.tojson()) for part in (symbol, symbol.get_internals()))
    outputs = {(number, output) for number, output, _ in internals["heads"]}
    for node in graph["nodes"] + [dict(op="", inputs=graph["heads"])]:
        for number, output, _ in node["inputs"]:
            if (number, output) not in outputs:
                return f"node {graph['nodes'][number]['name']!r} has no output {output}"
        if node["op"] == "BatchNorm" and not node["inputs"]:
            return f"node {node['name']!r} has no inputs"
    return None


def load_params(path):
    """Read a parameter file into (arg_params, aux_params). Raises DataError where it is damaged."""
    params, data = {"arg": {}, "aux": {}}, read_bytes(path)
    arrays = parse_arrays(path, data)
    sums.check(path, data)
    for name, array in arrays.items():
        kind, _, rest = name.partition(":")
        if kind not in params or not rest:
            raise DataError(f"{path}: array {name!r}: expected a name that begins with arg: or aux:")
        if not np.isfinite(array).all():
            raise DataError(f"{path}: array {name!r} holds numbers that are not finite; is the file damaged, or has "
                            "the training diverged?")
        params[kind][rest] = mx.nd.array(array, dtype=array.dtype)
    return params["arg"], params["aux"]


def _check_complete(symbol, arg_params, aux_params, path):
    inputs = [name for name in symbol.list_arguments() if name not in arg_params]
    missing = [name for name in inputs if name != "data" and not name.endswith("label")]
    missing += [name for name in symbol.list_auxiliary_states() if name not in aux_params]
    if missing:
        raise DataError(f"{path}: {len(missing)} arrays of the symbol are missing, the first is {missing[0]!r}; "
                        "is it of another network?")


def check_shapes(model, symbol, params, data):
    """Hold parameters against a symbol with the input `data`.

    model: what messages call it; params: dict name -> NDArray; data: shape of the input, (1, C, H, W). Returns the
    shapes of the outputs. Raises DataError for parameters that are missing, of another shape or no floats, and for a
    graph that cannot take such images, or only with far more memory than any network needs.
    """
    size = f"images of {data[2]}x{data[3]} pixels"
    if "data" not in symbol.list_arguments():
        raise DataError(f"{model}: the network has no input named 'data'; is it a face embedding network?")
    try:  # partial: the other form prints to the terminal
        arg_shapes, outputs, aux_shapes = symbol.infer_shape_partial(data=data)
        internals = symbol.get_internals()
        sizes = dict(zip(internals.list_outputs(), map(prod, internals.infer_shape_partial(data=data)[1])))
    except mx.base.MXNetError as error:
        raise DataError(f"{model}: does not take {size} ({reason(error)})") from error
    expected = dict(zip(symbol.list_arguments() + symbol.list_auxiliary_states(), arg_shapes + aux_shapes))
    for name, numbers in sizes.items():
        if name not in expected and numbers > _MOST_MAPS * data[2] * data[3]:
            raise DataError(f"{model}: {name} comes to {numbers} numbers for an image; expected at most {_MOST_MAPS} "
                            "for each pixel")
    for name in set(expected) - {"data"}:
        if name not in params:
            raise DataError(f"{model}: has no array {name!r}, which the network needs")
        if params[name].shape != expected[name]:
            raise DataError(f"{model}: array {name!r} has shape {params[name].shape}, the symbol expects "
                            f"{expected[name]} for {size}")
        _check_floats(model, name, params[name])
    return outputs


def _check_floats(model, name, array):
    if np.dtype(array.dtype).kind != "f":
        raise DataError(f"{model}: array {name!r} is of {np.dtype(array.dtype)}; expected floats")


def read_arrays(path):
    """Read a file of named NDArrays, as `mx.nd.save` writes it, without MXNet. Returns dict name -> NumPy array.

    Raises DataError, naming the file and the place, where it is truncated or holds something else.
    """
    return parse_arrays(path, read_bytes(path))


def parse_arrays(path, data):
    """Those arrays of a file's bytes, which the arrays go on to use. path: what messages call it. See `read_arrays`."""
    cursor = _Cursor(path, data)
    magic, _ = cursor.take("QQ")
    if magic != _LIST_MAGIC:
        raise DataError(f"{path}: not a parameter file: begins with {magic:#x}, expected {_LIST_MAGIC:#x}")
    arrays = [_read_array(cursor) for _ in range(cursor.count("arrays"))]
    names = [str(cursor.bytes(cursor.count("bytes in a name")), "utf-8", "replace")
             for _ in range(cursor.count("names"))]
    if len(set(names)) != len(arrays):
        raise DataError(f"{path}: {len(set(names))} names for {len(arrays)} arrays")
    if cursor.position < len(cursor.data):
        raise DataError(f"{path}: damaged: its arrays end at byte {cursor.position}, the file at {len(cursor.data)}")
    return dict(zip(names, arrays))


class _Cursor:
    """Takes values from a file's bytes in order, and says where the bytes run out."""

    def __init__(self, path, data):
        self.path, self.data, self.position = path, memoryview(data), 0

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
    if dimensions == (-1 if magic == _ARRAY_V3 else 0):  # an array without a shape, of which nothing more is written
        return np.zeros(0, np.float32)
    if not 0 <= dimensions <= 32:
        raise DataError(f"{cursor.path}: damaged: {dimensions} dimensions at byte {cursor.position - 4}")
    shape = cursor.take(f"{dimensions}{'q' if modern else 'I'}")
    _, _, kind = cursor.take("iii")  # device type and number, type of the numbers
    if kind not in _DTYPES:
        raise DataError(f"{cursor.path}: numbers of type {kind} before byte {cursor.position}; expected 0 to 7 (floats "
                        "of 32, 64 and 16 bits, integers, truth values)")
    if min(shape, default=1) < 1:
        raise DataError(f"{cursor.path}: damaged: shape {shape} before byte {cursor.position}")
    size = _DTYPES[kind].itemsize
    for length in shape:
        size *= length
    return np.frombuffer(cursor.bytes(size), _DTYPES[kind]).reshape(shape)


def load_pretrained(prefix, epoch, symbol, data_shape, adapt=None, **head_shapes):
    """Parameters of a checkpoint to begin a training of `symbol` with.

    prefix: of the checkpoint, or 'prefix,epoch', which goes before `epoch`. symbol: embedding symbol; data_shape:
    shape of its input, for instance (1, 3, 112, 112); adapt: called with the arguments, dict name -> NDArray, to change
    its head before shapes are checked; head_shapes: shapes that arrays of the head must have where the checkpoint holds
    them.
    Returns (arg_params, aux_params). Raises UserError for arrays that are missing or of another shape (both are named).
    """
    model = prefix if _MODEL.fullmatch(prefix) else f"{prefix},{epoch}"
    _, arg_params, aux_params = load(model)
    for name in ("weight", "bias"):
        if f"pre_fc1_{name}" in symbol.list_arguments() and f"fc1_{name}" in arg_params:  # its name in 2018
            arg_params.setdefault(f"pre_fc1_{name}", arg_params.pop(f"fc1_{name}"))
    arg_shapes, _, aux_shapes = symbol.infer_shape(data=data_shape)
    shapes = dict(zip(symbol.list_arguments(), arg_shapes), **dict(zip(symbol.list_auxiliary_states(), aux_shapes)))
    del shapes["data"]
    found = {**arg_params, **aux_params}
    for name in shapes:
        if name not in found:
            raise UserError(f"pretrained model {model}: has no array {name!r}; is it of another network?")
    shapes.update(head_shapes)
    for name in filter(found.__contains__, shapes):
        _check_floats(f"pretrained model {model}", name, found[name])
    if adapt:
        adapt(arg_params)
        found.update(arg_params)
    for name, shape in shapes.items():
        if name in found and found[name].shape != shape:
            advice = "; leave the head out of it, or train on the same classes" if name in head_shapes else ""
            raise UserError(f"pretrained model {model}: array {name!r} has shape {found[name].shape}, "
                            f"expected {shape}{advice}")
    return arg_params, aux_params
