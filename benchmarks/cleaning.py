"""Cleaning measured on real faces: labels spoiled, identities cut in two and test images planted, all on purpose.

    FACE_DATA=../shared/data python benchmarks/cleaning.py

Writes results/cleaning.csv and results/cleaning_identities.csv, means over five seeds. FACE_DATA holds train_celeba/,
lfw/images/ (folders of identities) and models/y1 (the public MobileFaceNet checkpoint). The sets and embeddings that it
makes stay in datasets/, so that a second run takes seconds.
"""
import sys
from contextlib import closing
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.commands import ROOT, faces_folder
from common.cli import ArgumentParser, run

LIMITS, CUT, SEEDS = (65, 70, 75), 75, 5
NOISES = [("none", 0), ("random others", 0.1), ("random others", 0.3), ("one other person", 0.3),
          ("one other person", 0.45)]
PIECES = ["half", 5, 3, 2, 1]  # images of the smaller part of an identity that is cut in two
CHOSEN, HELD_OUT = 60, 5  # identities that are cut or planted; images of each that are planted in the test set


def spoil(labels, noise, share, random):
    """New labels (N,): `share` of the images go to random other identities, or those of each identity to one other."""
    num_classes, count = labels.max() + 1, round(share * len(labels))
    wrong, spoilt = random.choice(len(labels), count, replace=False), labels.copy()
    steps = random.randint(1, num_classes, count) if noise == "random others" else random.randint(1, num_classes)
    spoilt[wrong] = (labels[wrong] + steps) % num_classes
    return spoilt


def measure_noise(embeddings, labels):
    """Rows of results/cleaning.csv."""
    from datasets.identity_centres import find_centres

    rows = []
    for noise, share in NOISES:
        spoilt = [spoil(labels, noise, share, np.random.RandomState(seed)) for seed in range(SEEDS)]
        for centre, cut in ("plain mean", 180), ("robust", CUT):
            angles = [find_centres(embeddings, one, cut, progress=False).angles for one in spoilt]
            for limit in LIMITS:
                rows.append({"wrong images": f"{share:.0%} {noise}" if share else noise, "centre": centre,
                             "beyond (degrees)": limit, **_rates(labels, spoilt, angles, limit)})
    return rows


def _rates(labels, spoilt, angles, limit):
    """Precision and recall, and the share of right images that are found, with deviations over the seeds."""
    seeds = [(one != labels, angle > limit) for one, angle in zip(spoilt, angles)]
    is_spoilt = (spoilt[0] != labels).any()
    return {"precision": _spread([wrong[beyond].mean() for wrong, beyond in seeds]) if is_spoilt else "",
            "recall": _spread([beyond[wrong].mean() for wrong, beyond in seeds]) if is_spoilt else "",
            "right images found": _spread([beyond[~wrong].mean() for wrong, beyond in seeds])}


def _spread(values):
    from benchmarks.measure import spread
    mean, deviation = spread([float(value) for value in values])
    return f"{mean:.4f} ± {deviation:.4f}"


def measure_merging(embeddings, labels):
    """Rows of results/cleaning_identities.csv: identities cut in two."""
    from datasets.identity_centres import find_centres
    from datasets.same_identity import close_pairs

    rows = []
    for piece in PIECES:
        found = {limit: [] for limit in (35, 50)}
        for seed in range(SEEDS):
            cut, truth = cut_identities(labels, piece, np.random.RandomState(seed))
            centres = find_centres(embeddings, cut, CUT, progress=False)
            for limit in found:
                pairs, _ = close_pairs(centres.centres, limit, progress=False)
                pairs = {tuple(pair) for pair in centres.identities[pairs].tolist()}
                found[limit].append((len(pairs & truth) / CHOSEN, len(pairs - truth)))
        rows += [_identity_row(f"merge: cut off {'half the' if piece == 'half' else piece} images", limit, values)
                 for limit, values in found.items()]
    return rows


def cut_identities(labels, piece, random):
    """Labels of which CHOSEN identities have lost images to new ones; and the set of pairs (old, new)."""
    labels, num_classes = labels.copy(), labels.max() + 1
    chosen = random.choice(num_classes, CHOSEN, replace=False)
    for new, old in enumerate(chosen.tolist(), num_classes):
        rows = random.permutation(np.flatnonzero(labels == old))
        labels[rows[:len(rows) // 2 if piece == "half" else piece]] = new
    return labels, {(old, new) for new, old in enumerate(chosen.tolist(), num_classes)}


def measure_overlap(embedded, lfw):
    """Rows of results/cleaning_identities.csv: images of some identities put among those of a test set."""
    from datasets.identity_centres import find_centres
    from datasets.overlap import compare

    found, labels = {limit: [] for limit in (50, 60)}, np.asarray(embedded.labels)
    for seed in range(SEEDS):
        random = np.random.RandomState(seed)
        chosen = np.sort(random.choice(labels.max() + 1, CHOSEN, replace=False))
        planted = np.concatenate([random.choice(np.flatnonzero(labels == c), HELD_OUT, False) for c in chosen])
        stay = np.delete(np.arange(len(labels)), planted)
        centres = find_centres(embedded.embeddings[stay], labels[stay], CUT, progress=False)
        unit = np.concatenate([embedded.embeddings[planted], lfw.embeddings]).astype(np.float32)
        batch = np.arange(len(unit)), None, unit, np.concatenate([embedded.digests[planted], lfw.digests])
        _, angles, _ = compare([batch], centres.centres, embedded.digests[stay])
        for limit in found:
            close = centres.identities[angles <= limit]
            found[limit].append((np.isin(chosen, close).mean(), np.count_nonzero(~np.isin(close, chosen))))
    return [_identity_row(f"overlap: {HELD_OUT} images of each planted in LFW", limit, values)
            for limit, values in found.items()]


def _identity_row(task, limit, values):
    rates, wrong = zip(*values)
    return {"task": task, "within (degrees)": limit, "found": _spread(rates), "wrong ones": f"{np.mean(wrong):.1f}"}


def embed_folder(faces, name, model):
    """Make a training set of a folder of identities in datasets/, and embed it."""
    from datasets.embedding_store import embed_set
    from datasets.identity_folder import pack_folder
    from datasets.training_set import TrainingSet

    folder = ROOT / "datasets" / name
    if not (folder / "train.rec").is_file():
        pack_folder(faces, folder)
    with closing(TrainingSet(folder)) as training_set:
        return embed_set(model, training_set, folder / "embedded")


def parse_args():
    return ArgumentParser(description=__doc__).parse_args()


def main():
    parse_args()
    data = faces_folder("train_celeba, lfw and models")
    from benchmarks.measure import write_table
    from common.machine import machine

    celeba, lfw = (embed_folder(data / faces, name, f"{data}/models/y1/model,0")
                   for faces, name in (("train_celeba", "celeba-cleaning"), ("lfw/images", "lfw-cleaning")))
    labels = np.asarray(celeba.labels, np.int64)
    for name, rows in (("cleaning", measure_noise(celeba.embeddings, labels)),
                       ("cleaning_identities", measure_merging(celeba.embeddings, labels)
                        + measure_overlap(celeba, lfw))):
        print(write_table(name, [dict(row, machine=machine()) for row in rows]))


if __name__ == "__main__":
    run(main)
