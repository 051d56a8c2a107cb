"""What every cleaning ends in: a new folder with the images that stay, and lists of what became of the others."""
from pathlib import Path

import numpy as np

from datasets.tables import write_table
from datasets.training_set import copy_images

_BIN = 5  # degrees in a line of the histogram


def write_cleaned_set(folder, training_set, labels, is_dropped, merged=None, progress=True):
    """Write the images that stay, identity by identity, and identities.csv beside them.

    training_set: a TrainingSet of N images; labels: (N,) int, their classes; is_dropped: (N,) bool.
    merged: (num_classes,) int, for each class the one whose images it joins, itself for most; None: all for themselves.
    An identity that loses all its images is left out, and those behind it move up. identities.csv (original, images,
    kept, identity) has a line for each class of the original set, with its class in the new one; -1: left out.
    """
    merged = np.arange(training_set.num_classes) if merged is None else merged
    before, after = (np.bincount(part, minlength=len(merged)) for part in (labels, labels[~is_dropped]))
    kept = np.flatnonzero(~is_dropped)
    left, joined = np.unique(merged[labels[kept]], return_inverse=True)
    copy_images(folder, training_set, kept, joined, progress)
    identities = np.where(after > 0, np.searchsorted(left, merged), -1)
    write_table(Path(folder, "identities.csv"), original=np.arange(len(after)), images=before, kept=after,
                identity=identities)


def counts_lines(labels, is_dropped, merged=None):
    """How many images and identities there are before and after, as two lines of text."""
    kept = labels[~is_dropped]
    before, after = len(np.unique(labels)), len(np.unique(kept if merged is None else merged[kept]))
    gone = before - len(np.unique(kept))
    lines = [f"images: {len(labels):,} before, {len(kept):,} after, {np.mean(is_dropped):.2%} dropped",
             f"identities: {before:,} before, {after:,} after, {gone:,} without an image left"]
    return lines


def histogram_lines(angles):
    """A histogram of angles in degrees, as lines of text."""
    bins = np.arange(0, 181, _BIN)
    counts, _ = np.histogram(angles, bins)
    shown = np.flatnonzero(counts)
    return [f"{start:4d}-{start + _BIN:3d}° {count:9,d} {'#' * -(-40 * count // counts.max())}"
            for start, count in zip(bins[shown[0]:shown[-1] + 1], counts[shown[0]:shown[-1] + 1])]
