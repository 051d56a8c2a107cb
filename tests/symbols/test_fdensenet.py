"""DenseNets in both forms: depths of the paper, dropout, dense connections; what is refused."""
import json
from collections import Counter

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from symbols import fdensenet
from symbols.blocks import IMAGE_SHAPE

CHANNELS = {121: 1024, 161: 2208, 169: 1664, 201: 1920}  # of the last map, as in the paper
RELEASES = {2019: "densenet0_stage{}_concat{}_output", 2018: "DBstage{}_concat{}_output"}


def _shapes(symbol):
    internals = symbol.get_internals()
    arguments, outputs, _ = internals.infer_shape(data=(1, *IMAGE_SHAPE))
    return dict(zip(internals.list_arguments() + internals.list_outputs(), arguments + outputs))


def _operators(symbol):
    return Counter(node["op"] for node in json.loads(symbol.tojson())["nodes"])


@pytest.mark.parametrize("num_layers", CHANNELS)
def test_depth_is_the_number_of_weight_layers(num_layers):
    layers = {release: _operators(fdensenet.get_symbol(num_layers, release=release)) for release in RELEASES}
    assert layers[2019]["Convolution"] + layers[2019]["FullyConnected"] == num_layers
    assert layers[2018]["Convolution"] == layers[2019]["Convolution"] + 3  # of the beginning's residual unit


@pytest.mark.parametrize("num_layers", CHANNELS)
@pytest.mark.parametrize("release, net_input, sizes", [(2019, 1, (56, 28, 14, 7)), (2018, 1, (56, 28, 14, 7)),
                                                       (2018, 0, (28, 14, 7, 3))])
def test_maps(num_layers, release, net_input, sizes):
    shapes = _shapes(fdensenet.get_symbol(num_layers, release=release, net_input=net_input))
    units, first = fdensenet.DEPTHS[num_layers].units, 2 * fdensenet.DEPTHS[num_layers].growth
    ends = [shapes[RELEASES[release].format(stage, units[stage - 1] - (release == 2019))] for stage in (1, 2, 3, 4)]
    assert [end[2:] for end in ends] == [(size, size) for size in sizes]
    assert ends[3][1] == CHANNELS[num_layers]
    stem = shapes["densenet0_conv0_weight" if release == 2019 else "conv0_weight"]
    assert stem == ((first, 3, 3, 3) if release == 2019 else (64, 3, 3, 3) if net_input else (first, 3, 7, 7))


@pytest.mark.parametrize("release, unit", [(2019, "densenet0_stage1_{}conv1_fwd_output"),
                                           (2018, "DBstage1_unit1_{}conv2_output")])
def test_a_unit_puts_its_channels_behind_its_input(release, unit):
    symbol = fdensenet.get_symbol(121, release=release, densenet_dropout=0)
    internals = symbol.get_internals()
    before = "densenet0_pool0_fwd_output" if release == 2019 else "_plus0_output"
    after = RELEASES[release].format(1, int(release == 2018))
    executor = mx.sym.Group([internals[name] for name in (before, unit.format(""), after)]).simple_bind(
        mx.cpu(), grad_req="null", data=(2, 3, 12, 16))
    random = np.random.RandomState(0)
    for array in [*executor.arg_dict.values(), *executor.aux_dict.values()]:
        array[:] = random.uniform(0.1, 1, array.shape)
    data, new, dense = (array.asnumpy() for array in executor.forward(is_train=False))
    assert new.shape[1] == 32 and new.std() > 0
    assert np.array_equal(dense, np.concatenate([data, new], axis=1))


def test_dropout_by_release():
    def dropouts(**settings):
        nodes = json.loads(fdensenet.get_symbol(121, **settings).tojson())["nodes"]
        return Counter(node["attrs"]["p"] for node in nodes if node["op"] == "Dropout")

    of_output = {"0.4": 1}
    assert dropouts() == dropouts(release=2018) == of_output
    assert dropouts(densenet_dropout=0.3) == {"0.3": 58, **of_output}  # one for each unit
    assert dropouts(release=2018, densenet_dropout=0.1) == {"0.1": 2 * 58 + 3, **of_output}


def test_activation_by_release():
    assert _operators(fdensenet.get_symbol(121))["Activation"] == 2
    assert _operators(fdensenet.get_symbol(121, release=2018))["LeakyReLU"] == 2
    for release in RELEASES:
        assert "LeakyReLU" not in _operators(fdensenet.get_symbol(121, release=release, net_act="relu"))


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("num_layers, width", [(121, 512), (161, 2208), (169, 1664), (201, 1920)])
def test_width_of_outputs_divides_the_map(release, num_layers, width):
    shapes = _shapes(fdensenet.get_symbol(num_layers, net_output="GDC", release=release))
    assert shapes["conv_6dw7_7_conv2d_weight"] == (width, CHANNELS[num_layers] // width, 7, 7)
    assert _shapes(fdensenet.get_symbol(num_layers, net_output="SFC", release=release))["convf2_weight"][0] == width


@pytest.mark.parametrize("settings, message", [
    (dict(num_layers=264), "unknown num_layers 264; known are: 121, 161, 169, 201"),
    (dict(release=2020), "unknown release 2020; known are: 2018, 2019"),
    (dict(net_input=0), "net_input 0: the 2019 form of DenseNet has no such choice; expected 1, or release 2018"),
    (dict(workspace=512), "workspace 512: the 2019 form of DenseNet has no such choice; expected 256, or release 2018"),
    (dict(release=2018, net_input=2), "unknown net_input 2; known are: 0, 1"),
    (dict(release=2018, net_input=0, net_output="GDC"), "needs a 7x7 map, but this network ends in 3x3"),
    (dict(densenet_dropout=1), "densenet_dropout 1: expected a share of the values, 0 <= densenet_dropout < 1"),
    (dict(densenet_dropout=-0.1), "densenet_dropout -0.1: expected"),
    (dict(densenet_dropout="0.2"), "densenet_dropout '0.2': expected"),
    (dict(net_act="swish"), "unknown net_act 'swish'"),
    (dict(bn_mom=1.5), "bn_mom 1.5: expected"),
    (dict(net_output="A"), "own 1024 features, not emb_size 512"),
])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message) as refused:
        fdensenet.get_symbol(**{"num_layers": 121, **settings})
    assert "\n" not in str(refused.value)
