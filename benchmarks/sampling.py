"""What PartialFC costs in accuracy: ArcFace with a share of the classes in each step, on rendered and on real faces.

    python benchmarks/sampling.py                                            # 1,000 rendered people
    FACE_DATA=../shared/data python benchmarks/sampling.py --data celeba     # 241 real ones, verified on LFW

Writes results/sampling.csv; rows of the other data set stay. The network, the length and the scores are those of
benchmarks/losses.py. A step never uses fewer classes than it has images (32), which is why 0.1 of 241 is 32.
"""
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from benchmarks.losses import LOSSES, PER_BATCH_SIZE, prepare, score
from common.cli import ArgumentParser, run
from common.flags import positive

RATES = (1, 0.3, 0.1)


def row(data, rate, num_classes, found, steps):
    """A row of the table from the (accuracy, TAR) of every seed."""
    from benchmarks.measure import spread
    from common.machine import machine
    from recognition.partial_fc import sample_sizes

    (accuracy, deviation), (tar, tar_deviation) = (spread(values) for values in zip(*found))
    used, = [num_classes] if rate == 1 else sample_sizes([num_classes], rate, PER_BATCH_SIZE)
    return {"data": data, "sample_rate": rate, "classes": num_classes, "classes_in_a_step": used, "steps": steps,
            "seeds": len(found), "accuracy": f"{accuracy:.4f}", "deviation": f"{deviation:.4f}",
            "tar_at_far_1e-3": f"{tar:.4f}", "tar_deviation": f"{tar_deviation:.4f}", "machine": machine()}


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("rendered", "celeba"), default="rendered", help="rendered faces, or "
                        "the real ones of FACE_DATA")
    parser.add_argument("--seeds", type=positive, default=4, help="number of seeds")
    parser.add_argument("--steps", type=positive, default=200, help="steps of training, of 32 images")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import read_table, write_table
    from common.cores import cpu_count
    from datasets.training_set import read_property

    others = [line for line in read_table("sampling") if line["data"] != args.data]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cpu_count()) as pool, \
            tqdm(total=len(RATES) * args.seeds, unit="run") as bar:
        prepare(args.data, folder, "--identities", 1000, "--images-per-identity", 10)
        num_classes = read_property(f"{folder}/training")[0]
        waiting = {rate: [pool.submit(score, [*LOSSES["arcface"], "--sample-rate", rate], seed, folder, args.steps)
                          for seed in range(args.seeds)] for rate in RATES}
        rows = []
        for rate, runs in waiting.items():
            found = []
            for run_ in runs:
                found.append(run_.result())
                bar.update()
            rows.append(row(args.data, rate, num_classes, found, args.steps))
    print(write_table("sampling", [*others, *rows] if args.data == "celeba" else [*rows, *others]))


if __name__ == "__main__":
    run(main)
