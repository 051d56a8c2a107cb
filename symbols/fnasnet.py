"""NASNet-A (`n1`): Zoph et al., 2018, in its large form, "6 @ 4032".

The numbers in the names go by the order in which layers are made, which is not everywhere that of the graph. The
original's batch norms had momentum 0.1, for the framework that it was ported from means by it the share of the new
statistics; in MXNet it is that of the old ones, and here it is bn_mom.
"""
from common.mxnet_setup import mx
from symbols.blocks import check_known, fresh_names, map_shape, normalize
from symbols.gluon_names import Scope
from symbols.outputs import get_embedding

_STEM_FILTERS = 96
_FILTERS = (168, 336, 672)  # of a cell's layers, by stage
_CELLS = 6  # normal cells in a stage


@fresh_names
def get_symbol(emb_size=512, net_output="E", net_input=1, net_act="prelu", bn_mom=0.9):
    """Build the embedding symbol.

    emb_size: D; net_output: see symbols.outputs; GDC and SFC are depthwise over all 4032 channels of the last map;
    net_input: first convolution 0 = of stride 2, as in the paper (the last map is then 4x4), 1 = of stride 1 (7x7);
    net_act: 'prelu' or 'relu', in outputs that have an activation: the network itself has ReLU;
    bn_mom: momentum of the moving statistics.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    check_known("net_input", net_input, (0, 1))
    net = Scope("", "relu", bn_mom, eps=1e-3)
    body = net.bn(net.conv(normalize(mx.sym.Variable("data")), _STEM_FILTERS, 3, 2 - net_input, pad=0))
    mx.sym.Dropout(body)  # takes the name dropout0, as that of the ImageNet classifier did, made and not used
    maps = _stem_cells(net, body)
    for stage, filters in enumerate(_FILTERS):
        maps = _stage(net, stage, filters, *maps)
    return get_embedding(maps[1], net_output, emb_size, net_act, bn_mom, width=map_shape(maps[1])[1])


def _stem_cells(net, data):
    """Two reductions; the second takes the first's output and, once more, the first's input."""
    filters = _FILTERS[0] // 4
    new = _squeezed(net, data, filters)
    older = _reduction(net, net.scope("cellstem00_"), data, new, filters, _STEM_FILTERS)
    cell, new = net.scope("cellstem10_"), _squeezed(net, older, 2 * filters)
    old = _halved(net, cell, data, 2 * filters)
    return older, _reduction(net, cell, old, new, 2 * filters, 2 * filters)


def _stage(net, stage, filters, older, newer):
    """A reduction, from the second stage on, and normal cells. older, newer: outputs of the last two cells."""
    reduced = newer
    if stage:
        old, new = (_squeezed(net, data, filters) for data in (older, newer))
        reduced = _reduction(net, net.scope(f"reductioncell{stage - 1}0_"), old, new, filters, filters,
                             _at_odd if stage == 1 else _at_even)
    cell, new = net.scope(f"firstcell{stage}_"), _squeezed(net, reduced, filters)
    older, newer = reduced, _normal(net, cell, _halved(net, cell, older, filters), new, filters)
    for number in range(stage * (_CELLS - 1), (stage + 1) * (_CELLS - 1)):
        old, new = (_squeezed(net, data, filters) for data in (older, newer))
        older, newer = newer, _normal(net, net.scope(f"normalcell{number}_"), old, new, filters)
    return older, newer


def _at_even(net, kind, data, layer):
    """`layer` of `data`; one of stride 2 gives a value for every even row and column."""
    return layer(data)


def _at_odd(net, kind, data, layer):
    """As `_at_even`, for every odd row and column: where TensorFlow, so the paper, has them in a map of even size."""
    scope = net.scope(f"{net.name(kind)}_")
    return _cut(scope, layer(_pad(scope, data, 1, 0)))


def _normal(net, cell, old, new, filters):
    """The paper's normal cell (Figure 4)."""
    def separable(data, kernel):
        return _separable(net, data, filters, kernel)

    def average(data):
        return net.pool(data, "avg", 3, 1, pad=1)

    return cell.concat(
        old,
        _sum(cell, separable(new, 5), separable(old, 3)),
        _sum(cell, separable(old, 5), separable(old, 3)),
        _sum(cell, average(new), old),
        _sum(cell, average(old), average(old)),
        _sum(cell, separable(new, 3), new))


def _reduction(net, cell, old, new, filters, old_filters, places=_at_even):
    """The paper's reduction cell (Figure 4). old_filters: channels of `old`; places: of its layers of stride 2."""
    def separable(data, kernel, channels=filters, stride=2):
        return _separable(net, data, filters, kernel, channels, stride, places)

    def pool(kind):
        return places(net, f"{kind}poolpad", new, lambda data: net.pool(data, kind, 3, 2, pad=1))

    first = _sum(cell, separable(new, 5), separable(old, 7, old_filters))
    second = _sum(cell, pool("max"), separable(old, 7, old_filters))
    third = _sum(cell, pool("avg"), separable(old, 5, old_filters))
    fourth = _sum(cell, net.pool(first, "avg", 3, 1, pad=1), second)
    return cell.concat(second, third, fourth, _sum(cell, separable(first, 3, stride=1), pool("max")))


def _separable(net, data, filters, kernel, channels=None, stride=1, places=_at_even):
    """Two separable convolutions. channels: of `data`, if not `filters`; stride, places: of the first."""
    channels = channels or filters
    data = places(net, "branchseparablesreduction", net.relu(data),
                 lambda data: net.conv(net.conv(data, channels, kernel, stride, groups=channels), filters, 1))
    data = net.relu(net.bn(data))
    return net.bn(net.conv(net.conv(data, filters, kernel, groups=filters), filters, 1))


def _sum(cell, left, right):
    return mx.sym.elemwise_add(left, right, name=cell.name("_plus"))


def _squeezed(net, data, filters):
    """A cell's output with the number of channels that the next one works on."""
    return net.bn(net.conv(net.relu(data), filters, 1))


def _halved(net, cell, data, filters):
    """A cell's output at half its size: half of the channels from its even rows and columns, half from the odd."""
    def every_other(data):
        return net.conv(net.pool(data, "avg", 1, 2), filters // 2, 1)

    data = net.relu(data)
    even = every_other(data)
    return net.bn(cell.concat(even, every_other(_cut(cell, _pad(cell, data, 0, 1)))))


def _pad(scope, data, before, after):
    """Rows and columns of zeros around a map."""
    return mx.sym.Pad(data, name=scope.name("pad"), mode="constant", constant_value=0,
                      pad_width=(0, 0, 0, 0, before, after, before, after))


def _cut(scope, data):
    """A map without its first row and column."""
    return mx.sym.slice(data, name=scope.name("slice"), begin=(None, None, 1, 1), end=(None,) * 4)
