"""The angle statistics of a model: how far class centres, feature centres and images lie from each other, in degrees.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (2019), table 3. The feature centre of an
identity is the normalised mean of the normalised embeddings of its images; the class centre is its row of the head, of
several the dominant one, as `recognition.cleaning` has it.

Every image is read once, identity by identity. In memory are the head, two centres of each identity, and of images the
labels of all and the embeddings of the identities at hand.
"""
from contextlib import closing, nullcontext
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from common.devices import get_devices
from common.errors import UserError
from datasets import find_dataset
from datasets.embedding_store import ImageSource, embed_images, source_of
from datasets.identity_centres import group_rows
from datasets.identity_folder import list_identities
from datasets.images import read_image
from datasets.shards import open_images
from eval.embeddings import joined, mirrored
from eval.results import make_entry, make_trace, table
from recognition.centre_angles import angles_between, feature_centres, intra_angles, nearest_angles
from recognition.cleaning import angles_to_own, class_centres, dominant_centres, load_network


class Statistic(NamedTuple):
    """A mean angle of the paper's table. name: as it has it; what: in words; angle: degrees, None where there is none;
    count: of what it is the mean; note: what was left out, or why there is none."""

    name: str
    what: str
    angle: Optional[float]
    count: int
    note: str = ""


class Measured(NamedTuple):
    """The identities of a set, by rising label.

    labels, sizes: (C,) int64, classes and their images; centres: (C, D) float32, their feature centres, L2-normalised;
    intra: (C,) float64, the mean angle of an identity's images to its centre, degrees; dominant: (C,) int64, the number
    of the dominant one among its class's centres in the head, 0 where there is no head.
    """

    labels: np.ndarray
    sizes: np.ndarray
    centres: np.ndarray
    intra: np.ndarray
    dominant: np.ndarray


def angle_statistics(model, dataset="", others="", images=0, flip=False, seed=0, devices=None, batch_size=64,
                     image_shape=(112, 112), progress=True, backend="mxnet"):
    """W-EC, W-Inter, Intra1, Inter1 of a training set and Intra2, Inter2 of other people: a list of six Statistic.

    model: 'prefix,epoch', saved with its head for the first two. dataset: name or folder of the set that it was trained
    on; others: a folder <person>/<image> of aligned images; one of the two may be ''. images: of each set at most, of
    whole identities that are drawn (the last may lose some of its images); 0: all. flip: add the embedding of the
    mirrored image. seed: of the draw. devices: list of mx.Context, None for all GPUs, else the CPU; batch_size: images
    that a device embeds at once; image_shape: (height, width) of the images, where `dataset` does not tell it. backend:
    see `cleaning.load_model`.
    Raises UserError or DataError for a model whose head is of other classes, and for images that cannot be used.
    """
    if not dataset and not others:
        raise UserError("no images: give --dataset, the training set, or --others, a folder of other people, or both")
    if images < 0 or not 0 <= seed < 2 ** 32:
        raise UserError(f"images {images}, seed {seed}: expected 0 (all) or more images, a seed of 0 to {2 ** 32 - 1}")
    devices = devices or get_devices()
    people = _read_folder(others) if others else None
    with closing(open_images(find_dataset(dataset).folder)) if dataset else nullcontext() as training_set:
        image_shape = training_set.image_shape if dataset else image_shape
        network, weight = load_network(model, image_shape, devices, batch_size, backend)
        head = class_centres(weight, training_set, model) if dataset and weight is not None else None
        how = dict(images=images, seed=seed, batch_size=batch_size * len(devices), progress=progress)
        embed, found = _with_mirrored(network) if flip else network, [None, None]
        if dataset:
            found[0] = measure(embed, source_of(training_set), training_set.labels(progress), head, **how)
        if others:
            files, labels = people
            source = ImageSource(len(files), image_shape, lambda i: (read_image(files[i]), labels[i]),
                                 lambda i: str(files[i]))
            found[1] = measure(embed, source, labels, **how)
    return [*_of_head(found[0], head, progress), *_of_set(found[0], "1", "--dataset", progress),
            *_of_set(found[1], "2", "--others", progress)]


def _read_folder(folder):
    """The images of a folder of people: paths, a list, and labels (N,) int64."""
    people = list_identities(folder)
    files = [path for _, paths in people for path in paths]
    return files, np.repeat(np.arange(len(people)), [len(paths) for _, paths in people])


def _with_mirrored(embed):
    """An embedder that adds the embeddings of mirrored images."""
    return lambda images: joined([embed(images), embed(mirrored(images))], "sum")


def measure(embed, source, labels, head=None, images=0, seed=0, batch_size=64, progress=True):
    """The centres of a set's identities and the angles of their images. Returns a Measured.

    embed: see `common.embedder`; source: an ImageSource; labels: (N,) int64, of its images; head: see
    `cleaning.class_centres`, or None; images: at most, see `draw`; batch_size: images in a call of embed.
    """
    rows = draw(labels, images, seed)
    chosen = source._replace(count=len(rows), read=lambda i: source.read(rows[i]), name=lambda i: source.name(rows[i]))
    batches = embed_images(embed, chosen, batch_size, progress=progress)
    parts = [_measure(own, unit, head) for own, unit in whole_identities(batches)]
    return Measured(*map(np.concatenate, zip(*parts)))


def draw(labels, images=0, seed=0):
    """The rows of `images` images (0: of all), identity by identity: identities are drawn whole, but for the last.

    labels: (N,). Returns rows, int64, by rising label.
    """
    groups = group_rows(labels)[1]
    if 0 < images < len(labels):
        groups = [groups[k] for k in np.random.RandomState(seed).permutation(len(groups))]
    rows = np.concatenate(groups)[:images or None]
    return rows[np.argsort(labels[rows], kind="stable")]


def whole_identities(batches):
    """Batches as `embed_images` yields them, by rising label, as (labels, embeddings) that cut no identity in two."""
    labels, unit = None, None
    for _, more_labels, more, _ in batches:
        labels, unit = (more_labels, more) if labels is None else (np.concatenate([labels, more_labels]),
                                                                  np.concatenate([unit, more]))
        whole = np.searchsorted(labels, labels[-1])
        if whole:
            yield labels[:whole], unit[:whole]
            labels, unit = labels[whole:], unit[whole:]
    yield labels, unit


def _measure(labels, unit, head):
    """A Measured of a few identities."""
    identities, centres = feature_centres(unit, labels)
    places = np.searchsorted(identities, labels)
    sizes, angles = np.bincount(places), intra_angles(unit, labels, identities, centres)
    dominant = (np.zeros(len(identities), int) if head is None or head.shape[1] == 1
                else dominant_centres(places, angles_to_own(unit, labels, head)))
    return Measured(identities, sizes, centres.astype(np.float32), np.bincount(places, angles) / sizes, dominant)


def _of_head(found, head, progress):
    """W-EC and W-Inter. Of classes without an image that was read the dominant centre is not known."""
    said = ("W-EC", "class centre to the feature centre of its class"), ("W-Inter", "class centre to the nearest other")
    if head is None:
        why = "needs --dataset" if found is None else (
            "the model has no head (fc7_weight): trained without --ckpt-embedding 0, or on pairs or triplets")
        return [Statistic(*names, None, 0, why) for names in said]
    centres = head[found.labels, found.dominant]
    angles = angles_between(found.centres, centres)
    note = f"{len(head) - len(angles)} of {len(head)} classes have no image here" if len(angles) < len(head) else ""
    if head.shape[1] == 1:
        centres = head[:, 0]
    return [Statistic(*said[0], float(angles.mean()), len(angles), note),
            _inter(*said[1], centres, note if head.shape[1] > 1 else "", progress)]


def _of_set(found, number, flag, progress):
    """Intra and Inter of a set. number: behind their names; flag: what names the set."""
    said = f"Intra{number}", "image to the feature centre of its identity"
    inter = f"Inter{number}", "feature centre to the nearest other"
    if found is None:
        return [Statistic(*names, None, 0, f"needs {flag}") for names in (said, inter)]
    several = found.sizes > 1
    alone, count = np.count_nonzero(~several), int(found.sizes[several].sum())
    note = f"{alone} of {len(several)} identities have one image, at 0 by construction: left out" if alone else ""
    mean = float(np.average(found.intra[several], weights=found.sizes[several])) if count else None
    return [Statistic(*said, mean, count, note), _inter(*inter, found.centres, "", progress)]


def _inter(name, what, centres, note, progress):
    if len(centres) < 2:
        return Statistic(name, what, None, len(centres), "there is no other one")
    return Statistic(name, what, float(nearest_angles(centres, progress).mean()), len(centres), note)


def lines(statistics):
    """Statistics as lines of text."""
    return [f"{one.name:8}   none  {one.what}: {one.note}" if one.angle is None else
            f"{one.name:8}{one.angle:6.2f}°  {one.what}, mean over {one.count}" + (f" ({one.note})" if one.note else "")
            for one in statistics]


def as_entry(statistics, model, dataset="", others="", **settings):
    """Statistics as an entry of results.json, see `eval.results`. settings: whatever else belongs to it."""
    folder = find_dataset(dataset).folder if dataset else None
    target = ", ".join([*([folder.resolve().name] if dataset else []),
                        *(["/".join(Path(others).resolve().parts[-2:])] if others else [])])
    rows = [[one.name, None if one.angle is None else f"{one.angle:.2f}", one.what, one.count, one.note]
            for one in statistics]
    files = [folder / "property", *sorted(folder.glob("train*.idx"))] if dataset else []
    return make_entry(
        "angles", target, f"Angle statistics: {target}", {one.name: one.angle for one in statistics},
        [table("Angles", ["name", "degrees", "what", "mean over", ""], rows, "Deng et al. (2019), table 3.")],
        trace=make_trace(model, files), **settings)
