"""The output options (`net_output`): from the last feature map to the embedding.

    E     BN, dropout 0.4, FC, BN          A     BN, activation, global average pool: the features themselves
    FC I  BN, FC, BN                       B     A, FC
    F     BN, dropout 0.4, FC              C     A, FC, BN (GAP is the same)
    G     BN, FC                           D     A, FC, BN, activation
    H     FC                               AX BX CX DX   dropout 0.2 after the pool
    J     FC, BN                           Z     BN, dropout 0.4: the whole map, flattened
    SFC   BN, separable 3x3 convolution of stride 2, FC, BN
    GDC   7x7 depthwise convolution, BN, FC, BN (MobileFaceNet: Chen et al., 2018)
    GNAP  BN, every place rescaled to the batch's mean norm, average pool, FC where emb_size asks for it, BN

Names and shapes are the original's; BN before the embedding has its scale fixed at 1. It differs in what the
original cannot train or read back: A, B, D and Z end in a node `fc1` too (an identity; D's batch norm is named
`fc1_bn`, its parameters `fc1_*` as ever; Z is flattened), and GNAP takes any number of channels, not 512 alone.
GNAP's embedding of an image depends a little on the rest of its batch: that is the option's nature.
"""
from collections import namedtuple

from common.errors import UserError
from common.mxnet_setup import mx
from symbols.blocks import Layers, check_known, map_shape

_Head = namedtuple("_Head", "layers emb_size width bn_mom")


def get_embedding(body, net_output, emb_size, net_act, bn_mom, width=512):
    """Put an output option on the last feature map.

    body: symbol, (N, C, H, W) for images of blocks.IMAGE_SHAPE; net_output: one of OPTIONS; emb_size: D;
    width: channels of the GDC and SFC convolutions.
    Returns the embedding symbol, (N, D), not normalised, its output named fc1_output.
    Raises UserError for an unknown option, and for one that this map or emb_size does not allow.
    """
    check_known("net_output", net_output, OPTIONS)
    if not isinstance(emb_size, int) or emb_size < 1:
        raise UserError(f"emb_size {emb_size!r}: expected a positive whole number")
    head = _Head(Layers(net_act, bn_mom, bn=dict(eps=2e-5)), emb_size, width, bn_mom)
    for step in OPTIONS[net_output]:
        body = step(body, head)
    features = map_shape(body)[1]
    if features != emb_size:
        raise UserError(f"net_output {net_output} has no layer that sets the embedding's size: it gives the network's "
                        f"own {features} features, not emb_size {emb_size}; set emb_size to {features}, or take "
                        "another output, such as E or GAP")
    return body if body.name == "fc1" else mx.sym.identity(body, name="fc1")


def _bn1(body, head):
    return head.layers.bn(body, "bn1")


def _dropout(body, head):
    return mx.sym.Dropout(body, p=0.4)


def _pooled(body, head):
    body = head.layers.act(head.layers.bn(body, "bn1"), "relu1")
    return mx.sym.Flatten(mx.sym.Pooling(body, name="pool1", global_pool=True, kernel=(7, 7), pool_type="avg"))


def _pooled_dropout(body, head):
    return mx.sym.Dropout(_pooled(body, head), p=0.2)


def _flatten(body, head):
    return mx.sym.Flatten(body, name="fc1")


def _fc(body, head):
    return mx.sym.FullyConnected(body, name="pre_fc1", num_hidden=head.emb_size)


def _fc1(body, head):
    return mx.sym.FullyConnected(body, name="fc1", num_hidden=head.emb_size)


def _bn(body, head):
    return head.layers.bn(body, "fc1", fix_gamma=True)


def _bn_act(body, head):
    variables = {name: mx.sym.Variable(f"fc1_{name}") for name in ("gamma", "beta", "moving_mean", "moving_var")}
    return head.layers.act(head.layers.bn(body, "fc1_bn", fix_gamma=True, **variables), "fc1_relu")


def _separable(body, head):
    layers = head.layers
    body = layers.conv(body, "convf", head.width, 3, stride=2, num_group=head.width)
    body = layers.act(layers.bn(body, "bnf"), "reluf")
    body = layers.conv(body, "convf2", head.width, 1, bias=True)
    return layers.act(layers.bn(body, "bnf2"), "reluf2")


def _gdc(body, head):
    size = map_shape(body)[2:]
    if size != (7, 7):
        raise UserError(f"net_output GDC is a 7x7 convolution and needs a 7x7 map, but this network ends in "
                        f"{size[0]}x{size[1]}; use an output such as E or GAP, or net_input 1 where that gives 7x7")
    body = head.layers.conv(body, "conv_6dw7_7_conv2d", head.width, 7, pad=0, num_group=head.width)
    # In the original this one batch norm alone has MXNet's default eps.
    return mx.sym.BatchNorm(body, name="conv_6dw7_7_batchnorm", fix_gamma=False, momentum=head.bn_mom)


def _gnap(body, head):
    layers, channels = head.layers, map_shape(body)[1]
    if head.emb_size > channels:
        channels = head.emb_size
        body = layers.conv(body, "convx", channels, 1)
        body = layers.act(layers.bn(body, "convx_bn"), "convx_relu")
    body = layers.bn(body, "bn6f", fix_gamma=True)
    norm = mx.sym.sqrt(mx.sym.sum(body * body, axis=1, keepdims=True))
    scale = mx.sym.broadcast_div(mx.sym.mean(norm), norm)
    body = body * mx.sym.tile(scale, reps=(1, channels, 1, 1))
    body = mx.sym.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg")
    if head.emb_size == channels:
        return mx.sym.Flatten(body)
    return _fc(layers.bn(body, "bn6w", fix_gamma=True), head)


_ENDINGS = {"A": (), "B": (_fc,), "C": (_fc, _bn), "D": (_fc, _bn_act)}
OPTIONS = {
    "Z": (_bn1, _dropout, _flatten),
    "E": (_bn1, _dropout, _fc, _bn),
    "FC": (_bn1, _fc, _bn),
    "I": (_bn1, _fc, _bn),
    "F": (_bn1, _dropout, _fc1),
    "G": (_bn1, _fc1),
    "H": (_fc1,),
    "J": (_fc, _bn),
    "SFC": (_bn1, _separable, _fc, _bn),
    "GAP": (_pooled, _fc, _bn),
    "GDC": (_gdc, _fc, _bn),
    "GNAP": (_gnap, _bn),
    **{letter: (_pooled, *ending) for letter, ending in _ENDINGS.items()},
    **{letter + "X": (_pooled_dropout, *ending) for letter, ending in _ENDINGS.items()},
}
