"""SphereFace's plain residual networks, without batch norm (`s4` to `s104`): Liu et al., 2017, Table 2.

4, 10, 20, 36 and 64 are the paper's; the original had 20, 36 and 64, the same networks, and 60 and 104, which the
paper does not have. The paper's images are 112x96; these are built for 112x112.
"""
from common.mxnet_setup import mx
from symbols.blocks import Layers, check_known, fresh_names, normalize
from symbols.outputs import get_embedding

DEPTHS = {  # num_layers, the number of convolutions: units of two in the four stages
    4: (0, 0, 0, 0), 10: (0, 1, 2, 0), 20: (1, 2, 4, 1), 36: (2, 4, 8, 2), 60: (3, 8, 14, 3), 64: (3, 8, 16, 3),
    104: (3, 8, 36, 3),
}
FILTERS = (64, 128, 256, 512)


@fresh_names
def get_symbol(num_layers, emb_size=512, net_output="H", net_act="prelu", bn_mom=0.9, workspace=256):
    """Build the embedding symbol.

    num_layers: a key of DEPTHS; emb_size: D; net_output: see symbols.outputs (the paper's is H, one FC layer);
    net_act: 'prelu' or 'relu'; bn_mom: momentum of the moving statistics, in outputs that have a batch norm;
    workspace: MB that cuDNN may take for a convolution.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, D), not normalised.
    Raises UserError for a setting outside of these.
    """
    check_known("num_layers", num_layers, DEPTHS)
    layers = Layers(net_act, bn_mom, conv=dict(workspace=workspace))
    body = normalize(mx.sym.Variable("data"))
    for stage, (units, filters) in enumerate(zip(DEPTHS[num_layers], FILTERS), 1):
        body = _conv(layers, body, f"{stage}_1", filters, stride=2, bias=True)
        for number in range(2, 2 + 2 * units, 2):
            unit = _conv(layers, body, f"{stage}_{number}", filters)
            body = body + _conv(layers, unit, f"{stage}_{number + 1}", filters)
    return get_embedding(body, net_output, emb_size, net_act, bn_mom)


def _conv(layers, data, place, filters, stride=1, bias=False):
    return layers.act(layers.conv(data, f"conv{place}", filters, 3, stride, bias), f"relu{place}")
