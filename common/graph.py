"""Rewriting a symbol for the machine that runs it. What is saved keeps the original's operators and names.

On a CPU, MXNet 1.9.1 has no fast path for PReLU, and fails or crashes on two shapes of the public checkpoints
(BatchNorm on two-dimensional data, FullyConnected straight after a 1×1 map). `for_device` puts exact equivalents
in their place: parameter names, shapes and results stay the same. One gradient does not, for it becomes right: where
memory planning allows, MXNet's PReLU writes over its input, and the gradient that it then gives a slope g is g times
the true one.
"""
import json

from common.mxnet_setup import mx


class _Builder:
    """A symbol's JSON under construction: nodes are appended, an entry is [node number, output number, version].

    prelus: dict node number of a rewritten PReLU -> entries of its parts (data, its positive part, g, 1 − g).
    """

    def __init__(self):
        self.nodes, self.prelus = [], {}

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
    graph, shape_by_entry = json.loads(symbol.tojson()), _output_shapes(symbol, shapes)
    builder, entries = _Builder(), []
    for node in graph["nodes"]:
        inputs = [_moved(entries, entry) for entry in node["inputs"]]

        def shape_of(position, node=node):
            number, output, _ = node["inputs"][position]
            return shape_by_entry[number, output]

        replaced = None
        for rule in rules:
            replaced = rule(builder, node, inputs, shape_of)
            if replaced:
                break
        entries.append(replaced or builder.add(node["op"], node["name"], inputs, **node.get("attrs", {})))
    return builder.symbol([_moved(entries, head) for head in graph["heads"]])


def _moved(entries, entry):
    number, output, version = entry
    return [entries[number][0], entries[number][1] + output, version]


def _output_shapes(symbol, shapes):
    """Shape of every output, as dict (node number, output number) -> shape."""
    internals = symbol.get_internals()
    known = {name: shape for name, shape in shapes.items() if name in symbol.list_arguments()}
    _, outputs, _ = internals.infer_shape(**known)
    entries = json.loads(internals.tojson())["heads"]
    return {(number, output): shape for (number, output, _), shape in zip(entries, outputs)}


def depthwise_prelu(builder, node, inputs, shape_of):
    """PReLU as g·x + (1 − g)·relu(x), the products being depthwise 1×1 convolutions, which oneDNN has."""
    if node["op"] != "LeakyReLU" or node.get("attrs", {}).get("act_type") != "prelu" or len(shape_of(0)) != 4:
        return None
    name, channels, (data, slope) = node["name"], shape_of(0)[1], inputs
    if shape_of(1) != (channels,):
        return None
    builder.nodes[slope[0]]["attrs"]["__shape__"] = str((channels,))  # a Reshape cannot infer it backwards
    settings = dict(num_filter=channels, num_group=channels, kernel=(1, 1), no_bias=True)
    positive = builder.add("Activation", f"{name}_positive", [data], act_type="relu")
    column = builder.add("Reshape", f"{name}_column", [slope], shape=(-1, 1, 1, 1))
    rest = builder.add("_rminus_scalar", f"{name}_rest", [column], scalar=1)
    linear = builder.add("Convolution", f"{name}_linear", [data, column], **settings)
    kink = builder.add("Convolution", f"{name}_kink", [positive, rest], **settings)
    output = builder.add("elemwise_add", name, [linear, kink])
    builder.prelus[output[0]] = data, positive, column, rest
    return output


def depthwise_after_prelu(builder, node, inputs, shape_of):
    """A depthwise convolution of a PReLU with the slopes multiplied into its weight, which saves their own two.

    W∗(g·x + (1 − g)·relu(x)) = (g·W)∗x + ((1 − g)·W)∗relu(x), channel by channel.
    """
    attrs = node.get("attrs", {})
    if (node["op"] != "Convolution" or inputs[0][0] not in builder.prelus or attrs.get("no_bias") not in ("True", "1")
            or not int(attrs.get("num_group", 1)) == int(attrs["num_filter"]) == shape_of(0)[1]):
        return None
    name, (data, positive, column, rest) = node["name"], builder.prelus[inputs[0][0]]
    builder.nodes[inputs[1][0]]["attrs"]["__shape__"] = str(shape_of(1))  # a product cannot infer it backwards
    parts = [builder.add("Convolution", f"{name}_{part}",
                         [source, builder.add("broadcast_mul", f"{name}_{part}_weight", [factor, inputs[1]])], **attrs)
             for part, source, factor in (("linear", data, column), ("kink", positive, rest))]
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


def uint8_input(builder, node, inputs, shape_of):
    """Let `data` arrive as uint8 (a quarter of the bytes to move); the graph's own first node turns it to float32."""
    if node["op"] != "null" or node["name"] != "data":
        return None
    data = builder.add("null", "data", **dict(node.get("attrs", {}), __dtype__="3"))
    return builder.add("Cast", "data_float32", [data], dtype="float32")


def for_device(symbol, device, **shapes):
    """The same network as it is best run on `device`, taking uint8 images.

    symbol: an embedding symbol with input `data`, (N, 3, H, W), RGB 0..255; device: mx.Context; shapes: input shapes.
    Output names, parameter names, shapes and results (to float32 rounding) are unchanged.
    """
    rules = [uint8_input]
    if device.device_type == "cpu":
        rules += [depthwise_prelu, depthwise_after_prelu, batchnorm_2d, flat_fully_connected]
    return rewrite(symbol, rules, **shapes)
