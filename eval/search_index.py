"""Search among distractors by an index of faiss, for galleries beyond what a whole product can take.

An index finds most of the nearest distractors, not all, and ranks come out too good by what it misses: so its recall
against exact search is measured on a sample of the probes, in the same run.
"""
import importlib

import numpy as np
from tqdm import tqdm

from common.errors import UserError

_AT_ONCE = 10_000  # features
_TRAINED_ON = 100_000
_SAMPLE = 50  # probes


class Search:
    """The `search` of `eval.identification.identify_each`: the `depth` nearest distractors of every probe.

    index: a string of faiss.index_factory, and after a semicolon settings for the search, 'IVF1024,Flat;nprobe=32'.
    After a call, `recall` has the shares of the exact nearest 1, 10 and `depth` that the index has found.
    Raises UserError where faiss is not installed or does not know the index.
    """

    def __init__(self, index, depth, seed=0, progress=True):
        try:
            self.faiss = importlib.import_module("faiss")
        except ImportError as error:
            raise UserError(f"--index needs faiss, which is not installed ({error}): pip install faiss-cpu") from error
        self.name, _, self.settings = index.partition(";")
        self.depth, self.rng, self.progress, self.recall = depth, np.random.RandomState(seed), progress, None

    def __call__(self, probes, distractors, numbers):
        """Rows of probes (N,) and numbers of distractors (N,) of the pairs found among these numbers."""
        index, depth = self._build(distractors, numbers), min(self.depth, len(numbers))
        _, places = index.search(probes, depth)
        self._measure(probes, distractors, numbers, places)
        rows = np.repeat(np.arange(len(probes)), depth)
        found = places.ravel() >= 0  # an index that finds too few fills up with -1
        return rows[found], numbers[places.ravel()[found]]

    def _build(self, distractors, numbers):
        try:
            index = self.faiss.index_factory(distractors.shape[1], self.name)
            sample = np.sort(self.rng.permutation(len(numbers))[:_TRAINED_ON])
            index.train(np.ascontiguousarray(distractors[numbers[sample]], dtype=np.float32))
            if self.settings:
                self.faiss.ParameterSpace().set_index_parameters(index, self.settings)
        except RuntimeError as error:
            raise UserError(f"--index {self.name}: faiss refuses it: {str(error).strip().splitlines()[-1]}") from error
        for start in tqdm(range(0, len(numbers), _AT_ONCE), desc=f"index {self.name}", disable=not self.progress):
            index.add(np.ascontiguousarray(distractors[numbers[start:start + _AT_ONCE]], dtype=np.float32))
        return index

    def _measure(self, probes, distractors, numbers, places):
        sample = self.rng.permutation(len(probes))[:_SAMPLE]
        exact = self._nearest(probes[sample].astype(np.float64), distractors, numbers, places.shape[1])
        self.recall = {}
        for depth in sorted({1, min(10, places.shape[1]), places.shape[1]}):
            hits = [len(np.intersect1d(right[:depth], found)) / depth for right, found in zip(exact, places[sample])]
            self.recall[depth] = float(np.mean(hits))

    def _nearest(self, probes, distractors, numbers, depth):
        """The places (P, depth) among `numbers` of the nearest distractors, nearest first; exact, for a few probes."""
        places, distances = np.empty((len(probes), 0), np.int64), np.empty((len(probes), 0))
        for start in range(0, len(numbers), _AT_ONCE):
            block = distractors[numbers[start:start + _AT_ONCE]].astype(np.float64)
            fresh = np.square(block).sum(axis=1) - 2 * probes @ block.T  # without |p|^2, which changes no order
            distances = np.concatenate([distances, fresh], axis=1)
            fresh = np.broadcast_to(np.arange(start, start + len(block)), fresh.shape)
            places = np.concatenate([places, fresh], axis=1)
            order = np.argsort(distances, axis=1, kind="stable")[:, :depth]
            places, distances = (np.take_along_axis(part, order, axis=1) for part in (places, distances))
        return places
