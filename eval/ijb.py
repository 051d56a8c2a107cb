"""Template protocols of IJB-B and IJB-C in plain NumPy: templates, 1:1 verification, 1:N identification.

IJB-B: Whitelam et al. 2017, "IARPA Janus Benchmark-B Face Dataset"; IJB-C: Maze et al. 2018, "IARPA Janus Benchmark -
C: Face Dataset and Protocol". A template is a set of images of one subject; images of one video are one medium. What
is compared is the template's vector, as the original makes it: the mean over the images of a medium, summed over
media, L2-normalised. A score is the dot product of two of them, so a cosine.

Ties count against the network: a pair is accepted at or above a threshold, a threshold keeps to an error rate with all
scores equal to it, and whoever scores as high as the mate ranks before it.
"""
import math
from typing import NamedTuple

import numpy as np

from common.errors import UserError

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FPIRS = (1e-2, 1e-1)
RANKS = (1, 5, 10)


class Variant(NamedTuple):
    """The original's options for an image's feature before averaging; `name` as it writes them, such as N1D1F1."""

    norm: bool
    detector: bool
    flip: bool

    @property
    def name(self):
        return "".join(f"{letter}{value:d}" for letter, value in zip("NDF", self))

    @property
    def meaning(self):
        return ", ".join(OPTIONS[letter][value] for letter, value in zip("NDF", self))


OPTIONS = {  # what 0 and 1 do
    "N": ("each image's feature L2-normalised", "norm of each image's feature kept"),
    "D": ("detector score not used", "times the detector score"),
    "F": ("image alone", "mirrored image's embedding added"),
}
VARIANTS = tuple(Variant(norm, detector, flip) for flip in (True, False) for norm in (True, False)
                 for detector in (True, False))  # the original's own first


def parse_variants(text):
    """Variants by name with commas between, or 'all' eight. Raises UserError for another name."""
    known = {variant.name: variant for variant in VARIANTS}
    names = known if text.strip().lower() == "all" else [name.strip().upper() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names):
        raise UserError(f"variants {text!r}: expected 'all' or names with commas between, each once, of: "
                        f"{', '.join(known)}")
    return [known[name] for name in names]


def media_weights(templates, medias):
    """What an image counts in its template, (N,) float64: one over the images of its medium there.

    templates, medias: (N,) int. The sum over media of means is the sum of images so weighted.
    """
    order = np.lexsort((medias, templates))
    starts = _starts(templates[order]) | _starts(medias[order])
    group = np.cumsum(starts) - 1
    weights = np.empty(len(order))
    weights[order] = 1 / np.bincount(group)[group]
    return weights


def _starts(values):
    """Where a run of equal values starts, (N,) bool."""
    return np.append(True, values[1:] != values[:-1])


def build_templates(features, templates, medias, scores, variants=VARIANTS, block=4096):
    """The vectors of all templates, for each variant, in one pass over the features.

    features: whatever gives features[rows], rows (n,) int, as (n, 2, D) float: embeddings of images and of their
    mirrored twins, not normalised. templates, medias: (N,) int; scores: (N,) of the detector. block: images in memory
    at once, or those of the largest template.
    Returns the template numbers (T,), rising, and dict Variant -> (T, D) float32, L2-normalised; sums are float64.
    Raises UserError for a feature or a template's sum without a direction or not finite.
    """
    order = np.argsort(templates, kind="stable")
    starts = np.flatnonzero(_starts(templates[order]))
    ends, counts = np.append(starts[1:], len(order)), media_weights(templates, medias)
    found, first = {}, 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + block, "right")))
        rows = order[starts[first]:ends[last - 1]]
        sums = _template_sums(features[rows], starts[first:last] - starts[first], counts[rows], scores[rows], variants,
                              rows)
        for variant, vectors in sums.items():
            whole = found.setdefault(variant, np.empty((len(starts), vectors.shape[1]), np.float32))
            whole[first:last] = _unit(vectors, lambda place, first=first:
                                      f"template {templates[order[starts[first + place]]]}")
        first = last
    return templates[order[starts]], {variant: found[variant] for variant in variants}


def _template_sums(features, starts, counts, scores, variants, rows):
    """The sums (T, D) float64 of a block of images, by variant."""
    sums = {}
    for flip in {variant.flip for variant in variants}:
        part = features[:, 0].astype(np.float64)
        if flip:
            part += features[:, 1]
        norms = _norms(part, lambda place: f"the feature of image number {rows[place]}")
        for variant in variants:
            if variant.flip == flip:
                weights = counts * (scores if variant.detector else 1) / (1 if variant.norm else norms)
                sums[variant] = np.add.reduceat(part * weights[:, np.newaxis], starts, axis=0)
    return sums


def _norms(vectors, name):
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise UserError(f"{name(bad[0])} is zero or not finite ({len(bad)} such of {len(norms)} looked at together): "
                        "the model's parameters are unusable (has its training diverged?)")
    return norms


def _unit(vectors, name):
    return vectors / _norms(vectors, name)[:, np.newaxis]


def rows_of(numbers, templates):
    """The rows (n,) int32 of template numbers (n,) among the rising `templates` (T,); -1 for one that is not there."""
    places = np.searchsorted(templates, numbers).astype(np.int32)
    places[places == len(templates)] = 0
    places[templates[places] != numbers] = -1
    return places


def pair_scores(vectors, first, second, chunk=1 << 20):
    """Scores (P,) float32 of pairs of templates.

    vectors: (T, D) float32, L2-normalised; first, second: (P,) int, rows. chunk: pairs that are worked on at once.
    Pairs are taken in the order of `first`; where a chunk holds a good part of all pairs of its templates, as in IJB,
    a matrix product makes all of those and the chunk's are picked out: several times as fast as row by row.
    """
    scores = np.empty(len(first), np.float32)
    rising = bool((first[1:] >= first[:-1]).all())
    order = None if rising else np.argsort(first, kind="stable")
    for start in range(0, len(first), chunk):
        pairs = slice(start, start + chunk) if rising else order[start:start + chunk]
        (rows, i), (columns, j) = (_compact(part[pairs], len(vectors)) for part in (first, second))
        if len(rows) * len(columns) <= 32 * len(i):
            scores[pairs] = _picked(vectors, rows, columns, i, j)
        else:
            scores[pairs] = _row_by_row(vectors, first[pairs], second[pairs])
    return scores


def _compact(numbers, count):
    """The distinct numbers, rising, and the place of each number among them."""
    used = np.zeros(count, bool)
    used[numbers] = True
    return np.flatnonzero(used), (np.cumsum(used) - 1)[numbers]


def _picked(vectors, rows, columns, i, j, block=256):
    """Scores of the pairs (rows[i], columns[j]) out of products of `block` rows with all columns; i rises."""
    scores, right = np.empty(len(i), np.float32), np.ascontiguousarray(vectors[columns].T)
    for start in range(0, len(rows), block):
        here = slice(*np.searchsorted(i, [start, start + block]))
        scores[here] = (vectors[rows[start:start + block]] @ right)[i[here] - start, j[here]]
    return scores


def _row_by_row(vectors, first, second, block=8192):
    return np.concatenate([np.einsum("ij,ij->i", vectors[first[start:start + block]],
                                     vectors[second[start:start + block]])
                           for start in range(0, len(first), block)])


def tar_at_far(genuine, impostor, fars):
    """The exact TAR where at most the fraction `fars` of the impostors is accepted, as `eval.metrics.tar_at_far`.

    genuine (G,), impostor (I,): rising scores. fars: (F,). Returns TAR (F,) and threshold (F,), the laxest score that
    keeps to it (inf: none). Sorted parts take a third of the memory that one sorted whole would.
    """
    fars, count = np.asarray(fars, np.float64), len(impostor)
    allowed = np.floor(fars * count).astype(np.int64)
    allowed += (allowed + 1) / count <= fars  # rounding of the product
    allowed -= allowed / count > fars
    limits = np.where(allowed < count, impostor[np.maximum(count - 1 - allowed, 0)], -np.inf)
    places = [np.searchsorted(part, limits, "right") for part in (genuine, impostor)]
    next_scores = [np.where(place < len(part), part[np.minimum(place, len(part) - 1)], np.inf)
                   for part, place in zip((genuine, impostor), places)]
    return (len(genuine) - places[0]) / len(genuine), np.minimum(*next_scores)


def nearest_tar(genuine, impostor, fars):
    """The original's TAR at FAR: that of the ROC's point with the nearest FAR, which may lie above the asked one.

    genuine (G,), impostor (I,): rising scores. Its ROC is scikit-learn's `roc_curve`, which leaves out points amid
    equal steps; of points equally near the one with the highest TAR counts. Returns TAR (F,) and FAR (F,) of the
    points.
    """
    far, tar = _kept_points(genuine, impostor)
    after = np.searchsorted(far, fars, "left")
    below, above = far[np.maximum(after - 1, 0)], far[np.minimum(after, len(far) - 1)]
    nearest = np.where(np.abs(above - fars) <= np.abs(below - fars), above, below)
    return tar[np.searchsorted(far, nearest, "right") - 1], nearest


def _kept_points(genuine, impostor):
    """FAR and TAR of scikit-learn's `roc_curve` with its default drop_intermediate."""
    scores = np.concatenate([genuine, impostor])
    scores.sort()
    scores = scores[np.append(scores[1:] != scores[:-1], True)][::-1]
    counts = [np.int32(len(part)) - np.searchsorted(part, scores, "left").astype(np.int32)
              for part in (impostor, genuine)]
    kept = np.ones(len(scores), bool)
    kept[1:-1] = False
    for part in counts:
        kept[1:-1] |= np.diff(part, 2) != 0
    return tuple(np.append(0, part[kept]) / part[-1] for part in counts)


class Search(NamedTuple):
    """What a search of probes in a gallery gives: mate (Q,) float32, the score of the subject's own template, NaN where
    the gallery has none; rank (Q,) int of the mate, 0 where there is none; wrong (Q,), the highest score of others;
    top_wrong: the highest scores of others over all probes, rising."""

    mate: np.ndarray
    rank: np.ndarray
    wrong: np.ndarray
    top_wrong: np.ndarray


def find_mates(probe_subjects, gallery_subjects):
    """The gallery's column of each probe's subject, (Q,) int, -1 where it is not enrolled."""
    order = np.argsort(gallery_subjects, kind="stable")
    place = rows_of(probe_subjects, gallery_subjects[order])
    return np.where(place >= 0, order[place], -1)


def search(probes, gallery, mates, keep=1, block=1024):
    """Search every probe in a gallery.

    probes (Q, D), gallery (G, D): float32, L2-normalised. mates: (Q,) as `find_mates` gives them. keep: how many of
    the highest wrong scores over all probes are kept. Returns a Search.
    """
    mate, wrong = np.full(len(probes), np.nan, np.float32), np.empty(len(probes), np.float32)
    rank, top = np.zeros(len(probes), np.int64), np.empty(0, np.float32)
    for start in range(0, len(probes), block):
        here = slice(start, start + block)
        scores = probes[here] @ gallery.T
        rows = np.flatnonzero(mates[here] >= 0)
        columns = mates[here][rows]
        own = scores[rows, columns]
        scores[rows, columns] = -np.inf
        mate[start + rows], wrong[here] = own, scores.max(axis=1)
        rank[start + rows] = 1 + np.count_nonzero(scores[rows] >= own[:, np.newaxis], axis=1)
        top = _highest(np.concatenate([top, _highest(scores.ravel(), keep)]), keep)
    return Search(mate, rank, wrong, np.sort(top))


def _highest(values, count):
    return values if count >= len(values) else np.partition(values, len(values) - count)[-count:]


def rank_rates(rank, ranks=RANKS):
    """The share of mated probes (rank > 0) whose mate ranks k-th or better: the cumulative match characteristic."""
    mated = rank[rank > 0]
    return np.array([np.mean(mated <= k) for k in ranks])


def tpir_at_fpir(found, fpirs=FPIRS, max_rank=None):
    """Open-set identification.

    found: a Search. FPIR: the share of probes without a mate whose highest score reaches the threshold; TPIR: the share
    of probes with a mate whose mate's score reaches it, and, with max_rank, ranks no worse. The threshold is the laxest
    with at most the asked FPIR. Returns TPIR (F,) and threshold (F,).
    """
    mated = found.rank > 0
    mate = found.mate[mated]
    if max_rank is not None:
        mate = np.where(found.rank[mated] <= max_rank, mate, -np.inf)
    return tar_at_far(np.sort(mate), np.sort(found.wrong[~mated]), fpirs)


def original_tpir(found, fpirs=FPIRS):
    """What the original's 1:N prints as recall at FAR, with both galleries merged, where every probe has a mate.

    found: a Search that kept the ceil(Q * max(fpirs)) highest wrong scores. The threshold is the ceil(Q * FPIR)-th
    highest of all wrong scores of all probes, and the mate's score must lie above it: one probe with many look-alikes
    counts as many times. Returns rates (F,) and thresholds (F,).
    """
    mate = found.mate[found.rank > 0]
    limits = np.array([found.top_wrong[-math.ceil(len(mate) * fpir)] for fpir in fpirs])
    return np.array([np.mean(mate > limit) for limit in limits]), limits
