"""Speed of embedding on this machine, images per second, against plain MXNet, onnxruntime and PyTorch.

    python benchmarks/inference.py

Writes results/inference.csv. Each figure is the median of several rounds, in each of which all peers run one after the
other, every one in a process of its own that waits meanwhile, with as many threads as there are cores:
  plain                the network's own operators in MXNet, nothing folded
  ours                 the Embedder: batch norm folded, depthwise PReLU, uint8 images
  int8                 the same on a checkpoint of --format int8
  onnxruntime          the ONNX file of recognition/export.py
  torch                PyTorch float32 of the same network; torch_channels_last: in that memory format
Parameters are drawn; speed does not hang on them. over_best_peer: over the fastest of onnxruntime and PyTorch.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.cores import cpu_count
from common.errors import UserError
from common.flags import positive

PEERS = ("plain", "ours", "int8", "onnxruntime", "torch", "torch_channels_last")
OTHERS = PEERS[3:]
BATCH_SIZES = (1, 8, 32)
_CALIBRATED = 16  # rendered faces
_ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS=str(cpu_count()))  # before MXNet is set up, which changes it


def prepare(network, folder):
    """Write a checkpoint of drawn parameters, and what the peers run, into a folder."""
    import numpy as np

    from benchmarks.export import draw
    from common import checkpoint, int8
    from datasets.rendered import render_identity
    from recognition.exporting import export, load
    from recognition.int8_export import prepare as prepare_int8
    from symbols import get_symbol

    symbol, model = get_symbol(network), f"{folder}/model,1"
    checkpoint.save(f"{folder}/model", 1, symbol, *draw(symbol))
    export(model)
    faces = np.stack([render_identity(number, "probes", 0, 1)[0][0] for number in range(_CALIBRATED)])
    symbol, arg_params, aux_params, ranges = prepare_int8(load(model), faces.transpose(0, 3, 1, 2))
    checkpoint.save(f"{folder}/int8", 1, int8.noted(symbol, ranges), arg_params, aux_params)


def embedder(peer, network, folder):
    """What embeds (N, 3, 112, 112) uint8 images by one peer, (N, D)."""
    if peer.startswith("torch"):
        return torch_embedder(network, peer == "torch_channels_last")
    if peer == "plain":
        return plain_embedder(f"{folder}/model,1")
    from common.embedder import Embedder
    from common.mxnet_setup import mx

    models = {"ours": "model,1", "int8": "int8,1", "onnxruntime": "model-0001.onnx"}
    return Embedder(f"{folder}/{models[peer]}", [mx.cpu()])


def plain_embedder(model):
    """MXNet's operators as they stand, but where MXNet 1.9.1 would crash on them."""
    from common import graph
    from common.mxnet_setup import mx
    from recognition.exporting import load

    network, executors = load(model), {}
    symbol = graph.rewrite(network.symbol, [graph.batchnorm_2d, graph.flat_fully_connected], data=network.data_shape)

    def embed(images):
        if images.shape not in executors:
            executors[images.shape] = symbol.simple_bind(mx.cpu(), grad_req="null", data=images.shape)
            executors[images.shape].copy_params_from(network.arg_params, network.aux_params)
        return executors[images.shape].forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()

    return embed


def torch_embedder(network, channels_last):
    """PyTorch, float32, on the same symbol."""
    import torch

    from benchmarks.torch_peer import SymbolModule
    from symbols import get_symbol

    torch.set_num_threads(cpu_count())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = SymbolModule(get_symbol(network)).eval().to(memory_format=layout)

    def embed(images):
        with torch.inference_mode():
            return model(torch.from_numpy(images).to(memory_format=layout)).numpy()

    return embed


def rates(embed, seconds):
    """Images per second at each of BATCH_SIZES, each measured for so many seconds."""
    import numpy as np

    found = []
    for size in BATCH_SIZES:
        images, calls = np.random.RandomState(size).randint(0, 256, (size, 3, 112, 112)).astype(np.uint8), 0
        embed(images)
        started = time.perf_counter()
        while not calls or time.perf_counter() - started < seconds:
            embed(images)
            calls += 1
        found.append(size * calls / (time.perf_counter() - started))
    return found


class Peer:
    """A process of this file with --one, which measures each time it is asked to."""

    def __init__(self, *words):
        self._what = " ".join(words[:2])
        self._process = subprocess.Popen([sys.executable, __file__, "--one", *words], text=True, env=_ENVIRONMENT,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def rates(self):
        """See `rates`. Raises UserError where the process has ended."""
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            raise UserError(f"measuring {self._what} failed, see above") from error

    def close(self):
        self._process.communicate()


def serve(peer, network, folder, seconds):
    """Measure once for each line of the standard input."""
    embed = embedder(peer, network, folder)
    for _ in sys.stdin:
        print(json.dumps(rates(embed, float(seconds))), flush=True)


def measure(network, rounds, seconds):
    """The rows of a network, one for each batch size."""
    from benchmarks.measure import at_hand
    from common.machine import machine

    peers = at_hand(PEERS)
    found = {peer: [] for peer in peers}
    with tempfile.TemporaryDirectory() as folder:
        prepare(network, folder)
        running = {peer: Peer(peer, network, folder, str(seconds)) for peer in peers}
        for _ in range(rounds):
            for peer, process in running.items():
                found[peer].append(process.rates())
        for process in running.values():
            process.close()
    for place, size in enumerate(BATCH_SIZES):
        medians = {peer: statistics.median(each[place] for each in found[peer]) for peer in peers}
        best = max(medians[peer] for peer in OTHERS if peer in medians)
        yield dict(network=network, batch_size=size,
                   **{peer: f"{medians[peer]:.1f}" if peer in medians else "" for peer in PEERS},
                   ours_over_best_peer=f"{medians['ours'] / best:.2f}",
                   int8_over_best_peer=f"{medians['int8'] / best:.2f}", machine=machine())


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default="y1,r50,r100", help="networks with commas between, whose lines of the "
                        "table are measured anew")
    parser.add_argument("--rounds", type=positive, default=5, help="rounds, of which the median counts")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each batch size in a round")
    parser.add_argument("--one", nargs=4, metavar=("PEER", "NETWORK", "FOLDER", "SECONDS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        serve(*args.one)
        return
    from benchmarks.measure import chosen, read_table, write_table
    from symbols import NETWORKS

    networks = chosen("network", args.networks, NETWORKS)
    rows = [row for row in read_table("inference") if row["network"] not in networks]
    for network in networks:
        for row in measure(network, args.rounds, args.seconds):
            rows.append(row)
            print(" ".join(f"{key}={value}" for key, value in row.items() if key != "machine"), flush=True)
        path = write_table("inference", rows)
    print(path)


if __name__ == "__main__":
    run(main)
