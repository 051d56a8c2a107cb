"""The cost of a network, counted as the original counts it."""
import json
from math import prod

from symbols.blocks import IMAGE_SHAPE


def flops(symbol, data_shape=(1, *IMAGE_SHAPE)):
    """Floating point operations for one image: multiplications and additions of convolutions and FC layers alone.

    symbol: an embedding symbol; data_shape: shape of its input `data`. Returns an int.
    A convolution counts (2 Cin k k - 1) H W Cout / groups, an FC layer 2 in out - out, both without the subtraction
    where they have a bias. Cin is the whole input's, so that the 1 is divided by the groups too, and the quotient is
    cut to a whole number: the original's own rule, kept so that figures can be compared.
    """
    internals = symbol.get_internals()
    arguments, outputs, _ = internals.infer_shape(data=data_shape)
    weights = dict(zip(internals.list_arguments(), arguments))
    maps = dict(zip(internals.list_outputs(), outputs))
    nodes = json.loads(symbol.tojson())["nodes"]
    total = 0
    for node in nodes:
        if node["op"] not in ("Convolution", "FullyConnected"):
            continue
        out_channels, *taps = weights[nodes[node["inputs"][1][0]]["name"]]
        groups = int(node["attrs"].get("num_group", 1))
        products = 2 * prod(taps) * groups - (node["attrs"].get("no_bias") == "True")
        places = prod(maps[f"{node['name']}_output"][2:])
        total += products * places * out_channels // groups
    return total
