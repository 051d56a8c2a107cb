"""Figures of an examined training set or verification pack, as lines of text."""
import numpy as np

from datasets.measure import BLANK, GOOD, GREY

_SHARES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


def describe_set(found):
    """Lines on a SetExamination."""
    counts = images_per_identity(found)
    yield (f"{len(found.rows)} images of {len(counts)} identities, {len(found.heads)} records without an image"
           + (", sealed" if found.sealed else ""))
    yield from quantile_lines({"images per identity": counts})
    yield from describe_images(found.rows)


def describe_pack(found):
    """Lines on a PackExamination."""
    genuine = int((found.labels == 1).sum())
    distinct = len(np.unique(found.rows["content"]))
    yield (f"{len(found.labels)} pairs, {genuine} genuine and {len(found.labels) - genuine} impostor; "
           f"{len(found.rows)} images, {distinct} of them distinct" + (", sealed" if found.sealed else ""))
    yield f"genuine/impostor in {len(found.folds)} folds: " + " ".join(f"{one}/{other}" for one, other in found.folds)
    yield from describe_images(found.rows)


def images_per_identity(found):
    """Images of each class that has any, (K,) int64."""
    counts = np.bincount(found.labels[found.labels >= 0])
    return counts[counts > 0]


def describe_images(rows):
    """Lines on rows, (N,) of measure.ROW."""
    good = rows[rows["state"] == GOOD]
    sizes, counts = np.unique(good["height"].astype(int) << 16 | good["width"], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:5]
    if len(sizes):
        yield "sizes: " + ", ".join(f"{sizes[i] >> 16}x{sizes[i] & 0xFFFF}: {counts[i]}" for i in most)
    yield from quantile_lines({"bytes per image": good["bytes"], "brightness": good["brightness"],
                               "contrast": good["contrast"], "sharpness": good["sharpness"]})
    yield (f"grey images: {np.count_nonzero(good['colour'] < GREY)}, blank images: "
           f"{np.count_nonzero(good['contrast'] < BLANK)}")


def quantile_lines(columns):
    """A line for each column that is not empty: least, quantiles, most, mean."""
    for name, values in columns.items():
        if len(values):
            told = " ".join(f"{value:.4g}" for value in np.quantile(values, _SHARES))
            yield f"{name}: {told} (least, 5, 25, 50, 75, 95 %, most), mean {np.mean(values, dtype=float):.4g}"
