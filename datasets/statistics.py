"""Figures of an examined training set or verification pack, as lines of text."""
import numpy as np

from datasets.measure import BLANK, GOOD, GREY

SHARES = {"least": 0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1}


def describe_set(found):
    """Lines on a SetExamination."""
    counts = images_per_identity(found)
    yield (f"{len(found.rows)} images of {len(counts)} identities, {len(found.heads)} records without an image"
           + (", sealed" if found.sealed else ""))
    yield from _describe_images(found.rows)


def describe_pack(found):
    """Lines on a PackExamination."""
    genuine = int((found.labels == 1).sum())
    distinct = len(np.unique(found.rows["content"]))
    yield (f"{len(found.labels)} pairs, {genuine} genuine and {len(found.labels) - genuine} impostor; "
           f"{len(found.rows)} images, {distinct} of them distinct" + (", sealed" if found.sealed else ""))
    yield f"genuine/impostor in {len(found.folds)} folds: " + " ".join(f"{one}/{other}" for one, other in found.folds)
    yield from _describe_images(found.rows)


def images_per_identity(found):
    """Images of each class that has any, (K,) int64."""
    counts = np.bincount(found.labels[found.labels >= 0])
    return counts[counts > 0]


def _describe_images(rows):
    good = rows["state"] == GOOD
    sizes, counts = np.unique(rows["height"][good].astype(int) << 16 | rows["width"][good], return_counts=True)
    if len(sizes):
        most = np.argsort(-counts, kind="stable")[:5]
        yield "sizes: " + ", ".join(f"{sizes[i] >> 16}x{sizes[i] & 0xFFFF}: {counts[i]}" for i in most)
    yield (f"grey images: {np.count_nonzero(rows['colour'][good] < GREY)}, blank images: "
           f"{np.count_nonzero(rows['contrast'][good] < BLANK)}")


def quantiles(found):
    """What is spread over the identities and the good images: dict name -> quantiles as SHARES has them, and mean."""
    good = found.rows["state"] == GOOD
    columns = {"images per identity": images_per_identity(found)} if hasattr(found, "heads") else {}
    columns.update({"bytes per image": found.rows["bytes"][good]})
    columns.update({name: found.rows[name][good] for name in ("brightness", "contrast", "sharpness")})
    return {name: [*np.quantile(values, list(SHARES.values())), np.mean(values, dtype=float)]
            for name, values in columns.items() if len(values)}


def quantile_lines(found):
    """`quantiles` as a table for a terminal."""
    yield f"{'':20}" + "".join(f"{name:>10}" for name in (*SHARES, "mean"))
    for name, values in quantiles(found).items():
        yield f"{name:20}" + "".join(f"{number(value):>10}" for value in values)


def number(value):
    """A number as text, in four digits or whole."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
