"""Inception-ResNet-v2: paths and sums (the golden files do not say them), maps, settings, and what is refused."""
import json

import pytest

from common.errors import UserError
from symbols import finception_resnet_v2
from symbols.blocks import IMAGE_SHAPE


def _nodes(**settings):
    return json.loads(finception_resnet_v2.get_symbol(**settings).tojson())["nodes"]


def _back(nodes, number, stop):
    """Follow first inputs to the node `stop`, or to an operator of that name: (operators seen, where it ends)."""
    seen = []
    while stop not in (number, nodes[number]["op"]) and nodes[number]["inputs"]:
        seen.append(nodes[number]["op"])
        number = nodes[number]["inputs"][0][0]
    return seen, number


def test_every_unit_adds_to_its_own_input():
    """Szegedy et al., 2017, Figures 16, 17 and 19: paths, joined, 1x1 convolution without ReLU, scaled, added."""
    nodes, convolutions = _nodes(), ["Activation", "BatchNorm", "Convolution"]
    sums = [node for node in nodes if node["op"] == "elemwise_add"]
    assert len(sums) == 40
    depths = []
    for node in sums:
        data, added = (entry[0] for entry in node["inputs"])
        seen, joined = _back(nodes, added, "Concat")
        assert seen == ["_mul_scalar", "BatchNorm", "Convolution"] and nodes[joined]["op"] == "Concat"
        depths.append([])
        for entry in nodes[joined]["inputs"]:
            path, start = _back(nodes, entry[0], data)
            assert start == data and path == convolutions * (len(path) // 3)
            depths[-1].append(len(path) // 3)
    assert depths == [[1, 2, 3]] * 10 + [[1, 3]] * 30


@pytest.mark.parametrize("net_input, sizes", [(0, (24, 11, 5, 2, 2)), (1, (106, 52, 25, 12, 12))])
def test_maps(net_input, sizes):
    internals = finception_resnet_v2.get_symbol(net_input=net_input).get_internals()
    shapes = dict(zip(internals.list_outputs(), internals.infer_shape(data=(1, *IMAGE_SHAPE))[1]))
    assert ("pooling0_output" in shapes) == (net_input == 0)
    layers = ("activation4", "concat0", "concat11", "concat32", "activation242")
    assert [shapes[f"{name}_output"][1:] for name in layers] == [
        (channels, size, size) for channels, size in zip((192, 320, 1088, 2080, 1536), sizes)]


@pytest.mark.parametrize("bn_mom, found", [(0.9, {None, "0.9"}), (0.8, {"0.8"})])  # 0.9 is MXNet's default
def test_every_batch_norm_has_the_momentum(bn_mom, found):
    norms = [node for node in _nodes(bn_mom=bn_mom) if node["op"] == "BatchNorm"]
    assert len(norms) == 246 and {node.get("attrs", {}).get("momentum") for node in norms} == found


@pytest.mark.parametrize("settings, message", [
    (dict(net_input=2), "unknown net_input 2; known are: 0, 1"),
    (dict(net_act="swish"), "unknown net_act 'swish'"),
    (dict(bn_mom=1.5), "bn_mom 1.5: expected"),
    (dict(net_output="GDC"), "needs a 7x7 map, but this network ends in 12x12"),
    (dict(net_output="GDC", net_input=0), "needs a 7x7 map, but this network ends in 2x2"),
    (dict(net_output="A"), "own 1536 features, not emb_size 512")])
def test_refusals(settings, message):
    with pytest.raises(UserError, match=message):
        finception_resnet_v2.get_symbol(**settings)
