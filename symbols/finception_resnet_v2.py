"""Inception-ResNet-v2 (`i1`): Szegedy et al., 2017.

As in the original, whose checkpoints have these numbers: the second path of the 17x17 blocks begins with 129 channels
(the paper: 128); the paddings of its 1x7 and 7x1 convolutions keep the map's size only together; the batch norms have
their scale fixed at 1. The original left those at MXNet's momentum, 0.9, whatever bn_mom said; here it is theirs too.
"""
from functools import partial

from common.mxnet_setup import mx
from symbols.blocks import check_known, fresh_names, map_shape, normalize
from symbols.outputs import get_embedding

_KERNELS = {  # size, padding, stride
    "1x1": ((1, 1), (0, 0), 1), "3x3": ((3, 3), (1, 1), 1), "5x5": ((5, 5), (2, 2), 1),
    "1x3": ((1, 3), (0, 1), 1), "3x1": ((3, 1), (1, 0), 1), "1x7": ((1, 7), (1, 2), 1), "7x1": ((7, 1), (2, 1), 1),
    "3x3 valid": ((3, 3), (0, 0), 1), "3x3 halving": ((3, 3), (0, 0), 2),
}
# Each block is a tuple of paths from its input, each path a tuple of convolutions: channels and kernel.
_MIXED = (((96, "1x1"),), ((48, "1x1"), (64, "5x5")), ((64, "1x1"), (96, "3x3"), (96, "3x3")))
_BLOCK_35 = (((32, "1x1"),), ((32, "1x1"), (32, "3x3")), ((32, "1x1"), (48, "3x3"), (64, "3x3")))
_REDUCTION_A = (((384, "3x3 halving"),), ((256, "1x1"), (256, "3x3"), (384, "3x3 halving")))
_BLOCK_17 = (((192, "1x1"),), ((129, "1x1"), (160, "1x7"), (192, "7x1")))
_REDUCTION_B = (((256, "1x1"), (384, "3x3 halving")), ((256, "1x1"), (288, "3x3 halving")),
                ((256, "1x1"), (288, "3x3"), (320, "3x3 halving")))
_BLOCK_8 = (((192, "1x1"),), ((192, "1x1"), (224, "1x3"), (256, "3x1")))


@fresh_names
def get_symbol(emb_size=512, net_output="E", net_input=1, net_act="prelu", bn_mom=0.9):
    """Build the embedding symbol.

    emb_size: D; net_output: see symbols.outputs;
    net_input: 0 = the paper's stem, first convolution of stride 2 and a pool behind the third (the last map is then
        2x2), 1 = of stride 1 and no pool there (12x12, for 24 times the operations);
    net_act: 'prelu' or 'relu', in outputs that have an activation: the network itself has ReLU;
    bn_mom: momentum of the moving statistics.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these, such as the output GDC, for no last map is 7x7.
    """
    check_known("net_input", net_input, (0, 1))
    conv = partial(_conv, {} if bn_mom == 0.9 else dict(momentum=bn_mom))  # the original wrote none
    body = _stem(conv, normalize(mx.sym.Variable("data")), net_input)
    body = mx.sym.Concat(*_paths(conv, body, _MIXED), conv(_pool(body, "avg", stride=(1, 1), pad=(1, 1)), 64, "1x1"))
    body = _residuals(conv, body, 10, _BLOCK_35, 0.17)
    body = mx.sym.Concat(*_paths(conv, body, _REDUCTION_A), _pool(body, "max"))
    body = _residuals(conv, body, 20, _BLOCK_17, 0.1)
    body = mx.sym.Concat(*_paths(conv, body, _REDUCTION_B), _pool(body, "max"))
    body = _residuals(conv, body, 9, _BLOCK_8, 0.2)
    body = _residuals(conv, body, 1, _BLOCK_8, 1.0, act=False)
    body = conv(body, 1536, "1x1")
    return get_embedding(body, net_output, emb_size, net_act, bn_mom)


def _stem(conv, data, net_input):
    body = conv(data, 32, "3x3 valid" if net_input else "3x3 halving")
    body = conv(conv(body, 32, "3x3 valid"), 64, "3x3")
    pooled = _pool(body, "max")  # made for either input, so that the next pool's automatic name is the original's
    body = conv(conv(body if net_input else pooled, 80, "1x1"), 192, "3x3 valid")
    return _pool(body, "max")


def _paths(conv, data, block):
    maps = []
    for path in block:
        body = data
        for filters, kernel in path:
            body = conv(body, filters, kernel)
        maps.append(body)
    return maps


def _residuals(conv, data, units, block, scale, act=True):
    """Residual units, what each adds made smaller by `scale` (section 3.3 of the paper)."""
    channels = map_shape(data)[1]
    for _ in range(units):
        new = conv(mx.sym.Concat(*_paths(conv, data, block)), channels, "1x1", act=False)
        data = data + new * scale
        if act:
            data = mx.sym.Activation(data, act_type="relu")
    return data


def _conv(bn, data, filters, kernel, act=True):
    size, pad, stride = _KERNELS[kernel]
    data = mx.sym.Convolution(data, num_filter=filters, kernel=size, stride=(stride, stride), pad=pad)
    data = mx.sym.BatchNorm(data, **bn)
    return mx.sym.Activation(data, act_type="relu") if act else data


def _pool(data, kind, stride=(2, 2), **attrs):
    return mx.sym.Pooling(data, kernel=(3, 3), stride=stride, pool_type=kind, **attrs)
