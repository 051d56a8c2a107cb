"""Dual path networks: inputs and outputs beyond the golden files."""
import pytest

from common.errors import UserError
from symbols import fdpn
from symbols.blocks import IMAGE_SHAPE

CHANNELS = {68: 2368, 92: 2688, 107: 2688, 131: 2688}  # 2048 of the residual path, the rest of the dense path


def _shapes(symbol):
    internals = symbol.get_internals()
    arguments, outputs, _ = internals.infer_shape(data=(1, *IMAGE_SHAPE))
    return dict(zip(internals.list_arguments() + internals.list_outputs(), arguments + outputs))


@pytest.mark.parametrize("num_layers", CHANNELS)
@pytest.mark.parametrize("net_input, sizes", [(0, (28, 14, 7, 4)), (1, (56, 28, 14, 7))])
def test_maps(num_layers, net_input, sizes):
    shapes = _shapes(fdpn.get_symbol(num_layers, net_input=net_input))
    assert [shapes[f"conv{stage}_x__1_sum_output"][1:] for stage in (2, 3, 4, 5)] == [
        (256 << stage, size, size) for stage, size in enumerate(sizes)]
    assert shapes["conv5_x_x_cat-final_output"] == (1, CHANNELS[num_layers], sizes[3], sizes[3])
    assert shapes["fc1_output"] == (1, 512)


@pytest.mark.parametrize("num_layers", CHANNELS)
def test_outputs_are_depthwise_over_every_channel(num_layers):
    channels = CHANNELS[num_layers]
    shapes = _shapes(fdpn.get_symbol(num_layers, net_output="GDC"))
    assert shapes["conv_6dw7_7_conv2d_weight"] == (channels, 1, 7, 7)
    shapes = _shapes(fdpn.get_symbol(num_layers, net_output="SFC"))
    assert shapes["convf_weight"] == (channels, 1, 3, 3) and shapes["convf2_weight"] == (channels, channels, 1, 1)


@pytest.mark.parametrize("settings, message", [
    (dict(num_layers=98), "unknown num_layers 98; known are: 107, 131, 68, 92"),
    (dict(num_layers=68, net_input=2), "unknown net_input 2; known are: 0, 1"),
    (dict(num_layers=68, net_act="swish"), "unknown net_act 'swish'"),
    (dict(num_layers=68, bn_mom=1), "bn_mom 1: expected"),
    (dict(num_layers=68, net_input=0, net_output="GDC"), "needs a 7x7 map, but this network ends in 4x4"),
    (dict(num_layers=92, net_output="A"), "own 2688 features, not emb_size 512")])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        fdpn.get_symbol(**settings)
