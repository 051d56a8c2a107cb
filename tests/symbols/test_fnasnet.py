"""NASNet-A: who takes what from whom (the golden files do not say), maps, and what is refused."""
import json

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from symbols import fnasnet
from symbols.blocks import IMAGE_SHAPE
from symbols.gluon_names import Scope

NORMAL = [  # Zoph et al., 2018, Figure 4: layers and source of both summands
    (("sep5 sep5", "new"), ("sep3 sep3", "old")), (("sep5 sep5", "old"), ("sep3 sep3", "old")),
    (("avg3", "new"), ("", "old")), (("avg3", "old"), ("avg3", "old")), (("sep3 sep3", "new"), ("", "new"))]
REDUCTION = [
    (("sep5/2 sep5", "new"), ("sep7/2 sep7", "old")), (("max3/2", "new"), ("sep7/2 sep7", "old")),
    (("avg3/2", "new"), ("sep5/2 sep5", "old")), (("avg3", "sum0"), ("", "sum1")),
    (("sep3 sep3", "sum0"), ("max3/2", "new"))]
CELLS = ["cellstem00", "cellstem10", *(name for stage in range(3) for name in (
    *([f"reductioncell{stage - 1}0"] if stage else []), f"firstcell{stage}",
    *(f"normalcell{number}" for number in range(5 * stage, 5 * stage + 5))))]


class _Graph:
    """The network's nodes by name, each with the names of its inputs."""

    def __init__(self, symbol):
        nodes = json.loads(symbol.tojson())["nodes"]
        self.op = {node["name"]: node["op"] for node in nodes}
        self.attrs = {node["name"]: node.get("attrs", {}) for node in nodes}
        self.inputs = {node["name"]: [nodes[entry[0]]["name"] for entry in node["inputs"]] for node in nodes}

    def back(self, name):
        """Follow one summand back to a sum of the cell or to one of its two maps: (layers on the way, where it ends).

        The cell's own maps come from BatchNorm on a 1x1 convolution that has no depthwise one before it.
        """
        layers = []
        while self.op[name] != "elemwise_add" and not self._is_map(name):
            attrs = self.attrs[name]
            if self.op[name] == "Pooling" or int(attrs.get("num_group", 1)) > 1:
                halving = "/2" if attrs["stride"] == "(2, 2)" else ""
                layers.append(f"{attrs.get('pool_type', 'sep')}{attrs['kernel'][1]}{halving}")
            name = self.inputs[name][0]
        return " ".join(reversed(layers)), name

    def _is_map(self, name):
        if self.op[name] != "BatchNorm":
            return False
        below = self.inputs[name][0]
        if self.op[below] == "slice":
            below = self.inputs[below][0]
        before = self.inputs[below][0]
        return self.op[below] == "Concat" or self.op[before] != "Convolution"

    def origin(self, name):
        """The cell, or the stem, that a cell's map was made from."""
        while name != "batchnorm0_fwd":
            name = self.inputs[name][0]
            if self.op[name] == "Concat" and len(self.inputs[name]) > 2:  # two: the halves of a map made smaller
                return name.split("_")[0]
        return "stem"


@pytest.fixture(scope="module")
def graph():
    return _Graph(fnasnet.get_symbol())


@pytest.mark.parametrize("cell", CELLS)
def test_cells_are_the_paper_s(graph, cell):
    sums = [f"{cell}__plus{number}" for number in range(5)]
    found = [tuple(map(graph.back, graph.inputs[name])) for name in sums]
    expected = NORMAL if "normal" in cell or "first" in cell else REDUCTION
    named = {found[0][0][1]: "new", found[0][1][1]: "old", **{name: f"sum{k}" for k, name in enumerate(sums)}}
    assert [tuple((layers, named[end]) for layers, end in summands) for summands in found] == expected
    (joined,) = (name for name, inputs in graph.inputs.items() if graph.op[name] == "Concat" and sums[4] in inputs)
    assert [named[name] for name in graph.inputs[joined]] == (
        ["old", "sum0", "sum1", "sum2", "sum3", "sum4"] if expected is NORMAL else ["sum1", "sum2", "sum3", "sum4"])
    maps = {name: end for end, name in named.items()}
    assert (graph.origin(maps["old"]), graph.origin(maps["new"])) == _cells_before(cell)


def _cells_before(cell):
    """(old, new): the two outputs before; behind a reduction, old is what the reduction had for old."""
    outputs = ["stem", "stem", *CELLS]
    position = outputs.index(cell)
    return outputs[position - (3 if cell in ("firstcell1", "firstcell2") else 2)], outputs[position - 1]


def test_odd_places_are_tensorflow_s():
    """'SAME' pooling, 3x3 of stride 2, of an even map: TensorFlow has no padding before the first row and column."""
    values = np.random.RandomState(0).standard_normal((1, 2, 6, 8)).astype(np.float32)
    net = Scope("", "relu", 0.9)
    symbol = fnasnet._at_odd(net, "pad", mx.sym.Variable("data"), lambda data: net.pool(data, "max", 3, 2, pad=1))
    (found,) = symbol.eval(mx.cpu(), data=mx.nd.array(values))
    expected = [[values[:, :, row:row + 3, column:column + 3].max((2, 3)) for column in (0, 2, 4, 6)]
                for row in (0, 2, 4)]
    np.testing.assert_array_equal(found.asnumpy(), np.array(expected).transpose(2, 3, 0, 1))


@pytest.mark.parametrize("net_input, sizes", [(0, (28, 14, 14, 7, 4)), (1, (55, 28, 28, 14, 7))])
def test_maps(net_input, sizes):
    internals = fnasnet.get_symbol(net_input=net_input).get_internals()
    shapes = dict(zip(internals.list_outputs(), internals.infer_shape(data=(1, *IMAGE_SHAPE))[1]))
    cells = ("cellstem00_concat0", "cellstem10_concat1", "normalcell4_concat0", "normalcell9_concat0",
             "normalcell14_concat0")
    assert [shapes[f"{name}_output"][1:] for name in cells] == [
        (channels, size, size) for channels, size in zip((168, 336, 1008, 2016, 4032), sizes)]


@pytest.mark.parametrize("settings, message", [
    (dict(net_input=2), "unknown net_input 2; known are: 0, 1"),
    (dict(net_act="swish"), "unknown net_act 'swish'"),
    (dict(bn_mom=1), "bn_mom 1: expected"),
    (dict(net_output="GDC", net_input=0), "needs a 7x7 map, but this network ends in 4x4"),
    (dict(net_output="A"), "own 4032 features, not emb_size 512")])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        fnasnet.get_symbol(**settings)
