"""Export for 8-bit integers: calibrated on images of a training set, measured on others and on pairs, refused if worse.

What is written is a checkpoint with the ranges of its maps (see `common.int8`).
"""
import json
from typing import NamedTuple

import numpy as np

from common import checkpoint, graph, int8
from common.embedder import Embedder
from common.embeddings import normalise
from common.errors import UserError
from common.mxnet_setup import mx
from datasets.embedding_store import source_of
from datasets.images import decode_into
from datasets.packs import load_pack
from datasets.training_set import TrainingSet
from eval.verification import check_pack, test
from recognition.calibration import equalised, measure

_LEAST = 1e-6  # upper end of a range, for a map that is zero throughout
HELD_OUT = 5  # one of so many images of the calibration is kept from it, to measure on


class Calibration(NamedTuple):
    """What INT8 is made with and held against.

    dataset: folder with train.rec; images: how many of it to draw, with `seed`; pairs: a verification pack, or empty;
    most_lost: points (hundredths) of accuracy on the pairs that INT8 may lose.
    """

    dataset: str
    images: int = 500
    pairs: str = ""
    most_lost: float = 0.2
    seed: int = 0


class Int8Writer:
    """Writes a network for INT8, as a value of `exporting.FORMATS` does, and keeps what was measured, as `lines`.

    calibration: a Calibration.
    """

    def __init__(self, calibration):
        self._calibration, self.lines = calibration, []

    def __call__(self, network, prefix, model, normalised):
        """Write a checkpoint. Returns what embeds by it in float32. Raises UserError where INT8 loses too much."""
        shape, epoch = network.image_shape, checkpoint.parse_model(model)[1]
        images, held_out = draw(self._calibration, shape)
        symbol, arg_params, aux_params, ranges = prepare(network, images)
        checkpoint.save(prefix, epoch, int8.noted(symbol, ranges), arg_params, aux_params)
        embed = Embedder.from_params(symbol, arg_params, aux_params, [mx.cpu()], image_shape=shape, name=model)
        embed_int8 = Embedder(f"{prefix},{epoch}", [mx.cpu()], image_shape=shape)
        cosines = compare(embed, embed_int8, held_out, model)
        self.lines = [f"cosine between INT8 and float32 on {len(cosines)} images held out: mean {cosines.mean():.4f}, "
                      f"least {cosines.min():.4f}"]
        if self._calibration.pairs:
            self.lines.append(self._check_pairs(embed, embed_int8, shape))
        return embed

    def _check_pairs(self, embed, embed_int8, image_shape):
        pack = load_pack(self._calibration.pairs, image_shape)
        check_pack(pack)
        before, after = (test(pack, each).result.accuracy for each in (embed, embed_int8))
        line = f"accuracy on {len(pack.issame)} pairs of {pack.name}: float32 {before:.5f}, INT8 {after:.5f}"
        if (before - after) * 100 > self._calibration.most_lost:
            raise UserError(f"{line}: loses more than {self._calibration.most_lost:g} points (--most-lost); it is not "
                            "written")
        return line


def compare(embed, embed_int8, images, model):
    """Cosines (N,) of what two callables make of images (N, 3, H, W) uint8 RGB."""
    one, other = (normalise(each(images).astype(np.float64), f"model {model}") for each in (embed, embed_int8))
    return (one * other).sum(axis=1)


def draw(calibration, image_shape):
    """Images to calibrate on and images held out, each (n, 3, H, W) uint8 RGB.

    Raises UserError for a set with too few images, DataError for one that cannot be read.
    """
    source = source_of(TrainingSet(calibration.dataset))
    if calibration.images < HELD_OUT or source.count < HELD_OUT:
        raise UserError(f"{calibration.dataset}: {min(calibration.images, source.count)} images to calibrate on; "
                        f"expected at least {HELD_OUT}")
    chosen = np.random.RandomState(calibration.seed).permutation(source.count)[:calibration.images]
    images = np.empty((len(chosen), 3, *image_shape), np.uint8)
    for number, planes in zip(chosen, images):
        decode_into(planes, source.read(number)[0], source.name(number))
    held_out = max(1, len(images) // HELD_OUT)
    return images[held_out:], images[:held_out]


def prepare(network, images):
    """The network as INT8 takes it: (symbol, arg_params, aux_params, ranges).

    network: an `exporting.Network`; images: (N, 3, H, W) uint8 RGB, to calibrate on. PReLUs become layers, channels get
    equal ranges; as a float32 network it gives the same embeddings. ranges: dict node name -> (low, high).
    """
    shapes = dict(data=network.data_shape)
    symbol, arg_params, aux_params = graph.for_inference(*network[:3], **shapes)
    symbol = graph.rewrite(symbol, graph.CPU_RULES, **shapes)
    symbol, arg_params = graph.settled(symbol, arg_params)
    ranges = measure(symbol, arg_params, aux_params, images)
    symbol, arg_params, aux_params, ranges = equalised(symbol, arg_params, aux_params, ranges)
    plain = behind_whole_maps(symbol, network.data_shape)
    return symbol, arg_params, aux_params, {name: (low.min(), max(high.max(), _LEAST)) for name, (low, high)
                                            in ranges.items() if name not in plain}


def behind_whole_maps(symbol, data_shape):
    """Names of the nodes that stay float32: convolutions over a whole map (GDC, 7×7 to 1×1) and what comes after them.

    On the public MobileFaceNet they made up two thirds of INT8's difference, 1 − cosine, and take no time to speak of.
    """
    nodes, shapes = json.loads(symbol.tojson())["nodes"], graph.output_shapes(symbol, dict(data=data_shape))
    found = set()
    for number, node in enumerate(nodes):
        sources = [entry[0] for entry in node["inputs"]]
        whole = node["op"] == "Convolution" and shapes[number, 0][2:] == (1, 1) != shapes[sources[0], 0][2:]
        if whole or found.intersection(sources):
            found.add(number)
    return {nodes[number]["name"] for number in found}
