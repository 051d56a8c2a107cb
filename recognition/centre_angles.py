"""Angles between embeddings, feature centres of identities and class centres of a head, in degrees: NumPy alone.

A feature centre is the normalised mean of the normalised embeddings of an identity. Angles come of float64, so that one
of 0 is told from one of a hundredth of a degree, which in float32 it is not.
"""
import numpy as np

from datasets.identity_centres import cosine_blocks, group_rows, keep_nearest, to_degrees
from recognition.loss_angles import unit

_ROWS = 4096  # that are held in float64 at once


def feature_centres(embeddings, labels):
    """The feature centre of each identity. embeddings: (N, D), of any length; labels: (N,) int.

    Returns the labels that occur in rising order, (C,), and the centres, (C, D) float64, of length 1; zero where an
    identity's embeddings cancel out, at 90 degrees to everything.
    """
    identities, groups = group_rows(np.asarray(labels))
    return identities, np.concatenate([unit(unit(embeddings[rows]).mean(axis=0, keepdims=True)) for rows in groups])


def angles_between(vectors, others):
    """The angle between each vector and the other one of its row, (N,) float64. Both: (N, D), of any length."""
    parts = (slice(start, start + _ROWS) for start in range(0, len(vectors), _ROWS))
    return np.concatenate([to_degrees(np.einsum("nd,nd->n", unit(vectors[part]), unit(others[part])))
                           for part in parts])


def intra_angles(embeddings, labels, identities, centres):
    """The angle of each embedding to its identity's feature centre, (N,) float64.

    embeddings: (N, D), labels: (N,); identities, centres: as `feature_centres` returns them.
    """
    return angles_between(embeddings, centres[np.searchsorted(identities, labels)])


def nearest_angles(centres, progress=False):
    """The smallest angle from each centre to any other, (C,) float64.

    centres: (C, D), L2-normalised, at least two. Which one is the nearest is told by float32, a block of 4096 times
    4096 cosines at a time; progress: show a bar.
    """
    single = np.asarray(centres, np.float32)
    numbers, best, nearest = np.arange(len(single)), np.full(len(single), -2, np.float32), np.zeros(len(single), int)
    for top, left, cosines in cosine_blocks(single, progress):
        rows, columns = slice(top, top + len(cosines)), slice(left, left + cosines.shape[1])
        if top == left:
            np.fill_diagonal(cosines, -2)
        else:
            keep_nearest(best, nearest, columns, cosines.T, numbers[rows])
        keep_nearest(best, nearest, rows, cosines, numbers[columns])
    return angles_between(centres, centres[nearest])
