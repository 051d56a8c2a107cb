"""DenseNets (`d121`, `d161`, `d169`, `d201`): Huang et al., 2017, in both forms that the original had.

The 2018 form begins with the faces' residual unit of 64 channels in every depth, though in d161 the count of channels,
which sets what a transition halves to, goes on from the paper's 96. The outputs GDC and SFC are depthwise over all of
the last map's channels where 512 does not divide them: there the original crashed.
"""
from collections import namedtuple

from common.errors import UserError
from common.mxnet_setup import mx
from symbols.blocks import Layers, check_known, fresh_names, map_shape, normalize, quarter_head
from symbols.gluon_names import Scope
from symbols.outputs import get_embedding

_Size = namedtuple("_Size", "growth units")
DEPTHS = {  # num_layers: channels that a unit adds, units in the four dense blocks
    121: _Size(32, (6, 12, 24, 16)), 161: _Size(48, (6, 12, 36, 24)),
    169: _Size(32, (6, 12, 32, 32)), 201: _Size(32, (6, 12, 48, 32)),
}


@fresh_names
def get_symbol(num_layers, emb_size=512, net_output="E", net_input=1, net_act="prelu", bn_mom=0.9,
               densenet_dropout=0.0, workspace=256, release=2019):
    """Build the embedding symbol.

    num_layers: a key of DEPTHS; emb_size: D; net_output: see symbols.outputs;
    net_input: 1 = 3x3 of stride 1, then a pool (release 2019) or a residual unit (2018); 0 = the ImageNet stem, 7x7 of
        stride 2 and a pool (the last map is then 3x3, else 7x7), in the 2018 form alone;
    net_act: 'prelu' or 'relu'; the 2019 form has ReLU in its stem and at its end whatever is set, the 2018 form has
        the activation in its beginning and the output, and ReLU in between; bn_mom: momentum of the moving statistics;
    densenet_dropout: share of the values dropped behind the convolutions, 0 <= p < 1 (in 2018 it was always 0.2);
    workspace: MB that cuDNN may take for a convolution, in the 2018 form alone;
    release: the original's tree whose names and structure the network has, 2018 or 2019.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    check_known("num_layers", num_layers, DEPTHS)
    check_known("release", release, (2018, 2019))
    if not isinstance(densenet_dropout, (int, float)) or not 0 <= densenet_dropout < 1:
        raise UserError(f"densenet_dropout {densenet_dropout!r}: expected a share of the values, "
                        "0 <= densenet_dropout < 1")
    if release == 2018:
        form = _Form2018(net_input, net_act, bn_mom, densenet_dropout, workspace)
    else:
        _refuse_settings_of_2018(net_input=(net_input, 1), workspace=(workspace, 256))
        form = _Form2019(net_act, bn_mom, densenet_dropout)
    body = _body(form, DEPTHS[num_layers])
    channels = map_shape(body)[1]
    return get_embedding(body, net_output, emb_size, net_act, bn_mom, width=channels if channels % 512 else 512)


def _refuse_settings_of_2018(**settings):
    for name, (value, only) in settings.items():
        if value != only:
            raise UserError(f"{name} {value!r}: the 2019 form of DenseNet has no such choice; expected {only}, or "
                            "release 2018")


def _body(form, size):
    channels = 2 * size.growth
    body = form.stem(channels)
    for stage, units in enumerate(size.units, 1):
        if stage > 1:
            channels //= 2
            body = form.transition(body, stage - 1, channels)
        body = form.dense_block(body, stage, units, size.growth)
        channels += units * size.growth
    return form.end(body)


class _Form2019:
    """Gluon's own DenseNet with a first convolution of stride 1."""

    def __init__(self, net_act, bn_mom, dropout):
        self._net, self._dropout = Scope("densenet0_", net_act, bn_mom), dropout

    def stem(self, channels):
        net, body = self._net, normalize(mx.sym.Variable("data"))
        return net.pool(net.relu(net.bn(net.conv(body, channels, 3))), "max", 3, 2, pad=1)

    def dense_block(self, body, stage, units, growth):
        scope = self._net.scope(f"stage{stage}_")
        for _ in range(units):
            new = scope.conv(scope.act(scope.bn(body)), 4 * growth, 1)
            new = scope.conv(scope.act(scope.bn(new)), growth, 3)
            if self._dropout:
                new = mx.sym.Dropout(new, name=f"{scope.name('dropout')}_fwd", p=self._dropout, axes=(),
                                     cudnn_off=False)
            body = scope.concat(body, new)
        return body

    def transition(self, body, stage, channels):
        net = self._net
        return net.pool(net.conv(net.act(net.bn(body)), channels, 1), "avg", 2, 2)

    def end(self, body):
        return self._net.relu(self._net.bn(body))


class _Form2018:
    """The papers' beginning for faces, dropout behind every convolution, no batch norm at the end."""

    def __init__(self, net_input, net_act, bn_mom, dropout, workspace):
        shared = dict(bn_mom=bn_mom, bn=dict(eps=2e-5), conv=dict(workspace=workspace))
        self._head, self._layers = Layers(net_act, **shared), Layers("relu", **shared)
        self._input, self._dropout = net_input, dropout

    def stem(self, channels):
        return quarter_head(self._head, self._input, channels if self._input == 0 else 64)

    def dense_block(self, body, stage, units, growth):
        for number in range(1, units + 1):
            name = f"DBstage{stage}_unit{number}"
            new = self._conv(body, name, 1, 4 * growth, 1)
            new = self._conv(new, name, 2, growth, 3)
            body = mx.sym.Concat(body, new, name=f"DBstage{stage}_concat{number}")
        return body

    def transition(self, body, stage, channels):
        body = self._conv(body, f"TBstage{stage}", 1, channels, 1)
        return mx.sym.Pooling(body, name=f"TBstage{stage}_pool{stage}", global_pool=False, kernel=(2, 2),
                              stride=(2, 2), pool_type="avg")

    def end(self, body):
        return body

    def _conv(self, data, name, number, filters, kernel):
        """BN-ReLU-conv-dropout."""
        layers = self._layers
        data = layers.act(layers.bn(data, f"{name}_bn{number}"), f"{name}_relu{number}")
        data = layers.conv(data, f"{name}_conv{number}", filters, kernel)
        return mx.sym.Dropout(data, name=f"{name}_dp{number}", p=self._dropout) if self._dropout else data
