"""Every loss on the same small network, data, seeds and steps: accuracy and TAR on people who were not in training.

    python benchmarks/losses.py                                            # rendered faces
    FACE_DATA=../shared/data python benchmarks/losses.py --data celeba     # real ones, verified on LFW

Writes results/losses.csv: a row for each data set and loss, means over the seeds and their sample deviations. Each run
is a run of the public commands, on one thread; as many run side by side as there are cores. Images are verified
without their mirrored twins. The training is short, so scales and margins are milder than the papers': with s 64 and
m 0.5 a network that begins from nothing hardly moves in so few steps. Rows that are there for this data set are kept
unless `--only` names them.
"""
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from benchmarks.commands import logged, prepare_faces
from common.cli import ArgumentParser, run
from common.flags import positive

_MILD = ["--loss-s", "16"]
_ANNEALED = ["--loss-m1", "2", "--loss-lambda", "100"]
LOSSES = {  # row: its flags
    "untrained": ["softmax", "--lr", "0"],  # the same steps, so that BatchNorm knows its statistics
    "softmax": ["softmax"],
    "centre": ["centre"],
    "lsoftmax": ["lsoftmax", *_ANNEALED],
    "sphereface": ["sphereface", *_ANNEALED],
    "nsoftmax": ["nsoftmax", *_MILD],
    "nsoftmax + inter": ["nsoftmax", *_MILD, "--loss-inter", "1"],
    "nsoftmax + mhe": ["nsoftmax", *_MILD, "--loss-mhe", "1"],
    "nsoftmax + intra": ["nsoftmax", *_MILD, "--loss-intra", "1"],
    "sphereface135": ["sphereface135", *_MILD, "--loss-m1", "1.15"],
    "cosface": ["cosface", *_MILD, "--loss-m3", "0.1"],
    "arcface": ["arcface", *_MILD, "--loss-m2", "0.2"],
    "arcface, margin warm-up": ["arcface", *_MILD, "--loss-m2", "0.2", "--margin-warmup", "100"],
    "cm1": ["cm1", *_MILD, "--loss-m2", "0.1", "--loss-m3", "0.05"],
    "cm2": ["cm2", *_MILD, "--loss-m1", "0.95", "--loss-m2", "0.15", "--loss-m3", "0.05"],
    "subcenter": ["subcenter", *_MILD, "--loss-m2", "0.2", "--loss-k", "3"],
    "curricularface": ["curricularface", *_MILD, "--loss-m2", "0.2"],
    "magface": ["magface", *_MILD, "--loss-m-low", "0.1", "--loss-m-high", "0.3", "--loss-norm-weight", "1"],
    "adaface": ["adaface", *_MILD, "--loss-m", "0.1"],
    "triplet": ["triplet", "--per-batch-size", "30"],
    "atriplet": ["atriplet", "--per-batch-size", "30"],
    "contrastive": ["contrastive"],
}
PER_BATCH_SIZE = 32
_NETWORK = ["--network", "y1", "--net-blocks", "1,1,1,1", "--per-batch-size", PER_BATCH_SIZE]


def score(flags, seed, folder, steps):
    """Train and verify once on the data of `folder`; returns (accuracy, TAR at FAR 1e-3)."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        logged(f"{place}/log", "recognition/train.py", *_NETWORK, "--loss", *flags,
                   "--dataset", f"{folder}/training", "--models-root", place, "--seed", seed,
                   "--max-steps", steps, "--lr-steps", steps * 4 // 5, "--ckpt", 2, "--verbose", 10 ** 6)
        model, = Path(place).glob("*/model-0001.params")
        logged(f"{place}/log", "eval/verification.py", "--model", f"{model.parent}/model,1", "--data-dir",
                   f"{folder}/packs", "--no-flip", "--output", f"{place}/verification")
        found, = json.loads(Path(place, "verification/results.json").read_text())
    return found["accuracy"], next(point["tar"] for point in found["tar_at_far"] if point["asked_far"] == 1e-3)


def prepare(data, folder, *flags):
    """Make <folder>/training and <folder>/packs, apart: training itself need not verify. flags: of render.py."""
    if data != "rendered":
        return prepare_faces(folder)
    logged(f"{folder}/log", "datasets/render.py", "--output", f"{folder}/training", "--pairs", 4000, *flags)
    Path(folder, "packs").mkdir()
    for pack in Path(folder, "training").glob("*.bin"):
        pack.rename(Path(folder, "packs", pack.name))


def row(data, name, found, steps):
    """A row of the table from the (accuracy, TAR) of every seed."""
    from benchmarks.measure import spread
    from common.machine import machine

    (accuracy, deviation), (tar, tar_deviation) = (spread(values) for values in zip(*found))
    return {"data": data, "row": name, "flags": " ".join(LOSSES[name]), "steps": steps, "seeds": len(found),
            "accuracy": f"{accuracy:.4f}", "deviation": f"{deviation:.4f}", "tar_at_far_1e-3": f"{tar:.4f}",
            "tar_deviation": f"{tar_deviation:.4f}", "machine": machine()}


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("rendered", "celeba"), default="rendered", help="rendered faces, or "
                        "the real ones of FACE_DATA")
    parser.add_argument("--seeds", type=positive, default=3, help="number of seeds")
    parser.add_argument("--steps", type=positive, default=100, help="steps of training, of 32 images")
    parser.add_argument("--only", default="", help="rows to measure anew, with commas between; empty: those not there")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import chosen, read_table, write_table
    from common.cores import cpu_count

    rows = {(line["data"], line["row"]): line for line in read_table("losses")}
    missing = [name for name in LOSSES if (args.data, name) not in rows]
    names = chosen("row", args.only, LOSSES) if args.only else missing
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cpu_count()) as pool, \
            tqdm(total=len(names) * args.seeds, unit="run") as bar:
        prepare(args.data, folder)
        waiting = {name: [pool.submit(score, LOSSES[name], seed, folder, args.steps) for seed in range(args.seeds)]
                   for name in names}
        for name in names:
            found = []
            for run_ in waiting[name]:
                found.append(run_.result())
                bar.update()
            rows[args.data, name] = row(args.data, name, found, args.steps)
            order = [(data, known) for data in ("rendered", "celeba") for known in LOSSES]
            path = write_table("losses", [rows[key] for key in order if key in rows])
    print(path if names else "nothing to measure: every row is there; --only measures anew")


if __name__ == "__main__":
    run(main)
