"""Networks by name: the symbol that turns images into embeddings.

A family is a module with one `get_symbol(...)`: its keyword arguments are the family's settings, named and preset as
the original's config keys. To add one: write `symbols/<family>.py`, its `get_symbol` decorated with
`blocks.fresh_names` and ending in `outputs.get_embedding`; import it here; add a line for each network to NETWORKS.
"""
import inspect
import re

from common.errors import UserError, unknown_name
from symbols import fmobilefacenet, fresnet

NETWORKS = {  # name: family, the settings in which the network differs from its family's defaults
    **{f"r{depth}": (fresnet, dict(num_layers=depth)) for depth in fresnet.DEPTHS},
    "r50v1": (fresnet, dict(num_layers=50, net_unit=1)),
    "r100fc": (fresnet, dict(num_layers=100, net_output="FC")),
    "y1": (fmobilefacenet, dict(emb_size=128, net_output="GDC")),
    "y2": (fmobilefacenet, dict(emb_size=256, net_output="GDC", net_blocks=(2, 8, 16, 4))),
}
_PAPER_NAME = re.compile(r"(SE-)?(L)?ResNet(\d+)([A-Z]+)(?:-IR|_v([123]))")


def network_names():
    """The names in NETWORKS, in its order."""
    return list(NETWORKS)


def network_settings(network, **settings):
    """Everything that `get_symbol` builds `network` from, as a dict with the original's config keys.

    network: a name in NETWORKS, or one of the papers' such as LResNet100E-IR, SE-LResNet50E-IR or ResNet50D_v1 (L:
        net_input 1, else 0; the letter: net_output; -IR: net_unit 3; _v<n>: net_unit n; SE-: net_se 1).
    settings: what shall differ from the network's presets.
    Raises UserError for an unknown network (the known ones are listed) and a setting that its family does not have.
    """
    family, presets = _find(network)
    defaults = {name: parameter.default for name, parameter in inspect.signature(family.get_symbol).parameters.items()}
    known = {"net_name": family.__name__.split(".")[-1], **defaults, **presets}
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
    return _find(network)[0].get_symbol(**resolved)


def _find(network):
    if network in NETWORKS:
        return NETWORKS[network]
    found = _PAPER_NAME.fullmatch(network)
    if not found:
        raise unknown_name("network", network, NETWORKS)
    se, large, depth, output, unit = found.groups()
    return fresnet, dict(num_layers=int(depth), net_output=output, net_unit=int(unit or 3), net_input=int(bool(large)),
                         net_se=int(bool(se)))
