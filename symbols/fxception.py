"""Xception (`x1`): Chollet, 2017, with half the paper's channels from the first pool on.

The original cut each depthwise convolution into one convolution for each channel, named `<layer>_<channel>`; here it
is one grouped convolution, `<layer>`, its weight and bias the stack of theirs. All other names are the original's.
"""
from common.mxnet_setup import mx
from symbols.blocks import Layers, check_known, fresh_names, normalize
from symbols.outputs import get_embedding


@fresh_names
def get_symbol(emb_size=512, net_output="E", net_input=1, net_act="prelu", bn_mom=0.9, workspace=256):
    """Build the embedding symbol.

    emb_size: D; net_output: see symbols.outputs;
    net_input: 0 = first convolution of stride 2, as in the paper (the last map is then 4x4), 1 = of stride 1 (7x7);
    net_act: 'prelu' or 'relu', in outputs that have an activation: the network itself has ReLU;
    bn_mom: momentum of the moving statistics; workspace: MB that cuDNN may take for a convolution.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    check_known("net_input", net_input, (0, 1))
    layers = Layers("relu", bn_mom, bn=dict(eps=2e-5), conv=dict(workspace=workspace))
    body = normalize(mx.sym.Variable("data"))
    for number, filters, stride in ((1, 32, 2 - net_input), (2, 64, 1)):
        name = f"Entry_flow_b1_conv{number}"
        body = layers.act(_conv_bn(layers, body, name, filters, 3, stride), f"{name}_relu")
    body = _halve(layers, body, "Entry_flow", "b2", (64, 64, 64), ("after", None))
    body = _halve(layers, body, "Entry_flow", "b3", (64, 128, 128), ("before", "before"))
    body = _halve(layers, body, "Entry_flow", "b4", (128, 364, 364), ("before", "before"))
    for number in range(8):
        body = _separables(layers, body, f"Middle_flow_block_{number}", (364,) * 4, ("before",) * 3) + body
    body = _halve(layers, body, "Exit_flow", "b5", (364, 364, 512), ("before", "before"))
    body = _separables(layers, body, "Exit_flow_b6", (512, 768, 1024), ("after", "after"))
    return get_embedding(body, net_output, emb_size, net_act, bn_mom)


def _conv_bn(layers, data, name, filters, kernel, stride=1):
    return layers.bn(layers.conv(data, f"{name}_conv2d", filters, kernel, stride, bias=True), f"{name}_bn")


def _halve(layers, data, flow, block, channels, acts):
    """Separable convolutions and a pool of stride 2, beside a projection."""
    body = _separables(layers, data, f"{flow}_{block}", channels, acts)
    body = mx.sym.Pooling(body, name=f"Entry_flow_{block}_pool",  # in the exit flow too
                          kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    return body + _conv_bn(layers, data, f"{flow}_{block}_conv1", channels[-1], 1, 2)


def _separables(layers, data, name, channels, acts):
    """Separable 3x3 convolutions. channels: of the input, then of each; acts: where each has its ReLU, or None."""
    for number, (inputs, filters, act) in enumerate(zip(channels, channels[1:], acts), 1):
        layer = f"{name}_sepconv{number}"
        if act == "before":
            data = layers.act(data, f"{layer}_relu")
        data = layers.conv(data, f"{layer}_depthwise_kernel", inputs, 3, bias=True, num_group=inputs)
        data = layers.conv(data, f"{layer}_pointwise_kernel_conv2d", filters, 1, bias=True)
        data = layers.bn(data, f"{layer}_bn")
        if act == "after":
            data = layers.act(data, f"{layer}_relu")
    return data
