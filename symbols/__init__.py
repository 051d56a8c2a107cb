"""Networks by name: the symbol that turns images into embeddings.

A family is a module with one `get_symbol(...)`: its keyword arguments are the family's settings, named and preset as
the original's config keys. To add one: write `symbols/<family>.py`, its `get_symbol` decorated with
`blocks.fresh_names` and ending in `outputs.get_embedding`; import it here; add a line for each network to NETWORKS.
"""
import inspect
import re

from common.errors import UserError, unknown_name
from common.graph import mirrored
from symbols import (
    fdensenet,
    fdpn,
    finception_resnet_v2,
    fmnasnet,
    fmobilefacenet,
    fmobilenet,
    fmobilenetv2,
    fnasnet,
    fresnet,
    fxception,
    spherenet,
    vargfacenet,
)
from symbols.gluon_block import EmbeddingBlock

NETWORKS = {  # name: family, the settings in which the network differs from its family's defaults
    **{f"r{depth}": (fresnet, dict(num_layers=depth)) for depth in fresnet.DEPTHS},
    "r50v1": (fresnet, dict(num_layers=50, net_unit=1)),
    "r100fc": (fresnet, dict(num_layers=100, net_output="FC")),
    "y1": (fmobilefacenet, dict(emb_size=128, net_output="GDC")),
    "y2": (fmobilefacenet, dict(emb_size=256, net_output="GDC", net_blocks=(2, 8, 16, 4))),
    "m1": (fmobilenet, dict(emb_size=256, net_output="GDC")),
    "m05": (fmobilenet, dict(emb_size=256, net_output="GDC", net_multiplier=0.5)),
    "m2": (fmobilenetv2, {}),
    "mnas": (fmnasnet, dict(emb_size=256, net_output="GDC")),
    "mnas05": (fmnasnet, dict(emb_size=256, net_output="GDC", net_multiplier=0.5)),
    "mnas025": (fmnasnet, dict(emb_size=256, net_output="GDC", net_multiplier=0.25)),
    "vargfacenet": (vargfacenet, {}),
    **{f"d{depth}": (fdensenet, dict(num_layers=depth)) for depth in fdensenet.DEPTHS},
    **{f"p{depth}": (fdpn, dict(num_layers=depth)) for depth in fdpn.DEPTHS},
    **{f"s{depth}": (spherenet, dict(num_layers=depth)) for depth in spherenet.DEPTHS},
    "i1": (finception_resnet_v2, {}),
    "n1": (fnasnet, {}),
    "x1": (fxception, {}),
}
_DENSENET_2018 = dict(release=2018, densenet_dropout=0.2)
_PAPER_FAMILIES = {  # the papers' word: family, settings of the 2018 networks that bear such names
    "ResNet": (fresnet, {}), "MobileNet": (fmobilenet, {}), "MobileNetV2": (fmobilenetv2, {}),
    "DenseNet": (fdensenet, _DENSENET_2018), "DPN": (fdpn, {}), "Inception-ResNet": (finception_resnet_v2, {}),
    "Xception": (fxception, {}), "NASNet": (fnasnet, {}),
}
_BOTTLENECK_2018 = (101, 152, 200, 269)  # ResNets that had bottleneck units when the papers' names were given
_PAPER_NAME = re.compile(rf"(SE-)?(L)?({'|'.join(_PAPER_FAMILIES)})(\d*)([A-Z]+)(-IR|_v[123])?")
_UNITS = {"-IR": 3, "_v1": 1, "_v2": 2, "_v3": 3}
_OWN_NAMES = {"MobileFaceNet": "y1", "VarGFaceNet": "vargfacenet"}  # of papers with one network


def network_names():
    """The names in NETWORKS, in its order."""
    return list(NETWORKS)


def network_settings(network, **settings):
    """Everything that `get_symbol` builds `network` from, as a dict with the original's config keys.

    network: a name in NETWORKS, or one of the papers' such as LResNet100E-IR, SE-LResNet50E-IR, ResNet50D_v1 or
        LMobileNetE (L: net_input 1, else 0; the letter: net_output; -IR: net_unit 3; _v<n>: net_unit n; SE-: net_se 1).
        Where the original changed a network after the papers' names were given, they mean the one of 2018.
    settings: what shall differ from the network's presets. Every network has `memonger`: True trains it in about half
        the memory and a third more time, most maps being computed again in the backward pass (Chen et al., 2016).
    Raises UserError for an unknown network (the known ones are listed) and a setting that its family does not have.
    """
    family, presets = _find(network)
    defaults = {name: parameter.default for name, parameter in inspect.signature(family.get_symbol).parameters.items()}
    known = {"net_name": family.__name__.split(".")[-1], "memonger": False, **defaults, **presets}
    for name in settings:
        if name not in known:
            raise UserError(f"network {network} has no setting {name!r}; its settings are: {', '.join(sorted(known))}")
    if settings.get("net_name", known["net_name"]) != known["net_name"]:
        raise UserError(f"network {network} has net_name {known['net_name']!r}, not {settings['net_name']!r}")
    return {**known, **settings}


def get_symbol(network, **settings):
    """Build the embedding symbol of `network`.

    network, settings: as for `network_settings`, whose whole result may be given back as settings.
    Returns a symbol, data (N, 3, 112, 112) RGB 0..255 -> fc1_output (N, emb_size), not normalised. The pixel scale is
    part of it. The same call gives the same symbol, node names included, whatever was built before.
    Raises UserError for an unknown network, an unknown setting, and a value that the family refuses.
    """
    resolved = network_settings(network, **settings)
    del resolved["net_name"]
    memonger = resolved.pop("memonger")
    symbol = _find(network)[0].get_symbol(**resolved)
    return mirrored(symbol) if memonger else symbol


def get_block(network, **settings):
    """The same network as `get_symbol` builds, as a Gluon block that trains under `autograd.record`.

    Returns a `gluon_block.EmbeddingBlock`; its parameters are not initialised. Raises UserError as `get_symbol` does.
    """
    return EmbeddingBlock(get_symbol(network, **settings))


def _find(network):
    """(family, settings in which the network differs from its defaults)."""
    network = _OWN_NAMES.get(network, network)
    if network in NETWORKS:
        return NETWORKS[network]
    found = _PAPER_NAME.fullmatch(network)
    family, settings = _paper_network(*found.groups()) if found else (None, {})
    known = set(inspect.signature(family.get_symbol).parameters) if family else set()
    if not found or not set(settings) <= known or "num_layers" in known - set(settings) or None in settings.values():
        raise unknown_name("network", network, NETWORKS)
    return family, settings


def _paper_network(se, large, word, depth, output, unit):
    """The parts of a paper's name as (family, settings); a setting that the family does not have may be among them."""
    family, settings = _PAPER_FAMILIES[word]
    settings = dict(settings, net_output=output, net_input=int(bool(large)))
    if depth:
        settings["num_layers"] = int(depth)
    if se:
        settings["net_se"] = 1
    if unit or family is fresnet:
        settings["net_unit"] = _UNITS.get(unit)
    if settings.get("num_layers") in _BOTTLENECK_2018:
        settings["bottleneck"] = True
    return family, settings
