"""Making a network ready for 8-bit integers: PReLU in terms of layers, what its maps lie between, channels made equal.

oneDNN has one scale for a whole map, and eight bits for it: a channel that is a hundred times as small as another is
lost. Every channel of a map is therefore multiplied until all have the same range, and the layers behind divide by the
same numbers (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", here with
ranges measured on images): the float32 network stays the same.
"""
import json

import numpy as np

from common.mxnet_setup import mx

_SMALLEST = 1e-4  # a channel whose range is a smaller share of the widest one's counts as this
_TIED = ("Activation", "elemwise_add", "add_n", "Flatten", "Pooling")  # a factor of a channel goes through them


def measure(symbol, arg_params, aux_params, images, batch_size=4):
    """What the outputs of all nodes lie between, channel by channel.

    images: (N, 3, H, W) uint8 RGB, `batch_size` of which are taken at once: every output is kept till they are done.
    Returns dict node name -> (low, high), each (C,) float64.
    """
    names = [node["name"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]
    internals, size, found = symbol.get_internals(), min(batch_size, len(images)), {}
    # a copy of each: oneDNN would join layers and lose sight of an output in their midst that is wanted as well
    group = mx.sym.Group([mx.sym.slice_axis(internals[f"{name}_output"], axis=0, begin=0, end=None) for name in names])
    executor = group.simple_bind(mx.cpu(), grad_req="null", data=(size, *images.shape[1:]))
    executor.copy_params_from(arg_params, aux_params)
    for stop in [*range(size, len(images), size), len(images)]:
        data = mx.nd.array(images[stop - size:stop], dtype=np.float32)
        for name, output in zip(names, executor.forward(is_train=False, data=data)):
            low, high = _bounds(output.asnumpy())
            before = found.get(name, (low, high))
            found[name] = np.minimum(before[0], low), np.maximum(before[1], high)
    return found


def _bounds(values):
    """Least and greatest of each channel of (N, C, ...), as (C,) float64; much faster than MXNet's own reductions."""
    values = values.reshape(*values.shape[:2], -1)
    return tuple(reduce(reduce(values, axis=2), axis=0).astype(np.float64) for reduce in (np.min, np.max))


def equalised(symbol, arg_params, aux_params, ranges):
    """The same network with channels of equal range.

    symbol: whose parameters are all arguments, see `graph.settled`; ranges: what `measure` found.
    Returns (symbol, arg_params, aux_params, ranges), the ranges as those of the new network.
    """
    nodes, heads = (json.loads(symbol.tojson())[key] for key in ("nodes", "heads"))
    spaces = _spaces(nodes, heads, {**arg_params, **aux_params})
    factors = _factors(nodes, spaces, ranges)
    arg_params = {name: array.asnumpy().astype(float) for name, array in arg_params.items()}
    aux_params = {name: array.asnumpy().astype(float) for name, array in aux_params.items()}
    for number, node in enumerate(nodes):
        names = [nodes[entry[0]]["name"] for entry in node["inputs"]]
        before, after = (factors.get(spaces[place]) for place in (node["inputs"][0][0] if names else number, number))
        if node["op"] in ("Convolution", "FullyConnected"):
            _rescale_layer(node, names, arg_params, before, after)
        elif node["op"] == "BatchNorm":
            _rescale_norm(node, names, arg_params, aux_params, before, after)
    ranges = {node["name"]: tuple(_times(part, factors.get(spaces[number])) for part in ranges[node["name"]])
              for number, node in enumerate(nodes) if node["op"] != "null"}
    text = dict(json.loads(symbol.tojson()), nodes=nodes)
    return mx.sym.load_json(json.dumps(text)), *({name: mx.nd.array(array, dtype=np.float32)
                                                 for name, array in params.items()}
                                                for params in (arg_params, aux_params)), ranges


def _spaces(nodes, heads, params):
    """For each node the number of its space, nodes of which have their channels multiplied alike; None: by nothing."""
    parents = list(range(len(nodes) + 1))  # the last is the space of what must stay as it is
    fixed = len(nodes)

    def root(number):
        while parents[number] != number:
            number = parents[number]
        return number

    for number, node in enumerate(nodes):
        sources = [entry[0] for entry in node["inputs"]]
        if node["op"] in _TIED:
            ties = [number, *sources]
        elif _takes_factors(node, nodes, params):
            ties = []
        else:
            ties = [fixed, number, *sources[:1 if node["op"] in ("Convolution", "BatchNorm") else None]]
        for one, other in zip(ties, ties[1:]):
            parents[root(one)] = root(other)
    for number, _, _ in heads:
        parents[root(number)] = root(fixed)
    return [None if root(number) == root(fixed) else root(number) for number in range(len(nodes))]


def _takes_factors(node, nodes, params):
    """Whether a node's parameters can take up the factors of its input and of its output."""
    attrs = node.get("attrs", {})
    if node["op"] == "Convolution":
        groups = int(attrs.get("num_group", 1))
        return groups == 1 or groups == int(attrs["num_filter"]) == params[nodes[node["inputs"][1][0]]["name"]].shape[0]
    return node["op"] == "FullyConnected" or node["op"] == "BatchNorm" and attrs.get("axis", "1") == "1"


def _factors(nodes, spaces, ranges):
    """What each space's channels are multiplied with: dict space -> (C,)."""
    widest = {}
    for space, node in zip(spaces, nodes):
        if space is not None and node["op"] not in ("null", "Flatten"):
            low, high = ranges[node["name"]]
            found = np.maximum(np.abs(low), np.abs(high))
            widest[space] = np.maximum(widest.get(space, 0), found)
    return {space: found.max() / np.maximum(found, max(found.max() * _SMALLEST, 1e-30))
            for space, found in widest.items()}


def _times(values, factors):
    """Values (C,), or (C·H·W,) of a map that was flattened, times factors (C,) or None."""
    return values if factors is None else values * np.repeat(factors, len(values) // len(factors))


def _rescale_layer(node, names, params, before, after):
    weight = params[names[1]]
    if before is not None:
        depthwise = node["op"] == "Convolution" and weight.shape[1] == 1 and int(node["attrs"].get("num_group", 1)) > 1
        columns = np.repeat(before, weight.shape[1] // len(before)) if node["op"] == "FullyConnected" else before
        axis = 0 if depthwise else 1
        weight = weight / columns.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])
    if after is not None:
        weight = weight * after.reshape((-1,) + (1,) * (weight.ndim - 1))
        for bias in names[2:]:
            params[bias] = params[bias] * after
    params[names[1]] = weight


def _rescale_norm(node, names, arg_params, aux_params, before, after):
    _, gamma, beta, mean, _ = names
    if node["attrs"].get("fix_gamma", "True") in ("True", "1"):
        node["attrs"]["fix_gamma"], arg_params[gamma] = "False", np.ones_like(arg_params[gamma])
    if before is not None:
        arg_params[gamma], aux_params[mean] = arg_params[gamma] / before, aux_params[mean] * before
    if after is not None:
        arg_params[gamma], arg_params[beta] = arg_params[gamma] * after, arg_params[beta] * after
