"""List the networks with what they cost for an image of 112x112, or the layers of one.

    python symbols/summary.py
    python symbols/summary.py --network r100,y1 --set net_output=GAP --set emb_size=256
    python symbols/summary.py --layers y1

parameters: numbers in the arguments, the scales that a batch norm keeps at 1 included; MB: millions of bytes of the
.params file, moving statistics included; GFLOPs: thousands of millions of multiplications and additions, those of
convolutions and fully connected layers. Parameters and FLOPs are counted as the original counts them.
"""
import json
import sys
from argparse import ArgumentTypeError
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.files import write_csv


def network_rows(networks, settings):
    """A dict for each of `networks` (none: all), as `symbols.flops.summarize` gives it."""
    from symbols import network_names
    from symbols.flops import summarize

    networks = networks or network_names()
    return [summarize(network, **_checked(network, settings)) for network in networks]


def layer_rows(network, settings):
    """A dict for each layer of a network: operator, name, output (its shape for one image), parameters, flops."""
    from symbols import get_symbol
    from symbols.flops import layers

    return [dict(operator=layer.operator, name=layer.name, output="x".join(map(str, layer.shape[1:])),
                 parameters=layer.parameters, flops=layer.flops)
            for layer in layers(get_symbol(network, **_checked(network, settings)))]


def _checked(network, settings):
    """`settings`, if they are known to the network and of the kind of its own. Raises UserError where they are not."""
    from symbols import network_settings

    network_settings(network, **settings)
    for key, default in network_settings(network).items():
        if key in settings and not _is_alike(settings[key], default):
            raise UserError(f"--set {key}={settings[key]}: {network} takes something like {json.dumps(default)}")
    return settings


def _is_alike(value, default):
    if isinstance(default, bool):
        return value in (0, 1)
    kinds = {float: (float, int), tuple: list}
    return isinstance(value, kinds.get(type(default), type(default)))


def network_table(rows):
    """The rows of `network_rows` as text."""
    return _table([dict(
        network=row["network"], family=row["family"], parameters=f"{row['parameters']:,}",
        MB=f"{row['bytes'] / 1e6:.1f}", GFLOPs=f"{row['flops'] / 1e9:.3f}", emb_size=str(row["emb_size"]),
        net_output=row["net_output"], net_input="-" if row["net_input"] is None else str(row["net_input"]))
        for row in rows])


def layer_table(rows):
    """The rows of `layer_rows` as text, with the sums below."""
    total = {key: sum(row[key] for row in rows) for key in ("parameters", "flops")}
    rows = rows + [dict(operator="total", name="", output="", **total)]
    return _table([{key: f"{value:,}" if isinstance(value, int) else value for key, value in row.items()}
                   for row in rows])


def _table(rows):
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = ("network", "family", "operator", "name", "net_output")
    return "\n".join("  ".join(text.ljust(width) if key in left else text.rjust(width)
                               for key, text, width in zip(lines[0], line, widths)).rstrip() for line in lines)


def _setting(text):
    """An argparse type: KEY=VALUE as (key, value), the value being JSON where it is any, else text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ArgumentTypeError(f"{text!r}: expected KEY=VALUE, such as net_output=GAP")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, {"True": True, "False": False}.get(value, value)


def parse_args(args=None):
    parser = ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--network", action="append", metavar="NAMES",
                       help="networks to list, with commas between; may be given again; left out: all")
    which.add_argument("--layers", default="", metavar="NAME", help="list the layers of this network")
    parser.add_argument("--set", type=_setting, action="append", metavar="KEY=VALUE",
                        help="a setting of the network, such as net_output=GAP, emb_size=256, net_blocks=[2,8,16,4]; "
                        "may be given again")
    parser.add_argument("--json", action="store_true", help="print JSON with whole numbers instead of the table")
    parser.add_argument("--csv", default="", metavar="FILE", help="write them to this file too, in whole numbers")
    return parser.parse_args(args)


def main():
    args = parse_args()
    settings = dict(args.set or ())
    if args.layers:
        rows, table = layer_rows(args.layers, settings), layer_table
    else:
        names = [name.strip() for names in args.network or () for name in names.split(",") if name.strip()]
        rows, table = network_rows(names, settings), network_table
    if args.csv:
        write_csv(args.csv, rows)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


if __name__ == "__main__":
    run(main)
