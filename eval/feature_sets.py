"""The features of a list of images as one array, from a million small files or from one that they were packed into.

Also the challenge's noise lists, which name the images of a list that are wrong.
"""
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import List, NamedTuple

import numpy as np
from tqdm import tqdm

from common.arrays import open_array
from common.errors import DataError, UserError
from common.files import read_json, read_text, replacing, write_text
from eval.features import DEPTHS, feature_path, read_feature, read_list

_THREADS = 16  # they wait for the disk
_AT_ONCE = 4096  # files


class FeatureSet(NamedTuple):
    """entries (N,) of str; features (N, D) float32, an array to index by numbers; missing: entries without a file."""

    entries: List[str]
    features: object
    missing: List[str]

    @property
    def names(self):
        """Whose image each entry is: its folder."""
        return [PurePosixPath(entry).parts[-2] for entry in self.entries]


class FeatureFiles:
    """The feature files of entries as an array (N, D) float32 of which what is indexed is read, by threads.

    Raises DataError, naming the file, for one that is damaged or of other dimensions than the first.
    """

    def __init__(self, kind, entries, folder, algo):
        self.path = lambda number: feature_path(folder, kind, entries[number], algo)  # a million would fill the memory
        self.shape = (len(entries), len(read_feature(self.path(0))))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, numbers):
        numbers = np.arange(len(self))[numbers]
        features = np.empty((len(numbers), self.shape[1]), np.float32)
        with ThreadPoolExecutor(_THREADS) as threads:
            for place, feature in enumerate(threads.map(self._read, numbers)):
                features[place] = feature
        return features

    def _read(self, number):
        feature = read_feature(self.path(number))
        if len(feature) != self.shape[1]:
            raise DataError(f"{self.path(number)}: {len(feature)} dimensions: expected {self.shape[1]}, as in "
                            f"{self.path(0)}")
        return feature


def open_features(kind, list_path, folder, algo="insightface", pack="", skip_missing=False, progress=True):
    """Open the features of a list.

    kind: 'facescrub' or 'megaface'. folder, algo: as `eval.features.feature_path` has them. pack: folder in which all
    are packed into one .npy, once, and found again, mapped into memory; '' to read the files as they are asked for.
    skip_missing: leave entries out whose file is not there. Returns a FeatureSet.
    Raises UserError for missing files otherwise, and for a pack of another list or other models.
    """
    entries = read_list(list_path, kind)
    if pack:
        return _packed(kind, entries, folder, algo, Path(pack), skip_missing, progress)
    found, missing = _look(kind, entries, folder, algo, skip_missing)
    return FeatureSet(found, FeatureFiles(kind, found, folder, algo), missing)


def _look(kind, entries, folder, algo, skip_missing):
    """The entries whose feature file is there, and those whose is not."""
    found, missing = [], []
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(entries), _AT_ONCE):
            part = entries[start:start + _AT_ONCE]
            for entry, there in zip(part, threads.map(lambda entry: os.path.isfile(
                    feature_path(folder, kind, entry, algo)),
                                                      part)):
                (found if there else missing).append(entry)
    _check_missing(kind, entries, missing, folder, algo, skip_missing)
    return found, missing


def _check_missing(kind, entries, missing, folder, algo, skip_missing):
    if missing and (not skip_missing or len(missing) == len(entries)):
        first = feature_path(folder, kind, missing[0], algo)
        raise UserError(f"{len(missing)} of {len(entries)} {kind} features are missing, the first is {first}; see "
                        "--feature-dir and --algo, run eval/gen_megaface.py again, or leave them out with "
                        "--skip-missing")


def _packed(kind, entries, folder, algo, pack, skip_missing, progress):
    path, notes = (pack / f"{kind}_{algo}.{end}" for end in ("npy", "json"))
    made_of = dict(list_sha256=hashlib.sha256("\n".join(entries).encode()).hexdigest(),
                   models=models_of(folder, algo))
    if not (path.exists() and notes.exists()):
        found, missing = _look(kind, entries, folder, algo, skip_missing)
        _write_pack(path, FeatureFiles(kind, found, folder, algo), kind, progress)
        write_text(notes, json.dumps(dict(made_of, missing=missing), indent=1) + "\n")
    known = read_json(notes, dict)
    if any(known.get(name) != value for name, value in made_of.items()):
        raise UserError(f"{path}: packed from another list or the features of another model; delete it, or choose "
                        "another --pack")
    missing = known.get("missing")
    if not isinstance(missing, list) or not set(map(str, missing)) <= set(entries):
        raise DataError(f"{notes}: 'missing' names no entries of the list; delete the pack to make it anew")
    _check_missing(kind, entries, missing, folder, algo, skip_missing)
    left = [entry for entry in entries if entry not in set(missing)]
    return FeatureSet(left, open_array(path, (len(left), None)), missing)


def _write_pack(path, files, kind, progress):
    with replacing(path) as temporary, tqdm(total=len(files), unit="file", desc=f"packing {kind}",
                                            disable=not progress) as bar:
        packed = np.lib.format.open_memmap(str(temporary), "w+", np.float32, files.shape)
        for start in range(0, len(files), _AT_ONCE):
            packed[start:start + _AT_ONCE] = files[start:start + _AT_ONCE]
            bar.update(min(_AT_ONCE, len(files) - start))
        packed.flush()


def models_of(folder, algo):
    """The models that made the features of a folder, as `eval.features.claim` wrote them down: name -> SHA-256.

    Empty for features from elsewhere.
    """
    path = Path(folder, f"{algo}_models.txt")
    lines = read_text(path).splitlines() if path.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


class Noises(NamedTuple):
    """noisy (N,) bool: which entries a noise list names; listed: how many images it names."""

    noisy: np.ndarray
    listed: int


def read_noises(path, kind, entries):
    """Find the entries of a list (see `eval.features.read_list`) that a noise list names.

    A line names an image by its last parts, `person/image` or `a1/a2/image`; for FaceScrub, by the image's name alone
    too. It may have columns with tabs between: the image is in one of them. Lines that begin with # are comments. '' as
    path names nothing. Returns Noises. Raises UserError, naming the line, for a name that several entries have.
    """
    listed = _listed(path) if path else {}
    depths = {DEPTHS[kind], 1 if kind == "facescrub" else DEPTHS[kind]}
    noisy, first = np.zeros(len(entries), bool), {}
    for number, entry in enumerate(entries):
        parts = entry.split("/")
        for name in {"/".join(parts[-depth:]) for depth in depths}.intersection(listed):
            if name in first:
                raise UserError(f"{path} line {listed[name]}: {name!r} names several images, such as "
                                f"{entries[first[name]]} and {entry}; expected folder/image")
            first[name], noisy[number] = number, True
    return Noises(noisy, len(set(listed.values())))


def _listed(path):
    """What the columns of a noise list's lines say: name -> line."""
    return {name.strip(): number for number, line in enumerate(read_text(path).splitlines(), 1)
            if line.strip() and not line.startswith("#") for name in line.split("\t")}
