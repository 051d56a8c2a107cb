"""A training set without its noise: images far from their identity's dominant sub-centre are dropped.

Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces" (2020), section 3.3. A model
trained with K centres for each class gathers clean faces around one of them, the dominant one, and leaves hard and
wrongly labelled ones to the others. Without the images that are far from the dominant one, K = 1 can be trained.
"""
from contextlib import closing
from typing import NamedTuple

import numpy as np

from common import checkpoint
from common.devices import get_devices
from common.embedder import Embedder, embedding_of
from common.embeddings import normalise
from common.errors import DataError, UserError
from common.files import new_folder
from datasets import find_dataset
from datasets.cleaned_set import counts_lines, histogram_lines, write_cleaned_set
from datasets.embedding_store import embed_images, source_of
from datasets.identity_centres import to_degrees
from datasets.tables import write_table
from datasets.training_set import TrainingSet


class Cleaning(NamedTuple):
    """What is dropped of a training set of N images, which are listed in its order.

    limit: the greatest angle that is kept; num_centres: K. numbers: record numbers, labels: class numbers, (N,) int64.
    angles: (N,) float32, to the dominant sub-centre of the image's class, degrees. is_dominant: (N,) bool, whether that
    one is the nearest of the class's own. is_dropped: (N,) bool.
    """

    limit: float
    num_centres: int
    numbers: np.ndarray
    labels: np.ndarray
    angles: np.ndarray
    is_dominant: np.ndarray
    is_dropped: np.ndarray


def drop_noise(model, dataset, output, limit=75.0, devices=None, batch_size=64, progress=True, backend="mxnet"):
    """Write a training set without the images that are further than `limit` from their dominant sub-centre.

    model: 'prefix,epoch' of a checkpoint with its head, trained on this data set; dataset: name or folder; output: a
    new folder. limit: degrees, over 0 and below 180. devices: list of mx.Context, None for all GPUs, else the CPU;
    batch_size: images that a device embeds at once; progress: show bars; backend: what embeds, see `load_model`. Every
    image is read twice, and none kept.

    The output has the kept images as they are, identity by identity, with identity records. An identity that loses all
    its images is left out, and those behind it move up. Beside the set lie dropped.csv (record, identity, angle,
    dominant), a line for each dropped image, by its numbers in the original set, and identities.csv (original, images,
    kept, identity), a line for each identity, with its class in both sets; -1: left out.
    Returns a Cleaning. Raises UserError or DataError, with nothing written, for an output that exists, a model without
    a head or with one of other classes, a limit that is no such angle, and where no image is left.
    """
    if not 0 < limit < 180:
        raise UserError(f"angle {limit:g}: expected more than 0 and less than 180 degrees")
    devices = devices or get_devices()
    with closing(TrainingSet(find_dataset(dataset).folder)) as training_set:
        embed, centres = load_model(model, training_set, devices, batch_size, backend)
        with new_folder(output) as folder:
            labels, angles = own_angles(embed, centres, training_set, batch_size * len(devices), progress)
            cleaning = judge(training_set.numbers, labels, angles, limit)
            _write(folder, training_set, cleaning, progress)
    return cleaning


def load_model(model, training_set, devices=None, batch_size=64, backend="mxnet"):
    """Read a model with its head. backend: onnxruntime takes the exported model instead, but for the head.

    Returns an Embedder, and the head's centres, see `class_centres`. Raises UserError or DataError for a model without
    a head, or whose head is of other classes or other embeddings.
    """
    embed, weight = load_network(model, training_set.image_shape, devices, batch_size, backend)
    if weight is None:
        raise UserError(f"model {model}: has no head (fc7_weight); train with --ckpt-embedding 0 to save it")
    return embed, class_centres(weight, training_set, model)


def load_network(model, image_shape, devices=None, batch_size=64, backend="mxnet"):
    """Read a model with or without a head; backend as for `load_model`.

    Returns an Embedder, and the head's weight `fc7_weight`, (rows, D) float32 as it was trained, or None. Raises
    DataError for a head of other embeddings.
    """
    symbol, arg_params, aux_params = checkpoint.load(model)
    embedding = embedding_of(symbol, model)
    if backend == "mxnet":
        embed = Embedder.from_params(embedding, arg_params, aux_params, devices, batch_size, image_shape, model)
    else:
        embed = Embedder(checkpoint.on_backend(model, backend), devices, batch_size, image_shape)
    if "fc7_weight" not in arg_params:
        return embed, None
    weight = arg_params["fc7_weight"].asnumpy().astype(np.float32)
    if weight.ndim != 2 or weight.shape[1] != embed.emb_size:
        raise DataError(f"model {model}: its head (fc7_weight) has shape {weight.shape}; expected rows of the "
                        f"network's {embed.emb_size} dimensions")
    return embed, weight


def class_centres(weight, training_set, model):
    """The centres of a head, (C, K, D) float32, L2-normalised: row c·K + k of `weight` is centre k of class c.

    Raises UserError where they are of other classes than the training set's. model: its name, for messages.
    """
    num_classes = training_set.num_classes
    if len(weight) % num_classes:
        raise UserError(f"model {model}: its head (fc7_weight) has {len(weight)} centres, no multiple of the "
                        f"{num_classes} classes of {training_set.folder}; was it trained on another data set?")
    unit = normalise(weight, f"model {model}, centres of its head")
    return unit.reshape(num_classes, -1, weight.shape[1])


def own_angles(embed, centres, training_set, batch_size=64, progress=True):
    """The angles of each image to the centres of its own class.

    embed: see `common.embedder`; centres: (C, K, D), L2-normalised; batch_size: images in a call of embed.
    Returns class labels (N,) int64 and angles (N, K) float32, degrees: of N images no more is kept.
    Raises DataError for an image that cannot be used, and UserError for an embedding without a direction.
    """
    labels = np.empty(len(training_set), np.int64)
    angles = np.empty((len(training_set), centres.shape[1]), np.float32)
    for rows, own, unit, _ in embed_images(embed, source_of(training_set), batch_size, progress=progress):
        labels[rows], angles[rows] = own, angles_to_own(unit, own, centres)
    return labels, angles


def angles_to_own(unit, labels, centres):
    """Angles (N, K), degrees, of embeddings (N, D) to the K centres of their classes (N,) among (C, K, D); both are
    L2-normalised."""
    return to_degrees(np.einsum("nd,nkd->nk", unit, centres[labels]))


def dominant_centres(labels, angles):
    """The number of the dominant sub-centre of each class, (C,) int64; 0 for a class without images.

    labels: (N,) class numbers; angles: (N, K), to the class's own sub-centres. The dominant one is the nearest of most
    of the class's images; of several that are it of equally many, the one with the smallest sum of angles to all images
    of the class; of several with the same sum, the first. An image equally near to several counts for the first.
    """
    num_classes, num_centres = labels.max() + 1, angles.shape[1]
    nearest = np.bincount(labels * num_centres + angles.argmin(axis=1), minlength=num_classes * num_centres)
    nearest = nearest.reshape(num_classes, num_centres)
    sums = np.stack([np.bincount(labels, column) for column in angles.T], axis=1)
    return np.where(nearest == nearest.max(axis=1, keepdims=True), sums, np.inf).argmin(axis=1)


def judge(numbers, labels, angles, limit):
    """Decide which images are dropped. numbers, labels: (N,); angles: (N, K), degrees. Returns a Cleaning.

    Raises UserError where none is left.
    """
    dominant = dominant_centres(labels, angles)[labels]
    to_dominant = angles[np.arange(len(angles)), dominant]
    is_dropped = to_dominant > limit
    if is_dropped.all():
        raise UserError(f"no image is left: all {len(labels)} are beyond {limit:g} degrees, the nearest at "
                        f"{to_dominant.min():.1f}; was the model trained on this data set, and for long enough?")
    return Cleaning(limit, angles.shape[1], numbers, labels, to_dominant, angles.argmin(axis=1) == dominant, is_dropped)


def _write(folder, training_set, cleaning, progress):
    """Write the cleaned set and its two lists."""
    write_cleaned_set(folder, training_set, cleaning.labels, cleaning.is_dropped, progress=progress)
    columns = dict(record=cleaning.numbers, identity=cleaning.labels, angle=cleaning.angles,
                   dominant=cleaning.is_dominant)
    write_table(folder / "dropped.csv", ("%d", "%d", "%.2f", "%d"),
                **{name: column[cleaning.is_dropped] for name, column in columns.items()})


def summary(cleaning):
    """What was dropped, as lines of text: images and identities before and after, and a histogram of all angles."""
    return [*counts_lines(cleaning.labels, cleaning.is_dropped),
            f"nearest to another sub-centre than the dominant one of {cleaning.num_centres}: "
            f"{np.mean(~cleaning.is_dominant):.2%} of the images",
            "angle to the dominant sub-centre, images:", *histogram_lines(cleaning.angles)]
