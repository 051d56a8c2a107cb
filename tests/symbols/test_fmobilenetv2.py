"""MobileNetV2: widths, inputs and outputs beyond the golden file."""
import pytest

from common.errors import UserError
from symbols import fmobilenetv2
from symbols.blocks import IMAGE_SHAPE

LAST_UNITS = (0, 2, 5, 9, 12, 15, 16)


def _shapes(**settings):
    internals = fmobilenetv2.get_symbol(**settings).get_internals()
    arguments, outputs, _ = internals.infer_shape(data=(1, *IMAGE_SHAPE))
    return dict(zip(internals.list_arguments() + internals.list_outputs(), arguments + outputs))


@pytest.mark.parametrize("net_multiplier, stages, last", [
    (0.5, (8, 12, 16, 32, 48, 80, 160), 1280), (1.0, (16, 24, 32, 64, 96, 160, 320), 1280),
    (1.4, (22, 33, 44, 89, 134, 224, 448), 1792)])
@pytest.mark.parametrize("net_input, sizes", [(0, (56, 28, 14, 14, 7, 4, 4)), (1, (112, 56, 28, 28, 14, 7, 7))])
def test_maps(net_multiplier, stages, last, net_input, sizes):
    shapes = _shapes(net_multiplier=net_multiplier, net_input=net_input)
    assert [shapes[f"invertedresidual{unit}_batchnorm2_fwd_output"][1:] for unit in LAST_UNITS] == [
        (filters, size, size) for filters, size in zip(stages, sizes)]
    assert shapes["mobilenetv20_hybridsequential0_relu0_fwd_output"] == (1, last, sizes[-1], sizes[-1])
    assert shapes["fc1_output"] == (1, 512)


def test_outputs_are_depthwise_over_every_channel():
    assert _shapes(net_output="GDC", net_multiplier=1.4)["conv_6dw7_7_conv2d_weight"] == (1792, 1, 7, 7)
    assert _shapes(net_output="SFC")["convf_weight"] == (1280, 1, 3, 3)


def test_momentum_and_activation():
    attributes = fmobilenetv2.get_symbol(net_output="GAP", bn_mom=0.8).attr_dict()
    assert {attrs["momentum"] for attrs in attributes.values() if "momentum" in attrs} == {"0.8"}
    assert {name for name, attrs in attributes.items() if attrs.get("act_type") == "prelu"} == {"relu1", "relu1_gamma"}
    attributes = fmobilenetv2.get_symbol(net_output="GAP", net_act="relu").attr_dict()
    assert attributes["relu1"]["act_type"] == "relu"


@pytest.mark.parametrize("settings, message", [
    (dict(net_input=2), "unknown net_input 2; known are: 0, 1"),
    (dict(net_input=0, net_output="GDC"), "needs a 7x7 map, but this network ends in 4x4"),
    (dict(net_multiplier=0.06), "net_multiplier 0.06: expected .* at least 1/16"),
    (dict(net_act="swish"), "unknown net_act 'swish'"),
    (dict(bn_mom=1), "bn_mom 1: expected"),
    (dict(net_output="A"), "own 1280 features, not emb_size 512")])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        fmobilenetv2.get_symbol(**settings)
