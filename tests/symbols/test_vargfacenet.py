"""VarGFaceNet: groups, widths, squeeze and excitation, and what stands behind its own ending."""
import json

import numpy as np
import pytest

from common.errors import UserError
from common.mxnet_setup import mx
from symbols import vargfacenet
from symbols.blocks import IMAGE_SHAPE
from symbols.outputs import OPTIONS


def _shapes(symbol):
    internals = symbol.get_internals()
    arguments, outputs, _ = internals.infer_shape(data=(1, *IMAGE_SHAPE))
    return dict(zip(internals.list_arguments() + internals.list_outputs(), arguments + outputs))


@pytest.mark.parametrize("net_multiplier, widths", [
    (0.25, (8, 16, 32, 64)), (1, (32, 64, 128, 256)), (1.25, (40, 80, 160, 320))])
def test_maps_and_groups(net_multiplier, widths):
    """A weight's second axis is the channels of one group: 8 wherever the kernel is more than a place."""
    shapes = _shapes(vargfacenet.get_symbol(net_multiplier=net_multiplier))
    names = ["head_head_pooling", "stage_2_unit_3", "stage_3_unit_7", "stage_4_unit_4"]
    assert [shapes[f"vargface_{name}_out_data_act_output"][1:] for name in names] == [
        (width, size, size) for width, size in zip(widths, (56, 28, 14, 7))]
    groups = {name: shape[1] for name, shape in shapes.items() if name.endswith("_weight") and shape[2:] > (1, 1)}
    assert groups.pop("vargface_head_conv1_weight") == 3
    assert len(groups) == 3 + 3 * 4 + 11 * 2 + 1 and set(groups.values()) == {8}


def test_squeeze_and_excitation_by_hand():
    internals, unit = vargfacenet.get_symbol(net_se=1).get_internals(), "vargface_head_head_pooling"
    names = [name for name in internals.list_outputs() if name.endswith("_se_sigmoid_output")]
    assert len(names) == 12 and not any("unit_1_" in name for name in names)
    pair = mx.sym.Group([internals[f"{unit}_sep2_data_conv2d_pointwise_bn_output"], internals["broadcast_mul0_output"]])
    executor = pair.simple_bind(mx.cpu(), grad_req="null", data=(2, 3, 12, 16))
    random = np.random.RandomState(0)
    for name, array in {**executor.arg_dict, **executor.aux_dict}.items():
        drawn = random.uniform(0.5 if name.endswith("_var") else -1, 1.5, array.shape)
        array[:] = drawn / np.prod(array.shape[1:]) ** 0.5
    data, found = (array.asnumpy() for array in executor.forward(is_train=False))
    given = {name: array.asnumpy().astype(np.float64) for name, array in executor.arg_dict.items()}
    (squeeze, squeeze_bias), (excite, excite_bias) = (
        (given[f"{unit}_se_conv{n}_weight"][:, :, 0, 0], given[f"{unit}_se_conv{n}_bias"]) for n in (1, 2))
    assert squeeze.shape == (10, 40)
    hidden = data.mean(axis=(2, 3), dtype=np.float64) @ squeeze.T + squeeze_bias
    hidden = np.where(hidden > 0, hidden, given[f"{unit}_se_act1_gamma"] * hidden)
    gate = 1 / (1 + np.exp(-(hidden @ excite.T + excite_bias)))
    assert data.std() > 0.1 and gate.std() > 0.02
    assert np.abs(found - data * gate[:, :, None, None]).max() < 1e-5 * data.std()


@pytest.mark.parametrize("net_output", OPTIONS)
def test_outputs_stand_behind_the_ending(net_output):
    if net_output in ("GDC", "GNAP", "SFC"):
        with pytest.raises(UserError, match=f"net_output {net_output} weighs the places of a map, but .* 1x1; use J"):
            vargfacenet.get_symbol(net_output=net_output)
        return
    symbol = vargfacenet.get_symbol(net_output=net_output)
    assert symbol.infer_shape(data=(3, *IMAGE_SHAPE))[1] == [(3, 512)]
    names = [node["name"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]
    assert names[:247] == [node["name"] for node in json.loads(vargfacenet.get_symbol().tojson())["nodes"]
                           if node["op"] != "null"][:247] and names[246] == "embed_convx_pointwise_act"


def test_embedding_of_another_size():
    shapes = _shapes(vargfacenet.get_symbol(emb_size=128))
    assert shapes["embed_convx_pointwise_weight"] == (512, 1024, 1, 1) and shapes["pre_fc1_weight"] == (128, 512)


@pytest.mark.parametrize("settings, message", [
    (dict(net_multiplier=1.3), "net_multiplier 1.3 gives stages of 41, 83, 166, 332 channels, but .* multiple of 0.25"),
    (dict(net_multiplier=-1), "net_multiplier -1: expected"),
    (dict(net_se=2), "unknown net_se 2; known are: 0, 1"),
    (dict(net_act="swish"), "unknown net_act 'swish'"),
    (dict(net_output="K"), "unknown net_output 'K'"),
    (dict(workspace=-1), "workspace -1: expected"),
    (dict(emb_size=256, net_output="Z"), "own 512 features, not emb_size 256")])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        vargfacenet.get_symbol(**settings)
