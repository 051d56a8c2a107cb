"""PyTorch weights, galleries and ONNX models, each with the wrong sizes and the attacks that are its own."""
import io
import os
import pickle
import zipfile
import zlib

import numpy as np
import weights
from damages import Form, nothing
from data_forms import NUMBERS_OF, Runs
from text_forms import HUGE, json_hostile

MANY = 3000  # tensors of one large storage: 7 GB
DIRECTORY = "zip readers do not go by that number, and entries have checksums"
ZIP_END = "a zip file tells its own end"
BEHIND_TENSORS = "what lies behind the last storage is not read"


def _pickles(canary):
    """What state dicts should not be: name -> (value, storages)."""
    one, data = np.ones((2, 3), np.int8), {0: bytes(6)}
    shared = {f"a{number}.weight": weights.tensor(one, 0, shape=(512, 512, 3, 3), stride=(4608, 9, 3, 1))
              for number in range(MANY)}
    deep = []
    for _ in range(150):
        deep = [deep]
    made = {"runs code": (dict(a=Runs(os.mkdir, str(canary))), data), "runs open": (Runs(open, str(canary), "w"), data),
            "one storage as many tensors": (shared, {0: bytes(512 * 512 * 9)}), "nested": (dict(a=deep), data),
            "no tensors": (dict(epoch=3), {}), "a list": ([1, 2], {}), "a number": (10 ** 4000, {}),
            "a whole network": (weights.Named("torch.nn Module"), {}),
            "a name of numbers": ({7: weights.tensor(one, 0)}, data),
            "a storage that is not there": (dict(a=weights.tensor(one, "../../x")), data)}
    for what, change in {"offset 10^12": dict(offset=HUGE), "offset -1": dict(offset=-1),
                         "shape of 10^12": dict(shape=(HUGE, HUGE)), "shape -1": dict(shape=(-1, 3)),
                         "shape of nan": dict(shape=(float("nan"), 3)),
                         "stride 0": dict(shape=(HUGE, 3), stride=(0, 0)),
                         "stride 10^12": dict(stride=(HUGE, 1)), "stride -1": dict(stride=(-1, 1)),
                         "shape of text": dict(shape=("a", "b")), "no stride": dict(stride=()),
                         "forty sides": dict(shape=(1,) * 40, stride=(1,) * 40), "no shape": dict(shape=7)}.items():
        made[f"a tensor of {what}"] = dict(a=weights.tensor(one, 0, **change)), data
    return made


def _torch_hostile(write, code):
    def hostile(data, canary):
        made = {name: write(*content) for name, content in _pickles(canary).items()}
        for name, text in {"bytes of 2^40": b"\x8e" + (1 << 40).to_bytes(8, "little"), "a memo at 2^32":
                           b"Nr\xff\xff\xff\xff", "an int of 2^31 bytes": b"\x8b\xff\xff\xff\x7f",
                           "a million marks": b"(" * 1000000, "nested deeply": b"(" * 3000 + b"t" * 3000,
                           "no stack": b"0" * 10, "a state for a class": b"ctorch\nFloatStorage\n}b.",
                           "an extension": b"\x82\x01."}.items():
            made[name] = code(b"\x80\x02" + text)
        return made
    return hostile


def _zip_of(pickled):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return file.getvalue()


def _zip_hostile(data, canary):
    place, end = data.rfind(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
    view = memoryview(data)
    made = {f"the directory's {what} {value:#x}": (view[:start], value.to_bytes(size, "little"), view[start + size:])
            for what, start, size in (("method", place + 10, 2), ("flags", place + 8, 2), ("size", place + 24, 4),
                                      ("packed size", place + 20, 4), ("offset", place + 42, 4),
                                      ("entries", end + 10, 2), ("place", end + 16, 4))
            for value in ((1 << 8 * size) - 1, 1)}
    return {**made, "no entries": b"PK\x05\x06" + bytes(18)}


def _pth_hostile(data, canary):
    return {**_torch_hostile(weights.zip_bytes, _zip_of)(data, canary), **_zip_hostile(data, canary),
            "compressed": weights.zip_bytes({"a": weights.tensor(np.ones(9, np.int8), 0)}, {0: bytes(9)},
                                            zipfile.ZIP_DEFLATED)}


def _torch_sizes(write):
    def sizes(data, canary):
        arrays = weights.state_dict()
        less = {name: array for name, array in arrays.items() if name != "layer2.0.bn1.weight"}
        narrow = dict(arrays, **{"layer2.0.bn1.weight": np.ones(3, np.int8)})
        below = dict(arrays, **{"bn1.running_var": np.full(64, -3, np.int8)})
        return {"a tensor less": write(less), "a tensor of another shape": write(narrow),
                "a tensor more": write({**arrays, "head.weight": np.ones((3, 2), np.int8)}),
                "a variance below 0": write(below)}
    return sizes


def _write_torch(write):
    return lambda arrays: write(weights.tensors(arrays), weights.storages(arrays))


def _legacy_free(data):
    yield len(data) - sum(array.size + 8 for array in weights.state_dict().values()), len(data), NUMBERS_OF


ZIPPED = {"wrong size: (twice|64)": ZIP_END, "hostile: the directory's (size|packed size) 0xf|"
          "hostile: the directory's entries": DIRECTORY}
PTH = Form("zip", _torch_sizes(_write_torch(weights.zip_bytes)), _pth_hostile, accepts=ZIPPED)
LEGACY = Form("pickle", _torch_sizes(_write_torch(weights.legacy_bytes)), _torch_hostile(weights.legacy_bytes, bytes),
              _legacy_free, {"wrong size: (twice|64)": BEHIND_TENSORS})


# .safetensors

def _safe(arrays):
    return weights.safetensors_bytes(weights.safetensors_header(arrays), b"".join(weights.storages(arrays).values()))


def _safe_hostile(data, canary):
    start = 8 + int.from_bytes(data[:8], "little")
    numbers, made = memoryview(data)[start:], {}
    for value in (0, 1 << 40, (1 << 64) - 1, start):
        made[f"a header of {value} bytes"] = value.to_bytes(8, "little"), memoryview(data)[8:]
    entry = dict(dtype="F32", shape=[2, 3], data_offsets=[0, 24])
    for name, text in json_hostile(weights.safetensors_bytes({"a": entry}, b"")[8:], canary).items():
        made[name] = len(text).to_bytes(8, "little"), text, bytes(24)
    large = dict(dtype="I8", shape=[512, 512, 3, 3], data_offsets=[0, 512 * 512 * 9])
    made["one storage as many tensors"] = (weights.safetensors_bytes(
        {f"a{number}.weight": large for number in range(MANY)}, b""), numbers[:512 * 512 * 9])
    for offsets in ([-24, -1], [24, 0], [0, 1 << 60], [0.5, 24], ["0", "24"]):
        made[f"numbers at {offsets}"] = weights.safetensors_bytes({"a": dict(entry, data_offsets=offsets)}, bytes(24))
    for shape in ([HUGE, HUGE], [-1, 3], [1] * 40, [], "23", [2.5, 3]):
        made[f"shape {str(shape)[:20]}"] = weights.safetensors_bytes({"a": dict(entry, shape=shape)}, bytes(24))
    return made


def _safe_free(data):
    yield 8 + int.from_bytes(data[:8], "little"), len(data), NUMBERS_OF


SAFETENSORS = Form("safetensors", _torch_sizes(_safe), _safe_hostile, _safe_free)


# .npz

def npz(**columns):
    """A .npz file of arrays."""
    file = io.BytesIO()
    np.savez(file, **columns)
    return file.getvalue()


def _zeros(count):
    """Float32 zeros, (count / 256, 256), as a .npy file that is packed to a thousandth: parts of raw deflate."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, dict(descr="<f4", fortran_order=False, shape=(count // 256, 256)))
    packer, block = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(1 << 22)
    first = packer.compress(head.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * (4 * count // len(block)) + packer.flush(), len(head.getvalue()) + 4 * count


def bomb(name, count=1 << 28):
    """A .npz file of a megabyte, of which an array comes to a gigabyte."""
    packed, size = _zeros(count)
    file, info = io.BytesIO(), zipfile.ZipInfo(f"{name}.npy")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(info, packed)
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, size
    data = bytearray(file.getvalue())
    data[8:10] = (8).to_bytes(2, "little")  # the method, beside the entry too
    return bytes(data)


def _npz_hostile(data, canary):
    with np.load(io.BytesIO(data)) as file:
        columns = {name: file[name] for name in file.files}
    first, made = next(name for name, array in columns.items() if array.ndim), _zip_hostile(data, canary)
    rows = len(columns[first])
    for name, array in {"runs code": np.array([Runs(os.mkdir, str(canary))] * rows, object), "a scalar": np.array(7),
                        "text": np.array(["a\0b"] * rows), "dates": np.zeros(rows, "M8[s]"),
                        "nothing": np.empty((0, 5), np.float32)}.items():
        made[f"{first}: {name}"] = npz(**dict(columns, **{first: array}))
    made["an array of 2^40 bytes"] = _zip_entry(f"{first}.npy", b"\x93NUMPY\x01\x00\x76\x00" + (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,)}" % (1 << 38)).ljust(117).encode() + b"\n")
    return {**made, "no array": _zip_entry(f"{first}.npy", b"text"), "a name outside": _zip_entry("../../x.npy", b"x"),
            "a gigabyte of zeros": bomb(first), "a pickle": _zip_entry(f"{first}.npy", pickle.dumps([1]))}


def _zip_entry(name, data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


NPZ = Form("zip", _torch_sizes(lambda arrays: npz(**arrays)), _npz_hostile, accepts=ZIPPED)


# Galleries

def _gallery_sizes(data, canary):
    with np.load(io.BytesIO(data)) as file:
        columns = {name: file[name] for name in file.files}
    made = {f"without {name}": npz(**{key: array for key, array in columns.items() if key != name}) for name in columns}
    for name in ("names", "digests", "embeddings"):
        made[f"{name} a row less"] = npz(**dict(columns, **{name: columns[name][:-1]}))
    embeddings = columns["embeddings"]
    for name, array in {"of float64": embeddings.astype(np.float64), "not of length 1": embeddings * 2,
                        "flat": embeddings.ravel(), "nan": embeddings * np.nan, "half as wide": embeddings[:, ::2],
                        "of another width": _unit(embeddings[:, :3]), "of no width": embeddings[:, :0]}.items():
        made[f"embeddings {name}"] = npz(**dict(columns, embeddings=array))
    for name in ("model", "flip", "model_name"):
        made[f"another {name}"] = npz(**dict(columns, **{name: "x" * 300}))
        made[f"{name} twice"] = npz(**dict(columns, **{name: ["x", "y"]}))
    made["nobody"] = npz(**dict(columns, **{name: columns[name][:0] for name in ("names", "digests", "embeddings")}))
    return made


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


GALLERY = Form("zip", _gallery_sizes, _npz_hostile, accepts=ZIPPED)


# ONNX

def _onnx_hostile(data, canary):
    import onnx

    made = {}

    def change(name, edit):
        model = onnx.load_from_string(data)
        edit(model, model.graph)
        made[name] = model.SerializeToString()

    for place in ("/dev/zero", "/etc/passwd", "../../secret", str(canary)):
        change(f"numbers outside, in {place}"[:60], lambda model, graph, place=place: _move_outside(graph, place))
    for op, attributes, inputs in (
            ("Tile", {}, [[1 << 20, 1, 1, 1]]), ("Expand", {}, [[4000, 3, 1000, 1000]]),
            ("Pad", {}, [[0, 0, 0, 0, 0, 0, 30000, 30000]]), ("Reshape", {}, [[0, 0, -1, 7]]), ("NoSuch", {}, []),
            ("Split", {}, []), ("Gather", {}, [[1 << 40]])):
        change(f"operator {op}", lambda model, graph, found=(op, attributes, inputs): _put_first(graph, *found))
    change("a loop without an end", lambda model, graph: _put_loop(graph))
    change("its own code", lambda model, graph: setattr(graph.node[0], "domain", "evil"))
    change("operators of the year 9999", lambda model, graph: setattr(model.opset_import[0], "version", 9999))
    change("of the year 9999", lambda model, graph: setattr(model, "ir_version", 9999))
    change("a node less", lambda model, graph: graph.node.pop(2))
    change("no nodes", lambda model, graph: graph.ClearField("node"))
    change("no output", lambda model, graph: graph.ClearField("output"))
    change("no weights", lambda model, graph: graph.ClearField("initializer"))
    change("a circle", lambda model, graph: graph.node[0].input.__setitem__(0, graph.node[-1].output[0]))
    change("a shape of 2^40", lambda model, graph: graph.initializer[0].dims.append(1 << 40))
    change("a shape below 0", lambda model, graph: graph.initializer[0].dims.append(-1))
    change("numbers of no type", lambda model, graph: setattr(graph.initializer[0], "data_type", 99))
    change("weights that are not finite", lambda model, graph: _spoil(graph))
    for side in (0, -1, 7, HUGE):
        change(f"images {side} high", lambda model, graph, side=side: setattr(
            graph.input[0].type.tensor_type.shape.dim[2], "dim_value", side))
    change("images of doubles", lambda model, graph: setattr(graph.input[0].type.tensor_type, "elem_type", 11))
    change("another input", lambda model, graph: graph.input.add().CopyFrom(graph.input[0]))
    return made


def _move_outside(graph, place):
    import onnx

    array = graph.initializer[-1]
    onnx.external_data_helper.set_external_data(array, location=place, offset=0, length=4 * int(np.prod(array.dims)))
    array.ClearField("raw_data")


def _put_first(graph, op, attributes, inputs):
    """Put an operator before all others."""
    import onnx

    names = [f"extra{number}" for number in range(len(inputs))]
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(numbers, np.int64), name)
                             for numbers, name in zip(inputs, names))
    graph.node.insert(0, onnx.helper.make_node(op, ["data", *names], ["first"], name="first", **attributes))
    graph.node[1].input[0] = "first"


def _put_loop(graph):
    from onnx import TensorProto, helper, numpy_helper

    shape = [1, 3, 16, 16]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["was"], ["is"])], "body",
        [helper.make_tensor_value_info("number", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("was", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("is", TensorProto.FLOAT, shape)])
    graph.initializer.extend([numpy_helper.from_array(np.array((1 << 63) - 1), "times"),
                              numpy_helper.from_array(np.array(True), "always")])
    graph.node.insert(0, helper.make_node("Loop", ["times", "always", "data"], ["first"], name="first", body=body))
    graph.node[1].input[0] = "first"


def _spoil(graph):
    array = graph.initializer[-1]
    array.raw_data = b"\xff" * len(array.raw_data)


ONNX_OTHER = "protocol buffers tell their own ends, and another name, number or attribute may make a sound network"
ONNX = Form("onnx", nothing, _onnx_hostile, accepts={
    "random: bit|random: 16": ONNX_OTHER, "wrong size: twice": ONNX_OTHER,
    "hostile: operator Split": "a split into one part changes nothing",
    "hostile: images -1 high": "a size below 0 stands for any, and the network fits images of the size asked for"})
