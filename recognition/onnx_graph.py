"""A symbol as an ONNX model, operator by operator, names kept: node `conv0` has the output `conv0_output`.

MXNet's own exporter (`mx.onnx`) is wrong for these networks: it forgets fix_gamma and the implicit flatten before a
fully connected layer, gives PReLU slopes of a shape that cannot be broadcast, and lists weights as inputs.

A rule of `_RULES` turns a node into ONNX nodes: callable (builder, node) -> name of its output. To add an operator,
write one. Operators: https://onnx.ai/onnx/operators/, version 13.
"""
import ast
import json
from typing import Dict, List, NamedTuple

import numpy as np

from common import graph
from common.errors import UserError
from common.mxnet_setup import mx

OPSET = 13
IR_VERSION = 7  # the form of the file that came with opset 13: runtimes from 2020 on read it
_PRODUCER = "arcface-mxnet"


class _Node(NamedTuple):
    """A node of the symbol. inputs: names of tensors; shapes: theirs, for one image; model: its name in messages."""

    op: str
    name: str
    attrs: Dict
    inputs: List[str]
    shapes: List[tuple]
    model: str

    @property
    def output(self):
        return f"{self.name}_output"

    def refuse(self, what):
        raise UserError(f"{self.model}: layer {self.name!r} ({self.op}): {what} has no form in the exported model")


class _Builder:
    """An ONNX graph under construction. arrays: dict name -> float32 array of all parameters."""

    def __init__(self, onnx, arrays):
        self._onnx, self.arrays, self.nodes, self.initializers = onnx, arrays, [], {}

    def add(self, op, name, inputs, output=None, **attrs):
        """Append a node; returns the name of its output, <name>_output where none is given."""
        output = output or f"{name}_output"
        self.nodes.append(self._onnx.helper.make_node(op, inputs, [output], name=name, **attrs))
        return output

    def constant(self, name, values, dtype=np.float32):
        """Keep an array under a name; returns the name."""
        self.initializers[name] = self._onnx.numpy_helper.from_array(np.array(values, dtype), name)
        return name

    def parameter(self, name):
        """The tensor's name, its values kept where it is a parameter."""
        if name in self.arrays and name not in self.initializers:
            self.constant(name, self.arrays[name])
        return name


def convert(symbol, arg_params, aux_params, image_shape=(112, 112), metadata=None, name="the network"):
    """Turn an embedding symbol and its parameters into an ONNX model.

    symbol: from `data`, (N, 3, H, W) RGB 0..255, to one output (N, D); it is converted as it is, see
    `common.graph.for_inference` for what to do before. arg_params, aux_params: dict name -> NDArray. image_shape:
    (H, W). metadata: dict str -> str, kept in the file. name: the model's in messages. Returns an onnx.ModelProto; the
    number of images is free, and pixels are float32.
    Raises UserError for an operator that no rule is known for, naming it, for one that lacks an attribute, and where
    onnx is not installed.
    """
    onnx = import_onnx()
    shape = (1, 3, *image_shape)
    symbol = graph.rewrite(symbol, [graph.flat_fully_connected], data=shape)
    arrays = {name: array.asnumpy().astype(np.float32) for name, array in {**arg_params, **aux_params}.items()}
    builder = _Builder(onnx, arrays)
    shapes = graph.output_shapes(symbol, dict(data=shape))
    output = _convert_nodes(builder, json.loads(symbol.tojson()), shapes, name)
    emb_size = symbol.infer_shape(data=shape)[1][0][1]
    inputs, outputs = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dimensions)
                       for name, dimensions in (("data", ["N", *shape[1:]]), (output, ["N", emb_size])))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(builder.nodes, "embedding", [inputs], [outputs], list(builder.initializers.values())),
        producer_name=_PRODUCER, ir_version=IR_VERSION, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    onnx.helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    return model


def import_onnx():
    """The package onnx. Raises UserError where it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise UserError(f"onnx cannot be imported ({error}): pip install '.[onnx]'") from error
    return onnx


def _convert_nodes(builder, symbol, shapes, model):
    """Convert a symbol's JSON; returns the name of its output. shapes: dict (node number, output number) -> shape."""
    names, nodes = [], symbol["nodes"]
    unknown = sorted({node["op"] for node in nodes} - set(_RULES) - {"null"})
    if unknown:
        raise UserError(f"{model}: has operators that cannot be exported: {', '.join(unknown)}; known are: "
                        f"{', '.join(sorted(_RULES))}")
    for node in nodes:
        entries = node["inputs"]
        if node["op"] == "null":
            names.append(node["name"])
            continue
        attrs = {key: _value(text) for key, text in node.get("attrs", {}).items()}
        inputs = [builder.parameter(names[number]) for number, _, _ in entries]
        found = _Node(node["op"], node["name"], attrs, inputs, [shapes[tuple(entry[:2])] for entry in entries], model)
        names.append(_converted(builder, found))
    return names[symbol["heads"][0][0]]


def _converted(builder, node):
    """Convert a node by its rule; returns the name of its output."""
    try:
        return _RULES[node.op](builder, node)
    except KeyError as error:  # MXNet has defaults of its own for what a damaged file leaves out
        node.refuse(f"to leave out the attribute {error}")


def _value(text):
    """An attribute as a Python value: '(3, 3)', 'True', '2e-05', 'None'; words stay text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _as(op, **attrs):
    """The rule of an operator that ONNX has under the name `op`."""
    return lambda builder, node: builder.add(op, node.name, node.inputs, **attrs)


def _with_scalar(op, reverse=False):
    """The rule of an operator between a tensor and a number; reverse: the number comes first."""
    def rule(builder, node):
        inputs = [node.inputs[0], builder.constant(f"{node.name}_scalar", float(node.attrs["scalar"]))]
        return builder.add(op, node.name, inputs[::-1] if reverse else inputs)
    return rule


def _convolution(builder, node):
    attrs = node.attrs
    if attrs.get("layout", "None") not in (None, "None", "NCHW") or len(attrs["kernel"]) != 2:
        node.refuse(f"layout {attrs.get('layout')} with kernel {attrs['kernel']}")
    return builder.add("Conv", node.name, node.inputs, group=attrs.get("num_group", 1), **_window(attrs))


def _window(attrs):
    """Kernel, stride, padding and dilation of a layer; what is left out or empty is 1, and no padding."""
    ones = (1, 1)
    window = dict(kernel_shape=attrs["kernel"], strides=attrs.get("stride") or ones,
                  pads=(attrs.get("pad") or (0, 0)) * 2)
    return dict(window, dilations=attrs.get("dilate") or ones) if "dilate" in attrs else window


def _fully_connected(builder, node):
    if len(node.shapes[0]) != 2:
        node.refuse(f"an input of shape {node.shapes[0]} that is not flattened")
    return builder.add("Gemm", node.name, node.inputs, transB=1)


def _batch_norm(builder, node):
    if node.attrs.get("axis", 1) != 1:
        node.refuse(f"axis {node.attrs['axis']}")
    data, gamma, *rest = node.inputs
    if node.attrs.get("fix_gamma", True):  # whatever is stored, it counts as 1
        builder.constant(gamma, np.ones(node.shapes[1]))
    return builder.add("BatchNormalization", node.name, [data, gamma, *rest],
                       epsilon=float(node.attrs.get("eps", 1e-3)))


def _leaky_relu(builder, node):
    kind = node.attrs.get("act_type", "leaky")
    if kind == "leaky":
        return builder.add("LeakyRelu", node.name, node.inputs, alpha=float(node.attrs.get("slope", 0.25)))
    if kind != "prelu":
        node.refuse(f"act_type {kind}")
    data, slope = node.inputs
    if len(node.shapes[0]) == 4 and slope in builder.arrays:  # broadcast from the right, so that channels need a place
        builder.constant(slope, builder.arrays[slope].reshape(-1, 1, 1))
    return builder.add("PRelu", node.name, [data, slope])


def _activation(builder, node):
    known = dict(relu="Relu", sigmoid="Sigmoid", tanh="Tanh", softrelu="Softplus", softsign="Softsign")
    kind = node.attrs["act_type"]
    return builder.add(known.get(kind) or node.refuse(f"act_type {kind}"), node.name, node.inputs)


def _pooling(builder, node):
    attrs = node.attrs
    kind = attrs.get("pool_type", "max")
    if kind not in ("max", "avg"):
        node.refuse(f"pool_type {kind}")
    if attrs.get("global_pool", False):
        return builder.add("GlobalMaxPool" if kind == "max" else "GlobalAveragePool", node.name, node.inputs)
    if attrs.get("pooling_convention", "valid") != "valid":
        node.refuse(f"pooling_convention {attrs['pooling_convention']}")
    if kind == "max":
        return builder.add("MaxPool", node.name, node.inputs, **_window(attrs))
    return builder.add("AveragePool", node.name, node.inputs, **_window(attrs),
                       count_include_pad=int(attrs.get("count_include_pad") in (None, "None", True)))


def _concat(builder, node):
    return builder.add("Concat", node.name, node.inputs, axis=node.attrs.get("dim", 1))


def _slice_axis(builder, node):
    attrs = node.attrs
    return _sliced(builder, node, {attrs["axis"]: (attrs["begin"], attrs["end"])})


def _slice(builder, node):
    if any(step not in (None, 1) for step in node.attrs.get("step") or ()):
        node.refuse(f"step {node.attrs['step']}")
    return _sliced(builder, node, dict(enumerate(zip(node.attrs["begin"], node.attrs["end"]))))


def _sliced(builder, node, ranges):
    """Cut axes to ranges: dict axis -> (first or None, end or None)."""
    ranges = {axis: (begin or 0, np.iinfo(np.int64).max if end in (None, "None") else end)
              for axis, (begin, end) in ranges.items() if (begin, end) != (None, None)}
    parts = zip(("begin", "end", "axes"), (*zip(*ranges.values()), list(ranges)))
    return builder.add("Slice", node.name, node.inputs + [
        builder.constant(f"{node.name}_{part}", values, np.int64) for part, values in parts])


def _pad(builder, node):
    if node.attrs["mode"] != "constant":
        node.refuse(f"mode {node.attrs['mode']}")
    width = node.attrs["pad_width"]  # before and after each axis in turn; ONNX has all before, then all after
    return builder.add("Pad", node.name, [
        *node.inputs, builder.constant(f"{node.name}_width", width[::2] + width[1::2], np.int64),
        builder.constant(f"{node.name}_value", float(node.attrs.get("constant_value", 0)))])


def _reshape(builder, node):
    shape = node.attrs["shape"]
    if node.attrs.get("reverse", False) or min(shape) < -1 or shape[:1] not in ((0,), (-1,)):
        node.refuse(f"shape {shape}")
    return builder.add("Reshape", node.name, [node.inputs[0], builder.constant(f"{node.name}_shape", shape, np.int64)])


def _clip(builder, node):
    limits = [builder.constant(f"{node.name}_{name}", float(node.attrs[name])) for name in ("a_min", "a_max")]
    return builder.add("Clip", node.name, node.inputs + limits)


def _cast(builder, node):
    if node.attrs["dtype"] not in ("float32", "float16"):
        node.refuse(f"dtype {node.attrs['dtype']}")
    return builder.add("Identity", node.name, node.inputs)  # all of the model is float32


def _l2_normalization(builder, node):
    if node.attrs.get("mode", "instance") != "instance" or len(node.shapes[0]) != 2:
        node.refuse(f"mode {node.attrs.get('mode')} of shape {node.shapes[0]}")
    square = builder.add("ReduceSumSquare", f"{node.name}_square", node.inputs, axes=[1], keepdims=1)
    eps = builder.constant(f"{node.name}_eps", float(node.attrs.get("eps", 1e-10)))
    length = builder.add("Sqrt", f"{node.name}_length", [builder.add("Add", f"{node.name}_sum", [square, eps])])
    return builder.add("Div", node.name, [node.inputs[0], length])


def _sum(builder, node):
    attrs, name = node.attrs, f"{node.name}_axes"
    axes = attrs["axis"] if isinstance(attrs.get("axis"), tuple) else (attrs["axis"],)
    return builder.add("ReduceSum", node.name, [*node.inputs, builder.constant(name, axes, np.int64)],
                       keepdims=int(attrs.get("keepdims", False)))


def _mean(builder, node):
    if node.attrs.get("axis") not in (None, (), "None"):
        node.refuse(f"axis {node.attrs['axis']}")
    return builder.add("ReduceMean", node.name, node.inputs, keepdims=0)


def _tile(builder, node):
    return builder.add("Tile", node.name, [
        *node.inputs, builder.constant(f"{node.name}_reps", node.attrs["reps"], np.int64)])


def normalised(symbol):
    """An embedding symbol whose output is L2-normalised, under the name fc1_normalised."""
    return mx.sym.L2Normalization(symbol, mode="instance", name="fc1_normalised")


_RULES = {
    "Convolution": _convolution, "FullyConnected": _fully_connected, "BatchNorm": _batch_norm,
    "LeakyReLU": _leaky_relu, "Activation": _activation, "Pooling": _pooling, "Concat": _concat,
    "slice_axis": _slice_axis, "slice": _slice, "Pad": _pad, "Reshape": _reshape, "clip": _clip, "Cast": _cast,
    "L2Normalization": _l2_normalization, "sum": _sum, "mean": _mean, "tile": _tile,
    "Flatten": _as("Flatten", axis=1), "_copy": _as("Identity"), "relu": _as("Relu"), "sqrt": _as("Sqrt"),
    "add_n": _as("Sum"),
    **{f"{kind}_{name}": _as(op) for kind in ("elemwise", "broadcast")
       for name, op in (("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("div", "Div"))},
    "_plus_scalar": _with_scalar("Add"), "_minus_scalar": _with_scalar("Sub"), "_mul_scalar": _with_scalar("Mul"),
    "_div_scalar": _with_scalar("Div"), "_rminus_scalar": _with_scalar("Sub", reverse=True),
}
