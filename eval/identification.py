"""Identification among distractors, as the MegaFace challenge counts it: exact, streaming, in plain NumPy.

Kemelmacher-Shlizerman et al. 2016, "The MegaFace Benchmark", section 3: each image of an identity is a probe, and each
other image of it in turn its *mate*, which is put alone among the distractors. The mate's rank is one more than the
number of distractors that are as near to the probe as the mate or nearer: *a tie counts against the mate*. Near is a
small squared Euclidean distance, as in the challenge's own tool. Genuine pairs are all (probe, mate), impostor pairs
all (probe, distractor).

How it is exact at nearly the speed of a matrix product: one product in float32 gives bounds of every distance, its
rounding taken into account. Pairs whose lower bound is beyond what still matters are passed over; of the others, the
distance is computed again, in float64, where the bounds do not tell. What matters for a probe is the distance of its
farthest mate that may still come within `max_rank`; for the verification it is the smallest impostor distances, as
many as the laxest FAR needs.
"""
from typing import List, NamedTuple

import numpy as np
from tqdm import tqdm

from common.embeddings import ahead
from common.errors import UserError

FARS = (1e-6, 1e-5, 1e-4)
MAX_RANK = 1000
LARGEST = 10 ** 6  # distractors of the challenge
_CELLS = 1 << 23  # of a product at most: 32 MB, of which two are held
_TILE = 256  # bounds looked at together
_EXACT = 256  # pairs computed at once in float64
_MOST_IMPOSTORS = 1 << 25  # distances kept for the verification: 256 MB
_ROC_POINTS = 400


class TarAtFar(NamedTuple):
    """TAR at one asked FAR. Pairs are accepted *below* the threshold, a squared distance; far: what that comes to."""

    asked: float
    tar: float
    far: float
    threshold: float


class Result(NamedTuple):
    """What `identify` finds.

    sizes: numbers of distractors that the mates were ranked among, rising; cmc (S, max_rank): at each of them, the
    share of the pairs whose mate comes within rank 1, 2, ... probes, pairs (probe, mate), distractors, impostors
    (probe, distractor): how many counted. tar_at_far: one TarAtFar for each asked FAR, with all distractors.
    roc_far, roc_tar (T,): points of the exact ROC, from FAR 0 up to the laxest asked.
    """

    sizes: List[int]
    cmc: np.ndarray
    probes: int
    pairs: int
    distractors: int
    impostors: int
    tar_at_far: List[TarAtFar]
    roc_far: np.ndarray
    roc_tar: np.ndarray

    def rate(self, size, rank=1):
        """The share of the pairs whose mate comes within `rank` among `size` distractors."""
        return float(self.cmc[self.sizes.index(size), rank - 1])


class Selection(NamedTuple):
    """What counts: probes (P,) bool, as probes and as mates; distractors (G,) bool."""

    probes: np.ndarray
    distractors: np.ndarray


def identify(probes, identities, distractors, sizes=None, max_rank=MAX_RANK, fars=FARS, seed=0, count=None,
             progress=False):
    """Rank the mates of every probe among the distractors, and verify.

    probes: (P, D) float, L2-normalised; identities: (P,), whose they are. distractors: (G, D) float of any length, an
    array or memmap, or an iterable of such blocks with `count` rows in all. All are taken as float32 and as they are:
    a distractor of length 100 is out of reach. sizes: numbers of distractors to rank among (default: 10, 100, ... up
    to a million, or all where there are fewer); the sets are nested and drawn by `seed`; of an iterable they are what
    comes first. max_rank: last rank of the CMC. fars: FARs to give the TAR at, fractions.
    Images without another one of their identity are no probes. Returns a Result.
    Raises UserError for arrays that do not fit or are not finite, probes that are not normalised or have no mates, and
    for sizes, ranks and FARs out of range.
    """
    return identify_each([None], probes, identities, distractors, sizes, max_rank, fars, seed, count, progress)[0]


def identify_each(selections, probes, identities, distractors, sizes=None, max_rank=MAX_RANK, fars=FARS, seed=0,
                  count=None, progress=False, search=None):
    """`identify` for several Selections (None: everything) in one pass; returns a Result of each.

    A size is that of the set drawn; what a Selection leaves out of it is missing among its distractors.
    search: callable, (probes, distractors, numbers (N,)) -> rows and numbers of the pairs that matter, which takes
    the place of the product for what the largest size has beyond the one before (see `eval.search_index`).
    """
    probes, identities = np.ascontiguousarray(probes, dtype=np.float32), np.asarray(identities)
    _check(probes, identities, max_rank, fars)
    source = _Source(distractors, count, probes.shape[1])
    sizes = check_sizes(sizes, source.count)
    source.draw(sizes, seed)
    tallies = [_Tally(probes, identities, selection, max_rank, fars, source.order) for selection in selections]
    exact = sizes[:-1] if search else sizes
    with tqdm(total=sizes[-1], unit="distractor", unit_scale=True, disable=not progress) as bar:
        for start, stop, rows, numbers, distances in _scan(probes, source, _steps(exact, len(probes)), tallies):
            for tally in tallies:
                tally.add(rows, numbers, distances)
                if stop in exact:
                    tally.note()
            bar.update(stop - start)
    source.finish()
    if search:
        rows, numbers = search(probes, distractors, source.order[sum(exact[-1:]):])
        for tally in tallies:
            tally.add(rows, numbers, squared_distances(probes, rows, distractors, numbers))
            tally.note()
    return [tally.result(sizes) for tally in tallies]


def check_sizes(sizes, count):
    """The sizes asked for, rising, or the challenge's. Raises UserError for one beyond the `count` there are."""
    if sizes is None:
        return [10 ** i for i in range(1, 7) if 10 ** i < count] + [count] * (count <= LARGEST)
    sizes = sorted(set(sizes))
    if not sizes or sizes[0] < 1 or sizes[-1] > count:
        raise UserError(f"sizes {', '.join(map(str, sizes))}: expected numbers from 1 to {count}, the distractors "
                        "there are")
    return sizes


def _check(probes, identities, max_rank, fars):
    if probes.ndim != 2 or identities.shape != probes.shape[:1]:
        raise UserError(f"probes of shape {probes.shape} for identities of shape {identities.shape}; expected (P, D) "
                        "for (P,)")
    norms = np.linalg.norm(probes, axis=1)
    if not np.all(np.abs(norms - 1) < 1e-3):
        raise UserError(f"probes are not L2-normalised: their norms go from {norms.min():g} to {norms.max():g}")
    if max_rank < 1 or not fars or not all(0 <= far <= 1 for far in fars):
        raise UserError(f"last rank {max_rank} and FARs {fars}: expected a rank from 1 on, and fractions")


def squared_distances(first, rows, second, columns):
    """Squared distances (N,) float64 of first[rows] to second[columns], features (., D) float32.

    Equal features give equal distances, wherever they stand.
    """
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _EXACT):
        part = slice(start, start + _EXACT)
        difference = first[rows[part]].astype(np.float64)
        difference -= second[columns[part]]
        distances[part] = np.einsum("ij,ij->i", difference, difference)
    return distances


class _Source:
    """The distractors, in the order in which the nested sets grow."""

    def __init__(self, distractors, count, dimensions):
        self.array = distractors if hasattr(distractors, "shape") else None
        if self.array is None and count is None:
            raise UserError("distractors in blocks: say how many there are in all (count)")
        self.count = count if self.array is None else len(self.array)
        self.blocks = iter(distractors) if self.array is None else None
        self.rest, self.dimensions = np.empty((0, dimensions), np.float32), dimensions

    def draw(self, sizes, seed):
        """Order the distractors so that the first n of them are the set of size n."""
        self.order = np.arange(self.count)
        if self.array is not None and sizes != [self.count]:
            self.order = np.random.RandomState(seed).permutation(self.count)
            for start, stop in zip([0, *sizes], sizes):
                self.order[start:stop].sort()  # a file is read forwards
        self.order = self.order[:sizes[-1]]

    def take(self, start, stop):
        """The numbers (N,) and features (N, D) float32 of the order's next part."""
        numbers = self.order[start:stop]
        features = self._pull(stop - start) if self.array is None else self.array[numbers]
        self._check(features)
        return numbers, np.ascontiguousarray(features, dtype=np.float32)

    def _pull(self, wanted):
        parts, held = [self.rest], len(self.rest)
        while held < wanted:
            block = next(self.blocks, None)
            if block is None:
                raise UserError(f"distractors: the blocks have less than the {self.count} rows announced")
            self._check(block)
            parts.append(block)
            held += len(block)
        features = np.concatenate(parts)
        self.rest = features[wanted:]
        return features[:wanted]

    def _check(self, features):
        if features.ndim != 2 or features.shape[1] != self.dimensions:
            raise UserError(f"distractors of shape {features.shape}; expected (N, {self.dimensions}), as the probes")

    def finish(self):
        if self.blocks and len(self.order) == self.count and (len(self.rest) or next(self.blocks, None) is not None):
            raise UserError(f"distractors: the blocks have more than the {self.count} rows announced")


def _steps(sizes, probes):
    """Where the distractors are cut: (start, stop) pairs, which end at every size.

    Parts grow with what is behind them: at first everything matters, and later little does.
    """
    most = max(64, min(_CELLS // probes, 4096))
    most -= most % _TILE if most > _TILE else 0
    steps, done = [], 0
    for size in sizes:
        while done < size:
            steps.append((done, min(size, done + min(most, max(64, done // 4)))))
            done = steps[-1][1]
    return steps


def _scan(probes, source, steps, tallies):
    """For each step (start, stop): these, and rows, numbers and distances of the pairs that matter to a tally."""
    bounds_of = _Bounds(probes, source, max([stop - start for start, stop in steps], default=0))
    for (start, stop), (numbers, block, bounds, errors) in zip(steps, ahead(bounds_of, steps)):
        rows, columns = _within(bounds, np.max([tally.limits() for tally in tallies], axis=0))
        lower = bounds[rows, columns].astype(np.float64)
        upper = lower + 2 * errors[columns]
        unsure = np.any([tally.unsure(rows, lower, upper) for tally in tallies], axis=0)
        lower[unsure] = squared_distances(probes, rows[unsure], block, columns[unsure])
        yield start, stop, rows, numbers[columns], lower


class _Bounds:
    """Lower bounds of the squared distances of all probes to a block of distractors, from one product.

    |p - g|^2 = (-2p, |p|^2, 1) (g, 1, |g|^2). The float32 product of n terms errs by at most n u times the sum of their
    sizes, u = 2^-24 (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1), here (|p| + |g|)^2;
    the squares have the same again. So much is taken off |g|^2: the distance is between the bound and the bound plus
    twice the error.
    """

    def __init__(self, probes, source, most):
        squares = np.einsum("ij,ij->i", probes, probes)
        self.left = np.column_stack([-2 * probes, squares, np.ones_like(squares)])
        self.longest = np.sqrt(squares.max())
        self.source, self.turn = source, 0
        # One block is computed while the one before is looked at.
        self.buffers = [np.empty(len(probes) * most, np.float32) for _ in range(2)]

    def __call__(self, step):
        numbers, block = self.source.take(*step)
        squares = np.einsum("ij,ij->i", block, block)
        if not np.isfinite(squares).all():
            bad = numbers[np.argmin(np.isfinite(squares))]
            raise UserError(f"distractor {bad} (from 0) holds values that are not finite or too large")
        errors = (2 * block.shape[1] + 8) * 2.0 ** -24 * (self.longest + np.sqrt(squares)) ** 2
        right = np.column_stack([block, np.ones_like(squares), squares - errors])
        self.turn = 1 - self.turn
        cells = len(self.left) * len(block)
        bounds = self.buffers[self.turn][:cells].reshape(len(self.left), len(block))
        return numbers, block, np.matmul(self.left, right.T, out=bounds), errors


def _within(bounds, limits):
    """Rows and columns of the bounds (P, N), contiguous, that are not above the limit (P,) of their row."""
    columns = bounds.shape[1]
    width = columns if columns % _TILE else _TILE
    tiles = bounds.reshape(-1, width)
    limits = np.repeat(np.nextafter(limits.astype(np.float32), np.float32(np.inf)), columns // width)
    some = np.flatnonzero(tiles.min(axis=1) <= limits)  # few of the tiles, most of the time
    places, offsets = np.divmod(np.flatnonzero(tiles[some] <= limits[some, np.newaxis]), width)
    return np.divmod(some[places] * width + offsets, columns)


class _Tally:
    """What a Selection has come to so far."""

    def __init__(self, probes, identities, selection, max_rank, fars, order):
        kept, self.is_distractor = selection or (np.ones(len(probes), bool), np.ones(order.max(initial=0) + 1, bool))
        self.mates = _mates(probes, identities, kept)
        self.real = np.isfinite(self.mates)
        self.is_probe, self.pairs = self.real.any(axis=1), int(self.real.sum())
        self.distractors = int(np.count_nonzero(self.is_distractor[order]))
        if not self.pairs or not self.distractors:
            raise UserError(f"{self.pairs} pairs of images of one identity and {self.distractors} distractors are "
                            "left: at least one of each is needed")
        self.impostors = int(self.is_probe.sum()) * self.distractors
        self.max_rank, self.fars, self.cmc = max_rank, fars, []
        self.hits = np.zeros(self.mates.shape, np.int64)  # distractors, by the first mate that is not nearer
        self.above = np.zeros_like(self.hits)  # distractors that count against a mate
        kept_distances = min(self.impostors, allowed(max(fars), self.impostors) + 1)
        if kept_distances > _MOST_IMPOSTORS:
            raise UserError(f"FAR {max(fars):g} of {self.impostors} impostor pairs: {kept_distances} distances to "
                            f"keep, expected at most {_MOST_IMPOSTORS}; ask for FARs up to "
                            f"{_MOST_IMPOSTORS / self.impostors:.1g}")
        self.nearest = _Smallest(kept_distances)

    def limits(self):
        """The distances (P,) from which on nothing matters any more for each probe."""
        open_mates = np.count_nonzero(self.real & (self.above < self.max_rank), axis=1)  # the first so many: they rise
        ends = np.where(open_mates, self.mates[np.arange(len(self.mates)), open_mates - 1], -np.inf)
        return np.where(self.is_probe, np.maximum(ends, self.nearest.limit), -np.inf)

    def unsure(self, rows, lower, upper):
        """Whether the bounds of a pair's distance leave open what it comes to here."""
        farther = self.mates[rows, _places(self.mates, rows, lower)]
        return (farther <= upper) | (self.is_probe[rows] & (lower <= self.nearest.limit))

    def add(self, rows, numbers, distances):
        """Count pairs of a probe and a distractor: all within `limits`, with the distance or, if sure, a bound."""
        mine = self.is_probe[rows] & self.is_distractor[numbers]
        rows, distances = rows[mine], distances[mine]
        self.nearest.add(distances)
        width = self.mates.shape[1]
        places = rows * width + _places(self.mates, rows, distances)
        self.hits += np.bincount(places, minlength=self.hits.size).reshape(self.hits.shape)
        np.cumsum(self.hits, axis=1, out=self.above)

    def note(self):
        """Note the CMC with the distractors so far."""
        ranks = np.bincount(np.minimum(self.above[self.real], self.max_rank), minlength=self.max_rank + 1)
        self.cmc.append(np.cumsum(ranks[:-1]) / self.pairs)

    def result(self, sizes):
        genuine, nearest = np.sort(self.mates[self.real]), self.nearest.values()
        tar_at_far = [self._point(far, allowed(far, self.impostors), genuine, nearest) for far in self.fars]
        numbers = np.unique(np.geomspace(1, len(nearest), _ROC_POINTS).astype(np.int64)) - 1
        curve = [self._point(np.nan, number, genuine, nearest) for number in numbers]
        return Result(sizes, np.array(self.cmc), int(self.is_probe.sum()), self.pairs, self.distractors, self.impostors,
                      tar_at_far, np.array([point.far for point in curve]), np.array([point.tar for point in curve]))

    def _point(self, asked, number, genuine, nearest):
        """The laxest threshold that accepts at most `number` impostor pairs, given their smallest distances."""
        if number >= self.impostors:
            return TarAtFar(asked, 1.0, 1.0, np.inf)
        if number >= len(nearest):  # an index has found too few
            return TarAtFar(asked, np.nan, np.nan, np.nan)
        threshold = nearest[number]
        tar, far = (np.searchsorted(kind, threshold, side="left") for kind in (genuine, nearest))
        return TarAtFar(asked, float(tar / self.pairs), float(far / self.impostors), float(threshold))


def _mates(probes, identities, kept):
    """Squared distances (P, M) of every image to its mates, rising, the rest of a row inf (one at least)."""
    numbers = np.flatnonzero(kept)
    _, codes = np.unique(identities[numbers], return_inverse=True)
    groups = np.split(numbers[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1])
    mates = np.full((len(probes), max(map(len, groups))), np.inf)
    for group in groups:
        size = len(group)
        distances = squared_distances(probes, np.repeat(group, size), probes, np.tile(group, size))
        distances = distances.reshape(size, size)
        np.fill_diagonal(distances, np.inf)  # no image is its own mate
        mates[group, :size] = np.sort(distances, axis=1)
    return mates


def _places(table, rows, values):
    """How many entries of each row (rising) of `table` are below the value that goes with it."""
    places, width = np.zeros(len(rows), np.intp), table.shape[1]
    for step in (1 << i for i in reversed(range(width.bit_length()))):
        further = np.minimum(places + step, width)
        places = np.where(table[rows, further - 1] < values, further, places)
    return places


class _Smallest:
    """The `size` smallest of all values given."""

    def __init__(self, size):
        self.size, self.parts, self.held, self.limit = size, [], 0, np.inf

    def add(self, values):
        values = values[values < self.limit]
        self.parts.append(values)
        self.held += len(values)
        if self.held > 1.25 * self.size:
            self._cut()

    def _cut(self):
        values = np.concatenate(self.parts)
        if len(values) >= self.size:
            values = np.partition(values, self.size - 1)[:self.size]
            self.limit = values[-1]
        self.parts, self.held = [values], len(values)

    def values(self):
        """They, rising."""
        self._cut()
        return np.sort(self.parts[0])


def allowed(far, impostors):
    """How many impostor pairs may be accepted at most for a FAR, a fraction."""
    number = int(far * impostors) + 1
    while number / impostors > far:
        number -= 1
    return number
