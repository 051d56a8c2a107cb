"""A long training on small data, watched: memory, threads, open files, and how it ends.

    python benchmarks/soak.py --minutes 60

A small network on rendered faces, with verification, checkpoints of every kind and a saved state every few seconds; at
the end SIGTERM asks it to stop. Writes results/soak.csv, a row for each of thirty equal parts of the time, and
results/soak.png. The first tenth is the warm-up, over which MXNet takes its memory; what is told at the end is how
memory, threads and open files of the last part differ from those behind it.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from benchmarks.commands import ROOT, logged
from common.cli import ArgumentParser, run
from common.errors import UserError
from common.flags import positive

_PARTS, _WARM_UP, _SECONDS_TO_END = 30, 3, 120
_TRAINING = ["--network", "y1", "--net-blocks", "1,1,1,1", "--emb-size", "64", "--loss", "arcface", "--loss-s", "16",
             "--loss-m2", "0.2", "--lr", "0.01", "--per-batch-size", "16", "--data-color", "2", "--frequent", "20",
             "--verbose", "100", "--state-every", "50", "--ckpt", "2", "--ckpt-keep", "3", "--ckpt-best", "1",
             "--ckpt-epochs", "1"]


def look(process):
    """What a process has now: megabytes, threads, open files."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return dict(megabytes=round(int(status["VmRSS"].split()[0]) / 1024), threads=int(status["Threads"]),
                open_files=len(os.listdir(f"/proc/{process.pid}/fd")))


def watch(process, minutes):
    """The rows of the table. Raises UserError where the training ends by itself."""
    rows, part = [], minutes * 60 / _PARTS
    for number in tqdm(range(1, _PARTS + 1), unit="part"):
        time.sleep(part)
        if process.poll() is not None:
            raise UserError(f"the training ended by itself, with code {process.returncode}")
        rows.append(dict(minute=f"{number * part / 60:.1f}", **look(process)))
    return rows


def end(process):
    """Ask the process to stop; returns the seconds that it took."""
    started = time.time()
    process.send_signal(signal.SIGTERM)  # SIGINT may be ignored: a shell's background hears none
    try:
        code = process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        raise UserError(f"the training was still there {_SECONDS_TO_END} s after SIGTERM") from None
    if code != 128 + signal.SIGTERM:
        raise UserError(f"the training ended with code {code} after SIGTERM, expected {128 + signal.SIGTERM}")
    return time.time() - started


def draw(rows, path):
    """Memory, threads and open files over time."""
    from matplotlib.figure import Figure

    from eval.plots import save

    figure = Figure(figsize=(9, 3), constrained_layout=True)
    for axes, name in zip(figure.subplots(1, 3), ("megabytes", "threads", "open_files")):
        axes.plot([float(row["minute"]) for row in rows], [row[name] for row in rows], marker=".")
        axes.set(xlabel="minutes", ylabel=name.replace("_", " "), ylim=(0, 1.15 * max(row[name] for row in rows)))
        axes.grid(color="0.88")
    save(figure, path)


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=positive, default=60, help="how long to train")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import RESULTS, write_table
    from common.machine import machine

    with tempfile.TemporaryDirectory() as folder:
        logged(f"{folder}/log", "datasets/render.py", "--output", f"{folder}/data", "--identities", 40,
                   "--images-per-identity", 10, "--pairs", 100)
        with open(f"{folder}/train.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "recognition/train.py", *_TRAINING, "--dataset", f"{folder}/data", "--models-root",
                 f"{folder}/models"], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            rows = watch(process, args.minutes)
            seconds = end(process)
        except UserError as error:
            raise UserError(f"{error}: {(Path(folder, 'train.log').read_text().splitlines() or ['no output'])[-1]}") \
                from error
        finally:
            process.kill()
        events = [json.loads(line) for path in Path(folder).glob("models/*/train.jsonl") for line in open(path)]
    counts = {kind: sum(event["event"] == kind for event in events) for kind in ("verification", "checkpoint")}
    steps = max(event.get("step", 0) for event in events)
    print(write_table("soak", [dict(row, machine=machine()) for row in rows]))
    draw(rows, RESULTS / "soak.png")
    first, last = rows[_WARM_UP], rows[-1]
    print(f"{steps:,} steps, {counts['verification']} verifications, {counts['checkpoint']} checkpoints; ended "
          f"{seconds:.1f} s after SIGTERM; from minute {first['minute']} to {last['minute']}: " + ", ".join(
              f"{name.replace('_', ' ')} {first[name]} to {last[name]}" for name in ("megabytes", "threads",
                                                                                    "open_files")))


if __name__ == "__main__":
    run(main)
