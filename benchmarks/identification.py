"""Identification among a million distractors: speed against the bare matrix product, and figures on real faces.

    python benchmarks/identification.py
    FACE_DATA=../shared/data python benchmarks/identification.py --data faces

The first draws features (3,530 probes of 80 identities, 512 dimensions) and writes results/identification.csv: the
time of `eval.megaface.identify`, and of `probes @ block.T` alone over the same file in blocks of the same size, before
and after it; and the peak of the memory that is the process's own. The second runs the project's commands, which it
prints, on the actors and distractors of FACE_DATA/identification with the model FACE_DATA/models/y1, and writes
results/identification_faces.csv.
"""
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.cli import ArgumentParser, run
from common.flags import positive
from eval.identification import identify

PROBES, IDENTITIES, DIMENSIONS = 3530, 80, 512  # of FaceScrub in the challenge
WRONG = 0.01  # share of probes under a wrong name: such a mate has half of the distractors above it
BLOCK = 2376  # what identify takes with so many probes


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
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_distractors(Path(folder, "distractors.npy"), rng, count)
        distractors = np.load(Path(folder, "distractors.npy"), mmap_mode="r")
        models = {"a good model": draw_probes(rng, 0.9), "a useless model": draw_probes(rng, 1e6)}
        bare = [product(models["a good model"][0], distractors)]
        for name, (probes, identities) in models.items():
            with Peak() as peak:
                started = time.perf_counter()
                found = identify(probes, identities, distractors, seed=seed)
                seconds = time.perf_counter() - started
            rows.append(dict(what=f"identify, {name}", seconds=seconds, peak_mb=f"{peak.megabytes:.0f}",
                             rank1=f"{found.rate(count):.4f}", tar_at_far_1e_6=f"{found.tar_at_far[0].tar:.4f}"))
        bare.append(product(probes, distractors))
    rows.insert(0, dict(what="bare product", seconds=sum(bare) / 2, peak_mb="", rank1="", tar_at_far_1e_6=""))
    return [dict(row, probes=PROBES, distractors=count, seconds=f"{row['seconds']:.1f}",
                 speed_over_bare=f"{rows[0]['seconds'] / row['seconds']:.2f}") for row in rows]


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("drawn", "faces"), default="drawn", help="what to measure on")
    parser.add_argument("--distractors", type=positive, default=10 ** 6, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    return parser.parse_args()


def main():
    args = parse_args()
    rows = measure(args.distractors, args.seed)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    run(main)
