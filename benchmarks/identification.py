"""Identification among a million distractors: speed against the bare matrix product, and figures on real faces.

    python benchmarks/identification.py
    python benchmarks/identification.py --data index --distractors 100000
    FACE_DATA=../shared/data python benchmarks/identification.py --data faces

The first draws features (3,530 probes of 80 identities, 512 dimensions) and writes results/identification.csv: the
time of `eval.megaface.identify`, and of `probes @ block.T` alone over the same file in blocks of the same size, before
and after it; and the peak of the memory that is the process's own. The second holds indexes of faiss against exact
search on such features: results/identification_index.csv. The third runs the project's commands, which it prints, on
the actors and distractors of FACE_DATA/identification, with the model FACE_DATA/models/y1:
results/identification_faces.csv.
"""
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.commands import ROOT, command, evaluate, faces_from_root, write_megaface_lists
from common.cli import ArgumentParser, run
from common.flags import positive
from eval.identification import MAX_RANK, Selection, identify_each
from eval.search_index import Search

PROBES, IDENTITIES, DIMENSIONS = 3530, 80, 512  # of FaceScrub in the challenge
WRONG = 0.01  # share of probes under a wrong name: such a mate has half of the distractors above it
INDEXES = ("IVF256,Flat;nprobe=4", "IVF256,Flat;nprobe=16", "IVF256,Flat;nprobe=64")
BLOCK = 2304  # what identify takes with so many probes


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw(rng, count):
    """Features (count, DIMENSIONS) float32, L2-normalised, most of whose spread lies in few directions."""
    spread = (1 + np.arange(DIMENSIONS) / 64).astype(np.float32) ** -0.5
    return unit(rng.standard_normal((count, DIMENSIONS), dtype=np.float32) * spread)


def draw_probes(rng, noise):
    """Probes (PROBES, DIMENSIONS) about the centres of their identities, and the identities; noise: length of it."""
    identities = np.arange(PROBES) % IDENTITIES
    shown = np.where(rng.random(PROBES) < WRONG, rng.integers(0, IDENTITIES, PROBES), identities)
    return unit(draw(rng, IDENTITIES)[shown] + noise * draw(rng, PROBES)), identities


def write_distractors(path, rng, count):
    features = np.lib.format.open_memmap(str(path), "w+", np.float32, (count, DIMENSIONS))
    for start in range(0, count, 10_000):
        features[start:start + 10_000] = draw(rng, min(10_000, count - start))
    features.flush()


class Peak:
    """A context that notes the most memory of its own (RssAnon, not mapped files) that the process had, in MB."""

    def __enter__(self):
        self.megabytes, self.done = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _watch(self):
        while not self.done.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.megabytes = max(self.megabytes, *(int(line.split()[1]) / 1024 for line in lines
                                                   if line.startswith("RssAnon")))


def product(probes, distractors):
    """Seconds of the products alone."""
    buffer = np.empty((len(probes), BLOCK), np.float32)
    started = time.perf_counter()
    for start in range(0, len(distractors), BLOCK):
        block = distractors[start:start + BLOCK]
        np.matmul(probes, block.T, out=buffer[:, :len(block)])
    return time.perf_counter() - started


def measure(count, seed):
    """The rows of results/identification.csv."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        write_distractors(Path(folder, "distractors.npy"), rng, count)
        distractors = np.load(Path(folder, "distractors.npy"), mmap_mode="r")
        good, useless = draw_probes(rng, 0.9), draw_probes(rng, 1e6)
        refined = Selection(rng.random(PROBES) > 0.01, rng.random(count) > 0.001)
        runs = {"identify, a good model": (good, [None]), "the same, raw and refined": (good, [None, refined]),
                "identify, a useless model": (useless, [None])}
        bare, found = [product(good[0], distractors)], []
        for (probes, identities), selections in runs.values():
            found.append(timed(selections, probes, identities, distractors, seed=seed))
            bare.append(product(probes, distractors))
    rows = [_row("bare product, mean of all", count, sum(bare) / len(bare), sum(bare) / len(bare))]
    return rows + [_row(what, count, seconds, (before + after) / 2, peak=peak, rank1=result.rate(count))
                   for what, (seconds, peak, result), before, after in zip(runs, found, bare, bare[1:])]


def timed(*arguments, **settings):
    """Seconds, peak memory in MB and the first Result of a call of `identify_each`."""
    with Peak() as peak:
        started = time.perf_counter()
        results = identify_each(*arguments, **settings)
        return time.perf_counter() - started, peak.megabytes, results[0]


def _row(what, count, seconds, bare, peak=None, rank1=None):
    return dict(what=what, probes=PROBES, distractors=count, dimensions=DIMENSIONS, seconds=f"{seconds:.1f}",
                speed_over_bare=f"{bare / seconds:.2f}", peak_mb="" if peak is None else f"{peak:.0f}",
                rank1="" if rank1 is None else f"{rank1:.4f}")


def measure_index(count, seed):
    """The rows of results/identification_index.csv."""
    rng = np.random.default_rng(seed)
    distractors = draw(rng, count)
    probes, identities = draw_probes(rng, 0.9)
    rows = []
    for index in ("", *INDEXES):
        search = Search(index, MAX_RANK, seed) if index else None
        seconds, peak, result = timed([None], probes, identities, distractors, seed=seed, search=search)
        recall = search.recall if search else {1: 1, 10: 1, MAX_RANK: 1}
        rows.append(dict(search=index or "exact", distractors=count, seconds=f"{seconds:.1f}",
                         **{f"recall_of_nearest_{depth}": f"{rate:.4f}" for depth, rate in recall.items()},
                         rank1=f"{result.rate(count):.4f}"))
    return rows


def measure_faces():
    """The rows of results/identification_faces.csv."""
    faces = faces_from_root("identification and models")
    images, work, rows = faces / "identification", Path("models/identification-faces"), []
    shutil.rmtree(ROOT / work, ignore_errors=True)
    write_megaface_lists(ROOT / images, ROOT / work)
    flags = ["--facescrub-lst", work / "facescrub_lst", "--megaface-lst", work / "megaface_lst"]
    command("eval/gen_megaface.py", "--model", faces / "models" / "y1" / "model,0", *flags, "--facescrub-root",
            images / "facescrub", "--megaface-root", images, "--output", work / "out", "--batch-size", 64)
    found = evaluate("eval/megaface.py", *flags, "--facescrub-noises", images / "facescrub_noises.txt",
                     "--megaface-noises", "", "--feature-dir", work / "out", "--output", work / "scores")
    for name in ("raw", "refined"):
        before = "" if name == "raw" else "refined_"
        names = [figure for figure in found if not figure.startswith("refined_")]
        rows.append(dict(model="y1 arcface, public checkpoint", lists=name,
                         **{figure: f"{found[before + figure]:.5f}" for figure in names}))
    return rows


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("drawn", "index", "faces"), default="drawn", help="what to measure on")
    parser.add_argument("--distractors", type=positive, default=10 ** 6, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    return parser.parse_args()


def main():
    args = parse_args()
    from benchmarks.measure import write_table
    from common.machine import machine

    if args.data == "faces":
        rows = measure_faces()
    else:
        rows = (measure_index if args.data == "index" else measure)(args.distractors, args.seed)
    name = "identification" + f"_{args.data}" * (args.data != "drawn")
    print(write_table(name, [dict(row, machine=machine()) for row in rows]))


if __name__ == "__main__":
    run(main)
