"""Changes to training images: mirroring, colour, JPEG noise, cutoff; drawn for a batch at once, so that they hang on
its place in the epoch alone, whichever thread decodes an image."""
from typing import NamedTuple

import cv2
import numpy as np

from common.errors import UserError

_JITTER = 0.125  # the original's: brightness, contrast and saturation each change by up to this share
_LUMA = (0.114, 0.587, 0.299)  # of blue, green, red
_QUALITIES = (2, 20)  # of the original's JPEG noise
_GREY = 128


class Augmentation(NamedTuple):
    """What may happen to an image, in this order; the original's settings `data_rand_mirror`, `_color`, `_cutoff`.

    rand_mirror: left and right are exchanged with probability 0.5.
    color: 0: nothing; 1: brightness, contrast and saturation are each multiplied by a factor in [0.875, 1.125], one
    after the other in random order; 2: this, and with probability 0.5 JPEG coding at a quality of 2 to 20.
    cutoff: pixels; with probability 0.5 a square of this side around a random pixel is made grey (cut where it goes
    beyond the image); 0: never.
    """

    rand_mirror: bool = True
    color: int = 0
    cutoff: int = 0

    def check(self):
        """Raise UserError for settings that mean nothing. Returns self."""
        if self.color not in (0, 1, 2):
            raise UserError(f"colour augmentation {self.color!r}; expected 0 (none), 1 (jitter) or 2 (and JPEG noise)")
        if self.cutoff < 0:
            raise UserError(f"cutoff {self.cutoff}; expected the side of a square in pixels, or 0 for none")
        return self

    def draw(self, seed, count, image_shape):
        """What happens to each of `count` images of image_shape (height, width): a list of Change.

        seed: a list of integers. What one setting draws does not move what another does.
        """
        def random(stream):
            return np.random.RandomState([*seed, stream])

        nothing = [None] * count
        mirror = random(0).random_sample(count) < (0.5 if self.rand_mirror else 0)
        if not self.color and not self.cutoff:  # most trainings: as little as can be, for threads wait meanwhile
            return [_MIRROR if mirrored else _NOTHING for mirrored in mirror.tolist()]
        colours = _draw_colours(random(1), count) if self.color else [()] * count
        qualities = _draw_qualities(random(2), count) if self.color == 2 else nothing
        cuts = _draw_squares(random(3), count, image_shape, self.cutoff) if self.cutoff else nothing
        return list(map(Change, mirror.tolist(), colours, qualities, cuts))


def _draw_colours(random, count):
    factors = random.uniform(1 - _JITTER, 1 + _JITTER, (count, 3)).tolist()
    orders = random.random_sample((count, 3)).argsort(axis=1).tolist()
    return [tuple(zip(order, factor)) for order, factor in zip(orders, factors)]


def _draw_qualities(random, count):
    qualities = random.randint(_QUALITIES[0], _QUALITIES[1] + 1, count).tolist()
    return [quality if chosen else None for quality, chosen in zip(qualities, random.random_sample(count) < 0.5)]


def _draw_squares(random, count, image_shape, side):
    centres = (random.random_sample((count, 2)) * image_shape).astype(int)
    return [_square(centre, side) if chosen else None
            for centre, chosen in zip(centres, random.random_sample(count) < 0.5)]


def _square(centre, side):
    """Rows and columns of a square, as slices that begin inside the image."""
    starts = centre - side // 2
    return tuple(slice(max(start, 0), start + side) for start in starts.tolist())


class Change(NamedTuple):
    """What is done to one image: mirror: bool; colours: (which, factor) in order, 0 brightness, 1 contrast,
    2 saturation; quality: of JPEG coding or None; cut: (rows, columns) made grey, or None."""

    mirror: bool
    colours: tuple
    quality: int
    cut: tuple

    def __call__(self, image):
        """Change an image, (H, W, 3) uint8 BGR; returns one of the same shape, values rounded and cut to 0..255."""
        if self.mirror:
            image = cv2.flip(image, 1)
        if self.colours:
            image = cv2.transform(image, _colour_matrix(self.colours, cv2.mean(image)))
        if self.quality is not None:
            coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
            image = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        if self.cut is not None:
            image[self.cut] = _GREY
        return image


_NOTHING, _MIRROR = (Change(mirror, (), None, None) for mirror in (False, True))


def _colour_matrix(colours, mean):
    """The changes of colour as one affine map, (3, 4), of pixels (B, G, R, 1). mean: (B, G, R) of the image.

    Brightness is f·x; contrast f·x + (1 − f)·the image's mean luma; saturation f·x + (1 − f)·x's own luma. So all of
    them together are a·x + c·luma(x) + b, with the same b for all three colours.
    """
    a, c, b = 1.0, 0.0, 0.0
    mean_luma = sum(share * value for share, value in zip(_LUMA, mean))
    for which, f in colours:
        if which == 0:
            a, c, b = f * a, f * c, f * b
        elif which == 1:
            a, c, b = f * a, f * c, b + (1 - f) * (a + c) * mean_luma
        else:
            a, c = f * a, f * c + (1 - f) * (a + c)
    return np.array([[c * share + a * (row == column) for column, share in enumerate(_LUMA)] + [b]
                     for row in range(3)])
