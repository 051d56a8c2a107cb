"""MobileNetV2 (`m2`): Sandler et al., 2018, as the original built it.

It differs from the paper: the activation is ReLU (not ReLU6), strides 1 and 2 of the fourth and fifth stage are
exchanged, all units of a stage expand to a multiple of the channels before that stage, and where a unit of stride 1
changes the number of channels, a projection of its input is added.
"""
from common.mxnet_setup import mx
from symbols.blocks import check_known, fresh_names, map_shape, normalize, scaled
from symbols.gluon_names import Scope
from symbols.outputs import get_embedding

CHANNELS = (32, 16, 24, 32, 64, 96, 160, 320)  # of the first convolution, then of each stage
STAGES = ((1, 1, 1), (2, 6, 2), (3, 6, 2), (4, 6, 1), (3, 6, 2), (3, 6, 2), (1, 6, 1))  # units, expansion, stride


@fresh_names
def get_symbol(emb_size=512, net_output="E", net_multiplier=1.0, net_input=1, net_act="prelu", bn_mom=0.9):
    """Build the embedding symbol.

    emb_size: D; net_output: see symbols.outputs (GDC and SFC are depthwise);
    net_multiplier: width multiplier; below 1 it leaves the last convolution its 1280 channels, as in the paper;
    net_input: first convolution 0 = of stride 2, as in the paper (the last map is then 4x4), 1 = of stride 1 (7x7);
    net_act: 'prelu' or 'relu', in outputs that have an activation: the network itself has ReLU;
    bn_mom: momentum of the moving statistics.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    check_known("net_input", net_input, (0, 1))
    channels, scope = scaled(CHANNELS, net_multiplier), Scope("", "relu", bn_mom)
    body = scope.relu(_conv_bn(scope, normalize(mx.sym.Variable("data")), channels[0], 3, 2 - net_input))
    for inputs, filters, (units, expansion, stride) in zip(channels, channels[1:], STAGES):
        for number in range(units):
            unit = scope.scope(f"{scope.name('invertedresidual')}_")
            first = number == 0
            body = _unit(unit, body, inputs if first else filters, expansion * inputs, filters, stride if first else 1)
    last = scope.scope("mobilenetv20_hybridsequential0_")
    body = last.relu(_conv_bn(last, body, int(1280 * max(1, net_multiplier)), 1))
    return get_embedding(body, net_output, emb_size, net_act, bn_mom, width=map_shape(body)[1])


def _conv_bn(scope, data, filters, kernel, stride=1, groups=1):
    return scope.bn(scope.conv(data, filters, kernel, stride, groups=groups))


def _unit(scope, data, inputs, expanded, filters, stride):
    """Inverted residual: expand, depthwise convolution, project; at stride 1 the input is added."""
    body = scope.relu(_conv_bn(scope, data, expanded, 1))
    body = scope.relu(_conv_bn(scope, body, expanded, 3, stride, groups=expanded))
    body = _conv_bn(scope, body, filters, 1)
    if stride > 1:
        return body
    return scope.add(body, data if inputs == filters else scope.relu(_conv_bn(scope, data, filters, 1)))
