"""Export every network of the table to ONNX and compare it with MXNet: results/export.csv.

    python benchmarks/export.py
    python benchmarks/export.py --networks r100,y1

Parameters are drawn, scales that a batch norm keeps at 1 among them, so that whatever the exporter forgot would show.
largest_difference: of an embedding's length, on eight rendered faces in batches of 1, 2 and 5; see docs/export.md.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.cli import ArgumentParser, run
from common.errors import UserError


def draw(symbol):
    """Parameters that hang on their names alone, as (arg_params, aux_params) of NDArrays."""
    from common.mxnet_setup import mx

    arguments, _, states = symbol.infer_shape(data=(1, 3, 112, 112))
    parts = (symbol.list_arguments(), arguments), (symbol.list_auxiliary_states(), states)
    return tuple({name: mx.nd.array(_draw(name, shape)) for name, shape in zip(names, shapes) if name != "data"}
                 for names, shapes in parts)


def _draw(name, shape):
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("_weight"):
        return random.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
    if name.endswith(("gamma", "var")) and "relu" not in name:
        return random.uniform(0.8, 1.2, shape)
    return random.uniform(0.1, 0.4, shape) if name.endswith("gamma") else random.uniform(-0.1, 0.1, shape)


def measure(network):
    """The line of one network, in this process."""
    from common import checkpoint
    from recognition.exporting import export
    from recognition.onnx_graph import OPSET
    from symbols import get_symbol

    symbol = get_symbol(network)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(f"{folder}/model", 1, symbol, *draw(symbol))
        exported = export(f"{folder}/model,1")
        size = exported.files[0].stat().st_size
    return dict(network=network, emb_size=exported.network.emb_size(), opset=OPSET, megabytes=round(size / 1e6, 1),
                largest_difference=f"{exported.difference:.1e}", machine=_machine())


def _machine():
    import onnx
    import onnxruntime

    from common.machine import machine

    return f"{machine()}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"


def in_a_process(network):
    """Run this file with --one, so that the memory of one network is given back before the next."""
    done = subprocess.run([sys.executable, __file__, "--one", network], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"exporting {network} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="", help="networks with commas between, whose lines are written anew; "
                        "empty: all")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    from tqdm import tqdm

    from benchmarks.measure import chosen, read_table, write_table
    from symbols import NETWORKS

    networks = chosen("network", args.networks, NETWORKS)
    rows = {found["network"]: found for found in read_table("export")}
    for network in tqdm(networks, unit="network"):
        rows[network] = in_a_process(network)
        path = write_table("export", [rows[network] for network in NETWORKS if network in rows])
    print(path)


if __name__ == "__main__":
    run(main)
