"""ResNets for faces (`r18` to `r269`): He et al., 2016, with the units and inputs compared in Deng et al., 2019."""
from functools import partial

from common.errors import UserError
from common.mxnet_setup import mx
from symbols.blocks import Layers, check_known, first_layer, fresh_names, improved_unit, normalize, scaled, shortcut
from symbols.outputs import get_embedding

DEPTHS = {  # num_layers: units in the four stages
    18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 49: (3, 4, 14, 3), 50: (3, 4, 14, 3), 74: (3, 6, 24, 3), 90: (3, 8, 30, 3),
    98: (3, 4, 38, 3), 99: (3, 8, 35, 3), 100: (3, 13, 30, 3), 101: (3, 4, 23, 3), 124: (3, 13, 40, 5),
    134: (3, 10, 50, 3), 136: (3, 13, 48, 3), 140: (3, 15, 48, 3), 152: (3, 8, 36, 3), 160: (3, 24, 49, 3),
    200: (3, 24, 36, 3), 269: (3, 30, 48, 8),
}
FILTERS = (64, 128, 256, 512)


@fresh_names
def get_symbol(num_layers, emb_size=512, net_output="E", net_unit=3, net_input=1, net_se=0, net_act="prelu",
               bn_mom=0.9, workspace=256, bottleneck=False, net_multiplier=1.0):
    """Build the embedding symbol.

    num_layers: a key of DEPTHS; emb_size: D; net_output: see symbols.outputs;
    net_unit: 1 = activation after the sum (He et al., 2015), 2 = before the convolutions (He et al., 2016),
        3 = BN-conv-BN-act-conv-BN, the 'IR' of the ArcFace paper;
    net_input: first layer 0 = 7x7 of stride 2 (the last map is then 4x4), 1 = 3x3 of stride 1 (the paper's 'L'; 7x7),
        2 = as 1, with a batch norm in place of the fixed pixel scale;
    net_se: 1 = squeeze and excitation in every unit; net_act: 'prelu' or 'relu'; bn_mom: momentum of the moving
        statistics; workspace: MB that cuDNN may take for a convolution;
    bottleneck: 1x1-3x3-1x1 units of four times the filters. In the original's 2018 tree r101, r152, r200 and r269 were
        such networks; since 2019 no depth is; net_multiplier: width multiplier of all filters, at least 1/64.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    check_known("num_layers", num_layers, DEPTHS)
    unit = _unit(net_unit, net_input, bottleneck)
    layers = Layers(net_act, bn_mom, net_se, bn=dict(eps=2e-5), conv=dict(workspace=workspace))
    widths = scaled(FILTERS, net_multiplier)
    body = _stem(layers, net_input, widths[0])
    for stage, (units, filters) in enumerate(zip(DEPTHS[num_layers], widths), 1):
        for number in range(1, units + 1):
            body = unit(layers, body, f"stage{stage}_unit{number}", filters * 4 if bottleneck else filters, number == 1)
    return get_embedding(body, net_output, emb_size, net_act, bn_mom)


def _unit(net_unit, net_input, bottleneck):
    if net_unit == 4:
        raise UserError("net_unit 4 is a name without a network: the original never had its code; use 1, 2 or 3")
    check_known("net_unit", net_unit, (1, 2, 3))
    if bottleneck and net_unit != 3:
        raise UserError(f"net_unit {net_unit} has no bottleneck form here; use net_unit 3, or bottleneck=False")
    if net_unit == 1:  # the original moves the stride with the first layer
        return partial(_post_activation, strides=(2, 1) if net_input == 0 else (1, 2))
    return _pre_activation if net_unit == 2 else _improved_bottleneck if bottleneck else improved_unit


def _stem(layers, net_input, filters):
    check_known("net_input", net_input, (0, 1, 2))
    data = mx.sym.Variable("data")
    if net_input == 2:
        data = layers.bn(data, "bn_data", fix_gamma=True)
    else:
        data = normalize(mx.sym.identity(data, name="id"))
    return first_layer(layers, data, net_input, filters)


def _post_activation(layers, data, name, filters, first, strides):
    strides = strides if first else (1, 1)
    body = layers.conv(data, f"{name}_conv1", filters, 3, strides[0])
    body = layers.act(layers.bn(body, f"{name}_bn1"), f"{name}_relu1")
    body = layers.conv(body, f"{name}_conv2", filters, 3, strides[1])
    body = layers.se(layers.bn(body, f"{name}_bn2"), name, filters)
    return layers.act(body + shortcut(layers, data, name, filters, first), f"{name}_relu3")


def _pre_activation(layers, data, name, filters, first):
    stride = 2 if first else 1
    act = layers.act(layers.bn(data, f"{name}_bn1"), f"{name}_relu1")
    body = layers.conv(act, f"{name}_conv1", filters, 3, stride)
    body = layers.act(layers.bn(body, f"{name}_bn2"), f"{name}_relu2")
    body = layers.se(layers.conv(body, f"{name}_conv2", filters, 3), name, filters)
    return body + (layers.conv(act, f"{name}_sc", filters, 1, stride, pad=None) if first else data)


def _improved_bottleneck(layers, data, name, filters, first):
    body = layers.conv(layers.bn(data, f"{name}_bn1"), f"{name}_conv1", filters // 4, 1)
    body = layers.act(layers.bn(body, f"{name}_bn2"), f"{name}_relu1")
    body = layers.conv(body, f"{name}_conv2", filters // 4, 3)
    body = layers.act(layers.bn(body, f"{name}_bn3"), f"{name}_relu2")
    body = layers.conv(body, f"{name}_conv3", filters, 1, 2 if first else 1)
    body = layers.se(layers.bn(body, f"{name}_bn4"), name, filters)
    return body + shortcut(layers, data, name, filters, first)
