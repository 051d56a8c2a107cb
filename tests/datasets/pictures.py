"""Small pictures for the tests of this room."""
import cv2
import numpy as np


def picture(seed, shape=(112, 112)):
    """A smooth random picture, (H, W, 3) uint8 RGB: JPEG changes it little, left and right differ."""
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def encode(rgb, suffix=".jpg"):
    """An RGB picture as the bytes of an image file."""
    return cv2.imencode(suffix, np.ascontiguousarray(rgb[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
