"""How training scales over devices: measured over contexts of this processor, computed for 8 and 64 GPUs.

    python benchmarks/scaling.py

The first part writes results/scaling.csv: images per second of y1 with 32 images a step, shared by 1, 2 and 4 contexts
of the one processor. They have the same cores among them, so the best that can be is what one context does; what is
lost is what a device more costs. The second writes results/scaling_computed.csv: bytes that the busiest device sends in
a step, by the formulas of `sent_bytes`, and the images per second that follow for ResNet-100 from the rate of one V100
and the links assumed in `LINKS`; beside them what peers published. Nothing of it was measured on GPUs.
"""
import json
import subprocess
import sys
from collections import namedtuple
from math import prod
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.training import settings_of, steps_per_second
from common.cli import ArgumentParser, run
from common.errors import UserError
from common.flags import positive

NETWORK, BATCH, CLASSES = "y1", 32, 10_000
CONTEXTS, HEADS = (1, 2, 4), ("plain", "class-parallel")
ONE_GPU = 241.82  # images/s: r100, float32, 64 images, one V100, the original's trainer; OneFlow's DLPerf
LINKS = dict(inside=20e9, between=10e9)  # bytes/s each way: a V100's NVLink, 100 Gbit/s Ethernet, less a fifth
FACES = dict(classes=85_742, emb_size=512, per_device=64)  # MS1MV2
PUBLISHED = {  # (machines, GPUs in each, head): images/s, and where
    (1, 1, "plain"): "241.82 (DLPerf, original)", (1, 4, "plain"): "655.56 (DLPerf, original)",
    (1, 8, "plain"): "650.8 (DLPerf, original)", (1, 4, "class-parallel"): "651.44 (DLPerf, original)",
    (8, 8, "plain"): "4483 split, 12600 sampled (partial_fc, 64 2080Ti, 10 M identities); 5008.72 (DLPerf, partial_fc "
                     "at 0.1, 32 GPUs)",
    (1, 8, "class-parallel"): "756.96 (DLPerf, original); 1434.44 (DLPerf, partial_fc, Horovod); 1748 (partial_fc)",
}
SETUPS = [(1, 1, "plain"), (1, 4, "plain"), (1, 8, "plain"), (1, 4, "class-parallel"), (1, 8, "class-parallel"),
          (8, 8, "plain")]

Sent = namedtuple("Sent", "inside between")
Sent.__doc__ = "Bytes that the busiest device, and the busiest machine, send in a step; they receive as many."


def sent_bytes(params, machines, devices, head, classes, emb_size, per_device):
    """What a step moves, in float32.

    Inside a machine MXNet adds the gradients of an array on one of the n devices, the arrays shared out among them, and
    sends the sums back: each device sends (n−1)/n of its gradients and (n−1)/n of the sums. A class-parallel head
    instead sends the embeddings of the batch, N·D numbers, from the first device to each other, and their gradients
    back. Between m machines a worker sends its gradients to the servers, one on each machine, (m−1)/m of them to
    others, and the servers send as much back.
    """
    weights = params + (classes * emb_size if head == "plain" else 0)
    inside = 4 * 2 * weights * (devices - 1) / devices
    if head == "class-parallel":
        inside += 4 * (devices - 1) * per_device * devices * emb_size
    return Sent(inside, 4 * 2 * weights * (machines - 1) / machines)


def expected(params, machines, devices, head):
    """A row of results/scaling_computed.csv."""
    sent = sent_bytes(params, machines, devices, head, **FACES)
    compute = FACES["per_device"] / ONE_GPU
    moving = sent.inside / LINKS["inside"] + sent.between / LINKS["between"]
    gpus, images = machines * devices, FACES["per_device"] * machines * devices
    return dict(gpus=gpus, machines=machines, head=head, megabytes_sent_by_a_device=f"{sent.inside / 1e6:.0f}",
                megabytes_sent_by_a_machine=f"{sent.between / 1e6:.0f}", computed_ms_of_compute=f"{compute * 1e3:.0f}",
                computed_ms_of_moving=f"{moving * 1e3:.0f}",
                computed_images_per_second=f"{images / (compute + moving):.0f} to {images / max(compute, moving):.0f}",
                published_by_peers=PUBLISHED.get((machines, devices, head), ""))


def count_params(network):
    """The parameters of a network."""
    from symbols import get_symbol

    symbol = get_symbol(network)
    sizes = symbol.infer_shape(data=(1, 3, 112, 112))[0]
    return sum(prod(size) for name, size in zip(symbol.list_arguments(), sizes) if name != "data")


def rate(contexts, head, steps):
    """Images per second over so many contexts, in this process."""
    from common.mxnet_setup import mx
    from datasets.image_iter import SyntheticIter
    from recognition.experiment import make_trainer

    batches = SyntheticIter(BATCH, (112, 112), CLASSES)
    flags = ["--devices", ",".join(["cpu"] * contexts), "--class-parallel", str(int(head == "class-parallel"))]
    trainer = make_trainer(settings_of(NETWORK, BATCH // contexts, *flags), batches, CLASSES)
    return BATCH * steps_per_second(lambda: trainer.step(batches.next()), mx.nd.waitall, steps)


def measure(rounds, steps):
    """The rows of results/scaling.csv: the best of the rounds, each figure from a process of its own."""
    setups = [(contexts, head) for contexts in CONTEXTS for head in HEADS if contexts > 1 or head == "plain"]
    found = {setup: 0 for setup in setups}
    for _ in range(rounds):
        for contexts, head in setups:
            done = subprocess.run([sys.executable, __file__, "--one", str(contexts), head, "--steps", str(steps)],
                                  stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise UserError(f"measuring {contexts} contexts failed, see above")
            found[contexts, head] = max(found[contexts, head], json.loads(done.stdout.splitlines()[-1]))
    return [dict(contexts=contexts, head=head, images_per_second=f"{value:.1f}",
                 over_one_context=f"{value / found[1, 'plain']:.2f}") for (contexts, head), value in found.items()]


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive, default=2, help="rounds, of which the best counts")
    parser.add_argument("--steps", type=positive, default=8, help="steps in a round, after three to warm up")
    parser.add_argument("--one", nargs=2, metavar=("CONTEXTS", "HEAD"), help="for the command's own use: measure one "
                        "setup in this process")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        return print(json.dumps(rate(int(args.one[0]), args.one[1], args.steps)))
    from benchmarks.measure import write_table
    from common.machine import machine

    params = count_params("r100")
    print(write_table("scaling_computed", [expected(params, *setup) for setup in SETUPS]))
    print(write_table("scaling", [dict(row, machine=machine()) for row in measure(args.rounds, args.steps)]))


if __name__ == "__main__":
    run(main)
