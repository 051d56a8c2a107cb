"""What the network families share: convolution, batch norm, activation, squeeze and excitation, the input's scale."""
import functools

from common.errors import UserError, unknown_name
from common.mxnet_setup import mx

IMAGE_SHAPE = (3, 112, 112)  # what every network is built for: RGB, channels first
ACTIVATIONS = ("prelu", "relu")


def fresh_names(build):
    """Decorate a family's `get_symbol`: its automatic node names (`_plus0`, ...) start at 0 in every call."""
    @functools.wraps(build)
    def build_with_fresh_names(*args, **settings):
        with mx.name.NameManager():
            return build(*args, **settings)
    return build_with_fresh_names


def check_known(setting, value, known):
    """Raise UserError, listing the known values, where `value` is none of them."""
    if value not in known:
        raise unknown_name(setting, value, map(str, known))


def scaled(channels, net_multiplier):
    """Layers' numbers of channels times the width multiplier of Howard et al., 2017, cut to whole numbers: a tuple.

    Raises UserError where the multiplier is no number above 0, or leaves a layer no channel.
    """
    if isinstance(net_multiplier, bool) or not isinstance(net_multiplier, (int, float)) or not (
            1 / min(channels) <= net_multiplier < float("inf")):
        raise UserError(f"net_multiplier {net_multiplier!r}: expected a factor of all numbers of channels, such as "
                        f"0.5, at least 1/{min(channels)}")
    return tuple(int(number * net_multiplier) for number in channels)


def map_shape(symbol):
    """Shape of `symbol`'s output for one image, for instance (1, 512, 7, 7)."""
    _, (shape,), _ = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    return shape


def normalize(data):
    """Pixels 0..255 to about -1..1: (data - 127.5) / 128. It is part of every network, so of every checkpoint."""
    return (data - 127.5) * 0.0078125


class Layers:
    """The layers of one network, as its settings say. Attributes that a network never sets are not written.

    net_act: 'prelu' (one slope for each channel, starting at 0.25) or 'relu'; bn_mom: share of the old moving mean
    and variance that a step keeps; net_se: whether `se` does anything; bn, conv: further attributes of every
    BatchNorm and Convolution.
    Raises UserError for a value outside of these.
    """

    def __init__(self, net_act, bn_mom, net_se=0, bn=None, conv=None):
        check_known("net_act", net_act, ACTIVATIONS)
        check_known("net_se", net_se, (0, 1))
        if not 0 <= bn_mom < 1:
            raise UserError(f"bn_mom {bn_mom!r}: expected a share of the old statistics, 0 <= bn_mom < 1")
        workspace = (conv or {}).get("workspace", 0)
        if type(workspace) is not int or workspace < 0:
            raise UserError(f"workspace {workspace!r}: expected a whole number of MB, 0 or more")
        self._act, self._se = net_act, net_se
        self._bn, self._conv = dict(bn or {}, momentum=bn_mom), conv or {}

    def conv(self, data, name, filters, kernel, stride=1, bias=False, **attrs):
        """Square convolution that keeps the map's size (at stride 1) where `pad` is not given; pad=None writes none."""
        pad = attrs.pop("pad", kernel // 2)
        if pad is not None:
            attrs["pad"] = (pad, pad)
        if not bias:
            attrs["no_bias"] = True
        return mx.sym.Convolution(data, name=name, num_filter=filters, kernel=(kernel, kernel),
                                  stride=(stride, stride), **self._conv, **attrs)

    def bn(self, data, name, fix_gamma=False, **variables):
        """Batch norm. fix_gamma: the scale is 1 whatever is stored."""
        return mx.sym.BatchNorm(data, name=name, fix_gamma=fix_gamma, **self._bn, **variables)

    def act(self, data, name):
        """The network's activation."""
        if self._act == "prelu":
            return mx.sym.LeakyReLU(data, name=name, act_type="prelu")
        return mx.sym.Activation(data, name=name, act_type=self._act)

    def se(self, data, name, filters):
        """Squeeze and excitation (Hu et al., 2018; reduction 16) where the network has it, else `data`."""
        if not self._se:
            return data
        gate = mx.sym.Pooling(data, name=f"{name}_se_pool1", global_pool=True, kernel=(7, 7), pool_type="avg")
        gate = self.conv(gate, f"{name}_se_conv1", max(1, filters // 16), 1, bias=True)
        gate = self.act(gate, f"{name}_se_relu1")
        gate = self.conv(gate, f"{name}_se_conv2", filters, 1, bias=True)
        gate = mx.sym.Activation(gate, name=f"{name}_se_sigmoid", act_type="sigmoid")
        return mx.sym.broadcast_mul(data, gate)


def first_layer(layers, data, net_input, filters):
    """The first convolution: 7x7 of stride 2 for net_input 0, else 3x3 of stride 1 (the papers' 'L')."""
    kernel, stride = (7, 2) if net_input == 0 else (3, 1)
    return layers.act(layers.bn(layers.conv(data, "conv0", filters, kernel, stride), "bn0"), "relu0")


def quarter_head(layers, net_input, filters):
    """From `data` to a 28x28 (net_input 0, the ImageNet stem) or a 56x56 map (1): DenseNet's and DPN's beginning."""
    check_known("net_input", net_input, (0, 1))
    body = first_layer(layers, normalize(mx.sym.Variable("data")), net_input, filters)
    if net_input == 0:
        return mx.sym.Pooling(body, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    return improved_unit(layers, body, "head", filters, first=True)


def improved_unit(layers, data, name, filters, first):
    """BN-conv-BN-act-conv-BN (Deng et al., 2019, the 'IR' unit). first: halve the map, project the shortcut."""
    body = layers.conv(layers.bn(data, f"{name}_bn1"), f"{name}_conv1", filters, 3)
    body = layers.act(layers.bn(body, f"{name}_bn2"), f"{name}_relu1")
    body = layers.conv(body, f"{name}_conv2", filters, 3, 2 if first else 1)
    body = layers.se(layers.bn(body, f"{name}_bn3"), name, filters)
    return body + shortcut(layers, data, name, filters, first)


def shortcut(layers, data, name, filters, first):
    """What a residual unit adds: its input, or a projection of stride 2 to `filters` channels."""
    if not first:
        return data
    return layers.bn(layers.conv(data, f"{name}_conv1sc", filters, 1, 2, pad=None), f"{name}_sc")
