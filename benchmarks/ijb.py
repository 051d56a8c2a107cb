"""IJB-C and IJB-B at their real size, on made-up features: seconds and most memory, beside the original's way.

    python benchmarks/ijb.py [--tasks templates,pairs,search,whole]

Writes results/ijb.csv; rows of other tasks stay. Every row is measured in a process of its own, whose whole memory
counts. The original's way is plain NumPy as the original has it: all features in memory, a loop over templates with
np.unique, scores in float64 over 100,000 pairs at a time, scikit-learn's ROC, one matrix of all probes and the gallery.
Both ways must give the same figures.
"""
import heapq
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.cli import ArgumentParser, run
from common.errors import UserError

DIMENSIONS, BLOCK = 512, 1 << 14
SIZES = {  # images, templates of the galleries and of the probes, genuine and impostor pairs
    "IJB-C": dict(images=469_375, gallery=3_531, probes=19_593, genuine=19_557, impostor=15_638_932),
    "IJB-B": dict(gallery=1_845, probes=10_270, genuine=10_270, impostor=8_000_000),
}
TASKS = {"templates": ["IJB-C"], "pairs": ["IJB-C", "IJB-B"], "search": ["IJB-C"], "whole": ["IJB-C"]}


def make_features(folder, size):
    """features.npy (N, 2, D), and templates, medias and detector scores of the images, in folder."""
    random, count = np.random.default_rng(0), size["images"]
    num_templates = size["gallery"] + size["probes"]
    shares = random.lognormal(0, 1, num_templates)
    sizes = 1 + random.multinomial(count - num_templates, shares / shares.sum())
    templates = np.repeat(np.arange(1, num_templates + 1), sizes)
    np.save(folder / "images.npy", np.array([templates, random.integers(0, 1 + np.repeat(sizes, sizes) // 4)]))
    np.save(folder / "scores.npy", random.uniform(0.5, 1, count).astype(np.float32))
    features = np.lib.format.open_memmap(str(folder / "features.npy"), "w+", np.float32, (count, 2, DIMENSIONS))
    for start in range(0, count, BLOCK):
        part = features[start:start + BLOCK]
        part[:] = random.standard_normal(part.shape, np.float32)


def make_vectors(folder, size):
    """vectors.npy (T, D) of galleries, then probes; subjects.npy; pairs.npy (3, P): rows of vectors, and the label.

    As in IJB: every subject has one template in one of the galleries, and pairs are of gallery and probe.
    """
    random, gallery, probes = np.random.default_rng(0), size["gallery"], size["probes"]
    subjects = np.append(np.arange(gallery), np.arange(probes) % gallery)
    vectors = random.standard_normal((gallery, DIMENSIONS), np.float32)[subjects]
    vectors += 1.6 * random.standard_normal(vectors.shape, np.float32)
    np.save(folder / "vectors.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    np.save(folder / "subjects.npy", subjects)
    rows = np.arange(gallery, gallery + size["genuine"])
    genuine = np.array([subjects[rows], rows, np.ones_like(rows)])
    codes = random.choice(gallery * probes, size["impostor"] + size["genuine"], replace=False)
    first, second = codes // probes, gallery + codes % probes
    impostor = np.flatnonzero(subjects[second] != first)[:size["impostor"]]
    pairs = np.concatenate([genuine, np.array([first[impostor], second[impostor], np.zeros_like(impostor)])], axis=1)
    np.save(folder / "pairs.npy", pairs[:, np.argsort(pairs[0], kind="stable")].astype(np.int32))


def our_templates(folder, variants=None):
    from eval import ijb
    from eval.ijb_features import FeatureFile

    (templates, medias), scores = np.load(folder / "images.npy"), np.load(folder / "scores.npy")
    _, vectors = ijb.build_templates(FeatureFile(folder / "features.npy", np.arange(len(templates))), templates,
                                     medias, scores, variants or ijb.VARIANTS[:1])
    return next(iter(vectors.values()))[::1000, :3].ravel()


def all_templates(folder):
    from eval import ijb

    return our_templates(folder, ijb.VARIANTS)


def original_templates(folder):
    (templates, medias), scores = np.load(folder / "images.npy"), np.load(folder / "scores.npy")
    features = np.load(folder / "features.npy")
    features = (features[:, 0] + features[:, 1]) * scores[:, np.newaxis]
    names = np.unique(templates)
    vectors = np.zeros((len(names), features.shape[1]))
    for count, name in enumerate(names):
        rows = np.where(templates == name)[0]
        here, media = features[rows], medias[rows]
        means = [np.mean(here[np.where(media == medium)[0]], 0, keepdims=True) for medium in np.unique(media)]
        vectors[count] = np.sum(np.array(means), 0)
    vectors /= np.sqrt(np.sum(vectors ** 2, -1, keepdims=True))
    return vectors[::1000, :3].ravel()


def our_pairs(folder):
    from eval import ijb
    from eval.ijb_11 import verify_templates

    first, second, label = np.load(folder / "pairs.npy")
    found = verify_templates({ijb.VARIANTS[0]: np.load(folder / "vectors.npy")}, first, second, label == 1)
    return found[0].nearest_tar


def original_pairs(folder):
    from sklearn.metrics import roc_curve

    first, second, label = np.load(folder / "pairs.npy")
    vectors, scores = np.load(folder / "vectors.npy").astype(np.float64), np.zeros(len(first))
    for start in range(0, len(first), 100_000):
        here = slice(start, start + 100_000)
        scores[here] = np.sum(vectors[first[here]] * vectors[second[here]], -1)
    far, tar, _ = roc_curve(label, scores)
    far, tar = np.flipud(far), np.flipud(tar)
    return [tar[min(zip(abs(far - asked), range(len(far))))[1]] for asked in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]


def our_search(folder):
    from eval.ijb_1n import identify_templates

    vectors, subjects, gallery = _searched(folder)
    half, probes = np.arange(gallery) % 2, np.arange(gallery, len(vectors))
    galleries = {f"G{number + 1}": (np.flatnonzero(half == number), subjects[:gallery][half == number])
                 for number in (0, 1)}
    merged = identify_templates(vectors, probes, subjects[gallery:], galleries).merged
    return [*merged.ranks, *merged.tpir]


def _searched(folder):
    return np.load(folder / "vectors.npy"), np.load(folder / "subjects.npy"), SIZES["IJB-C"]["gallery"]


def original_search(folder):
    vectors, subjects, gallery = _searched(folder)
    vectors = vectors.astype(np.float64)
    enrolled, probes, count = subjects[:gallery].tolist(), subjects[gallery:].tolist(), len(vectors) - gallery
    mates = [[place for place, subject in enumerate(enrolled) if subject == probe][0] for probe in probes]
    similarity = np.dot(vectors[gallery:], vectors[:gallery].T)
    order = np.argsort(-similarity)
    ranks = [np.mean([mates[probe] in order[probe, :k] for probe in range(count)]) for k in (1, 5, 10)]
    own = similarity[np.arange(count), mates]
    similarity[np.arange(count), mates] = -2
    wrong = similarity[np.where(similarity > -2)]
    needed = [math.ceil(count * rate) for rate in (0.01, 0.1)]
    wrong = heapq.nlargest(max(needed), wrong)
    return ranks + [np.sum(own > wrong[place - 1]) / count for place in needed]


def make_data(folder, size):
    """The metadata in the official form, and the features, which stand for the embedded images."""
    make_features(folder, size)
    make_vectors(folder, size)
    (templates, medias), scores = np.load(folder / "images.npy"), np.load(folder / "scores.npy")
    meta = folder / "IJBC" / "meta"
    meta.mkdir(parents=True)
    points = "38.295 51.696 73.532 51.501 56.025 71.737 41.549 92.366 70.730 92.204"
    with open(meta / "ijbc_face_tid_mid.txt", "w") as ids, open(meta / "ijbc_name_5pts_score.txt", "w") as lines:
        for number, (template, medium, score) in enumerate(zip(templates, medias, scores), 1):
            ids.write(f"{number}.jpg {template} {medium}\n")
            lines.write(f"{number}.jpg {points} {score:.4f}\n")
    pairs = np.load(folder / "pairs.npy").T
    with open(meta / "ijbc_template_pair_label.txt", "w") as file:
        for start in range(0, len(pairs), BLOCK):
            file.writelines(f"{one + 1} {other + 1} {label}\n"
                            for one, other, label in pairs[start:start + BLOCK].tolist())
    subjects, gallery = np.load(folder / "subjects.npy"), size["gallery"]
    for name, rows in (("gallery_G1", range(0, gallery, 2)), ("gallery_G2", range(1, gallery, 2)),
                       ("probe_mixed", range(gallery, len(subjects)))):
        (meta / f"ijbc_1N_{name}.csv").write_text("TEMPLATE_ID,SUBJECT_ID\n" + "".join(
            f"{row + 1},{subjects[row]}\n" for row in rows))


def whole_11(folder):
    from eval import ijb_11, ijb_meta

    images = ijb_meta.read_images(folder, "IJBC")
    pairs = ijb_meta.read_pairs(ijb_meta.meta_path(folder, "IJBC", "template_pair_label.txt"),
                                np.unique(images.templates))
    ijb_11.evaluate(_args(folder), images, pairs, _features(folder, images))


def whole_1n(folder):
    from eval import ijb_1n, ijb_meta

    images = ijb_meta.read_images(folder, "IJBC")
    subjects = {name: ijb_meta.read_subjects(path, np.unique(images.templates))
                for name, path in ijb_meta.subject_paths(folder, "IJBC").items()}
    ijb_1n.evaluate(_args(folder), images, subjects, _features(folder, images))


def _args(folder):
    from eval import ijb

    return SimpleNamespace(variants=ijb.VARIANTS, target="IJBC", job="made up", data_dir=folder, output=folder,
                           model="", record="")


def _features(folder, images):
    from eval.ijb_features import FeatureFile

    return FeatureFile(folder / "features.npy", np.arange(len(images.names)))


WAYS = {  # task -> what makes its data, what it is, and the ways to do it, of which the first is ours
    "templates": (make_features, "templates of all images",
                  {"ours, one variant": our_templates, "the original's, one variant": original_templates,
                   "ours, all eight variants": all_templates}),
    "pairs": (make_vectors, "1:1, scores and TAR", {"ours": our_pairs, "the original's": original_pairs}),
    "search": (make_vectors, "1:N", {"ours, G1, G2 and merged": our_search,
                                     "the original's, merged": original_search}),
    "whole": (make_data, "the command without embedding, all eight variants",
              {"ours, 1:1": whole_11, "ours, 1:N": whole_1n}),
}


def one(task, way, folder):
    """Measure in this process; prints [seconds, seconds of all its threads, megabytes, figures]."""
    start, before = time.perf_counter(), _processor_seconds()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # a whole command prints
        figures = WAYS[task][2][way](Path(folder))
    seconds, busy = time.perf_counter() - start, _processor_seconds() - before
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    figures = [] if figures is None else np.asarray(figures, float).tolist()
    print(json.dumps([seconds, busy, int(peak.split()[1]) / 1024, figures]))


def _processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _read_through(folder):
    """Have the data in the system's cache, so that no way pays for the disk alone."""
    os.sync()
    for path in folder.glob("*.npy"):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def measure(task, name):
    """The rows of one task on one benchmark."""
    from common.machine import machine

    make, what, ways = WAYS[task]
    size, rows, expected = SIZES[name], [], None
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), size)
        for way in ways:
            _read_through(Path(folder))
            done = subprocess.run([sys.executable, __file__, "--one", task, way, folder], stdout=subprocess.PIPE,
                                  text=True)
            if done.returncode:
                raise UserError(f"measuring {task}, {way} failed, see above")
            seconds, busy, megabytes, figures = json.loads(done.stdout)
            expected = expected or figures
            if not np.allclose(figures, expected, atol=1e-4):
                raise UserError(f"{task}, {way}: gives {figures}; expected {expected}")
            rows.append(dict(benchmark=name, task=what, way=way, seconds=f"{seconds:.1f}",
                             processor_seconds=f"{busy:.1f}", peak_mb=f"{megabytes:.0f}", machine=machine()))
            print(*rows[-1].values(), sep=", ", flush=True)
    return rows


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS), help="with commas between")
    parser.add_argument("--one", nargs=3, help="for the command's own use: measure in this process")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.one:
        return one(*args.one)
    from benchmarks.measure import read_table, write_table

    for task in args.tasks.split(","):
        if task not in TASKS:
            raise UserError(f"unknown task {task!r}; known are: {', '.join(TASKS)}")
        new = [row for name in TASKS[task] for row in measure(task, name)]
        rows = [row for row in read_table("ijb") if row["task"] != WAYS[task][1]] + new
        order = [what for _, what, _ in WAYS.values()]
        print(write_table("ijb", sorted(rows, key=lambda row: order.index(row["task"]))))


if __name__ == "__main__":
    run(main)
