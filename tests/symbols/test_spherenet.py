"""The SphereFace paper's networks: its depths, and what its units add."""
import json

import pytest

from common.errors import UserError
from symbols import spherenet

STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and map size in Table 2


def _convolutions(symbol):
    nodes = json.loads(symbol.tojson())["nodes"]
    return [node["attrs"] for node in nodes if node["op"] == "Convolution"]


@pytest.mark.parametrize("num_layers, units", [
    (4, (0, 0, 0, 0)), (10, (0, 1, 2, 0)), (20, (1, 2, 4, 1)), (36, (2, 4, 8, 2)), (64, (3, 8, 16, 3))])
def test_depths_of_the_paper(num_layers, units):
    symbol = spherenet.get_symbol(num_layers)
    found = [(int(attrs["num_filter"]), attrs["kernel"], attrs["stride"]) for attrs in _convolutions(symbol)]
    expected = [(filters, "(3, 3)", f"({stride}, {stride})") for number, (filters, _) in zip(units, STAGES)
                for stride in [2] + [1, 1] * number]
    assert found == expected and len(found) == num_layers
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=(1, 3, 112, 112))
    maps = dict(zip(internals.list_outputs(), shapes))
    for stage, (filters, size) in enumerate(STAGES, 1):
        assert maps[f"relu{stage}_1_output"] == (1, filters, size, size)


def test_units_add_what_they_are_given():
    nodes = json.loads(spherenet.get_symbol(10).tojson())["nodes"]
    sums = {node["name"]: {nodes[entry[0]]["name"] for entry in node["inputs"]} for node in nodes
            if node["op"] == "elemwise_add"}
    assert sums == {"_plus0": {"relu2_1", "relu2_3"}, "_plus1": {"relu3_1", "relu3_3"}, "_plus2": {"_plus1", "relu3_5"}}


@pytest.mark.parametrize("settings, message", [
    (dict(num_layers=12), "unknown num_layers 12; known are: 10, 104, 20, 36, 4, 60, 64"),
    (dict(num_layers=20, net_act="tanh"), "unknown net_act 'tanh'"),
    (dict(num_layers=20, workspace=-1), "workspace -1: expected a whole number of MB"),
    (dict(num_layers=20, workspace=2.5), "workspace 2.5: expected a whole number of MB"),
    (dict(num_layers=20, net_output="X"), "unknown net_output 'X'"),
    (dict(num_layers=20, net_output="Z"), "own 25088 features, not emb_size 512")])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        spherenet.get_symbol(**settings)
