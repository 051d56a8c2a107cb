"""Networks whose layers compute in 8-bit integers on a CPU, by oneDNN.

A checkpoint for INT8 is an ordinary float32 network; its nodes note, in RANGE, what their outputs lie between, and so
how oneDNN shall scale them. Layers without a note stay float32. On a GPU, and in plain MXNet, all of it is float32.
"""
import json
from math import isfinite

from common.errors import DataError
from common.mxnet_setup import mx

RANGE = "__range__"  # attribute of a node: the least and the greatest number of its output, comma between


def noted(symbol, ranges):
    """The same network with ranges at its nodes. ranges: dict node name -> (low, high)."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        if node["name"] in ranges:
            low, high = ranges[node["name"]]
            node.setdefault("attrs", {})[RANGE] = f"{low:.9g},{high:.9g}"
    return mx.sym.load_json(json.dumps(graph))


def ranges_of(symbol):
    """The ranges that a network's nodes note: dict node name -> (low, high); empty: it is no INT8 network.

    Raises DataError for a note that is no range.
    """
    nodes = json.loads(symbol.tojson())["nodes"]
    notes = ((node["name"], node.get("attrs", {}).get(RANGE)) for node in nodes)
    return {name: _range(name, note) for name, note in notes if note is not None}


def _range(name, note):
    try:
        low, high = map(float, note.split(","))
    except ValueError:
        low, high = 0.0, -1.0
    if not (low <= high and isfinite(low) and isfinite(high)):
        raise DataError(f"node {name!r}: {RANGE} is {note[:60]!r}; expected two numbers, the greater one last")
    return low, high


def quantised(symbol, arg_params):
    """The network that computes in 8-bit integers, on the CPU alone.

    symbol: with ranges noted; arg_params: dict name -> float32 NDArray. Returns (symbol, arg_params), and parameters
    keep their types when bound with `types(arg_params)`.
    """
    from mxnet.contrib import quantization

    ranges = ranges_of(symbol)
    fused = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    outputs = {node["name"]: _output(node) for node in json.loads(fused.tojson())["nodes"] if node["op"] != "null"}
    known = {f"{name}_output": ranges[output] for name, output in outputs.items() if output in ranges}
    plain = [name for name, output in outputs.items() if output not in ranges]
    found, _ = quantization._quantize_symbol(fused, mx.cpu(), plain, [], list(arg_params), "auto", "smart",
                                             "channel-wise")
    found = quantization._calibrate_quantized_sym(found, known)
    arg_params = quantization._quantize_params(found, arg_params, known)
    return found.get_backend_symbol("MKLDNN_QUANTIZE"), arg_params


def types(arg_params):
    """What `simple_bind` must be told of the parameters' types: dict name -> type."""
    return {name: array.dtype for name, array in arg_params.items()}


def _output(node):
    """The name of the node of the plain network whose output a fused node gives."""
    if not node.get("subgraphs"):
        return node["name"]
    inner = node["subgraphs"][0]
    return inner["nodes"][inner["heads"][0][0]]["name"]
