"""Losses on the rendered faces: verification accuracy on identities that were not in training, over several seeds.

    python benchmarks/losses.py

Writes results/losses_rendered.csv: a row for each loss, with the mean over the seeds and their sample deviation.
The training is short, so the scale and the margins are milder than the papers': with s 64 and m 0.5 a network that
begins from nothing hardly moves in so few steps.
"""
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from common.cli import ArgumentParser, run
from common.errors import unknown_name
from eval.flags import positive

LOSSES = {  # row: loss and its flags
    "untrained": ["softmax", "--lr", "0"],  # the same steps, so that BatchNorm knows its statistics
    "softmax": ["softmax"],
    "nsoftmax": ["nsoftmax", "--loss-s", "16"],
    "cosface": ["cosface", "--loss-s", "16", "--loss-m3", "0.1"],
    "arcface": ["arcface", "--loss-s", "16", "--loss-m2", "0.2"],
}


def accuracy(loss, seed, dataset, steps, network="y1"):
    """Train and verify once; returns the accuracy on the rendered pairs."""
    from recognition import experiment
    from recognition.train import parse_args as settings_of

    with tempfile.TemporaryDirectory() as models:
        settings, _ = settings_of([
            "--network", network, "--loss", *loss, "--dataset", dataset, "--models-root", models, "--seed", str(seed),
            "--per-batch-size", "32", "--max-steps", str(steps), "--ckpt", "0",
            "--lr-steps", str(int(steps * 0.8))])
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            prefix = experiment.train(settings)
        events = [json.loads(line) for line in Path(prefix.parent, "train.jsonl").read_text().splitlines()]
    return [event["accuracy"] for event in events if event["event"] == "verification"][-1]


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=positive, default=3, help="number of seeds")
    parser.add_argument("--steps", type=positive, default=100, help="steps of training, of 32 images")
    parser.add_argument("--only", default="", help="rows to measure anew, with commas between; empty: all")
    parser.add_argument("--pairs", type=positive, default=1000, help="pairs to verify")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import machine, read_table, spread, write_table
    from datasets.rendered import write_demo

    chosen = args.only.split(",") if args.only else list(LOSSES)
    for name in chosen:
        if name not in LOSSES:
            raise unknown_name("row", name, LOSSES)
    rows = {row["loss"]: row for row in read_table("losses_rendered") if row["loss"] not in chosen}
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(chosen) * args.seeds, unit="run") as bar:
        write_demo(folder, pairs=args.pairs, progress=False)
        for name in chosen:
            loss, found = LOSSES[name], []
            for seed in range(args.seeds):
                found.append(accuracy(loss, seed, folder, args.steps))
                bar.update()
            mean, deviation = spread(found)
            rows[name] = dict(loss=name, flags=" ".join(loss[1:]), network="y1", steps=args.steps, batch_size=32,
                              seeds=args.seeds, accuracy=f"{mean:.4f}", spread=f"{deviation:.4f}", machine=machine())
            tqdm.write(f"{name}: {mean:.4f} +- {deviation:.4f} over {args.seeds} seeds ({found})")
    print(write_table("losses_rendered", [rows[name] for name in LOSSES if name in rows]))


if __name__ == "__main__":
    run(main)
