"""MnasNet (`mnas`, `mnas05`, `mnas025`): Tan et al., 2019, with a first convolution of stride 1.

As the original built it: without squeeze and excitation, the 5x5 kernels in the first unit of a stage alone, an
activation behind the first separable convolution too, and 1024 channels at the end.
"""
from common.mxnet_setup import mx
from symbols.blocks import fresh_names, map_shape, normalize, scaled
from symbols.gluon_names import Scope
from symbols.outputs import get_embedding

_STAGES = (  # name, expansion, channels, units, stride and kernel of the first unit (the others have 1 and 3)
    ("stage2_", 3, 24, 3, 2, 3),
    ("stage3_", 3, 40, 3, 2, 5),
    ("stage4_1_", 6, 80, 3, 2, 5),
    ("stage4_2_", 6, 96, 2, 1, 3),
    ("stage5_1_", 6, 192, 4, 2, 5),
    ("stage5_2_", 6, 320, 1, 1, 3),
)


@fresh_names
def get_symbol(emb_size=512, net_output="E", net_multiplier=1.0, net_act="prelu", bn_mom=0.9):
    """Build the embedding symbol.

    emb_size: D; net_output: see symbols.outputs; net_multiplier: width, at least 1/16: a layer of c channels has
    int(c * net_multiplier), before the expansion of its units; net_act: 'prelu' (one slope for a whole layer) or
    'relu'; bn_mom: momentum of the moving statistics.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    first, narrow, *widths, last = scaled((32, 16, *(channels for _, _, channels, *_ in _STAGES), 1024), net_multiplier)
    net = Scope("mnasnet0_", net_act, bn_mom)
    stage = net.scope("stage1_")
    body = _conv(stage.scope("conv0_"), normalize(mx.sym.Variable("data")), first, 3)
    body = _separable(stage.scope("sepconv0_"), body, narrow)
    for (prefix, expansion, _, units, stride, kernel), filters in zip(_STAGES, widths):
        stage = net.scope(prefix)
        body = _unit(stage.scope("expandedconv0_"), body, expansion, filters, stride, kernel)
        for number in range(1, units):
            unit = stage.scope(f"expandedconv{number}_")
            body = unit.add(body, _unit(unit, body, expansion, filters))
    body = _conv(net.scope("stage5_3_"), body, last, 1)
    return get_embedding(body, net_output, emb_size, net_act, bn_mom, last)


def _conv(scope, data, filters, kernel, stride=1, groups=1, act=True):
    data = scope.bn(scope.conv(data, filters, kernel, stride, groups=groups))
    return scope.act(data) if act else data


def _separable(scope, data, filters):
    inputs = map_shape(data)[1]
    return _conv(scope, _conv(scope, data, inputs, 3, groups=inputs), filters, 1)


def _unit(scope, data, expansion, filters, stride=1, kernel=3):
    """Inverted bottleneck: 1x1 to `expansion` times the input's channels, depthwise, 1x1 to `filters`."""
    wide = expansion * map_shape(data)[1]
    data = _conv(scope.scope("expand_"), data, wide, 1)
    data = _conv(scope.scope("dwise_"), data, wide, kernel, stride, groups=wide)
    return _conv(scope.scope("linear_"), data, filters, 1, act=False)
