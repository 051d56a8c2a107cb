"""A centre for every identity of embedded images, which images of other people under its name do not drag along.

The centre c of an identity maximises the sum over its images of max(cos(x, c) - cos(cut), 0): the mean direction of the
images within `cut` degrees of it. It is found by turns: take the images within the cut, take their mean. Either step
can only raise the sum, so that it ends. It starts at the image around which the smallest ball holds more than half of
the identity's images, which wrong ones cannot hold while they are fewer than half and no better agreed than the others.
"""
import tempfile
from typing import List, NamedTuple

import numpy as np
from tqdm import tqdm

from common.embeddings import normalise

_CANDIDATES = 256  # images of an identity among which the start is sought, evenly spread where it has more
_ENTRIES = 1 << 22  # of a matrix of cosines that is held at once
_BLOCK = 4096  # centres that are held against as many others at once
_ROUNDS = 50  # more than have ever been needed; it ends without
_TIE = 1e-6  # cosines that differ by less are the same


class Centres(NamedTuple):
    """Centres of C identities with N images in all.

    identities: (C,) int64, class numbers in rising order; rows: for each the numbers of its images, ascending;
    centres: (C, D) float32 on disk, L2-normalised, zero where images cancel out; angles: (N,) float32, degrees from
    each image to its identity's centre; majority: (C,) bool, whether at least half of the images lie within the cut.
    """

    identities: np.ndarray
    rows: List[np.ndarray]
    centres: np.ndarray
    angles: np.ndarray
    majority: np.ndarray

    def typical(self, k, count):
        """The numbers of the `count` images of identity number k that are nearest to its centre, nearest first."""
        rows = self.rows[k]
        return rows[np.argsort(self.angles[rows], kind="stable")[:count]]


def group_rows(labels):
    """Class numbers that occur in labels (N,), in rising order, and a list of the rows of each, ascending."""
    order = np.argsort(labels, kind="stable")
    identities, starts = np.unique(labels[order], return_index=True)
    return identities, np.split(order, starts[1:])


def find_centres(embeddings, labels, cut, progress=True, name="the embeddings"):
    """The centre of every identity, and the angle of every image to it.

    embeddings: (N, D), L2-normalised, may be a memmap of float16; labels: (N,) int; cut: degrees, 180 for the plain
    mean of all images; name: what messages call the embeddings. One identity's embeddings are in memory at a time; the
    centres are kept in a temporary file. Returns Centres.
    """
    identities, groups = group_rows(labels)
    angles, majority = np.empty(len(labels), np.float32), np.empty(len(groups), bool)
    with tempfile.TemporaryFile() as file:
        for k, rows in enumerate(tqdm(groups, unit="identity", desc="centres", disable=not progress)):
            unit = normalise(embeddings[rows].astype(np.float32), f"{name}, identity {identities[k]}")
            centre = robust_centre(unit, cut)
            angles[rows] = to_degrees(unit @ centre)
            majority[k] = 2 * np.count_nonzero(angles[rows] <= cut) >= len(rows)
            file.write(centre.tobytes())
        file.flush()
        centres = np.memmap(file, np.float32, "r", shape=(len(groups), embeddings.shape[1]))
    return Centres(identities, groups, centres, angles, majority)


def to_degrees(cosines):
    """Angles of cosines, which rounding may have put a little outside [-1, 1]."""
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def cosine_blocks(centres, progress=True):
    """The cosines of every two centres, block by block.

    centres: (C, D) float32, L2-normalised, may be a memmap. Yields (top, left, cosines (a, b)), where cosines[i, j] is
    that of the centres top + i and left + j, for the blocks on the diagonal and above it.
    """
    starts = range(0, len(centres), _BLOCK)
    with tqdm(total=len(starts) * (len(starts) + 1) // 2, unit="block", desc="pairs", disable=not progress) as bar:
        for top in starts:
            above = np.array(centres[top:top + _BLOCK])
            for left in range(top, len(centres), _BLOCK):
                yield top, left, above @ np.asarray(centres[left:left + _BLOCK]).T
                bar.update()


def keep_nearest(best, nearest, part, cosines, numbers):
    """Note what is nearer to some centres than all before.

    best, nearest: (C,), the highest cosine so far and the number that it belongs to, both written to; part: slice of
    the centres that cosines, (a, b), are of; numbers: (b,), of what stands in the columns.
    """
    column = cosines.argmax(axis=1)
    highest = cosines[np.arange(len(cosines)), column]
    nearest[part] = np.where(highest > best[part], numbers[column], nearest[part])
    best[part] = np.maximum(best[part], highest)


def robust_centre(unit, cut):
    """The centre (D,) of one identity's images, L2-normalised; zero where they cancel out.

    unit: (n, D) float32, L2-normalised; cut: degrees (see above).
    """
    centre, members = _start(unit), np.zeros(len(unit), bool)
    for _ in range(_ROUNDS):
        found = unit @ centre >= np.cos(np.radians(cut)) - _TIE
        if not found.any() or (found == members).all():
            break
        members, centre = found, _mean(unit[found])
    return centre


def _mean(unit):
    mean = unit.mean(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > _TIE else np.zeros_like(mean)


def _start(unit):
    """The image with the smallest ball; the mean of those that share the first place."""
    count = len(unit)
    place = count - (count // 2 + 1)  # among ascending cosines, of the last image that belongs to more than half
    candidates = unit[np.linspace(0, count - 1, min(count, _CANDIDATES)).astype(int)]
    blocks = np.array_split(candidates, -(-len(candidates) * count // _ENTRIES))
    radii = np.concatenate([np.partition(block @ unit.T, place, axis=1)[:, place] for block in blocks])
    return _mean(candidates[radii >= radii.max() - _TIE])
