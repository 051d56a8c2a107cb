"""What is measured of each image: whether it decodes, size, light, sharpness, and hashes that tell copies."""
import hashlib
from contextlib import closing

import cv2
import numpy as np

from common.cores import cpu_count
from datasets.images import UnreadableImage, decode_bgr
from datasets.threads import in_order

GOOD, UNDECODABLE, EMPTY = range(3)  # states
BLANK = 4  # contrast, in grey levels, below which an image counts as blank
GREY = 1  # mean difference of blue and red, in levels, below which it counts as grey
ROW = np.dtype([
    ("number", "<i8"),  # of the record
    ("offset", "<i8"),  # where it starts in the file
    ("label", "<f4"),
    ("state", "u1"),
    ("indexed", "?"),
    ("height", "<u2"), ("width", "<u2"),
    ("bytes", "<u4"),
    ("content", "<u8"),  # hash of the bytes
    ("phash", "<u8"), ("dhash", "<u8"),  # hashes of the picture
    ("brightness", "<f4"), ("contrast", "<f4"),  # mean and standard deviation of the grey levels
    ("sharpness", "<f4"),  # variance of the Laplacian
    ("colour", "<f4"),  # mean difference of blue and red
])
_BATCH, _BATCH_BYTES = 64, 1 << 22


def content_hash(data):
    """64 bits of BLAKE2b, as int."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def measure(images):
    """Measure encoded images. images: list of bytes. Returns a (n,) array of ROW, number to label left at 0.

    phash: signs of the 8x8 lowest frequencies of a cosine transform, without those that are constant in a direction;
    dhash: whether each of 8x9 grey cells is darker than its right neighbour. Both survive another JPEG quality, blur
    and some change of light.
    """
    rows = np.zeros(len(images), ROW)
    frequencies, cells = np.zeros((len(images), 8, 8), np.float32), np.zeros((len(images), 8, 9), np.uint8)
    for row, data, frequency, cell in zip(rows, images, frequencies, cells):
        row["bytes"], row["content"] = len(data), content_hash(data)
        try:
            image = decode_bgr(data, "")
        except UnreadableImage:
            row["state"] = UNDECODABLE if data else EMPTY
            continue
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        row["height"], row["width"] = grey.shape
        row["brightness"], row["contrast"] = (value[0, 0] for value in cv2.meanStdDev(grey))
        row["sharpness"] = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0] ** 2
        blue, red = cv2.extractChannel(image, 0), cv2.extractChannel(image, 2)
        row["colour"] = cv2.norm(blue, red, cv2.NORM_L1) / grey.size
        small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
        frequency[:] = cv2.dct(small.astype(np.float32))[1:9, 1:9]
        cell[:] = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    rows["phash"] = _bits(frequencies > 0)
    rows["dhash"] = _bits(cells[:, :, :-1] < cells[:, :, 1:])
    return rows


def _bits(bits):
    return np.packbits(bits.reshape(len(bits), -1), axis=1).reshape(-1).view("<u8")


def measure_all(images, bar):
    """Measure many images on all cores, in order, holding few of them.

    images: iterable of (number, offset, label, indexed, encoded image); bar: a tqdm, moved on.
    Returns a (N,) array of ROW.
    """
    parts = [np.empty(0, ROW)]
    with closing(in_order(_measure_batch, _batches(images), ahead=2 * cpu_count())) as measured:
        for part in measured:
            parts.append(part)
            bar.update(len(part))
    return np.concatenate(parts)


def _batches(images):
    batch, size = [], 0
    for image in images:
        batch.append(image)
        size += len(image[-1])
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _measure_batch(batch):
    numbers, offsets, labels, indexed, images = zip(*batch)
    rows = measure(images)
    rows["number"], rows["offset"], rows["label"], rows["indexed"] = numbers, offsets, labels, indexed
    return rows
