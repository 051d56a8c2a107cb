"""The cost of a network, counted as the original counts it."""
import json
from collections import namedtuple
from math import prod

from symbols import get_symbol, network_settings
from symbols.blocks import IMAGE_SHAPE

Layer = namedtuple("Layer", "operator name shape parameters flops")


def flops(symbol, data_shape=(1, *IMAGE_SHAPE)):
    """Floating point operations for one image: multiplications and additions of convolutions and FC layers alone.

    symbol: an embedding symbol; data_shape: shape of its input `data`. Returns an int.
    A convolution counts (2 Cin k k - 1) H W Cout / groups, an FC layer 2 in out - out, both without the subtraction
    where they have a bias. Cin is the whole input's, so that the 1 is divided by the groups too, and the quotient is
    cut to a whole number: the original's own rule, kept so that figures can be compared.
    """
    return sum(layer.flops for layer in layers(symbol, data_shape))


def layers(symbol, data_shape=(1, *IMAGE_SHAPE)):
    """What each operator of a symbol gives and costs, in the graph's order.

    Returns a list of Layer: operator, name, shape of its (first) output, parameters (numbers in the arguments that it
    is the first to take; auxiliary states do not count), flops.
    """
    internals = symbol.get_internals()
    graph, (_, outputs, _) = json.loads(internals.tojson()), internals.infer_shape(data=data_shape)
    shapes = {number: shape for (number, output, _), shape in zip(graph["heads"], outputs) if output == 0}
    nodes, others = graph["nodes"], {"data", *symbol.list_auxiliary_states()}
    sizes = {number: prod(shapes[number]) for number, node in enumerate(nodes)
             if node["op"] == "null" and node["name"] not in others}
    return [Layer(node["op"], node["name"], shapes[number], sum(sizes.pop(entry[0], 0) for entry in node["inputs"]),
                  _flops(node, shapes, number)) for number, node in enumerate(nodes) if node["op"] != "null"]


def _flops(node, shapes, number):
    if node["op"] not in ("Convolution", "FullyConnected"):
        return 0
    out_channels, *taps = shapes[node["inputs"][1][0]]
    groups = int(node["attrs"].get("num_group", 1))
    products = 2 * prod(taps) * groups - (node["attrs"].get("no_bias") == "True")
    places = prod(shapes[number][2:])
    return products * places * out_channels // groups


def summarize(network, **settings):
    """What a network costs at its image size.

    network, settings: as for `symbols.get_symbol`. Returns a dict: network, family, parameters (numbers in the
    arguments; as in the original, the scales that a BatchNorm keeps at 1 count too), bytes (of its .params file,
    auxiliary states included), flops (for one image), emb_size, net_output, net_input (None in a family without it).
    Raises UserError as `get_symbol` does.
    """
    settings = network_settings(network, **settings)
    symbol = get_symbol(network, **settings)
    found = layers(symbol)
    return dict(network=network, family=settings["net_name"], parameters=sum(layer.parameters for layer in found),
                bytes=_checkpoint_bytes(symbol), flops=sum(layer.flops for layer in found),
                emb_size=found[-1].shape[1], net_output=settings["net_output"], net_input=settings.get("net_input"))


def _checkpoint_bytes(symbol):
    """Bytes of the file that `common.checkpoint.save` writes of float32 parameters."""
    arguments, _, states = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    named = zip(symbol.list_arguments() + symbol.list_auxiliary_states(), arguments + states)
    # The list's own numbers; then for each array its header, its numbers and its name with 'arg:' or 'aux:' before it.
    return 32 + sum(36 + 8 * len(shape) + 4 * prod(shape) + len(name) for name, shape in named if name != "data")
