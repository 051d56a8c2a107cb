"""Dual path networks (`p68`, `p92`, `p107`, `p131`): Chen et al., 2017, behind a beginning made for faces.

The outputs GDC and SFC are depthwise over all of the last map's channels; the original asked for 512, into which they
cannot be divided.
"""
from collections import namedtuple

from common.mxnet_setup import mx
from symbols.blocks import Layers, check_known, fresh_names, map_shape, quarter_head
from symbols.outputs import get_embedding

_Size = namedtuple("_Size", "width groups units increments")
DEPTHS = {  # num_layers: channels and groups of the first stage's 3x3 convolutions; units and dense growth by stage
    68: _Size(128, 32, (3, 4, 12, 3), (16, 32, 32, 64)),
    92: _Size(96, 32, (3, 4, 20, 3), (16, 32, 24, 128)),
    107: _Size(200, 50, (4, 8, 20, 3), (20, 64, 64, 128)),
    131: _Size(160, 40, (4, 8, 28, 3), (16, 32, 32, 128)),
}


@fresh_names
def get_symbol(num_layers, emb_size=512, net_output="E", net_input=1, net_act="prelu", bn_mom=0.9, workspace=256):
    """Build the embedding symbol.

    num_layers: a key of DEPTHS; emb_size: D; net_output: see symbols.outputs;
    net_input: 0 = the ImageNet stem, 7x7 of stride 2 and a pool (the last map is then 4x4), 1 = 3x3 of stride 1 and a
        residual unit (7x7);
    net_act: 'prelu' or 'relu', in the beginning and the output: the dual path units have ReLU;
    bn_mom: momentum of the moving statistics; workspace: MB that cuDNN may take for a convolution of the beginning.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    check_known("num_layers", num_layers, DEPTHS)
    size = DEPTHS[num_layers]
    head = Layers(net_act, bn_mom, bn=dict(eps=2e-5), conv=dict(workspace=workspace))
    paths, layers = [quarter_head(head, net_input, 64)], Layers("relu", bn_mom)
    for stage, (units, increment) in enumerate(zip(size.units, size.increments)):
        for number in range(1, units + 1):
            stride = (1 if stage == 0 else 2) if number == 1 else None
            paths = _unit(layers, paths, f"conv{stage + 2}_x__{number}", size.width << stage, 256 << stage, increment,
                          size.groups, stride)
    body = mx.sym.Concat(*paths, name="conv5_x_x_cat-final")
    return get_embedding(body, net_output, emb_size, net_act, bn_mom, width=map_shape(body)[1])


def _unit(layers, paths, name, width, filters, increment, groups, stride):
    """The residual path takes a sum, the dense path grows by `increment` channels. stride: of a stage's first unit."""
    data = mx.sym.Concat(*paths, name=f"{name}_cat-input") if len(paths) > 1 else paths[0]
    if stride:  # both paths begin anew
        projection = f"{name}_c1x1-w(s/{stride})"
        paths = _split(_conv(layers, data, projection, filters + 2 * increment, 1, stride), projection, filters,
                       filters + 2 * increment)
    body = _conv(layers, data, f"{name}_c1x1-a", width, 1)
    body = _conv(layers, body, f"{name}_c3x3-b", width, 3, stride or 1, groups)
    body = _conv(layers, body, f"{name}_c1x1-c", filters + increment, 1)
    residual, dense = _split(body, f"{name}_c1x1-c", filters, filters + increment)
    return [mx.sym.add_n(paths[0], residual, name=f"{name}_sum"), mx.sym.Concat(paths[1], dense, name=f"{name}_cat")]


def _conv(layers, data, name, filters, kernel, stride=1, groups=1):
    data = layers.act(layers.bn(data, f"{name}__bn__bn"), f"{name}__ac__relu")
    return layers.conv(data, f"{name}__conv", filters, kernel, stride, num_group=groups)


def _split(data, name, middle, end):
    """The first `middle` channels and the rest."""
    return [mx.sym.slice_axis(data, axis=1, begin=begin, end=stop, name=f"{name}-split{number}")
            for number, (begin, stop) in enumerate(((0, middle), (middle, end)), 1)]
