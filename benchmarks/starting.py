"""Whether ArcFace starts: MobileFaceNet (y1) from nothing on 241 real identities, over several seeds.

    FACE_DATA=../shared/data python benchmarks/starting.py

Runs the project's own commands, one thread each, as many side by side as there are cores, and writes
results/starting.csv: the paper's settings as they are, and what docs/losses.md advises. A training counts as started
when, under the full margin and scale, its loss is below that of embeddings at right angles to their centres, where
every margin begins, and more than twice as many images as chance are nearest to their own centre in spite of it.
Finished trainings are kept in the folder --work and not run again.
"""
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from benchmarks.commands import logged, prepare_faces
from common.cli import ArgumentParser, run

SHARED = ["--network", "y1", "--loss", "arcface", "--per-batch-size", "32", "--frequent", "50", "--verbose", "1000000",
          "--ckpt", "2"]
RECIPES = {  # flags, steps, seeds
    "the paper's": (["--lr", "0.1"], 200, 2),
    "scale and margin grow": (["--lr", "0.05", "--lr-steps", "1100", "--loss-s", "32", "--loss-s-start", "16",
                               "--margin-start", "300", "--margin-warmup", "700"], 1300, 5),
}
_LAST = 2  # lines of progress, of 50 steps each, over which the end is averaged


def measure(recipe, seed, work):
    """(loss, accuracy) at the end of a training, and its LFW accuracy; what is there already is not done again."""
    flags, steps, _ = RECIPES[recipe]
    place = work / f"{recipe.replace(' ', '-')}-{seed}"
    place.mkdir(exist_ok=True)
    folder = place / "y1-arcface-training"
    if not (folder / "model-0001.params").is_file():
        logged(place / "train.log", "recognition/train.py", *SHARED, *flags, "--dataset", work / "training",
                   "--models-root", place, "--seed", seed, "--max-steps", steps)
    if not (place / "lfw/results.json").is_file():
        logged(place / "lfw.log", "eval/verification.py", "--model", f"{folder}/model,1",
                   "--data-dir", work / "packs", "--no-flip", "--output", place / "lfw")
    events = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    ends = [event for event in events if event["event"] == "progress"][-_LAST:]
    loss, accuracy = (sum(event[key] for event in ends) / len(ends) for key in ("loss", "accuracy"))
    found, = json.loads((place / "lfw/results.json").read_text())
    return loss, accuracy, found["accuracy"]


def row(recipe, found, num_classes):
    """A row of the table from (loss, accuracy, LFW accuracy) of every seed."""
    from benchmarks.measure import spread
    from common.machine import machine

    flags, steps, _ = RECIPES[recipe]
    scale = float(flags[flags.index("--loss-s") + 1]) if "--loss-s" in flags else 64
    plateau = scale * math.sin(0.5) + math.log(num_classes)
    started = sum(loss < plateau and accuracy > 2 / num_classes for loss, accuracy, _ in found)
    loss, accuracy, lfw = zip(*found)
    return {"settings": recipe, "flags": " ".join(flags), "steps": steps, "seeds": len(found), "started": started,
            "loss_at_right_angles": f"{plateau:.1f}", "loss": f"{min(loss):.1f} to {max(loss):.1f}",
            "training_accuracy": f"{min(accuracy):.3f} to {max(accuracy):.3f}",
            "lfw": f"{spread(lfw)[0]:.4f}", "lfw_deviation": f"{spread(lfw)[1]:.4f}", "machine": machine()}


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="models/starting", help="folder that keeps data and models")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import write_table
    from common.mxnet_setup import cpu_count
    from datasets.training_set import read_property

    work = Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "packs/lfw.bin").is_file():
        prepare_faces(work)
    runs = sum(seeds for *_, seeds in RECIPES.values())
    with ThreadPoolExecutor(cpu_count()) as pool, tqdm(total=runs, unit="run") as bar:
        waiting = {recipe: [pool.submit(measure, recipe, seed, work) for seed in range(RECIPES[recipe][-1])]
                   for recipe in reversed(RECIPES)}
        found = {recipe: [] for recipe in RECIPES}
        for recipe, tasks in waiting.items():
            for task in tasks:
                found[recipe].append(task.result())
                bar.update()
    classes = read_property(work / "training")[0]
    print(write_table("starting", [row(recipe, values, classes) for recipe, values in found.items()]))


if __name__ == "__main__":
    run(main)
