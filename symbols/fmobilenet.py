"""MobileNet (`m1`, `m05`): Howard et al., 2017.

The batch norms of its body have their scale fixed at 1, as in the original, which left them at MXNet's momentum, 0.9,
whatever bn_mom said; here bn_mom is theirs too.
"""
from functools import partial

from common.mxnet_setup import mx
from symbols.blocks import Layers, check_known, fresh_names, normalize, scaled
from symbols.outputs import get_embedding

UNITS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))  # channels / base, stride


@fresh_names
def get_symbol(emb_size=512, net_output="E", net_multiplier=1.0, net_input=1, net_act="prelu", bn_mom=0.9):
    """Build the embedding symbol.

    emb_size: D; net_output: see symbols.outputs; net_multiplier: width multiplier, for all channels;
    net_input: first convolution 0 = of stride 2, as in the paper (the last map is then 4x4), 1 = of stride 1 (the
        papers' 'L'; 7x7); net_act: 'prelu' or 'relu'; bn_mom: momentum of the moving statistics.
    GDC and SFC are convolutions of 512 groups, so two channels each in m1; where the last map's channels cannot be
    divided into 512 groups, they are depthwise.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    check_known("net_input", net_input, (0, 1))
    conv, (base,) = partial(_conv, Layers(net_act, bn_mom), bn_mom), scaled((32,), net_multiplier)
    body = conv(normalize(mx.sym.Variable("data")), "conv_1", base, kernel=3, stride=2 - net_input)
    channels = base
    for number, (factor, stride) in enumerate(UNITS, 2):
        body = conv(body, f"conv_{number}_dw", channels, kernel=3, stride=stride, groups=channels)
        channels = base * factor
        body = conv(body, f"conv_{number}", channels)
    return get_embedding(body, net_output, emb_size, net_act, bn_mom, width=channels if channels % 512 else 512)


def _conv(layers, bn_mom, data, name, filters, kernel=1, stride=1, groups=1):
    data = layers.conv(data, f"{name}_conv2d", filters, kernel, stride, num_group=groups)
    momentum = {} if bn_mom == 0.9 else dict(momentum=bn_mom)  # the original wrote none
    return layers.act(mx.sym.BatchNorm(data, name=f"{name}_batchnorm", fix_gamma=True, **momentum), f"{name}_relu")
