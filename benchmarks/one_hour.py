"""The best model that this machine finds and trains in an hour from 241 real identities.

    FACE_DATA=../shared/data python benchmarks/one_hour.py

No pretrained weights, no image of LFW in training. Settings are chosen on people who are held out of the training
identities (a fifth of them, in pairs drawn by --seed), never on LFW: each of CANDIDATES is trained without them for
some minutes on one thread, a quarter of an hour for all. The best is then trained by the whole machine on all of them,
verified on LFW and put to the identification of twelve actors among 1,548 others. Writes results/one_hour_search.csv,
results/one_hour.csv and the training's log, results/one_hour.log. What is done stays in --work and is not done again.
"""
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Tuple

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tqdm import tqdm

from benchmarks.commands import ROOT, logged
from benchmarks.paper import BATCH, Planner
from benchmarks.paper_data import find_data, identify
from common.cli import ArgumentParser, run
from common.files import read_json, write_text

HELD_OUT, PAIRS = 0.2, 3000  # share of the identities; pairs, half of them genuine
_KEPT = ("--per-batch-size", str(BATCH), "--frequent", "50", "--verbose", "1000000000", "--ckpt", "2", "--report", "0")


class Candidate(NamedTuple):
    """A way to train. network: its flags; stages: (share of the time, flags of train.py) of one training after another,
    each of which begins with the model of the one before."""

    network: Tuple[str, ...]
    stages: Tuple[Tuple[float, str], ...]


_NETWORKS = {"thin y1": "y1 --net-blocks 1,1,1,1",
             "half MobileNetE": "MobileNetE --net-multiplier 0.5 --emb-size 256"}
_BEGIN = (0.4, "--loss softmax --lr 0.1")
_THEN = {"softmax again": "--loss softmax --lr 0.05",
         "gentle arcface": "--loss arcface --loss-s 16 --loss-m2 0.2 --lr 0.05",
         "arcface": "--loss arcface --loss-s 32 --loss-m2 0.4 --lr 0.05"}
CANDIDATES = {f"{name}, softmax, then {then}": Candidate(("--network", *network.split()), (_BEGIN, (0.6, text)))
              for name, network in _NETWORKS.items() for then, text in _THEN.items()}


def split(training, folder, seed):
    """Write <folder>/training without some identities, and <folder>/packs/held_out.bin of pairs of theirs."""
    import numpy as np

    from datasets.packs import write_pack
    from datasets.training_set import TrainingSet

    draw = np.random.RandomState(seed)
    with closing(TrainingSet(training)) as images:
        labels, order = images.labels(progress=None), draw.permutation(images.num_classes)
        held, stay = np.split(order, [round(HELD_OUT * len(order))])
        pairs = draw_pairs({label: np.flatnonzero(labels == label) for label in held}, draw)
        write_pack(folder / "packs" / "held_out.bin", [images.read(int(row))[0] for pair in pairs for row in pair],
                   np.arange(PAIRS) % 2 == 0)
    write_text(folder / "classes.txt", "\n".join(map(str, sorted(stay))))
    logged(folder / "log", "datasets/subset.py", "--input", training, "--output", folder / "training", "--classes",
           folder / "classes.txt")


def draw_pairs(rows, draw):
    """PAIRS pairs of rows, every second of two identities, the others of one. rows: identity -> its rows."""
    import numpy as np

    several, pairs = [label for label in rows if len(rows[label]) > 1], []
    for number in range(PAIRS):
        if number % 2 == 0:
            pairs.append(draw.choice(rows[draw.choice(several)], 2, replace=False))
        else:
            pairs.append(np.array([draw.choice(rows[label]) for label in draw.choice(list(rows), 2, replace=False)]))
    return pairs


def train(candidate, steps, training, place, threads, seed):
    """Train one stage after another, each in a folder of `place` of its own, which candidates that begin alike share.

    What is done is not done again. Returns (model, seconds, logs).
    """
    before, seconds, logs = [], 0, []
    for share, text in candidate.stages:
        count = max(10, round(share * steps))
        words = [*candidate.network, *text.split(), *_KEPT, *before, "--max-steps", str(count), "--lr-steps",
                 f"{count * 3 // 5},{count * 17 // 20}", "--seed", str(seed), "--dataset", str(training)]
        folder = place / hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]
        logs.append(folder / "train.log")
        if not (folder / "seconds.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            started = time.time()
            logged(logs[-1], "recognition/train.py", *words, "--models-root", folder, threads=threads)
            write_text(folder / "seconds.json", json.dumps([time.time() - started]))
        seconds += read_json(folder / "seconds.json", list)[0]
        model, = folder.glob("*/model-0001.params")
        before = ["--pretrained", str(model)[:-len("-0001.params")]]
    return f"{before[1]},1", seconds, logs


def verify(model, packs, output, threads):
    """The figures of a verification."""
    logged(output.with_suffix(".log"), "eval/verification.py", "--model", model, "--data-dir", packs, "--output",
           output, threads=threads)
    return read_json(output / "results.json", list)[0]["figures"]


def search(work, minutes, seed):
    """Try every candidate. Returns rows for the table, that of the lowest equal error rate first."""
    from common.cores import cpu_count
    from datasets.training_set import read_property

    training, packs = work / "split" / "training", work / "split" / "packs"
    plan = Planner(work / "rates.json", minutes * 60, 1, read_property(training)[0])
    steps = {name: plan(list(candidate.network)) for name, candidate in CANDIDATES.items()}

    def trained(name, stages=None):
        candidate = CANDIDATES[name]
        return train(candidate._replace(stages=candidate.stages[:stages]), steps[name], training,
                     work / f"search-{minutes:g}", 1, seed)

    def attempt(name):
        model, seconds, logs = trained(name)
        figures = verify(model, packs, logs[-1].parent / "held-out", 1)
        return dict(candidate=name, images=steps[name] * BATCH, minutes=f"{seconds / 60:.1f}",
                    accuracy=f"{figures['accuracy']:.4f}", deviation=f"{figures['accuracy_std']:.4f}",
                    eer=f"{figures['eer']:.4f}")

    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(lambda name: trained(name, 1), {CANDIDATES[name].network: name for name in CANDIDATES}.values()))
        rows = list(tqdm(pool.map(attempt, CANDIDATES), total=len(CANDIDATES), unit="candidate"))
    return sorted(rows, key=lambda row: float(row["eer"]))


def whole(name, data, work, minutes, seed):
    """Train a candidate on all identities and measure it. Returns a row, and the paths of the logs."""
    from common.cores import cpu_count
    from datasets.training_set import read_property

    threads, place = cpu_count(), work / f"whole-{minutes:g}"
    plan = Planner(work / f"rates-{threads}.json", minutes * 60, threads, read_property(data.training)[0])
    steps = plan(list(CANDIDATES[name].network))
    model, seconds, logs = train(CANDIDATES[name], steps, data.training, place, threads, seed)
    target = logs[-1].parent
    figures = verify(model, data.packs, target / "lfw", threads)
    identify(model, data.megaface, target / "megaface", threads)
    found = read_json(target / "megaface" / "results.json", list)[0]["figures"]
    ranks = {key: value for key, value in found.items() if "rank1@" in key}
    return dict(candidate=name, flags="; then ".join(text for _, text in CANDIDATES[name].stages),
                minutes=f"{seconds / 60:.1f}", images=steps * BATCH, accuracy=f"{figures['accuracy']:.4f}",
                deviation=f"{figures['accuracy_std']:.4f}", eer=f"{figures['eer']:.4f}",
                **{key: f"{value:.4f}" for key, value in ranks.items()}), logs


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40, help="of the last training, on all cores")
    parser.add_argument("--search-minutes", type=float, default=6, help="of each candidate, on one thread")
    parser.add_argument("--data", choices=("celeba", "rendered"), default="celeba", help="the real faces of FACE_DATA, "
                        "or rendered ones")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--work", default="models/one-hour", help="folder that keeps data and models")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import RESULTS, write_table
    from common.machine import machine

    work = Path(os.path.relpath(Path(args.work).resolve(), ROOT))  # logs shall name no folder of this machine
    os.chdir(ROOT)
    data, work = find_data(args.data, work), work / f"{args.data}-{args.seed}"
    if not (work / "split" / "training").is_dir():
        split(data.training, work / "split", args.seed)
    rows = search(work, args.search_minutes, args.seed)
    print(write_table("one_hour_search", [dict(row, machine=machine()) for row in rows]))
    row, logs = whole(rows[0]["candidate"], data, work, args.minutes, args.seed)
    write_text(RESULTS / "one_hour.log", "".join(path.read_text() for path in logs))
    print(write_table("one_hour", [dict(row, machine=machine())]))


if __name__ == "__main__":
    run(main)
