"""Pictures to aligned faces: a picture of the network's size is one; in a photograph a detector finds them."""
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Optional

import cv2
import numpy as np

from common.errors import DataError
from common.face_align import DegenerateLandmarks, align, template
from datasets.alignment import choose_face, open_detector
from datasets.images import announced_size, decode_bgr, read_image

SEARCHED = 1600  # pixels of a photograph's longer side: larger ones are reduced while faces are looked for


class Face(NamedTuple):
    """An aligned face. crop: (H, W, 3) uint8 RGB; box: x1, y1, x2, y2 (4,) in pixels of its picture, or None where the
    whole picture is the face."""

    crop: np.ndarray
    box: Optional[np.ndarray]


class FaceFinder:
    """Finds the faces of pictures; see its two steps, `decode` and `find`.

    image_shape: (height, width) of an aligned face. detector: a folder of MTCNN's checkpoints (see docs/alignment.md),
    or a callable as `common.mtcnn.Detector` is; None: pictures have to be aligned faces. min_size: of the longer side
    of a face's box, in pixels of a photograph that is no larger than SEARCHED.
    Threads may share one. Raises UserError and DataError for a detector that cannot be used.
    """

    def __init__(self, image_shape=(112, 112), detector=None, min_size=40):
        self.image_shape, self._min_size, self._lock = tuple(image_shape), min_size, Lock()
        if detector is not None:
            template(self.image_shape)  # an error shows here
        self._detector = open_detector(detector, min_size) if isinstance(detector, (str, Path)) else detector

    @property
    def finds(self):
        """Whether it finds faces in photographs."""
        return self._detector is not None

    def decode(self, picture, where, max_pixels=None):
        """A picture as (H, W, 3) uint8 BGR.

        picture: its bytes (JPEG, PNG, BMP or WebP), the path of its file, or the decoded picture, (H, W, 3) uint8 RGB;
        where: what a message calls it; max_pixels: one that announces more is refused before anything is decoded.
        Raises UnreadableImage, and DataError for too many pixels.
        """
        if isinstance(picture, np.ndarray):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
                raise DataError(f"{where}: an array of shape {picture.shape} and type {picture.dtype}; expected "
                                "(H, W, 3) uint8, RGB")
            return np.ascontiguousarray(picture[:, :, ::-1])
        data = picture if isinstance(picture, bytes) else read_image(picture)
        height, width = announced_size(data, where)  # OpenCV would write other formats to a temporary file
        if max_pixels is not None and height * width > max_pixels:
            raise DataError(f"{where}: {width}x{height} pixels; at most {max_pixels / 1e6:g} million are taken")
        return decode_bgr(data, where)

    def find(self, image, where, most=1):
        """The faces of a picture: a list of 1 to `most` Face, the one that the picture is of first, see `choose_face`.

        image: (H, W, 3) uint8 BGR, as `decode` gives it.
        Raises DataError where there is none, and for another size where there is no detector.
        """
        if image.shape[:2] == self.image_shape:
            return [Face(image[:, :, ::-1], None)]
        if self._detector is None:
            raise DataError(f"{where}: {image.shape[1]}x{image.shape[0]} pixels; expected an aligned face of "
                            f"{self.image_shape[1]}x{self.image_shape[0]}; for photographs name a detector "
                            "(--detector)")
        boxes, landmarks = self._search(image)
        faces = []
        for face in _main_first(boxes, image.shape[:2]):
            try:
                crop = align(image, landmarks[face], self.image_shape)
                faces.append(Face(crop[:, :, ::-1], boxes[face, :4]))
            except DegenerateLandmarks:  # no face; a side beyond what OpenCV can cut from
                continue
            if len(faces) == most:
                break
        if not faces:
            raise DataError(f"{where}: no face found of at least {self._min_size} pixels")
        return faces

    def _search(self, image):
        """Boxes (N, 5) and landmarks (N, 5, 2) of the faces that are large enough, in pixels of the image."""
        scale = min(1, SEARCHED / max(image.shape[:2]))
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        searched = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        with self._lock:
            boxes, landmarks = self._detector(searched)
        large = (boxes[:, 2:4] - boxes[:, :2]).max(axis=1) >= self._min_size
        return np.hstack([boxes[large, :4] / scale, boxes[large, 4:]]), landmarks[large] / scale


def _main_first(boxes, shape):
    """The places of boxes (N, 5): that of the face which the picture is of, then the others by falling size."""
    if not len(boxes):
        return []
    main = choose_face(boxes, shape)
    return [main, *(place for place in np.argsort(-(boxes[:, 2:4] - boxes[:, :2]).prod(axis=1)) if place != main)]
