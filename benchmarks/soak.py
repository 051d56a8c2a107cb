"""A long training on small data, watched from outside: does memory stay flat, is anything left behind, does it end?

    python benchmarks/soak.py --minutes 60

Trains by the project's own command with everything that a training does now and then: a verification every 100 steps,
checkpoints of all kinds, the state every 50, an epoch every 6 steps. Writes results/soak.csv (a row for each look:
resident memory, threads, open files, step) and results/soak.png, then asks the training to stop by SIGTERM and says how
long that took, and how memory, threads and files went in the second half. Exit code 1 where something grew, or the
training did not end as it should.
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

from benchmarks.resume import Training, write_faces
from common.cli import ArgumentParser, run
from common.errors import UserError

FLAGS = ("--verbose 100 --state-every 50 --frequent 20 --lr 0.01 --lr-steps 1000000 --report 1").split()
_LOOKS = 600  # at most, over the whole time
_GROWTH = 0.02  # share of the memory by which it may be higher at the end than in the middle: what an allocator wavers
_PATIENCE = 120  # seconds in which a training must have ended that was asked to


def look(process, started, log):
    """A row: what the system says of a process, and the step that its log is at."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return dict(seconds=round(time.time() - started), step=last_step(log),
                megabytes=round(int(status["VmRSS"].split()[0]) / 1024, 1), threads=int(status["Threads"]),
                files=len(os.listdir(f"/proc/{process.pid}/fd")))


def last_step(log):
    """The step of the last line of progress, 0 before the first."""
    lines = log.read_bytes()[-4096:].splitlines()[1:] if log.exists() else []
    steps = [json.loads(line)["step"] for line in lines if b'"progress"' in line and line.endswith(b"}")]
    return steps[-1] if steps else 0


def watch(training, minutes):
    """Run a training for so long. Returns (rows, seconds until it ended, its exit code)."""
    started, rows, process = time.time(), [], training.start()
    try:
        while time.time() < started + 60 * minutes:
            time.sleep(max(1.0, 60 * minutes / _LOOKS))
            if process.poll() is not None:
                raise UserError(f"the training ended by itself with exit code {process.returncode}: see its last lines "
                                f"in {training.output}")
            rows.append(look(process, started, training.folder / "train.jsonl"))
        asked = time.time()
        process.send_signal(signal.SIGTERM)
        process.wait(_PATIENCE)
        return rows, time.time() - asked, process.returncode
    except subprocess.TimeoutExpired:
        raise UserError(f"the training has not ended within {_PATIENCE} s of SIGTERM") from None
    finally:
        process.kill()


def judge(rows):
    """(Lines that say how memory, threads and files went, whether all is well), of the second half of the rows."""
    half = rows[len(rows) // 2:]
    third = max(1, len(half) // 3)
    before, after = (sorted(row["megabytes"] for row in part)[third // 2] for part in (half[:third], half[-third:]))
    hours = (half[-1]["seconds"] - half[0]["seconds"]) / 3600
    lines = [f"memory: {before:.0f} MB after half the time, {after:.0f} MB at the end ({after / before - 1:+.1%} in "
             f"{hours:.2f} h), {max(row['megabytes'] for row in rows):.0f} MB at most"]
    well = after <= before * (1 + _GROWTH)
    for key in ("threads", "files"):
        numbers = [row[key] for row in half]
        lines.append(f"{key}: {min(numbers)} to {max(numbers)} in the second half, {numbers[-1]} at the end")
        well = well and max(numbers[-third:]) <= max(numbers[:third])
    return lines, well


def draw(rows, path):
    """Memory, threads and files over the minutes."""
    from matplotlib.figure import Figure

    from eval.plots import save

    figure = Figure(figsize=(9, 3.4), constrained_layout=True)
    for axes, keys, label in zip(figure.subplots(1, 2), (["megabytes"], ["threads", "files"]),
                                 ("resident memory, MB", "threads and open files")):
        for number, key in enumerate(keys):
            axes.plot([row["seconds"] / 60 for row in rows], [row[key] for row in rows], color=f"C{number}", label=key)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
        axes.set_ylabel(label)
        axes.grid(color="0.88")
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long the training runs")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import RESULTS, write_table

    with tempfile.TemporaryDirectory() as work:
        write_faces(Path(work, "faces"))
        training = Training(Path(work), "models", *FLAGS)
        rows, seconds, code = watch(training, args.minutes)
        last = training.last_whole()[0]
    if len(rows) < 6:
        raise UserError(f"--minutes {args.minutes:g}: too short a time to judge by")
    print(write_table("soak", rows))
    draw(rows, RESULTS / "soak.png")
    lines, well = judge(rows)
    for line in lines:
        print(line)
    expected = 128 + signal.SIGTERM
    print(f"SIGTERM: ended after {seconds:.1f} s with exit code {code} (expected {expected}), state saved after step "
          f"{last:,}")
    return 0 if well and code == expected else 1


if __name__ == "__main__":
    run(main)
