"""What each network costs for a 112x112 face on this machine: the papers' backbone table, measured.

    python benchmarks/backbones.py

Writes results/backbones.csv and results/backbones.png (cost against FLOPs). Milliseconds for a face, from uint8 pixels
to the embedding, at batch 1 and at batch 32, the best of several rounds, every network in a process of its own with
drawn parameters (what is computed does not depend on them). `original_ms_batch32` is the same network with the
original's operators, on all cores, mended only where MXNet 1.9.1 would crash on them.
"""
import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.flags import positive

IMAGE = (3, 112, 112)
FACES = {1: 4, 32: 32}  # batch size: faces in a round


def ms_per_face(call, faces, rounds):
    """The best round's milliseconds for a face; `call` embeds `faces` of them, and is called once to warm up."""
    call()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times) / faces * 1e3


def measure(network, rounds):
    """Milliseconds for a face of one network, in this process, as a dict by column."""
    import numpy as np

    from common.embedder import Embedder
    from symbols import get_symbol

    symbol = get_symbol(network)
    params = draw_params(symbol)
    images = np.random.RandomState(0).randint(0, 256, (max(FACES), *IMAGE)).astype(np.uint8)
    found = {}
    for batch_size, faces in FACES.items():
        embed = Embedder.from_params(symbol, *params, batch_size=batch_size)
        found[f"ms_batch{batch_size}"] = ms_per_face(lambda: embed(images[:faces]), faces, rounds)  # noqa: B023
    found["original_ms_batch32"] = ms_per_face(original(symbol, params, images), len(images), rounds)
    return found


def draw_params(symbol):
    """Parameters of the symbol, as dicts name -> NDArray, begun as in training."""
    from common.mxnet_setup import mx

    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", (1, *IMAGE))], for_training=False)
    mx.random.seed(0)
    module.init_params(mx.init.Xavier("gaussian", "in", 2))
    return module.get_params()


def original(symbol, params, images):
    """A call that embeds the images by the original's operators."""
    from common import graph
    from common.mxnet_setup import mx

    plain = graph.rewrite(symbol, [graph.batchnorm_2d, graph.flat_fully_connected], data=(1, *IMAGE))
    executor = plain.simple_bind(mx.cpu(), grad_req="null", data=images.shape)
    executor.copy_params_from(*params)
    data = mx.nd.array(images, dtype="float32")
    return lambda: executor.forward(is_train=False, data=data)[0].asnumpy()


def in_a_process(network, rounds):
    """Run this file with --one for the figures of its own process."""
    done = subprocess.run([sys.executable, __file__, "--one", network, str(rounds)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"measuring {network} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def row(network, rounds, machine):
    """A line of the table."""
    from symbols.flops import summarize

    cost, times = summarize(network), in_a_process(network, rounds)
    return dict(network=network, family=cost["family"], output=cost["net_output"], emb_size=cost["emb_size"],
                parameters=cost["parameters"], megabytes=round(cost["bytes"] / 1e6, 1),
                gflops=round(cost["flops"] / 1e9, 3), **{name: round(ms, 2) for name, ms in times.items()},
                original_over_ours=round(times["original_ms_batch32"] / times["ms_batch32"], 2), machine=machine)


def plot(rows):
    """Milliseconds for a face against GFLOPs, both logarithmic; each family has its colour. Returns a Figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), constrained_layout=True)
    axes = figure.add_subplot()
    families = list(dict.fromkeys(row["family"] for row in rows))
    for number, family in enumerate(families):
        own = [row for row in rows if row["family"] == family]
        points = [(float(row["gflops"]), float(row["ms_batch32"])) for row in own]
        axes.plot(*zip(*sorted(points)), "osD^v<>ph*X8"[number % 12] + "-", color=_COLOURS[number % len(_COLOURS)],
                  linewidth=0.8, markersize=6, label=family)
    _label(axes, rows)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color="0.9", which="both", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("GFLOPs for a face (multiplications and additions)")
    axes.set_ylabel("milliseconds for a face at batch 32")
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(f"Cost of the networks, {rows[0]['machine']}", fontsize=9, loc="left")
    return figure


def _label(axes, rows):
    """Names beside the points, but for those that would cover another's; the papers' own networks come first."""
    placed = []
    for row in sorted(rows, key=lambda row: row["network"] not in ("r50", "r100", "m1")):
        place = float(row["gflops"]), float(row["ms_batch32"])
        if all(abs(math.log(place[0] / x)) > 0.15 or abs(math.log(place[1] / y)) > 0.06 for x, y in placed):
            axes.annotate(row["network"], place, xytext=(6, -3), textcoords="offset points", fontsize=7)
            placed.append(place)


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#44AA99", "#332288",
            "#999933", "#661100", "#777777")


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="",
                        help="networks with commas between, whose lines are measured anew; empty: all")
    parser.add_argument("--rounds", type=positive, default=3, help="rounds, of which the best counts")
    parser.add_argument("--plot-only", action="store_true", help="draw the plot of the table that is there")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "ROUNDS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    from tqdm import tqdm

    from benchmarks.measure import RESULTS, chosen, read_table, write_table
    from common.machine import machine
    from eval.plots import save
    from symbols import NETWORKS

    networks = chosen("network", args.networks, NETWORKS)
    if not args.plot_only:
        rows = {found["network"]: found for found in read_table("backbones")}
        for network in tqdm(networks, unit="network"):
            rows[network] = row(network, args.rounds, machine())
        print(write_table("backbones", [rows[network] for network in NETWORKS if network in rows]))
    save(plot(read_table("backbones")), RESULTS / "backbones.png")


if __name__ == "__main__":
    run(main)
