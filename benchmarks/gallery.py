"""A gallery of real faces: what several pictures of a person are worth, as their mean or as the nearest of them.

    FACE_DATA=../shared/data python benchmarks/gallery.py

Writes results/gallery.csv. Enrolled are people of LFW with five pictures or more, by their first 1, 2, 4, or all but
the last; their other pictures are searched, and so are those of strangers (FACE_DATA/identification/distractors). The
model is FACE_DATA/models/y1. FPIR is the share of strangers' pictures that are taken for somebody, found the share of
known people's that are accepted under the right name. The threshold is the lowest that keeps to the FPIR; beside it
stands what the threshold of a verification on LFW at a FAR gives, with --thresholds results.json --far 1e-3.
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks.commands import faces_folder
from benchmarks.measure import write_table
from common.cli import ArgumentParser, run
from common.machine import machine
from datasets.identity_folder import list_identities
from eval.operating_points import allowed_accepts
from recognition.pictures import picture_file
from recognition.recogniser import Recogniser
from recognition.threshold import read_threshold

FEWEST, FPIRS = 5, (0.1, 0.01)
ENROLLED = {"1": 1, "2": 2, "4": 4, "all but 1": -1, "1 or all but 1": None}


def embed(recogniser, people):
    """Embeddings of a list of (name, paths): a list of (n, D) float64."""
    files = [picture_file(path) for _, paths in people for path in paths]
    rows = np.concatenate([found.embeddings for found in recogniser.embed_all(files)])
    return np.split(rows, np.cumsum([len(paths) for _, paths in people])[:-1])


def split(rows, number, enrolled):
    """The pictures of a person that are enrolled, and those that are searched."""
    if enrolled is None:  # every other person has one picture
        enrolled = 1 if number % 2 else -1
    return rows[:enrolled], rows[enrolled:]


def similarities(probes, people, rule):
    """(P, G) of probes to people, a list of (n, D)."""
    if rule == "mean":
        means = np.stack([rows.mean(axis=0) for rows in people])
        return probes @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    return np.stack([(probes @ rows.T).max(axis=1) for rows in people], axis=1)


def rows_of(known, strangers, name, enrolled, verified):
    """The rows of one number of enrolled pictures."""
    people, probes = zip(*(split(rows, number, enrolled) for number, rows in enumerate(known)))
    owners = np.repeat(np.arange(len(people)), [len(rows) for rows in probes])
    for rule in ("mean", "nearest"):
        own = similarities(np.concatenate(probes), people, rule)
        foreign = -np.sort(-similarities(strangers, people, rule).max(axis=1))
        limits = {f"FPIR {fpir:g}": np.nextafter(foreign[allowed_accepts(fpir, len(foreign))], 2) for fpir in FPIRS}
        if verified:
            limits[f"FAR {verified.far:g} on {verified.origin}"] = verified.cosine
        for asked, threshold in limits.items():
            found = (own.argmax(axis=1) == owners) & (own.max(axis=1) >= threshold)
            yield dict(enrolled=name, rule=rule, asked=asked, threshold=f"{threshold:.4f}",
                       fpir=f"{np.mean(foreign >= threshold):.4f}", found=f"{found.mean():.4f}", probes=len(owners),
                       machine=machine())


def main():
    """Run the benchmark."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--thresholds", metavar="RESULTS.json", help="of eval/verification.py, of the same model")
    parser.add_argument("--far", type=float, default=1e-3, help="at which to take its threshold")
    args = parser.parse_args()
    faces = faces_folder("lfw, identification and models/y1")
    model = f"{faces}/models/y1/model,0"
    verified = read_threshold(args.thresholds, args.far, model) if args.thresholds else None
    recogniser = Recogniser(model)
    known = [entry for entry in list_identities(faces / "lfw" / "images") if len(entry[1]) >= FEWEST]
    strangers = np.concatenate(embed(recogniser, list_identities(faces / "identification" / "distractors")))
    known = embed(recogniser, known)
    rows = [row for name, enrolled in ENROLLED.items() for row in rows_of(known, strangers, name, enrolled, verified)]
    print(write_table("gallery", rows))


if __name__ == "__main__":
    run(main)
