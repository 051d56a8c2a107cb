"""What a training step takes as classes grow: time and memory, plain, split over devices, sampled, and the original's.

    python benchmarks/classes.py

A step is forward, backward and SGD with momentum of an ArcFace head behind a network of one layer: 64 embeddings of
128 numbers. Every peer has a process of its own; they take turns, round by round:
  original        the original's graph: a one-hot mask, SoftmaxOutput
  plain           ours
  class-parallel  ours, the classes split over two contexts of the one processor
  partial fc      ours, a tenth of the classes in each step
Writes results/classes.csv and results/classes.png. Time is the median of the steps of the best round; memory what the
process takes at its peak beyond what it took before the training was set up.
"""
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError, unknown_name
from common.flags import positive

BATCH, EMB_SIZE, RATE = 64, 128, 0.1


class Batches:
    """One batch of random embeddings with labels spread over the classes."""

    batch_size = BATCH

    def __init__(self, num_classes):
        from common.mxnet_setup import mx

        self.provide_data = [mx.io.DataDesc("data", (BATCH, EMB_SIZE))]
        self.provide_label = [mx.io.DataDesc("softmax_label", (BATCH,))]
        mx.random.seed(0)
        self.batch = mx.io.DataBatch([mx.nd.random.normal(shape=(BATCH, EMB_SIZE))],
                                     [mx.nd.arange(BATCH) * (num_classes // BATCH)])


def make_step(peer, num_classes):
    """A call that makes a step of the peer's training."""
    from benchmarks.training import original_head
    from common.mxnet_setup import mx
    from recognition import heads
    from recognition.class_parallel import split_classes, split_loss
    from recognition.partial_fc import PartialTrainer, sample_sizes
    from recognition.split_trainer import SplitTrainer
    from recognition.trainer import Trainer

    def plain(embedding, label):
        return heads.classification_loss(heads.get_head("arcface", embedding, label, num_classes, EMB_SIZE), label)

    def original(embedding, label):
        return original_head(embedding, label, num_classes, EMB_SIZE, BATCH)

    def split(counts):
        return lambda embedding, label: split_loss("arcface", embedding, label, counts, EMB_SIZE)

    network = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=EMB_SIZE, name="fc1")
    batches = Batches(num_classes)
    rest = ([mx.cpu()], batches, mx.init.Xavier())
    if peer == "original":
        module = Trainer(network, original, *rest).module

        def step():  # without our own reading of the loss, which is another output there
            module.forward_backward(batches.batch)
            module.update()
        return step
    if peer in ("plain", "class-parallel"):
        devices = [mx.cpu(0), mx.cpu(1)][:1 if peer == "plain" else 2]
        counts = split_classes(num_classes, len(devices))  # of one part alone a training would make the head below
        trainer = SplitTrainer(network, split(counts), counts, devices, *rest[1:]) if len(counts) > 1 else \
            Trainer(network, plain, *rest)
    else:
        counts = split_classes(num_classes, 1, rate=RATE)
        sizes = sample_sizes(counts, RATE, BATCH)
        trainer = PartialTrainer(network, split(sizes), counts, sizes, *rest)
    return lambda: trainer.step(batches.batch)


PEERS = ("original", "plain", "class-parallel", "partial fc")


def one(peer, num_classes, steps):
    """Measure one peer in this process; prints [milliseconds, megabytes]."""
    from common.mxnet_setup import mx

    mx.nd.zeros(1).wait_to_read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = make_step(peer, num_classes)
    seconds = []
    for _ in range(steps + 1):
        mx.nd.waitall()
        started = time.perf_counter()
        step()
        mx.nd.waitall()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([1000 * statistics.median(seconds[1:]), (peak - before) / 1024]))  # memory is taken in the first


def measure(sizes, rounds, steps):
    """The rows of the table."""
    from common.machine import machine

    rows = []
    for num_classes in sizes:
        found = {peer: [] for peer in PEERS}
        for _ in range(rounds):
            for peer in PEERS:
                done = subprocess.run([sys.executable, __file__, "--one", peer, str(num_classes), str(steps)],
                                      stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    raise UserError(f"measuring {peer} with {num_classes} classes failed, see above")
                found[peer].append(json.loads(done.stdout.splitlines()[-1]))
        best = {peer: min(values) for peer, values in found.items()}
        weight = num_classes * EMB_SIZE * 4 / 2 ** 20
        for peer, (milliseconds, megabytes) in best.items():
            rows.append(dict(
                classes=num_classes, head=peer, ms_per_step=f"{milliseconds:.1f}",
                time_over_original=f"{milliseconds / best['original'][0]:.2f}", megabytes=f"{megabytes:.0f}",
                memory_over_original=f"{megabytes / best['original'][1]:.2f}",
                megabytes_beyond_weight=f"{megabytes - weight:.0f}", machine=machine()))
    return rows


def draw(rows, path):
    """Time and memory over classes, both axes logarithmic."""
    from matplotlib.figure import Figure

    from eval.plots import save

    figure = Figure(figsize=(9, 4), constrained_layout=True)
    for axes, column, label in zip(figure.subplots(1, 2), ("ms_per_step", "megabytes"),
                                   ("milliseconds a step", "megabytes at the peak")):
        for number, peer in enumerate(PEERS):
            own = [row for row in rows if row["head"] == peer]
            axes.loglog([row["classes"] for row in own], [float(row[column]) for row in own], marker="o",
                        color=f"C{number}", label=peer)
        axes.set_xlabel("classes")
        axes.set_ylabel(label)
        axes.grid(color="0.88")
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--classes", default="10000,100000,1000000", help="numbers of classes with commas between")
    parser.add_argument("--rounds", type=positive, default=2, help="rounds, of which the best counts")
    parser.add_argument("--steps", type=positive, default=6, help="steps in a round, after one to warm up")
    parser.add_argument("--one", nargs=3, metavar=("PEER", "CLASSES", "STEPS"), help="for the command's own use: "
                        "measure one peer in this process")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        peer, num_classes, steps = args.one
        if peer not in PEERS:
            raise unknown_name("peer", peer, PEERS)
        return one(peer, int(num_classes), int(steps))
    from benchmarks.measure import RESULTS, write_table

    rows = measure([int(size) for size in args.classes.split(",")], args.rounds, args.steps)
    path = write_table("classes", rows)
    draw(rows, RESULTS / "classes.png")
    print(path)


if __name__ == "__main__":
    run(main)
