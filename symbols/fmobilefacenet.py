"""MobileFaceNet (`y1`) and its deeper form (`y2`): Chen et al., 2018."""
from common.errors import UserError
from common.mxnet_setup import mx
from symbols.blocks import Layers, fresh_names, normalize
from symbols.outputs import get_embedding


@fresh_names
def get_symbol(emb_size=512, net_output="E", net_blocks=(1, 4, 6, 2), net_act="prelu", bn_mom=0.9):
    """Build the embedding symbol.

    emb_size: D; net_output: see symbols.outputs (the paper's is GDC); net_blocks: units in the four stages; a first
    stage of 1 is one depthwise convolution, as in the paper; net_act: 'prelu' or 'relu'; bn_mom: momentum of the
    moving statistics.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    if not isinstance(net_blocks, (list, tuple)) or len(net_blocks) != 4 or not all(
            isinstance(units, int) and units > 0 for units in net_blocks):
        raise UserError(f"net_blocks {net_blocks!r}: expected four positive whole numbers, such as 1, 4, 6, 2")
    layers = Layers(net_act, bn_mom)
    body = _conv(layers, normalize(mx.sym.Variable("data")), "conv_1", 64, kernel=3, stride=2)
    if net_blocks[0] == 1:
        body = _conv(layers, body, "conv_2_dw", 64, kernel=3, groups=64)
    else:
        body = _residual(layers, body, "res_2", net_blocks[0], 64, groups=64)
    body = _bottleneck(layers, body, "dconv_23", 64, groups=128, stride=2)
    body = _residual(layers, body, "res_3", net_blocks[1], 64, groups=128)
    body = _bottleneck(layers, body, "dconv_34", 128, groups=256, stride=2)
    body = _residual(layers, body, "res_4", net_blocks[2], 128, groups=256)
    body = _bottleneck(layers, body, "dconv_45", 128, groups=512, stride=2)
    body = _residual(layers, body, "res_5", net_blocks[3], 128, groups=256)
    body = _conv(layers, body, "conv_6sep", 512)
    return get_embedding(body, net_output, emb_size, net_act, bn_mom)


def _conv(layers, data, name, filters, kernel=1, stride=1, groups=1, act=True):
    data = layers.conv(data, f"{name}_conv2d", filters, kernel, stride, num_group=groups)
    data = layers.bn(data, f"{name}_batchnorm")
    return layers.act(data, f"{name}_relu") if act else data


def _bottleneck(layers, data, name, filters, groups, stride=1):
    data = _conv(layers, data, f"{name}_conv_sep", groups)
    data = _conv(layers, data, f"{name}_conv_dw", groups, kernel=3, stride=stride, groups=groups)
    return _conv(layers, data, f"{name}_conv_proj", filters, act=False)


def _residual(layers, data, name, units, filters, groups):
    for number in range(units):
        data = _bottleneck(layers, data, f"{name}_block{number}", filters, groups) + data
    return data
