"""MegaFace: identification and verification of FaceScrub faces among up to a million distractors, and its command.

    python eval/megaface.py --feature-dir ./feature_out --pack ./feature_out

Takes the feature files of eval/gen_megaface.py or of the original; gives the CMC at 10 to 10^6 distractors and the TAR
at low FARs, raw and with the images of the noise lists left out. The protocol stands in `eval.identification`, whose
`identify` is the call for features in memory.
"""
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import List, NamedTuple

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.flags import positive
from eval.feature_sets import models_of, open_features, read_noises
from eval.features import feature_path, read_unreadable
from eval.identification import FARS, MAX_RANK, Selection, identify, identify_each
from eval.megaface_report import report_lines, write_report
from eval.results import add_record_flag

__all__ = ["Scores", "identify", "score_features"]


class Scores(NamedTuple):
    """What `score_features` finds.

    results: Results of the selections, by 'raw' and, where noise lists are given, 'refined'. remarks: what was left
    out and what stands for images, a str each. recall: of the index against exact search (None: no index), see
    `eval.search_index`.
    """

    results: dict
    remarks: List[str]
    recall: dict = None


def score_features(lists, folder, algo="insightface", noises=None, pack="", skip_missing=False, sizes=None,
                   max_rank=MAX_RANK, fars=FARS, seed=0, index="", progress=True):
    """Score the feature files of a folder.

    lists: dict of 'facescrub' and 'megaface' to their list file; noises: the same to their noise lists ('' for none).
    folder, algo, pack, skip_missing: see `eval.feature_sets.open_features`. sizes, max_rank, fars, seed: see
    `identify`. index: '' for exact search, else an index of faiss, see `eval.search_index`. Returns Scores.
    Raises UserError for what the lists and features do not allow, before anything is scored.
    """
    from eval.search_index import Search

    search = Search(index, max_rank, seed, progress) if index else None
    sets = {kind: open_features(kind, path, folder, algo, pack, skip_missing, progress) for kind, path in lists.items()}
    noises = noises or {}
    found = {kind: read_noises(noises.get(kind, ""), kind, sets[kind].entries) for kind in sets}
    probes, distractors = sets["facescrub"], sets["megaface"]
    selections = {"raw": None}
    if any(noises.values()):
        selections["refined"] = Selection(~found["facescrub"].noisy, ~found["megaface"].noisy)
    if probes.features.shape[1] != distractors.features.shape[1]:
        raise UserError(f"{folder}: FaceScrub features of {probes.features.shape[1]} dimensions, MegaFace features of "
                        f"{distractors.features.shape[1]}: not of one model")
    features = probes.features[:]
    _check_length(features, lambda number: feature_path(folder, "facescrub", probes.entries[number], algo))
    results = identify_each(list(selections.values()), features, np.array(probes.names), distractors.features, sizes,
                            max_rank, fars, seed, progress=progress, search=search)
    remarks = [_remark(kind, sets[kind], found[kind], read_unreadable(folder, kind, algo)) for kind in sets]
    return Scores(dict(zip(selections, results)), remarks, search.recall if search else None)


def _check_length(features, path):
    """Raise UserError where a feature (D,) of (P, D) is not L2-normalised. path: callable, number -> its file."""
    lengths = np.linalg.norm(features, axis=1)
    for number in np.flatnonzero(~(np.abs(lengths - 1) < 1e-3))[:1]:
        raise UserError(f"{path(number)}: a feature of length {lengths[number]:g}; expected 1")


def _remark(kind, found, noises, unreadable):
    standing = len(unreadable.intersection(found.entries))
    return (f"{kind}: {len(found.entries)} features, missing and left out: {len(found.missing)}"
            + f", placeholders of unreadable images, which match nothing: {standing}" * bool(standing)
            + f", noisy: {noises.noisy.sum()} of {noises.listed} listed" * bool(noises.listed))


def numbers(kind):
    """An argparse type: numbers with commas between. kind: that of one."""
    def parse(text):
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r}: expected numbers with commas between") from error
    return parse


def parse_args(args=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--facescrub-lst", default="./data/facescrub_lst", help="list of person/image, the probes")
    parser.add_argument("--megaface-lst", default="./data/megaface_lst", help="list of a1/a2/image, the distractors")
    parser.add_argument("--facescrub-noises", default="./data/facescrub_noises.txt", help="list of FaceScrub images "
                        "under a wrong name; '' for none")
    parser.add_argument("--megaface-noises", default="./data/megaface_noises.txt", help="list of distractors that show "
                        "people of FaceScrub; '' for none")
    parser.add_argument("--feature-dir", default="./feature_out", help="folder of the feature files: the --output of "
                        "gen_megaface.py")
    parser.add_argument("--algo", default="insightface", help="name in the feature files: <image>_<algo>.bin")
    parser.add_argument("--pack", default="", help="folder in which the features are packed into one .npy a list, "
                        "once, and found again: a million small files are slow to read; empty: read the files")
    parser.add_argument("--skip-missing", action="store_true", help="leave images out that have no feature file")
    parser.add_argument("--sizes", type=numbers(positive), help="numbers of distractors with commas between; "
                        "default: 10,100,... up to a million, or all where there are fewer")
    parser.add_argument("--ranks", type=numbers(positive), default="1,5,10,100,1000", help="ranks to tell; the "
                        "largest is the end of the CMC")
    parser.add_argument("--far", type=numbers(float), default=",".join(f"{far:g}" for far in FARS), help="FARs to tell "
                        "the TAR at; the largest is the end of the ROC")
    parser.add_argument("--seed", type=int, default=0, help="of the smaller sets of distractors")
    parser.add_argument("--index", default="", help="search with an index of faiss, such as 'IVF1024,Flat;nprobe=32', "
                        "instead of exactly (see docs/megaface.md)")
    parser.add_argument("--output", default="", help="folder for results.json and pictures; empty: scores_<algo> in "
                        "--feature-dir")
    add_record_flag(parser)
    return parser.parse_args(args)


def main():
    args = parse_args()
    lists = {"facescrub": args.facescrub_lst, "megaface": args.megaface_lst}
    noises = {"facescrub": args.facescrub_noises, "megaface": args.megaface_noises}
    output = args.output or Path(args.feature_dir, f"scores_{args.algo}")
    scores = score_features(lists, args.feature_dir, args.algo, noises, args.pack, args.skip_missing, args.sizes,
                            max(args.ranks), args.far, args.seed, args.index)
    print("\n".join(report_lines(scores, args.ranks)))
    files = [path for path in (*lists.values(), *noises.values()) if path]
    write_report(scores, args.ranks, output, args.algo, models_of(args.feature_dir, args.algo), files, args.record)
    print(f"pictures and results.json: {output}")


if __name__ == "__main__":
    run(main)
