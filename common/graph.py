"""Rewriting a symbol for the machine that runs it. What is saved keeps the original's operators and names.

On a CPU, MXNet 1.9.1 has no fast path for PReLU, and fails or crashes on two shapes of the public checkpoints
(BatchNorm on two-dimensional data, FullyConnected straight after a 1×1 map). `for_device` puts exact equivalents
in their place: parameter names, shapes and results stay the same. One gradient does not, for it becomes right: where
memory planning allows, MXNet's PReLU writes over its input, and the gradient that it then gives a slope g is g times
the true one.
"""
import json
from collections import Counter

import numpy as np

from common.mxnet_setup import mx

_MIRRORED = "__force_mirroring__"  # MXNet's own mark: compute this again in the backward pass instead of keeping it


class _Builder:
    """A symbol's JSON under construction: nodes are appended, an entry is [node number, output number, version].

    prelus: dict node number of a rewritten PReLU -> entries of its parts (data, its positive part, g, 1 − g).
    uses: how often each node's outputs are taken in the symbol that is rewritten.
    """

    def __init__(self):
        self.nodes, self.prelus, self.uses = [], {}, Counter()

    def add(self, op, name, inputs=(), **attrs):
        self.nodes.append(dict(op=op, name=name, inputs=[list(entry) for entry in inputs],
                               attrs={key: str(value) for key, value in attrs.items()}))
        return [len(self.nodes) - 1, 0, 0]

    def symbol(self, heads):
        variables = [number for number, node in enumerate(self.nodes) if node["op"] == "null"]
        return mx.sym.load_json(json.dumps(dict(
            nodes=self.nodes, arg_nodes=variables, heads=heads,
            node_row_ptr=list(range(len(self.nodes) + 1)), attrs={"mxnet_version": ["int", 10901]})))


def rewrite(symbol, rules, **shapes):
    """Rebuild `symbol`, letting each rule replace the nodes it knows.

    rules: callables (builder, node, inputs, shape_of) -> entry of the replacement, or None to leave the node as it
        is; `node` is the JSON node, `inputs` the rebuilt entries, `shape_of(i)` the shape of input i.
    shapes: input shapes, for instance data=(1, 3, 112, 112). Returns the new symbol.
    """
    graph, shape_by_entry = json.loads(symbol.tojson()), output_shapes(symbol, shapes)
    builder, entries = _Builder(), []
    uses = Counter(entry[0] for node in graph["nodes"] + [dict(inputs=graph["heads"])] for entry in node["inputs"])
    for number, node in enumerate(graph["nodes"]):
        inputs, first = [_moved(entries, entry) for entry in node["inputs"]], len(builder.nodes)

        def shape_of(position, node=node):
            number, output, _ = node["inputs"][position]
            return shape_by_entry[number, output]

        replaced = None
        for rule in rules:
            replaced = rule(builder, node, inputs, shape_of)
            if replaced:
                break
        entries.append(replaced or builder.add(node["op"], node["name"], inputs, **node.get("attrs", {})))
        builder.uses[entries[-1][0]] += uses[number]
        if _MIRRORED in node.get("attrs", {}):
            for part in builder.nodes[first:]:
                part["attrs"][_MIRRORED] = "True"
    return builder.symbol([_moved(entries, head) for head in graph["heads"]])


def _moved(entries, entry):
    number, output, version = entry
    return [entries[number][0], entries[number][1] + output, version]


def output_shapes(symbol, shapes):
    """Shape of every output, as dict (node number, output number) -> shape. shapes: dict input name -> shape."""
    internals = symbol.get_internals()
    known = {name: shape for name, shape in shapes.items() if name in symbol.list_arguments()}
    _, outputs, _ = internals.infer_shape(**known)
    entries = json.loads(internals.tojson())["heads"]
    return {(number, output): shape for (number, output, _), shape in zip(entries, outputs)}


def depthwise_prelu(builder, node, inputs, shape_of):
    """PReLU as g·x + (1 − g)·relu(x), the products being depthwise 1×1 convolutions, which oneDNN has.

    Gluon's PReLU has one slope for all channels; it is spread over them.
    """
    if node["op"] != "LeakyReLU" or node.get("attrs", {}).get("act_type") != "prelu" or len(shape_of(0)) != 4:
        return None
    name, channels, slopes, (data, slope) = node["name"], shape_of(0)[1], shape_of(1), inputs
    if slopes not in ((channels,), (1,)):
        return None
    builder.nodes[slope[0]]["attrs"]["__shape__"] = str(slopes)  # a Reshape cannot infer it backwards
    settings = dict(num_filter=channels, num_group=channels, kernel=(1, 1), no_bias=True)
    positive = builder.add("Activation", f"{name}_positive", [data], act_type="relu")
    column = builder.add("Reshape", f"{name}_column", [slope], shape=(-1, 1, 1, 1))
    if slopes != (channels,):
        column = builder.add("broadcast_axis", f"{name}_columns", [column], axis=0, size=channels)
    rest = builder.add("_rminus_scalar", f"{name}_rest", [column], scalar=1)
    linear = builder.add("Convolution", f"{name}_linear", [data, column], **settings)
    kink = builder.add("Convolution", f"{name}_kink", [positive, rest], **settings)
    output = builder.add("elemwise_add", name, [linear, kink])
    builder.prelus[output[0]] = data, positive, column, rest
    return output


def depthwise_after_prelu(builder, node, inputs, shape_of):
    """A depthwise convolution of a PReLU with the slopes multiplied into its weight, which saves their own two.

    W∗(g·x + (1 − g)·relu(x)) + b = (g·W)∗x + b + ((1 − g)·W)∗relu(x), channel by channel.
    """
    attrs = node.get("attrs", {})
    if (node["op"] != "Convolution" or inputs[0][0] not in builder.prelus
            or not int(attrs.get("num_group", 1)) == int(attrs["num_filter"]) == shape_of(0)[1]):
        return None
    name, (data, positive, column, rest) = node["name"], builder.prelus[inputs[0][0]]
    builder.nodes[inputs[1][0]]["attrs"]["__shape__"] = str(shape_of(1))  # a product cannot infer it backwards
    parts = []
    for part, source, factor, bias in ("linear", data, column, inputs[2:]), ("kink", positive, rest, []):
        weight = builder.add("broadcast_mul", f"{name}_{part}_weight", [factor, inputs[1]])
        parts.append(builder.add("Convolution", f"{name}_{part}", [source, weight] + bias,
                                 **dict(attrs, no_bias=not bias)))
    return builder.add("elemwise_add", name, parts)


def batchnorm_2d(builder, node, inputs, shape_of):
    """BatchNorm on (N, C) as one on (N, C, 1, 1): oneDNN crashes when a network holds both shapes."""
    if node["op"] != "BatchNorm" or len(shape_of(0)) != 2:
        return None
    name, data = node["name"], inputs[0]
    image = builder.add("Reshape", f"{name}_image", [data], shape=(0, 0, 1, 1))
    normed = builder.add("BatchNorm", f"{name}_4d", [image] + inputs[1:], **dict(node.get("attrs", {}), axis=1))
    return builder.add("Flatten", name, [normed])


def flat_fully_connected(builder, node, inputs, shape_of):
    """FullyConnected on a (N, C, H, W) map behind a Flatten: on a 1×1 map oneDNN fails in inference without it."""
    if node["op"] != "FullyConnected" or len(shape_of(0)) != 4 or node["attrs"].get("flatten") in ("False", "0"):
        return None
    flat = builder.add("Flatten", f"{node['name']}_flat", [inputs[0]])
    return builder.add("FullyConnected", node["name"], [flat] + inputs[1:], **node["attrs"])


def splittable_concat(builder, node, inputs, shape_of):
    """Concat of maps whose channels do not fill oneDNN's blocks of 16, behind a copy: its backward pass fails on them.

    ("could not construct a sub-memory".) The copy gives the gradient back in the plain layout, cut as one likes.
    """
    channels = [shape_of(position)[1] for position in range(len(inputs)) if len(shape_of(position)) == 4]
    if node["op"] != "Concat" or node.get("attrs", {}).get("dim", "1") != "1" or not any(c % 16 for c in channels):
        return None
    blocked = builder.add("Concat", f"{node['name']}_blocked", inputs, **node["attrs"])
    return _plain(builder, node["name"], blocked)


def convolution_of_odd_blocks(builder, node, inputs, shape_of):
    """Convolution with channels that do not fill blocks of 16, between copies in the plain layout.

    It keeps maps and their gradients in smaller blocks. Where those meet a neighbour's blocks of 16 in a batch norm's
    backward pass, oneDNN falls back to a form many times as slow.
    """
    if node["op"] != "Convolution":
        return None
    channels, filters, groups = shape_of(0)[1], *(int(node["attrs"].get(key, 1)) for key in ("num_filter", "num_group"))
    if channels < 8 or channels == groups or (channels // groups % 16 == 0 and filters // groups % 16 == 0):
        return None
    if channels % 16 == 0 and builder.nodes[inputs[0][0]]["op"] in ("Activation", "BatchNorm"):
        inputs = [_plain(builder, f"{node['name']}_data", inputs[0]), *inputs[1:]]
    name = node["name"] if filters % 16 else f"{node['name']}_blocked"
    output = builder.add("Convolution", name, inputs, **node["attrs"])
    return output if filters % 16 else _plain(builder, node["name"], output)


def _plain(builder, name, entry):
    """A copy in the plain layout, whose gradient is in it too."""
    return builder.add("slice_axis", name, [entry], axis=0, begin=0, end=None)


def uint8_input(builder, node, inputs, shape_of):
    """Let `data` arrive as uint8 (a quarter of the bytes to move); the graph's own first node turns it to float32."""
    if node["op"] != "null" or node["name"] != "data":
        return None
    data = builder.add("null", "data", **dict(node.get("attrs", {}), __dtype__="3"))
    return builder.add("Cast", "data_float32", [data], dtype="float32")


CPU_RULES = [depthwise_prelu, depthwise_after_prelu, batchnorm_2d, flat_fully_connected]


def for_device(symbol, device, training=True, **shapes):
    """The same network as it is best run on `device`, taking uint8 images.

    symbol: an embedding symbol with input `data`, (N, 3, H, W), RGB 0..255; device: mx.Context; training: whether it
    shall have a backward pass; shapes: input shapes.
    Output names, parameter names, shapes and results (to float32 rounding) are unchanged.
    """
    rules = [uint8_input]
    if device.device_type == "cpu":
        rules += CPU_RULES
        rules += [splittable_concat, convolution_of_odd_blocks] if training else []
    return rewrite(symbol, rules, **shapes)


def mirrored(symbol):
    """The same network, marked to be trained in less memory: most maps are computed again in the backward pass.

    Kept is what paths join in, sums and concatenations (in a network of one path, what convolutions give, but for
    grouped ones); FullyConnected, whose maps are small; and Dropout, which would draw another mask.
    """
    graph = json.loads(symbol.tojson())
    joins = {node["op"] for node in graph["nodes"]} & {"elemwise_add", "add_n", "Concat"}
    for node in graph["nodes"]:
        one_path = not joins and node["op"] == "Convolution" and int(node["attrs"].get("num_group", 1)) == 1
        if not one_path and node["op"] not in joins | {"null", "FullyConnected", "Dropout"}:
            node.setdefault("attrs", {})[_MIRRORED] = "True"
    return mx.sym.load_json(json.dumps(graph))


def for_inference(symbol, arg_params, aux_params, **shapes):
    """The network and its parameters as they are best used once training is over: no dropout, no batch norm to spare.

    A BatchNorm on a Convolution or FullyConnected is multiplied into its weight and bias, in float64.
    symbol: an embedding symbol; arg_params, aux_params: dict name -> NDArray. shapes: input shapes.
    Returns (symbol, arg_params, aux_params); outputs keep their names, a folded layer gets a bias <name>_bias.
    """
    arg_params = dict(arg_params)

    def fold(builder, node, inputs, shape_of):
        layer = builder.nodes[inputs[0][0]] if node["op"] == "BatchNorm" else {}
        if layer.get("op") not in ("Convolution", "FullyConnected") or builder.uses[inputs[0][0]] > 1 or (
                node.get("attrs", {}).get("axis", "1") != "1"):
            return None
        names = [builder.nodes[entry[0]]["name"] for entry in layer["inputs"]]
        if names[1] not in arg_params or builder.uses[layer["inputs"][1][0]] > 1:
            return None
        statistics = [builder.nodes[entry[0]]["name"] for entry in inputs[1:]]
        values = ({**arg_params, **aux_params}[name].asnumpy() for name in statistics)
        scale, shift = _affine(node.get("attrs", {}), *values)
        weight = arg_params[names[1]].asnumpy()
        if names[2:]:
            shift = shift + scale * arg_params[names[2]].asnumpy()
        bias = f"{layer['name']}_bias"
        folded_weight = weight * scale.reshape((-1,) + (1,) * (weight.ndim - 1))
        arg_params[names[1]] = mx.nd.array(folded_weight, dtype=np.float32)
        arg_params[bias] = mx.nd.array(shift, dtype=np.float32)
        return builder.add(layer["op"], node["name"], layer["inputs"][:2] + [builder.add("null", bias)],
                           **dict(layer["attrs"], no_bias=False))

    folded = rewrite(rewrite(symbol, [without_dropout], **shapes), [fold], **shapes)
    names = set(folded.list_inputs())
    return folded, *({name: array for name, array in params.items() if name in names}
                     for params in (arg_params, aux_params))


def _affine(attrs, gamma, beta, mean, var):
    """What BatchNorm does to a channel in inference, (factor, summand), in float64."""
    fixed = attrs.get("fix_gamma", "True") in ("True", "1")  # whatever is stored, it then counts as 1
    scale = (1 if fixed else gamma.astype(np.float64)) / np.sqrt(var.astype(np.float64) + float(attrs.get("eps", 1e-3)))
    return scale, beta - mean * scale


def without_dropout(builder, node, inputs, shape_of):
    """Dropout left out: in inference it does nothing."""
    return inputs[0] if node["op"] == "Dropout" else None


def settled(symbol, arg_params):
    """The network with whatever hangs on parameters alone computed once: (symbol, arg_params).

    arg_params: dict name -> NDArray. What is computed becomes a parameter of the node's name, with _weight behind it.
    """
    graph = json.loads(symbol.tojson())
    nodes, fed = graph["nodes"], []
    for node in nodes:
        fed.append(node["name"] == "data" if node["op"] == "null" else any(fed[entry[0]] for entry in node["inputs"]))
    wanted = sorted({entry[0] for node, is_fed in zip(nodes, fed) if is_fed for entry in node["inputs"]
                     if not fed[entry[0]] and nodes[entry[0]]["op"] != "null"})
    names = {number: nodes[number]["name"].replace("_weight", "") + "_weight" for number in wanted}
    values = _computed(symbol, [nodes[number]["name"] for number in wanted], arg_params)
    arg_params = {**arg_params, **dict(zip(names.values(), values))}
    for number, name in names.items():
        nodes[number] = dict(op="null", name=name, attrs=dict(__shape__=str(arg_params[name].shape)), inputs=[])
    graph["arg_nodes"] = [number for number, node in enumerate(nodes) if node["op"] == "null"]
    symbol = mx.sym.load_json(json.dumps(graph))
    needed = set(symbol.list_arguments())
    return symbol, {name: array for name, array in arg_params.items() if name in needed}


def _computed(symbol, names, arg_params):
    if not names:
        return []
    internals = symbol.get_internals()
    group = mx.sym.Group([internals[f"{name}_output"] for name in names])
    executor = group.bind(mx.cpu(), {name: arg_params[name] for name in group.list_arguments()})
    return [output.copy() for output in executor.forward(is_train=False)]
