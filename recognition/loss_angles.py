"""What losses do to angles, as numbers: logits by angle, and angles between embeddings and class centres.

Logits come out of the heads themselves, from embeddings and class centres at known angles. θ is in degrees here.
"""
import json
from collections import namedtuple

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.mxnet_setup import mx
from datasets.images import decode_into
from datasets.training_set import TrainingSet
from recognition import heads
from recognition.cleaning import load_model

_LATE = {"step": 1e9, "target_mean": 0.5, "norm_mean": 20, "norm_deviation": 1}  # states of heads, late in a training

Case = namedtuple("Case", "loss settings")
Case.__doc__ = """A loss of heads.LOSSES, and a dict of those of its settings that are not at their own values."""


def parse_cases(text):
    """'arcface,sphereface:loss_m1=3:loss_s=64' as a list of Case.

    Raises UserError for an unknown loss or setting, and for a value of another kind than the setting's own.
    """
    cases = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        loss, *pairs = part.split(":")
        settings = {name: _value(value) for name, _, value in (pair.partition("=") for pair in pairs)}
        own = heads.loss_settings(loss)
        for name, value in settings.items():
            if not isinstance(value, str if isinstance(own.get(name), str) else (int, float)) and name in own:
                raise UserError(f"{part}: {name} is {value!r}; expected something like {own[name]!r}")
        heads.loss_settings(loss, **settings)
        cases.append(Case(loss, settings))
    return cases


def _value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def head_logits(case, embeddings, labels, centres):
    """The logits of a head, with its margin, as late in a training: warm-up over, λ at its least value.

    embeddings: (N, D); labels: (N,) int; centres: (C, D). For AdaFace embeddings are 20 ± 1 long so far, for
    CurricularFace the mean cosine of the targets is 0.5. Returns (N, C) float64.
    """
    return _bind(case, embeddings, labels, centres).forward()[0].asnumpy().astype(np.float64)


def _bind(case, embeddings, labels, centres):
    """The executor of a head, everything set; it has a gradient for the embeddings alone."""
    (loss, settings), (number, emb_size) = case, embeddings.shape
    if "loss_k" in heads.LOSSES[loss]:
        settings = dict(settings, loss_k=1)  # of several centres the nearest counts: the one that is drawn
    logits = heads.get_logits(loss, mx.sym.Variable("data"), mx.sym.Variable("label"), len(centres), emb_size,
                              **settings)
    wanted = {name: "write" if name == "data" else "null" for name in logits.list_arguments()}
    executor = logits.simple_bind(mx.cpu(), wanted, data=(number, emb_size), label=(number,))
    values = {f"fc7_{name}{heads.STATE}": value for name, value in _LATE.items()}
    values.update(data=embeddings, label=labels, fc7_weight=centres)
    for name, array in executor.arg_dict.items():
        array[:] = values.get(name, 0)
    return executor


def target_curve(case, degrees, length=1.0):
    """The label's logit over its angle, and how fast it falls, both divided by the scale (s; ‖x‖ where it is none).

    degrees: (G,), the angles; length: of the embeddings, ‖x‖. Returns (logits (G,), −their derivative by θ in radians
    (G,): what pulls an embedding to its class), float64, of the head's forward and backward pass.
    """
    embeddings, at_angles, scale = _around(case, degrees, length)
    executor, rows = _bind(case, embeddings, np.arange(len(degrees)), at_angles), np.arange(len(degrees))
    logits = executor.forward(is_train=True)[0].asnumpy().astype(np.float64)
    executor.backward([mx.nd.array(np.eye(len(degrees)))])
    pull = executor.grad_dict["data"].asnumpy()[:, 1].astype(np.float64)  # across the embedding, towards its centre
    return logits[rows, rows] / scale, pull * length / scale


def margins_of_angles(case, degrees, length=1.0, ratio=1.0):
    """How much the label's logit is above that of another class, by the angles to both centres, divided by the scale.

    degrees: (G,), the angles; length: of the embeddings; ratio: of the other class's weight to 1, the own one's.
    Returns (G, G) float64: at [i, j] for a class that is degrees[j] away, where the own one is degrees[i] away.
    """
    embeddings, at_angles, scale = _around(case, degrees, length)
    rows = np.arange(len(degrees))
    logits = head_logits(case, embeddings, rows, np.concatenate([at_angles, ratio * at_angles]))
    return (logits[rows, rows][:, np.newaxis] - logits[:, len(rows):]) / scale


def _around(case, degrees, length):
    """One embedding, again and again (G, 2); class centres at the angles from it (G, 2); and the scale."""
    theta = np.radians(degrees)
    scale = heads.loss_settings(case.loss, **case.settings).get("loss_s") or length
    return np.repeat([[length, 0.0]], len(theta), axis=0), np.stack([np.cos(theta), np.sin(theta)], axis=1), scale


def class_angles(embeddings, labels, centres, num_classes):
    """Angles from each embedding to the centre of its class and to the nearest other: two arrays (N,), in degrees.

    embeddings: (N, D), labels: (N,), centres: (C·K, D), neither normalised; of K centres of a class the nearest counts.
    """
    cosines = (unit(embeddings) @ unit(centres).T).reshape(len(embeddings), num_classes, -1).max(axis=2)
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    rows = np.arange(len(angles))
    own = angles[rows, labels]
    angles[rows, labels] = np.inf
    return own, angles.min(axis=1)


def unit(vectors):
    """Vectors (N, D), scaled to length 1, float64; one of length 0 stays as it is."""
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def checkpoint_angles(models, folder, most=2000, seed=0, devices=None, progress=True, backend="mxnet"):
    """θ of a training set's images under checkpoints that hold their head (saved with --ckpt-embedding 0).

    models: list of 'prefix,epoch'; folder: holds train.rec, of which `most` images are drawn at random (0: all).
    devices: list of mx.Context, None for all GPUs, else the CPU; backend: see `cleaning.load_model`.
    Returns a list, for each model what `class_angles` gives. Raises UserError for a model without a head, or whose head
    is of other classes.
    """
    training_set = TrainingSet(folder)
    images, labels = _draw(training_set, most, seed)
    training_set.close()
    angles = []
    with tqdm(total=len(models) * len(images), unit="image", disable=not progress) as bar:
        for model in models:
            embed, centres = load_model(model, training_set, devices, backend=backend)
            parts = []
            for start in range(0, len(images), embed.batch_size):
                parts.append(embed(images[start:start + embed.batch_size]))
                bar.update(len(parts[-1]))
            angles.append(class_angles(np.concatenate(parts), labels, np.concatenate(centres), len(centres)))
    return angles


def _draw(training_set, most, seed):
    """Images (N, 3, H, W) uint8 RGB and their labels (N,) int."""
    size = min(most or len(training_set), len(training_set))
    chosen = np.sort(np.random.RandomState(seed).choice(len(training_set), size, replace=False))
    images, labels = np.empty((size, 3, *training_set.image_shape), np.uint8), np.empty(size, int)
    for row, number in enumerate(chosen):
        encoded, labels[row] = training_set.read(number)
        decode_into(images[row], encoded, training_set.where(number))
    return images, labels
