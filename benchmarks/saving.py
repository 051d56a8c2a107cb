"""What a save of the training's state costs, against a plain write of as many bytes to the same disk.

    python benchmarks/saving.py --folder models

Both end with the bytes on the disk (fsync). The save also fetches every array, looks for numbers that are not finite,
and hashes. Best of the rounds, in turns. Writes results/saving.csv.
"""
import os
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.cli import ArgumentParser, run
from common.flags import positive

CASES = [("y1", 85742), ("r50", 85742), ("r100", 85742)]


def make_trainer(network, num_classes):
    """A trainer after a step, so that there are momenta."""
    from datasets.image_iter import SyntheticIter
    from recognition import experiment
    from recognition.train import parse_args

    settings, _ = parse_args(["--network", network, "--per-batch-size", "2", "--devices", "cpu"])
    batches = SyntheticIter(2, (112, 112), num_classes)
    trainer = experiment.make_trainer(settings, batches, num_classes)
    trainer.step(batches.next())
    return trainer


def save(trainer, path):
    """Seconds of a save."""
    from recognition.training_state import write_state

    started = time.time()
    write_state(path, *trainer.state())
    return time.time() - started


def write_plainly(size, path, block=bytes(1 << 24)):
    """Seconds of a plain write of so many bytes."""
    started = time.time()
    with open(path, "wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[:size - start])
        file.flush()
        os.fsync(file.fileno())
    return time.time() - started


def measure(network, num_classes, folder, rounds):
    """A row of the table."""
    from common.machine import machine

    trainer, ours, plain = make_trainer(network, num_classes), [], []
    path = Path(folder, "model-00000001.state")
    for _ in range(rounds):
        ours.append(save(trainer, path))
        plain.append(write_plainly(path.stat().st_size, Path(folder, "plain")))
    return dict(network=network, classes=num_classes, megabytes=f"{path.stat().st_size / 1e6:.0f}",
                seconds=f"{min(ours):.2f}", plain_write=f"{min(plain):.2f}",
                over_plain_write=f"{min(ours) / min(plain):.2f}", machine=machine())


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=".", help="where a folder for the files is made: on the disk to measure")
    parser.add_argument("--rounds", type=positive, default=3, help="rounds, of which the best counts")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import write_table

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = [measure(network, num_classes, folder, args.rounds) for network, num_classes in CASES]
    print(write_table("saving", rows))


if __name__ == "__main__":
    run(main)
