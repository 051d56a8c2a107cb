"""Toy embeddings: a tiny network trained on a few identities, to see what a loss does to them.

Of two or three dimensions, an embedding can be drawn as it is.
"""
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.embedder import Embedder
from common.errors import UserError
from common.mxnet_setup import mx
from datasets.images import SUFFIXES, decode_bgr, read_image
from datasets.rendered import render_identity
from recognition import heads
from recognition.loss_angles import Case, unit
from recognition.trainer import LABEL, Callback, Trainer, fit
from symbols.blocks import Layers, normalize

_SIZE = 32  # pixels
_MILD = dict(  # under which so small a network begins from nothing, in a few hundred steps
    loss_s=16.0, fc7_no_bias=True, loss_lambda=50.0, loss_lambda_min=0.0)

Toy = namedtuple("Toy", "case settings labels moments")
Toy.__doc__ = """A toy training: its Case, all settings of the loss, and labels, (N,) int.

moments: dict 'start', 'middle', 'end' -> (embeddings (N, D), not normalised; class centres (C·K, D)), float32.
"""


def render_faces(identities=8, images=48, seed=0):
    """Small rendered faces. Returns (images (N, 3, 32, 32) uint8 RGB, labels (N,) int), identity by identity."""
    drawn = [image for number in range(identities) for image in render_identity(seed, "training", number, images)[0]]
    return _small(drawn), np.repeat(np.arange(identities), images)


def read_faces(folder, identities=8, images=48):
    """The same from a folder of one's own, <folder>/<identity>/<image>: the identities with most images.

    Raises UserError for fewer than two identities, DataError for an image that cannot be read.
    """
    people = [sorted(path for path in person.iterdir() if path.suffix.lower() in SUFFIXES)[:images]
              for person in sorted(Path(folder).glob("*/"))]
    people = sorted(filter(None, people), key=len, reverse=True)[:identities]
    if len(people) < 2:
        raise UserError(f"{folder}: {len(people)} folders with images; expected a folder for each of two identities or "
                        f"more, with images in it ({', '.join(SUFFIXES)})")
    drawn = [decode_bgr(read_image(path), path)[:, :, ::-1] for paths in people for path in paths]
    return _small(drawn), np.repeat(np.arange(len(people)), [len(paths) for paths in people])


def _small(images):
    small = [cv2.resize(image, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA) for image in images]
    return np.ascontiguousarray(np.stack(small).transpose(0, 3, 1, 2))


def tiny_network(emb_size):
    """A network of three convolutions: symbol with input `data`, output `fc1_output` (N, emb_size)."""
    layers = Layers("relu", 0.9)
    body = normalize(mx.sym.Variable("data"))
    for number, filters in enumerate((16, 32, 64)):
        body = layers.bn(layers.conv(body, f"conv{number}", filters, 3, 2), f"bn{number}")
        body = layers.act(body, f"relu{number}")
    return mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=emb_size, name="fc1")


class _Faces(mx.io.DataIter):
    """Batches drawn at random from images in memory, without end."""

    def __init__(self, images, labels, batch_size, seed):
        super().__init__(batch_size)
        self._images, self._labels, self._random = images, labels, np.random.RandomState(seed)
        self.provide_data = [mx.io.DataDesc("data", (batch_size, *images.shape[1:]), np.uint8, "NCHW")]
        self.provide_label = [mx.io.DataDesc(LABEL, (batch_size,), np.float32, "N")]

    def next(self):
        """The next DataBatch."""
        rows = self._random.choice(len(self._images), self.batch_size, replace=False)
        return mx.io.DataBatch([mx.nd.array(self._images[rows], dtype=np.uint8)], [mx.nd.array(self._labels[rows])])


class _Moments(Callback):
    """Keeps embeddings and class centres at some steps, and moves a bar."""

    def __init__(self, images, names, bar):
        self._images, self._names, self._bar, self.found = images, names, bar, {}

    def step(self, trainer):
        """After a step, and before the first."""
        self._bar.update(trainer.steps > 0)
        if trainer.steps in self._names:
            arg_params, aux_params = trainer.params()
            embed = Embedder.from_params(trainer.embedding, arg_params, aux_params, trainer.devices,
                                         image_shape=self._images.shape[2:])
            self.found[self._names[trainer.steps]] = embed(self._images), arg_params["fc7_weight"].asnumpy()


def train_toy(case, images, labels, emb_size=2, steps=600, seed=0, bar=None):
    """Train a tiny network on a few identities, with a milder scale and λ than papers have for large data sets.

    images: (N, 3, H, W) uint8 RGB; labels: (N,) int from 0 on; steps: of up to 64 images; bar: a tqdm bar to move.
    Returns a Toy. Raises UserError for an unknown loss or setting, and where the loss does not stay finite.
    """
    settings = heads.loss_settings(case.loss, **{**_mild(case.loss, steps), **case.settings})
    classes, batches = int(max(labels)) + 1, _Faces(images, labels, min(64, len(images)), seed)
    moments = _Moments(images, {steps // 2: "middle", 0: "start", steps: "end"},
                       tqdm(disable=True) if bar is None else bar)
    mx.random.seed(seed)
    trainer = Trainer(
        tiny_network(emb_size), lambda embedding, label: heads.classification_loss(
            heads.get_head(case.loss, embedding, label, classes, emb_size, **settings), label),
        [mx.cpu()], batches, mx.init.Xavier("gaussian", "in", 2),
        dict(fc7_weight=_spread(classes * settings.get("loss_k", 1), emb_size, seed)), lr=0.01,
        lr_steps=[max(1, steps * 3 // 4)])
    moments.step(trainer)
    fit(trainer, batches, [moments], steps)
    return Toy(case, settings, np.asarray(labels), moments.found)


def _spread(number, emb_size, seed):
    """Class centres to begin with, of length 1: on the circle evenly, for there they cannot pass by each other."""
    if emb_size > 2:
        return mx.nd.array(unit(np.random.RandomState(seed).standard_normal((number, emb_size))))
    angles = 2 * np.pi / number * np.arange(number)
    return mx.nd.array(np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _mild(loss, steps):
    own = heads.loss_settings(loss)
    mild = dict(_MILD, margin_warmup=steps // 2)
    return {name: value for name, value in mild.items() if name in own and (name != "loss_s" or own[name])}


def toy_cases():
    """What is shown where nothing else is asked for: softmax, SphereFace with m = 1 to 4, ArcFace. A list of Case."""
    return [Case("softmax", {}), *(Case("sphereface", dict(loss_m1=m)) for m in (1, 2, 3, 4)), Case("arcface", {})]
