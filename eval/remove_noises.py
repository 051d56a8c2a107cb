"""Write MegaFace and FaceScrub features from which the images of the noise lists are removed, for the challenge's tool.

    python eval/remove_noises.py --feature-dir-input ./feature_out --feature-dir-out ./feature_out_clean

As the original does it: every feature gets one more dimension, 0. A noisy FaceScrub image gets the direction of the
sum of its person's other features, moved a little at random; a noisy distractor keeps its feature and gets 100 in the
new dimension, out of reach of every face. `eval/megaface.py` needs none of this: it takes the noise lists itself.
"""
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # run from the clone: the rooms lie one folder up
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from common.cli import ArgumentParser, run
from common.errors import UserError
from eval.feature_sets import open_features, read_noises
from eval.features import feature_path, write_feature

FAR_AWAY = 100.0
_JITTER = 0.001  # of each dimension: no two noisy images of a person get the same feature
_AT_ONCE = 1024  # features


class Removed(NamedTuple):
    """Features written, noisy ones among them, images that the noise list names, entries without a feature file.

    alone: noisy FaceScrub images whose person has no other; their feature is a random direction.
    """

    written: int
    noisy: int
    listed: int
    missing: int
    alone: int


def remove_noises(kind, list_path, noises_path, source, output, algo="insightface", seed=0, skip_missing=False,
                  progress=True):
    """Write the features of a set again with its noisy images removed, (D + 1,) each.

    kind: 'facescrub' or 'megaface'. noises_path: see `eval.feature_sets.read_noises`. source, output: folders of
    features, not the same. seed: of what moves the features of noisy FaceScrub images. Returns Removed.
    Raises UserError for missing files, unless skip_missing says to leave them out.
    """
    if Path(source).resolve() == Path(output).resolve():
        raise UserError(f"{output}: input and output are the same folder; choose another for the output")
    found = open_features(kind, list_path, source, algo, skip_missing=skip_missing, progress=progress)
    noises = read_noises(noises_path, kind, found.entries)
    centres, alone = {}, 0
    if kind == "facescrub":
        centres, alone = _replacements(found, noises.noisy, seed)
    with tqdm(total=len(found.entries), unit="file", desc=kind, disable=not progress) as bar, \
            ThreadPoolExecutor(8) as threads:
        for start in range(0, len(found.entries), _AT_ONCE):
            numbers = np.arange(start, min(start + _AT_ONCE, len(found.entries)))
            features = np.column_stack([found.features[numbers], np.zeros(len(numbers), np.float32)])
            for place in np.flatnonzero(noises.noisy[numbers]):
                if kind == "facescrub":
                    features[place, :-1] = centres[numbers[place]]
                else:
                    features[place, -1] = FAR_AWAY
            paths = [feature_path(output, kind, found.entries[number], algo) for number in numbers]
            list(threads.map(write_feature, paths, features))
            bar.update(len(numbers))
    return Removed(len(found.entries), int(noises.noisy.sum()), noises.listed, len(found.missing), alone)


def _replacements(found, noisy, seed):
    """Features (D,) of the noisy images by their number, and how many of these have nobody to be like."""
    names = np.array(found.names)
    rng, features, alone = np.random.RandomState(seed), found.features[:], 0
    made = {}
    for number in np.flatnonzero(noisy):
        others = features[(names == names[number]) & ~noisy]
        alone += not len(others)
        moved = others.sum(axis=0, dtype=np.float64) + rng.uniform(-_JITTER, _JITTER, features.shape[1])
        made[number] = moved / np.linalg.norm(moved)
    return made, alone


def parse_args(args=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--facescrub-noises", default="./data/facescrub_noises.txt", help="list of FaceScrub images "
                        "under a wrong name; '' for none")
    parser.add_argument("--megaface-noises", default="./data/megaface_noises.txt", help="list of distractors that show "
                        "people of FaceScrub; '' for none")
    parser.add_argument("--algo", default="insightface", help="name in the feature files: <image>_<algo>.bin")
    parser.add_argument("--facescrub-lst", default="./data/facescrub_lst", help="list of person/image; '' to leave out")
    parser.add_argument("--megaface-lst", default="./data/megaface_lst", help="list of a1/a2/image; '' to leave out")
    parser.add_argument("--feature-dir-input", default="./feature_out", help="folder of the features")
    parser.add_argument("--feature-dir-out", default="./feature_out_clean", help="folder for the new ones")
    parser.add_argument("--skip-missing", action="store_true", help="leave images out that have no feature file")
    parser.add_argument("--seed", type=int, default=0, help="of what moves the features of noisy FaceScrub images")
    return parser.parse_args(args)


def main():
    args = parse_args()
    sets = [("facescrub", args.facescrub_lst, args.facescrub_noises),
            ("megaface", args.megaface_lst, args.megaface_noises)]
    for kind, list_path, noises_path in sets:
        if list_path:
            found = remove_noises(kind, list_path, noises_path, args.feature_dir_input, args.feature_dir_out,
                                  args.algo, args.seed, args.skip_missing)
            print(f"{kind}: {found.written} features written, {found.noisy} of them noisy ({found.listed} listed), "
                  f"missing: {found.missing}" + f", noisy ones of nobody else: {found.alone}" * bool(found.alone))
    models = Path(args.feature_dir_input, f"{args.algo}_models.txt")
    if models.exists():  # who made the features stays known
        shutil.copy(str(models), args.feature_dir_out)


if __name__ == "__main__":
    run(main)
