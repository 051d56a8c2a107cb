"""MTCNN: faces and their five landmarks, found by the cascade of Zhang et al., 'Joint Face Detection and Alignment
Using Multitask Cascaded Convolutional Networks' (2016), on MXNet checkpoints det1 to det4.
"""
import math
from pathlib import Path

import cv2
import numpy as np

from common import checkpoint, graph
from common.errors import DataError, UserError
from common.mxnet_setup import mx, naming

CELL, STRIDE = 12, 2  # what P-net sees of its image for one answer, and how far apart answers are, in pixels
TILES = (32, 64, 128, 256)  # sides of what P-net is run on: MXNet keeps memory for every shape it meets
CALL = 3000  # pixels that P-net does in the time that a call takes
BATCH = 64
NETS = {  # name -> outputs and their shapes, shape of the input
    "det1": ({"conv4_1": (2, 27, 27), "conv4_2": (4, 27, 27)}, (3, 64, 64)),
    "det2": ({"conv5_1": (2,), "conv5_2": (4,)}, (3, 24, 24)),
    "det3": ({"conv6_1": (2,), "conv6_2": (4,), "conv6_3": (10,)}, (3, 48, 48)),
    "det4": ({f"fc5_{point}": (2,) for point in range(1, 6)}, (15, 24, 24)),
}


class Detector:
    """Finds faces: a call with an image gives boxes (N, 5) and landmarks (N, 5, 2).

    folder: holds det1 (P-net), det2 (R-net), det3 (O-net) and, where landmarks shall be refined, det4 (L-net), each as
        <name>-symbol.json and <name>-0001.params; det4 may be absent.
    min_size: side of the smallest face looked for, in pixels, at least 12; thresholds: probability of a face that
    P-, R- and O-net must see, each in (0, 1); factor: from one scale of the image pyramid to the next, in (0, 1);
    refine: whether to use det4; device: mx.Context, default the CPU.
    Raises UserError for settings out of range and missing files, DataError for files of another network.
    """

    def __init__(self, folder, min_size=20, thresholds=(0.6, 0.7, 0.7), factor=0.709, refine=True, device=None):
        _check_settings(min_size, thresholds, factor)
        self._min_size, self._thresholds, self._factor = min_size, tuple(thresholds), factor
        names = [name for name in NETS if name != "det4" or (refine and Path(folder, "det4-symbol.json").is_file())]
        self._nets = {name: _Net(Path(folder, name), *NETS[name], device or mx.cpu()) for name in names}

    def __call__(self, image):
        """Find the faces of an image, (H, W, 3) uint8 BGR.

        Returns boxes, (N, 5) float64: x1, y1, x2, y2 in pixels and the probability of a face, the most probable face
        first; and landmarks, (N, 5, 2) float64: x, y in pixels in the order of `face_align.LANDMARKS`. Boxes may jut
        out of the image. N may be 0.
        """
        boxes = self._propose(image)
        boxes = self._reject(image, boxes)
        boxes, landmarks = self._decide(image, boxes)
        if "det4" in self._nets:
            landmarks = self._refine(image, boxes, landmarks)
        return boxes, landmarks

    def _propose(self, image):
        """P-net on every scale: boxes (N, 5), made square."""
        found = [np.empty((0, 9))]
        for scale in pyramid(image.shape[:2], self._min_size, self._factor):
            size = (int(np.ceil(image.shape[1] * scale)), int(np.ceil(image.shape[0] * scale)))
            scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            scores, offsets = self._tiled(scaled)
            rows, columns = np.nonzero(scores >= self._thresholds[0])
            corners = STRIDE * np.stack([columns, rows], 1)
            boxes = np.hstack([np.hstack([corners, corners + CELL]) / scale,
                               scores[rows, columns][:, None], offsets[rows, columns]])
            found.append(boxes[suppress(boxes, 0.5)])
        boxes = np.concatenate(found)
        boxes = boxes[suppress(boxes, 0.7)]
        return square(regress(boxes[:, :5], boxes[:, 5:]))

    def _tiled(self, image):
        """P-net's answers for a whole image: scores (rows, columns) and offsets (rows, columns, 4)."""
        rows, columns = map(cells, image.shape[:2])
        tile = min(TILES, key=lambda tile: (tile ** 2 + CALL) * math.prod(_tiles(rows, columns, tile)))
        step, (down, across) = cells(tile), _tiles(rows, columns, tile)
        canvas = np.zeros((STRIDE * (down * step - 1) + CELL, STRIDE * (across * step - 1) + CELL, 3), np.uint8)
        canvas[:image.shape[0], :image.shape[1]] = image[:canvas.shape[0], :canvas.shape[1]]
        scores, offsets = np.empty((down * step, across * step)), np.empty((down * step, across * step, 4))
        for row in range(0, down * step, step):
            for column in range(0, across * step, step):
                part = canvas[STRIDE * row:STRIDE * row + tile, STRIDE * column:STRIDE * column + tile]
                logits, offset = self._nets["det1"](_planes([part]))
                scores[row:row + step, column:column + step] = _probability(logits)[0]
                offsets[row:row + step, column:column + step] = offset[0].transpose(1, 2, 0)
        return scores[:rows, :columns], offsets[:rows, :columns]

    def _reject(self, image, boxes):
        """R-net: the boxes (N, 5) that it takes for faces, mended and made square."""
        logits, offsets = self._nets["det2"](_planes(crop(image, box, 24) for box in boxes))
        boxes, offsets = _passed(boxes, _probability(logits), self._thresholds[1], offsets)
        kept = suppress(boxes, 0.7)
        return square(regress(boxes[kept], offsets[kept]))

    def _decide(self, image, boxes):
        """O-net: boxes (N, 5) and landmarks (N, 5, 2)."""
        logits, offsets, points = self._nets["det3"](_planes(crop(image, box, 48) for box in boxes))
        boxes, offsets, points = _passed(boxes, _probability(logits), self._thresholds[2], offsets, points)
        landmarks = boxes[:, None, :2] + points.reshape(-1, 2, 5).transpose(0, 2, 1) * _sides(boxes)[:, None]
        boxes = regress(boxes, offsets)
        kept = suppress(boxes, 0.7, "smaller")
        return boxes[kept], landmarks[kept]

    def _refine(self, image, boxes, landmarks):
        """L-net: each landmark (N, 5, 2) sought anew in a patch around it, a quarter of the box (N, 5) in size."""
        sides = np.maximum(2, np.rint(_sides(boxes).max(1) / 8) * 2)  # even
        corners = np.rint(landmarks) - sides[:, None, None] / 2
        patches = np.concatenate([corners, corners + sides[:, None, None]], 2)
        planes = np.concatenate([_planes(crop(image, patch, 24) for patch in patches[:, point])
                                 for point in range(5)], 1)
        found = np.stack(self._nets["det4"](planes), 1)
        refined = corners + found * sides[:, None, None]
        trusted = np.abs(found - 0.5).max(2, keepdims=True) <= 0.35  # it was trained to mend small errors
        return np.where(trusted, refined, landmarks)


def _check_settings(min_size, thresholds, factor):
    if min_size < CELL:
        raise UserError(f"smallest face {min_size} pixels; expected at least {CELL}")
    if len(thresholds) != 3 or not all(0 < threshold < 1 for threshold in thresholds):
        raise UserError(f"thresholds {thresholds}; expected three, each between 0 and 1")
    if not 0 < factor < 1:
        raise UserError(f"pyramid factor {factor}; expected a number between 0 and 1")


class _Net:
    """One network of the cascade: images (N, C, H, W) uint8 -> its outputs, a list of (N, ...) float32.

    Its batches are of few sizes, 1, 2, 4, ... BATCH, for the memory's sake.
    """

    def __init__(self, prefix, outputs, shape, device):
        symbol, params, _ = checkpoint.load(f"{prefix},1")
        internals, self._name = symbol.get_internals(), f"{prefix}: not this network of MTCNN"
        try:
            symbol = mx.sym.Group([internals[f"{name}_output"] for name in outputs])
        except ValueError as error:
            raise DataError(f"{self._name}: {error}") from error
        found = [output[1:] for output in checkpoint.check_shapes(self._name, symbol, params, (1, *shape))]
        if found != list(outputs.values()):
            raise DataError(f"{self._name}: outputs of shapes {found}; expected {list(outputs.values())}")
        data = (mx.sym.var("data") - 127.5) * 0.0078125  # -1 to 1
        with naming(self._name):
            symbol = graph.for_device(symbol(data=data), device, training=False, data=(1, *shape))
            self._block = mx.gluon.SymbolBlock(symbol, [mx.sym.var("data", dtype="uint8")])
            for name, parameter in self._block.collect_params().items():
                parameter._load_init(params[name], device)
        self._device, self._shape = device, shape

    def __call__(self, images):
        if not len(images):
            images = np.zeros((1, *self._shape), np.uint8)
            return [output[:0] for output in self(images)]
        parts = [self._forward(images[start:start + BATCH]) for start in range(0, len(images), BATCH)]
        return [np.concatenate(outputs) for outputs in zip(*parts)]

    def _forward(self, images):
        filled = np.zeros((1 << (len(images) - 1).bit_length(), *images.shape[1:]), np.uint8)
        filled[:len(images)] = images
        with naming(self._name):
            outputs = self._block(mx.nd.array(filled, self._device, np.uint8))
            return [output.asnumpy()[:len(images)] for output in outputs]


def _planes(images):
    """BGR images as a batch, (N, 3, H, W)."""
    images = list(images)
    return np.stack(images).transpose(0, 3, 1, 2) if images else np.empty((0, 3, 0, 0), np.uint8)


def _probability(logits):
    """Of a face, from logits (N, 2, ...)."""
    return 1 / (1 + np.exp(logits[:, 0].astype(np.float64) - logits[:, 1]))


def _passed(boxes, scores, threshold, *others):
    """What reaches the threshold, the boxes with their new scores."""
    passed = scores >= threshold
    boxes = np.column_stack([boxes[:, :4], scores])
    return (boxes[passed], *(other[passed] for other in others))


def _sides(boxes):
    return boxes[:, 2:4] - boxes[:, :2]


def cells(size):
    """How many answers P-net gives along `size` pixels, each having seen CELL of them."""
    return (size - CELL) // STRIDE + 1


def _tiles(rows, columns, tile):
    """How many tiles, down and across, hold that many answers."""
    return math.ceil(rows / cells(tile)), math.ceil(columns / cells(tile))


def pyramid(shape, min_size, factor):
    """The scales of an image, falling: the first makes faces of min_size as large as CELL, the last leaves no less.

    shape: (height, width) in pixels. Empty for an image smaller than min_size.
    """
    scale, scales = CELL / min_size, []
    while min(shape) * scale >= CELL:
        scales.append(scale)
        scale *= factor
    return scales


def suppress(boxes, threshold, relative_to="union"):
    """Non-maximum suppression: of boxes that overlap by more than `threshold`, the most probable stays.

    boxes: (N, 5 or more): x1, y1, x2, y2, score. relative_to: what the common area is held against: 'union' of the
    two boxes, or the 'smaller' one. Returns the indices of those that stay, falling by score.
    """
    areas = _sides(boxes).prod(1)
    order, kept = np.argsort(-boxes[:, 4], kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = (pick(boxes[best, side], boxes[order, side]) for pick, side in
                     ((np.maximum, slice(0, 2)), (np.minimum, slice(2, 4))))
        common = np.maximum(0, high - low).prod(1)
        total = areas[best] + areas[order] - common if relative_to == "union" else np.minimum(areas[best], areas[order])
        order = order[common <= threshold * total]
    return np.array(kept, int)


def regress(boxes, offsets):
    """Boxes (N, 5) with each side moved by its offset, (N, 4), in widths (x1, x2) or heights (y1, y2) of the box."""
    return np.column_stack([boxes[:, :4] + offsets * np.tile(_sides(boxes), 2), boxes[:, 4]])


def square(boxes):
    """Boxes (N, 5) made as wide as high, the shorter sides lengthened, around the same centres."""
    centres, half = (boxes[:, :2] + boxes[:, 2:4]) / 2, _sides(boxes).max(1, keepdims=True) / 2
    return np.column_stack([centres - half, centres + half, boxes[:, 4]])


def crop(image, box, size):
    """What a box (x1, y1, x2, y2) shows, resized to (size, size, 3); black where it juts out of the image."""
    left, top = np.rint(box[:2]).astype(int)
    right, bottom = np.maximum(np.rint(box[2:4]).astype(int), (left + 1, top + 1))
    part = np.zeros((bottom - top, right - left, 3), np.uint8)
    x, y = slice(max(left, 0), max(right, 0)), slice(max(top, 0), max(bottom, 0))
    seen = image[y, x]
    part[y.start - top:y.start - top + len(seen), x.start - left:x.start - left + seen.shape[1]] = seen
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if len(part) > size else cv2.INTER_LINEAR)
