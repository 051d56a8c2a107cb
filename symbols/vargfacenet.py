"""VarGFaceNet (`vargfacenet`): Yan et al., 2019.

Its convolutions are grouped by a fixed number of channels, so that the groups' number varies with the width. The
paper's own network has squeeze and excitation (net_se 1); the original's default has not.
"""
from common.errors import UserError
from common.mxnet_setup import mx
from symbols.blocks import Layers, fresh_names, normalize, scaled
from symbols.outputs import get_embedding

CHANNELS, UNITS = (32, 64, 128, 256), (3, 7, 4)  # of the beginning, then of each stage; each stage's units
GROUP = 8  # channels
_NEED_PLACES = ("GDC", "GNAP", "SFC")


@fresh_names
def get_symbol(emb_size=512, net_output="J", net_multiplier=1.25, net_se=0, net_act="prelu", bn_mom=0.9, workspace=256):
    """Build the embedding symbol.

    emb_size: D; net_multiplier: width multiplier of the stages, in steps of 0.25;
    net_output: see symbols.outputs (the paper's and the original's is J, which the original built whatever was asked
        for). It stands behind the network's own ending, a 7x7 grouped convolution to 512 features of one place, so
        GDC, GNAP and SFC are refused;
    net_se: 1 = squeeze and excitation (reduction 4) in the units that have one path; net_act: 'prelu' or 'relu';
    bn_mom: momentum of the moving statistics; workspace: MB that cuDNN may take for a convolution.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    if net_output in _NEED_PLACES:
        raise UserError(f"net_output {net_output} weighs the places of a map, but this network's own ending leaves one "
                        "place, 1x1; use J, as in the paper, or another output, such as E or GAP")
    width, *widths = _widths(net_multiplier)
    layers = _Layers(net_act, bn_mom, net_se, bn=dict(eps=2e-5, use_global_stats=False), conv=dict(workspace=workspace))
    body = normalize(mx.sym.identity(mx.sym.Variable("data"), name="id"))
    body = layers.act_conv(body, "vargface_head_conv1", width, 3, num_group=1)
    body = _unit(layers, body, "vargface_head_head_pooling", width, width, stride=2, factor=1)
    for stage, (units, filters) in enumerate(zip(UNITS, widths), 2):
        body = _two_path_unit(layers, body, f"vargface_stage_{stage}_unit_1", width, filters)
        width = filters
        for number in range(2, units + 1):
            body = _unit(layers, body, f"vargface_stage_{stage}_unit_{number}", width, width)
    return get_embedding(_ending(layers, body), net_output, emb_size, net_act, bn_mom)


def _widths(net_multiplier):
    widths = scaled(CHANNELS, net_multiplier)
    if any(width % GROUP for width in widths):
        raise UserError(f"net_multiplier {net_multiplier!r} gives stages of {', '.join(map(str, widths))} channels, "
                        f"but they are divided into groups of {GROUP}: expected a multiple of 0.25")
    return widths


class _Layers(Layers):
    """The network's compound layers; named after the convolution."""

    def bn_conv(self, data, name, filters, kernel, stride=1, **attrs):
        return self.bn(self.conv(data, name, filters, kernel, stride, **attrs), f"{name}_bn")

    def act_conv(self, data, name, *size, **attrs):
        return self.act(self.bn_conv(data, name, *size, **attrs), f"{name}_act")

    def separable(self, data, name, inputs, filters, stride=1, factor=2):
        """A 3x3 convolution of groups, to `factor` times the `inputs` channels, and a 1x1 without activation."""
        body = self.act_conv(data, f"{name}_conv2d_depthwise", inputs * factor, 3, stride, num_group=inputs // GROUP,
                             dilate=(1, 1))
        return self.bn_conv(body, f"{name}_conv2d_pointwise", filters, 1, num_group=1)

    def se(self, data, name, filters):
        if not self._se:
            return data
        gate = mx.sym.Pooling(data, name=f"{name}_se_pool1", global_pool=True, pool_type="avg")
        gate = self.act(_gate_conv(gate, f"{name}_se_conv1", filters // 4), f"{name}_se_act1")
        gate = _gate_conv(gate, f"{name}_se_conv2", filters)
        gate = mx.sym.Activation(gate, name=f"{name}_se_sigmoid", act_type="sigmoid")
        return mx.sym.broadcast_mul(data, gate)


def _gate_conv(data, name, filters):
    return mx.sym.Convolution(data, name=name, num_filter=filters, kernel=(1, 1), pad=(0, 0), stride=(1, 1))


def _unit(layers, data, name, inputs, filters, stride=1, factor=2):
    """Two separable convolutions beside the input, or at stride 2 beside a third."""
    body = layers.separable(data, f"{name}_sep1_data", inputs, filters, stride, factor)
    body = layers.act(body, f"{name}_sep1_data_conv2d_pointwise_act")
    body = layers.separable(body, f"{name}_sep2_data", filters, filters, 1, factor)
    body = layers.se(body, name, filters)
    if stride > 1:
        data = layers.separable(data, f"{name}_shortcut", inputs, filters, stride, factor)
    return layers.act(body + data, f"{name}_out_data_act")


def _two_path_unit(layers, data, name, inputs, filters):
    """The first of a stage: it halves the map, its first separable convolution the sum of two."""
    one, other = (layers.separable(data, f"{name}_sep{path}_data_branch", inputs, filters, 2) for path in (1, 2))
    body = layers.act(one + other, f"{name}_sep1_data_act")
    body = layers.separable(body, f"{name}_sep2_data", filters, filters)
    return layers.act(body + layers.separable(data, f"{name}_shortcut", inputs, filters, 2), f"{name}_out_data_act")


def _ending(layers, body):
    """To 1024 channels, then 7x7 in groups, then 512 features: the paper's embedding setting but for its last layer."""
    body = layers.act_conv(body, "embed_convx", 1024, 1)
    body = layers.bn_conv(body, "embed_convx_depthwise", 1024, 7, pad=0, num_group=1024 // GROUP)
    return layers.act_conv(body, "embed_convx_pointwise", 512, 1)
