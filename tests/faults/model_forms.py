"""Checkpoints and arrays, each with the wrong sizes and the attacks that are its own."""
import io
import json
import os
import struct

import numpy as np
from damages import Form, nothing, patched
from data_forms import NUMBERS_OF, Runs
from text_forms import HUGE, json_hostile


def _npy(header, body=b""):
    text = header.encode() + b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def _array_hostile(data, canary):
    array = np.load(io.BytesIO(data))
    shape, body = array.shape, array.tobytes()
    told = "{'descr': %r, 'fortran_order': %s, 'shape': %s}"
    kind = array.dtype.str
    pickled = io.BytesIO()
    np.save(pickled, np.array([Runs(os.mkdir, str(canary))] * len(array), object))
    return {"runs code": pickled.getvalue(), "a huge shape": _npy(told % (kind, False, (HUGE, *shape[1:])), body),
            "a shape less than 0": _npy(told % (kind, False, (-1, *shape[1:])), body),
            "columns first": _npy(told % (kind, True, shape), body), "objects": _npy(told % ("|O", False, shape), body),
            "a header that calls": _npy("__import__('os').mkdir(%r)" % str(canary), body),
            "a header nested deeply": _npy("(" * 30000, body), "no header": _npy("", body),
            "numbers that are not finite": _npy(told % (kind, False, shape), b"\xff" * len(body)),
            "a type of 10^9 bytes": _npy(told % ("|V1000000000", False, shape), body)}


def _array_sizes(data, canary):
    array, made = np.load(io.BytesIO(data)), {}
    for name, other in {"a row less": array[:-1], "a row more": np.concatenate([array, array[:1]]),
                        "another type": array.astype(np.complex128), "flat": array.ravel()[:, None],
                        "one dimension more": array[None], "text": array.astype("S4")}.items():
        file = io.BytesIO()
        np.save(file, other)
        made[name] = file.getvalue()
    return made


ARRAY = Form("npy", _array_sizes, _array_hostile, lambda data: [(data.index(b"\n") + 1, len(data), NUMBERS_OF)], {
    "hostile: columns first": "of one dimension, rows and columns are the same"})


MXNETS_OWN = "MXNet takes its own default in place of what is missing or no such value, and the shapes still fit"


def _symbol_hostile(data, canary):
    graph, made = json.loads(data), json_hostile(data, canary)
    nodes = graph["nodes"]
    places = {node["op"]: number for number, node in enumerate(nodes)}
    last, convolution = len(nodes) - 1, places["Convolution"]
    embedding = next((number for number, node in enumerate(nodes) if node["name"] == "fc1"), last)

    def changed(number, **new):
        node = dict(nodes[number], **new)
        return json.dumps(dict(graph, nodes=[*nodes[:number], node, *nodes[number + 1:]])).encode()

    for op, attrs in (("Custom", {"op_type": "softmax"}), ("_Native", {"info": "0x7f0000000000"}),
                      ("_NDArray", {"info": "0x10"}), ("_CustomFunction", {}), ("_cvimread", {"filename": str(canary)}),
                      ("_npi_cvimread", {"filename": "/etc/passwd"}), ("_cvimdecode", {}), ("_CachedOp", {}),
                      ("_foreach", {"num_args": "1", "num_outputs": "1"}), ("_cond", {"num_args": "1"}),
                      ("_while_loop", {"num_args": "1"}), ("_sg_mkldnn_conv", {}), ("_backward_Convolution", {}),
                      ("_contrib_dgl_subgraph", {"num_args": "2"}), ("./evil.so", {}), ("../../evil", {}),
                      ("_NoGradient", {}), ("_CrossDeviceCopy", {}), ("khatri_rao", {"num_args": "1"})):
        made[f"operator {op}"] = changed(convolution, op=op, attrs=attrs, inputs=nodes[convolution]["inputs"][:1])
    attrs = nodes[convolution]["attrs"]
    for key in ("num_group", "num_filter", "kernel", "stride", "pad", "dilate", "no_bias", "workspace", "layout"):
        for value in ("0", "-1", "(0, 0)", "(-1, -1)", str(1 << 31), f"({1 << 31}, {1 << 31})", "9" * 40, "", "None",
                      "evil.so"):
            made[f"Convolution of {key} {value}"] = changed(convolution, attrs=dict(attrs, **{key: value}))
    made["itself as input"] = changed(convolution, inputs=[[convolution, 0, 0], *nodes[convolution]["inputs"][1:]])
    made["the last node as input"] = changed(convolution, inputs=[[last, 0, 0], *nodes[convolution]["inputs"][1:]])
    made["no input"] = changed(convolution, inputs=[])
    made["a hundred inputs"] = changed(convolution, inputs=nodes[convolution]["inputs"] * 50)
    made["a graph inside"] = changed(convolution, subgraphs=[graph])
    for attrs, op in ((dict(reps="(1000000, 1000000)"), "tile"), (dict(repeats=str(1 << 40)), "repeat"),
                      (dict(shape="(0, -1)"), "Reshape"), (dict(shape="(1000000, 1000000)"), "broadcast_to"),
                      (dict(scale="0", sample_type="nearest", num_args="1"), "UpSampling"),
                      (dict(scale="100000", sample_type="nearest", num_args="1"), "UpSampling"),
                      (dict(kernel="(0, 0)", pool_type="max"), "Pooling"), (dict(num_outputs="0"), "SliceChannel"),
                      (dict(block_size="0"), "depth_to_space"), (dict(axis="99"), "SwapAxis"),
                      (dict(begin="(0,)", end="(99,)", step="(0,)"), "slice"),
                      (dict(mode="constant", pad_width=f"(0,0,0,0,0,{1 << 40},0,0)"), "Pad"),
                      (dict(name="fc1"), "no such")):
        made[f"operator {op} {attrs}"] = changed(places["Activation"] if "Activation" in places else convolution, op=op,
                                                 attrs=attrs, inputs=nodes[convolution]["inputs"][:1])
    for reps in ("(1, 1, 30000, 30000)", "(1, 1, 400, 400)"):
        made[f"a map {reps} times as large in between"] = json.dumps(_enlarged(graph, embedding, reps)).encode()
    variables = [number for number, node in enumerate(nodes) if node["op"] == "null"]
    for name, attrs in (("__shape__", f"({HUGE}, {HUGE})"), ("__shape__", "(0, -5)"), ("__dtype__", "99"),
                        ("__init__", '["load", {"param": "/etc/passwd"}]'), ("__storage_type__", "7"),
                        ("ctx_group", "evil.so"), ("__lr_mult__", "x")):
        made[f"variable of {name} {attrs}"] = changed(variables[-1], attrs={name: attrs})
    return made


def _enlarged(graph, place, reps):
    """The graph with the first input of a node made large and small again."""
    def moved(entries):
        return [[number + 2 * (number >= place), *rest] for number, *rest in entries]

    nodes = [dict(node, inputs=moved(node["inputs"])) for node in graph["nodes"]]
    first, *others = nodes[place]["inputs"]
    between = [dict(op="tile", name="large", attrs=dict(reps=reps), inputs=[first]),
               dict(op="slice_like", name="small", attrs={}, inputs=[[place, 0, 0], first])]
    nodes[place:place + 1] = [*between, dict(nodes[place], inputs=[[place + 1, 0, 0], *others])]
    return dict(graph, nodes=nodes, heads=moved(graph["heads"]), node_row_ptr=list(range(len(nodes) + 1)),
                arg_nodes=[number + 2 * (number >= place) for number in graph["arg_nodes"]])


SYMBOL = Form("json", nothing, _symbol_hostile, accepts={
    "random: bit": "another attribute makes another network of the same shapes",
    "hostile: .* left out": MXNETS_OWN, "hostile: (nodes/\\d+/(attrs|name)|attrs|node_row_ptr|arg_nodes)": MXNETS_OWN,
    "hostile: Convolution of (no_bias|workspace|layout|pad)": MXNETS_OWN, "hostile: variable of": MXNETS_OWN})


def _arrays(data):
    """(start of its shape, of its numbers, end) of each array of a parameter file."""
    place = 24
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        shape = struct.unpack_from(f"<{struct.unpack_from('<i', data, place + 8)[0]}q", data, place + 12)
        numbers = place + 12 + 8 * len(shape) + 12
        yield place + 12, numbers, numbers + 4 * int(np.prod(shape))
        place = numbers + 4 * int(np.prod(shape))


def _params_hostile(data, canary):
    arrays = list(_arrays(data))
    (shape, numbers, _), names = arrays[0], arrays[-1][2]
    changes = {  # what: place, layout, values
        "{} arrays": (16, "Q", (1 << 63, 1 << 40, len(arrays) + 1, 0)),
        "{} names": (names, "Q", (1 << 63, 1 << 40, len(arrays) + 1, 0)),
        "a name of {} bytes": (names + 8, "Q", (1 << 63, 1 << 33, 0)),
        "{} dimensions": (shape - 4, "i", (-1, 0, 33, 1 << 30)),
        "a side of {}": (shape, "q", (-1, 0, 1 << 62, 1 << 33)),
        "numbers of type {}": (numbers - 4, "i", (-1, 1, 4, 8, 1 << 30)),
        "storage {}": (shape - 8, "i", (1, 2, -1, 1 << 30)),
        "magic {:#x}": (shape - 12, "I", (0, 4, 0xF993FAC8, 0xF993FACA, 0xFFFFFFFF)),
        "numbers of {}": (numbers, "f", (float("nan"), float("inf"), 1e38))}
    made = {what.format(value): patched(data, place, layout, value)
            for what, (place, layout, values) in changes.items() for value in values}
    made["names of another kind"] = data.replace(b"arg:", b"../:")
    made["a name that is no UTF-8"] = data.replace(b"arg:", b"arg\xff", 1)
    made["a name twice"] = data.replace(b"conv_weight", b"fc1__weight", 1)
    return made


def _params_sizes(data, canary):
    shape = next(_arrays(data))[0]
    first, second = struct.unpack_from("<2q", data, shape)
    return {"a shape turned": patched(data, shape, "2q", second, first),
            "no arrays": struct.pack("<4Q", 0x112, 0, 0, 0)}


def _params_free(data):
    for _, numbers, end in _arrays(data):
        yield numbers - 12, numbers - 4, "the device of an array is that of the reader"
        yield numbers, end, NUMBERS_OF


PARAMS = Form("params", _params_sizes, _params_hostile, _params_free, {
    "wrong size: (twice|64)": "what lies behind the last name is not read", "hostile: numbers of 1e": NUMBERS_OF,
    "hostile: storage -1": "an unknown way of storing counts as the plain one",
    "hostile: magic 0xf993faca": "the next version of the form is the same for plain arrays"})
