"""MobileNet: what the golden files leave open, and the paper's own figures."""
import json
from math import prod

import pytest

from common.errors import UserError
from symbols import fmobilenet
from symbols.blocks import IMAGE_SHAPE


def _layers(symbol):
    nodes = json.loads(symbol.tojson())["nodes"]
    return [[node["op"], node["name"], node.get("attrs", {})] for node in nodes if node["op"] != "null"]


def _weights(symbol):
    shapes, _, _ = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    return {name: shape for name, shape in zip(symbol.list_arguments(), shapes) if name.endswith("_weight")}


def test_input_of_stride_2_is_the_original_s(golden):
    """With GDC the original could write it down, but not run it: the body is the same."""
    reference = json.loads((golden / "variants" / "m1-input0.json").read_text())["layers"]
    body = reference[:[name for _, name, _ in reference].index("conv_6dw7_7_conv2d")]
    symbol = fmobilenet.get_symbol(emb_size=256, net_input=0)
    assert len(body) == 83 and _layers(symbol)[:83] == body
    assert _weights(symbol)["pre_fc1_weight"] == (256, 1024 * 4 * 4)


def test_parameters_are_the_paper_s():
    """Howard et al., 2017, Table 2 (per cent of the parameters, ours without batch norm) and Table 6 (millions)."""
    for net_multiplier, millions in ((1.0, 4.2), (0.75, 2.6), (0.5, 1.3), (0.25, 0.5)):
        counts = dict(first=0, depthwise=0, pointwise=0)
        for name, (filters, *taps) in _weights(fmobilenet.get_symbol(net_multiplier=net_multiplier)).items():
            if name.startswith("conv_"):
                kind = "pointwise" if taps[1:] == [1, 1] else "depthwise" if "_dw_" in name else "first"
                counts[kind] += filters * prod(taps)
        counts["classifier"] = 1001 * int(1024 * net_multiplier)
        total = sum(counts.values())
        assert abs(total / 1e6 - millions) < 0.051
        if net_multiplier == 1:
            shares = {kind: 100 * count / total for kind, count in counts.items()}
            table = dict(pointwise=74.59, depthwise=1.06, first=0.02, classifier=24.33)
            assert shares == pytest.approx(table, abs=0.03)


@pytest.mark.parametrize("net_multiplier, gdc", [(1.0, (512, 2, 7, 7)), (0.5, (512, 1, 7, 7)), (0.25, (256, 1, 7, 7)),
                                                 (0.75, (768, 1, 7, 7)), (2, (512, 4, 7, 7))])
def test_groups_of_the_outputs(net_multiplier, gdc):
    weights = _weights(fmobilenet.get_symbol(net_multiplier=net_multiplier, net_output="GDC"))
    assert weights["conv_6dw7_7_conv2d_weight"] == gdc
    weights = _weights(fmobilenet.get_symbol(net_multiplier=net_multiplier, net_output="SFC"))
    assert weights["convf_weight"] == (*gdc[:2], 3, 3)


@pytest.mark.parametrize("bn_mom, written", [(0.9, None), (0.99, "0.99")])
def test_momentum_is_honoured(bn_mom, written):
    layers = _layers(fmobilenet.get_symbol(bn_mom=bn_mom))
    assert [attrs.get("momentum") for op, name, attrs in layers if op == "BatchNorm"] == (
        [written] * 27 + [str(bn_mom)] * 2)


@pytest.mark.parametrize("settings, message", [
    (dict(net_input=2), "unknown net_input 2; known are: 0, 1"),
    (dict(net_input=0, net_output="GDC"), "needs a 7x7 map, but this network ends in 4x4"),
    (dict(net_multiplier=0), "net_multiplier 0: expected a factor .* at least 1/32"),
    (dict(net_multiplier=0.03), "net_multiplier 0.03: expected"),
    (dict(net_multiplier=float("nan")), "net_multiplier nan: expected"),
    (dict(net_multiplier=float("inf")), "net_multiplier inf: expected"),
    (dict(net_multiplier="1"), "net_multiplier '1': expected"),
    (dict(net_multiplier=True), "net_multiplier True: expected"),
    (dict(net_act="swish"), "unknown net_act 'swish'"),
    (dict(bn_mom=1), "bn_mom 1: expected"),
    (dict(net_output="A"), "own 1024 features, not emb_size 512")])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        fmobilenet.get_symbol(**settings)
