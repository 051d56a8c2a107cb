"""MnasNet at any width: channels, maps, one step; what is refused."""
import json

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from symbols import fmnasnet
from symbols.blocks import IMAGE_SHAPE, map_shape

UNITS = [(3, 24)] * 3 + [(3, 40)] * 3 + [(6, 80)] * 3 + [(6, 96)] * 2 + [(6, 192)] * 4 + [(6, 320)]


def _convolutions(symbol):
    nodes = json.loads(symbol.tojson())["nodes"]
    return {node["name"]: node["attrs"] for node in nodes if node["op"] == "Convolution"}


@pytest.mark.parametrize("net_multiplier", [1 / 16, 0.35, 0.75, 1, 1.4, np.float64(2)])
def test_channels_by_width(net_multiplier):
    """Those of Tan et al., 2019, scaled and cut to whole numbers; a unit's inside is a multiple of its input."""
    convolutions = _convolutions(fmnasnet.get_symbol(net_output="GDC", net_multiplier=net_multiplier))
    first, depthwise, narrow, *units, last, output = (int(attrs["num_filter"]) for attrs in convolutions.values())
    assert (first, depthwise, narrow) == (int(32 * net_multiplier), first, int(16 * net_multiplier))
    expected = []
    for expansion, channels in UNITS:
        inputs = expected[-1] if expected else narrow
        expected += [expansion * inputs, expansion * inputs, int(channels * net_multiplier)]
    assert units == expected
    assert last == output == int(1024 * net_multiplier)
    for name, attrs in convolutions.items():
        is_depthwise = "dwise" in name or name.endswith(("sepconv0_conv0_fwd", "dw7_7_conv2d"))
        assert attrs["num_group"] == (attrs["num_filter"] if is_depthwise else "1")


def test_maps():
    internals = fmnasnet.get_symbol().get_internals()
    sizes = {stage: map_shape(internals[f"mnasnet0_{stage}_expandedconv0_linear_conv0_fwd_output"])[2:]
             for stage in ("stage2", "stage3", "stage4_1", "stage4_2", "stage5_1", "stage5_2")}
    assert sizes == {"stage2": (56, 56), "stage3": (28, 28), "stage4_1": (14, 14), "stage4_2": (14, 14),
                     "stage5_1": (7, 7), "stage5_2": (7, 7)}


def test_one_step_trains_every_parameter():
    symbol = fmnasnet.get_symbol(emb_size=256, net_output="GDC", net_multiplier=0.25)
    executor, attributes = symbol.simple_bind(mx.cpu(), data=(4, *IMAGE_SHAPE)), symbol.attr_dict()
    mx.random.seed(0)
    start = mx.init.Xavier()
    for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
        if name != "data":
            start(mx.init.InitDesc(name, attributes.get(name)), array)
    random = np.random.RandomState(0)
    executor.forward(is_train=True, data=mx.nd.array(random.randint(0, 256, (4, *IMAGE_SHAPE))))
    executor.backward(mx.nd.array(random.standard_normal((4, 256))))
    gradients = {name: array.asnumpy() for name, array in executor.grad_dict.items()}
    assert set(gradients) == set(symbol.list_arguments())
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert {name for name, gradient in gradients.items() if not gradient.any()} == {"fc1_gamma"}  # fixed at 1


@pytest.mark.parametrize("settings, message", [
    (dict(net_multiplier=0.06), "net_multiplier 0.06: expected a factor of all numbers of channels.*at least 1/16"),
    (dict(net_multiplier=-1), "net_multiplier -1: expected"),
    (dict(net_multiplier=float("nan")), "net_multiplier nan: expected"),
    (dict(net_multiplier=float("inf")), "net_multiplier inf: expected"),
    (dict(net_multiplier="1.0"), "net_multiplier '1.0': expected"),
    (dict(net_act="swish"), "unknown net_act 'swish'"),
    (dict(bn_mom=1), "bn_mom 1: expected"),
    (dict(net_output="A"), "own 1024 features, not emb_size 512"),
])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message) as refused:
        fmnasnet.get_symbol(**settings)
    assert "\n" not in str(refused.value)
