"""Real faces: train on 241 identities for half an hour of processor time, verify on the official LFW pairs.

    FACE_DATA=../shared/data python benchmarks/real_faces.py

Runs the project's own commands, which it prints, and writes results/real_faces.csv. FACE_DATA holds train_celeba/
(folders of identities), lfw/ (images/ and pairs.txt) and models/y1 (the public MobileFaceNet checkpoint).
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.commands import command, evaluate, faces_from_root
from common.cli import ArgumentParser, run

SHARED = ["--network", "y1", "--dataset", "datasets/celeba", "--per-batch-size", "32", "--frequent", "50",
          "--verbose", "100000", "--ckpt", "2"]
FIGURES = ("accuracy", "accuracy_std", "eer", "tar@0.01", "tar@0.001")
TRAININGS = [  # ArcFace goes on from softmax: from nothing its margin is too hard for so short a training
    ["--loss", "softmax", "--max-steps", "500", "--lr-steps", "400"],
    ["--loss", "arcface", "--loss-s", "32", "--loss-m2", "0.4", "--lr", "0.05", "--max-steps", "740", "--lr-steps",
     "400,650", "--pretrained", "models/y1-softmax-celeba/model"],
]


def verify(model, output):
    """Verify on LFW; returns the figures."""
    return evaluate("eval/verification.py", "--model", model, "--data-dir", "datasets/celeba-lfw", "--output", output)


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--skip-training", action="store_true", help="verify the model of an earlier run")
    return parser.parse_args()


def main():
    args = parse_args()
    data = faces_from_root("train_celeba, lfw and models")
    from benchmarks.measure import write_table
    from common.machine import machine

    command("datasets/lfw2pack.py", "--data-dir", data / "lfw", "--output", "datasets/celeba-lfw/lfw.bin")
    if not args.skip_training:
        command("datasets/dir2rec.py", "--input", data / "train_celeba", "--output", "datasets/celeba")
        for flags in TRAININGS:
            command("recognition/train.py", *SHARED, *flags)
    models = {
        "y1 softmax, 241 identities": ("models/y1-softmax-celeba/model,1", TRAININGS[:1]),
        "y1 softmax then arcface, 241 identities": ("models/y1-arcface-celeba/model,1", TRAININGS),
        "y1 arcface, public checkpoint": (f"{data}/models/y1/model,0", []),
    }
    rows = []
    for name, (model, trainings) in models.items():
        found = verify(model, f"models/verification-{len(rows)}")
        steps = sum(int(flags[flags.index("--max-steps") + 1]) for flags in trainings)
        rows.append(dict(model=name, training_images=steps * 32 or "", pack="lfw", **{
            figure: f"{found[figure]:.5f}" for figure in FIGURES}, machine=machine()))
    print(write_table("real_faces", rows))


if __name__ == "__main__":
    run(main)
