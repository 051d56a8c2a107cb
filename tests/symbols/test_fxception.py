"""Xception against the original's, whose depthwise convolutions are cut into one for each channel."""
import json
import re

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from symbols import fxception
from symbols.blocks import IMAGE_SHAPE, map_shape
from symbols.flops import flops

CUT = re.compile(r"(.+_depthwise_kernel)_(\d+)(_weight|_bias)?")


@pytest.fixture(scope="module")
def reference(golden):
    return json.loads((golden / "src2018" / "x1.json").read_text())


def _stacked_arguments(arguments):
    """The original's arguments, those of one depthwise convolution stacked."""
    stacked = {}
    for name, shape in arguments:
        found = CUT.fullmatch(name)
        if found:
            name, channel = found[1] + found[3], int(found[2])
            assert channel == stacked.get(name, [0])[0]
            shape = [channel + 1, *shape[1:]]
        stacked[name] = shape
    return list(map(list, stacked.items()))


def _stacked_layers(layers):
    """The original's layers, one depthwise convolution in place of the cut, its parts and their concatenation."""
    stacked = {}
    for op, name, attrs in layers:
        found = CUT.fullmatch(name)
        if found:
            assert attrs["num_filter"] == "1"
            name, channels = found[1], str(int(found[2]) + 1)
            attrs = dict(attrs, num_filter=channels, num_group=channels)
        if op not in ("SliceChannel", "Concat"):
            stacked[name] = [op, name, attrs]
    return list(stacked.values())


def _pairs(names, shapes):
    return [[name, list(shape)] for name, shape in zip(names, shapes)]


def test_network_is_the_original(reference):
    symbol, embedding = fxception.get_symbol(), reference["embedding"]
    arguments, outputs, states = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    assert _pairs(symbol.list_arguments(), arguments) == _stacked_arguments(embedding["arguments"])
    assert _pairs(symbol.list_auxiliary_states(), states) == embedding["auxiliary_states"]
    assert _pairs(symbol.list_outputs(), outputs) == embedding["outputs"]
    nodes = json.loads(symbol.tojson())["nodes"]
    layers = [[node["op"], node["name"], node.get("attrs", {})] for node in nodes if node["op"] != "null"]
    assert layers == _stacked_layers(reference["layers"])


def test_number_of_parameters(reference):
    symbol = fxception.get_symbol()
    arguments, _, states = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    sizes = {name: np.prod(shape) for name, shape in zip(symbol.list_arguments(), arguments)}
    assert sum(sizes.values()) - sizes["data"] == 31005112 == reference["embedding"]["num_arg_params"]
    assert sum(np.prod(shape) for shape in states) == reference["embedding"]["num_aux_values"]


def test_depthwise_layer_is_one_convolution_for_each_channel():
    internals, layer = fxception.get_symbol().get_internals(), "Entry_flow_b2_sepconv1_depthwise_kernel"
    pair = mx.sym.Group([internals["Entry_flow_b1_conv2_relu_output"], internals[f"{layer}_output"]])
    executor = pair.simple_bind(mx.cpu(), grad_req="null", data=(2, 3, 12, 16))
    random = np.random.RandomState(0)
    for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
        array[:] = random.uniform(0.5 if name.endswith("_var") else -1, 1.5, array.shape)
    before, after = executor.forward(is_train=False)
    weight, bias = executor.arg_dict[f"{layer}_weight"], executor.arg_dict[f"{layer}_bias"]
    assert weight.shape == (64, 1, 3, 3) and bias.shape == (64,)
    parts = [mx.nd.Convolution(before[:, c:c + 1], weight[c:c + 1], bias[c:c + 1], num_filter=1, kernel=(3, 3),
                               pad=(1, 1)) for c in range(64)]
    expected = mx.nd.concat(*parts, dim=1).asnumpy()
    assert expected.std() > 0.1 and np.abs(after.asnumpy() - expected).max() < 1e-5 * expected.std()


def test_flops_of_a_separable_layer_by_hand():
    internals = fxception.get_symbol().get_internals()
    before, after = (internals[f"{layer}_output"] for layer in (
        "Entry_flow_b3_sepconv1_relu", "Entry_flow_b3_sepconv1_bn"))  # 64 to 128 channels, at 56x56
    assert flops(after) - flops(before) == 56 * 56 * (64 * 2 * 9 + 128 * 2 * 64)


def test_shortcuts_carry_what_no_relu_has_cut():
    """Chollet, 2017, Figure 5: they begin before the ReLU of the first separable convolution."""
    nodes = json.loads(fxception.get_symbol().tojson())["nodes"]
    inputs = {node["name"]: {nodes[entry[0]]["name"] for entry in node["inputs"]} for node in nodes}
    for block, number in (("Entry_flow_b3", 0), ("Entry_flow_b4", 1), ("Exit_flow_b5", 10)):
        assert f"_plus{number}" in inputs[f"{block}_conv1_conv2d"]
    for number in range(8):
        assert inputs[f"_plus{number + 3}"] == {f"_plus{number + 2}", f"Middle_flow_block_{number}_sepconv3_bn"}


@pytest.mark.parametrize("net_input, size", [(0, 4), (1, 7)])
def test_inputs(net_input, size):
    internals = fxception.get_symbol(net_input=net_input).get_internals()
    assert map_shape(internals["Exit_flow_b6_sepconv2_relu_output"]) == (1, 1024, size, size)


@pytest.mark.parametrize("settings, message", [
    (dict(net_input=2), "unknown net_input 2; known are: 0, 1"),
    (dict(net_act="swish"), "unknown net_act 'swish'"),
    (dict(bn_mom=-0.1), "bn_mom -0.1: expected"),
    (dict(net_output="GDC", net_input=0), "needs a 7x7 map, but this network ends in 4x4"),
    (dict(net_output="A"), "own 1024 features, not emb_size 512")])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        fxception.get_symbol(**settings)
