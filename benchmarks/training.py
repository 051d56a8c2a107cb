"""Training speed on this machine, against the straightforward graph and against PyTorch, and what the loop costs.

    python benchmarks/training.py

Writes results/training_speed.csv and results/loop_overhead.csv. Each figure is the best of several rounds, in each of
which all peers run one after the other, every one in a process of its own:
  ours             recognition's trainer: depthwise PReLU, uint8 batches, all cores
  straightforward  the original's operators and its head (SoftmaxOutput, a one-hot mask), all cores
  defaults         the same with the number of threads that MXNet takes when left alone, half the cores
  torch            PyTorch float32 of the same network, all cores; torch-channels-last: in that memory format
"""
import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.flags import positive

PEERS = ("ours", "straightforward", "defaults", "torch", "torch-channels-last")
BATCH_SIZES = {"y1": 32, "r18": 8, "m1": 16, "mnas": 16, "vargfacenet": 16}  # others: 4
CLASSES, WARM_UP = 241, 3
_ENVIRONMENT = dict(os.environ)  # as it was found: setting MXNet up changes it, and PyTorch shall not inherit that


def steps_per_second(step, wait, steps):
    """Time `steps` calls of `step` after a few to warm up; `wait` blocks until all of them are computed."""
    for _ in range(WARM_UP):
        step()
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return steps / (time.perf_counter() - started)


def ours(network, batch_size, steps):
    """The project's trainer on one synthetic batch."""
    from common.mxnet_setup import mx
    from datasets.image_iter import SyntheticIter
    from recognition.experiment import make_trainer

    batches = SyntheticIter(batch_size, (112, 112), CLASSES)
    trainer = make_trainer(settings_of(network, batch_size), batches, CLASSES)
    return steps_per_second(lambda: trainer.step(batches.next()), mx.nd.waitall, steps)


def settings_of(network, batch_size, *flags):
    """The resolved settings of an ArcFace training."""
    from recognition.train import parse_args

    return parse_args(["--network", network, "--per-batch-size", str(batch_size), "--lr", "0.01", *flags])[0]


def straightforward(network, batch_size, steps):
    """The original's graph in a Module: its operators as they stand, its ArcFace head, float32 batches."""
    from common.mxnet_setup import mx

    symbol = original_graph(network, batch_size)
    module = mx.mod.Module(symbol, ["data"], ["softmax_label"], context=mx.cpu())
    module.bind([("data", (batch_size, 3, 112, 112))], [("softmax_label", (batch_size,))])
    module.init_params(mx.init.Xavier("gaussian", "out", 2))
    module.init_optimizer(optimizer=mx.optimizer.SGD(learning_rate=0.01, momentum=0.9, wd=5e-4,
                                                    rescale_grad=1 / batch_size))
    batch = mx.io.DataBatch([mx.nd.random.uniform(0, 255, (batch_size, 3, 112, 112))],
                            [mx.nd.arange(batch_size) % CLASSES])

    def step():
        module.forward_backward(batch)
        module.update()

    return steps_per_second(step, mx.nd.waitall, steps)


def original_graph(network, batch_size):
    """Network and head as the original writes them."""
    from common.mxnet_setup import mx
    from symbols import get_symbol, network_settings

    return original_head(get_symbol(network), mx.sym.Variable("softmax_label"), CLASSES,
                         network_settings(network)["emb_size"], batch_size)


def original_head(embedding, label, num_classes, emb_size, batch_size):
    """ArcFace as the original writes it, with its arrays of (N, C) for the margin and for the loss."""
    from common.mxnet_setup import mx

    weight = mx.sym.Variable("fc7_weight", shape=(num_classes, emb_size), init=mx.init.Normal(0.01))
    features = mx.sym.L2Normalization(embedding, mode="instance") * 64
    logits = mx.sym.FullyConnected(features, mx.sym.L2Normalization(weight, mode="instance"), no_bias=True,
                                   num_hidden=num_classes)
    target = mx.sym.pick(logits, label, axis=1)
    change = mx.sym.cos(mx.sym.arccos(target / 64) + 0.5) * 64 - target
    mask = mx.sym.one_hot(label, depth=num_classes)
    logits = logits + mx.sym.broadcast_mul(mask, mx.sym.expand_dims(change, 1))
    terms = mx.sym.log(mx.sym.softmax(logits)) * mx.sym.one_hot(label, depth=num_classes, on_value=-1)
    loss = mx.sym.sum(terms) / batch_size
    return mx.sym.Group([mx.sym.SoftmaxOutput(logits, label), mx.sym.BlockGrad(loss)])


def torch_peer(network, batch_size, steps, channels_last):
    """PyTorch, float32, on the same symbol; SGD with the same settings."""
    import torch

    from benchmarks.torch_peer import ArcFace, SymbolModule
    from common.cores import cpu_count
    from symbols import get_symbol, network_settings

    torch.set_num_threads(cpu_count())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = SymbolModule(get_symbol(network)).to(memory_format=layout)
    head = ArcFace(CLASSES, network_settings(network)["emb_size"])
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randint(0, 256, (batch_size, 3, 112, 112), dtype=torch.uint8).to(memory_format=layout)
    label = torch.arange(batch_size) % CLASSES

    def step():
        optimizer.zero_grad()
        head(model(images), label).backward()
        optimizer.step()

    return steps_per_second(step, lambda: None, steps)


def measure(peer, network, batch_size, steps):
    """Images per second of one peer, in this process."""
    if peer.startswith("torch"):
        rate = torch_peer(network, batch_size, steps, peer == "torch-channels-last")
    else:
        rate = (ours if peer == "ours" else straightforward)(network, batch_size, steps)
    return rate * batch_size


def in_a_process(*words):
    """Run this file with --one for a figure of its own process; the threads of 'defaults' are MXNet's own choice."""
    environment = dict(_ENVIRONMENT)
    if words[0] == "defaults":
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // 2))
    done = subprocess.run([sys.executable, __file__, "--one", *map(str, words)], env=environment,
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"measuring {' '.join(map(str, words))} failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def loop_overhead(rounds, steps):
    """Seconds a step of y1: the bare Module on a batch in memory, and the whole loop on images read from disk."""
    from common.log import RunLog
    from common.mxnet_setup import mx
    from datasets.image_iter import ImageIter
    from datasets.rendered import write_demo
    from datasets.training_set import TrainingSet
    from recognition import callbacks
    from recognition.experiment import make_trainer
    from recognition.trainer import fit

    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(folder)
        verification = callbacks.Verification(log, [], steps * rounds * 2)
        saver = callbacks.Checkpoint(log, f"{folder}/model", 0, verification, None)
        write_demo(folder, 40, 20, 20, progress=False)
        training_set = TrainingSet(folder)
        batches = ImageIter(training_set, 32)
        trainer = make_trainer(settings_of("y1", 32), batches, training_set.num_classes)
        batch, module = batches.next(), trainer.module
        best = {"bare": 1e9, "loop": 1e9}
        for _ in range(rounds):
            def bare():
                module.forward_backward(batch)
                module.update()
            best["bare"] = min(best["bare"], 1 / steps_per_second(bare, mx.nd.waitall, steps))
            started, first = time.perf_counter(), trainer.steps
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                fit(trainer, batches, [callbacks.Progress(log, 20), verification, saver], max_steps=first + steps)
            mx.nd.waitall()
            best["loop"] = min(best["loop"], (time.perf_counter() - started) / steps)
        batches.close()
        log.close()
    return best


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive, default=3, help="rounds, of which the best counts")
    parser.add_argument("--steps", type=positive, default=12, help="steps in a round")
    parser.add_argument("--networks", default="y1,r18",
                        help="networks with commas between, whose lines of the table are measured anew")
    parser.add_argument("--skip-loop", action="store_true", help="leave what the loop costs as it was measured")
    parser.add_argument("--one", nargs=4, metavar=("PEER", "NETWORK", "BATCH", "STEPS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        peer, network, batch_size, steps = args.one
        print(json.dumps(measure(peer, network, int(batch_size), int(steps))))
        return
    from benchmarks.measure import at_hand, chosen, read_table, write_table
    from common.machine import machine
    from symbols import NETWORKS

    peers = at_hand(PEERS)
    networks = chosen("network", args.networks, NETWORKS)
    rows = [row for row in read_table("training_speed") if row["network"] not in networks]
    for network in networks:
        batch_size = BATCH_SIZES.get(network, 4)
        best = dict.fromkeys(peers, 0.0)
        for _ in range(args.rounds):
            for peer in peers:
                best[peer] = max(best[peer], in_a_process(peer, network, batch_size, args.steps))
        for peer in peers:
            rows.append(dict(network=network, batch_size=batch_size, peer=peer, images_per_second=round(best[peer], 1),
                             ours_over_peer=round(best["ours"] / best[peer], 2), machine=machine()))
            print(f"{network} {peer}: {best[peer]:.1f} images/s; ours is {best['ours'] / best[peer]:.2f} times that")
    print(write_table("training_speed", rows))
    if args.skip_loop:
        return
    best = loop_overhead(args.rounds, 40)
    share = best["loop"] / best["bare"] - 1
    print(f"bare step {best['bare'] * 1e3:.1f} ms, loop with reader and callbacks {best['loop'] * 1e3:.1f} ms: "
          f"{share:+.1%}")
    print(write_table("loop_overhead", [dict(
        network="y1", batch_size=32, bare_ms=round(best["bare"] * 1e3, 1), loop_ms=round(best["loop"] * 1e3, 1),
        overhead=f"{share:.3f}", machine=machine())]))


if __name__ == "__main__":
    run(main)
