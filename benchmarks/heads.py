"""What a step of each head costs: time and memory at 10,000 and 100,000 classes, as ratios against the original's head.

    python benchmarks/heads.py

A step is forward and backward of the head alone: 64 embeddings of 128 dimensions, gradients for them and for the class
weight. Writes results/heads.csv. Memory is what MXNet plans for the step beyond the class weight and its gradient, and
the states of the head. The heads take turns, round by round; the time is the median of the rounds.
"""
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from common.cli import ArgumentParser, run
from common.flags import positive

BATCH, EMB_SIZE = 64, 128
PEER = "the original's arcface"


def bind(loss, num_classes):
    """An executor of a head with random arrays; loss: a name of heads.LOSSES, or PEER."""
    from benchmarks.training import original_head
    from common.mxnet_setup import mx
    from recognition import heads

    data, label = mx.sym.Variable("data"), mx.sym.Variable("label")
    if loss == PEER:
        symbol = original_head(data, label, num_classes, EMB_SIZE, BATCH)
    else:
        symbol = heads.classification_loss(heads.get_head(loss, data, label, num_classes, EMB_SIZE), label)
    learnt = ("data", "fc7_weight", "fc7_bias")
    executor = symbol.simple_bind(mx.cpu(), {name: "write" if name in learnt else "null"
                                             for name in symbol.list_arguments()},
                                  data=(BATCH, EMB_SIZE), label=(BATCH,))
    for name, array in executor.arg_dict.items():
        array[:] = mx.nd.arange(BATCH) if name == "label" else mx.nd.random.normal(shape=array.shape)
    return executor


def memory(executor):
    """MB planned for a step, and for the states of the head."""
    planned = next(int(line.split()[1]) for line in executor.debug_str().splitlines()
                   if line.startswith("Total") and "MB" in line)
    states = sum(array.size * 4 for name, array in executor.arg_dict.items() if name.endswith("_state"))
    return planned + states / 2 ** 20


def step(executor):
    """Seconds of one step."""
    from common.mxnet_setup import mx

    started = time.perf_counter()
    executor.forward(is_train=True)
    executor.backward()
    mx.nd.waitall()
    return time.perf_counter() - started


def measure(num_classes, rounds, bar):
    """The rows of all heads at one number of classes."""
    from common.machine import machine
    from recognition.heads import LOSSES

    executors = {loss: bind(loss, num_classes) for loss in (PEER, *LOSSES)}
    seconds = {loss: [] for loss in executors}
    for number in range(rounds + 1):
        for loss, executor in executors.items():
            seconds[loss] += [step(executor)] * (number > 0)  # memory is allocated in the first round
            bar.update()
    time_of = {loss: statistics.median(values) for loss, values in seconds.items()}
    memory_of = {loss: memory(executor) for loss, executor in executors.items()}
    return [dict(classes=num_classes, head=loss, ms_per_step=f"{1000 * time_of[loss]:.1f}",
                 time_over_original=f"{time_of[loss] / time_of[PEER]:.2f}", memory_mb=f"{memory_of[loss]:.0f}",
                 memory_over_original=f"{memory_of[loss] / memory_of[PEER]:.2f}", machine=machine())
            for loss in executors]


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive, default=11, help="steps of each head")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import write_table
    from recognition.heads import LOSSES

    sizes = (10_000, 100_000)
    with tqdm(total=len(sizes) * (len(LOSSES) + 1) * (args.rounds + 1), unit="step") as bar:
        rows = [row for num_classes in sizes for row in measure(num_classes, args.rounds, bar)]
    print(write_table("heads", rows))


if __name__ == "__main__":
    run(main)
