"""Faces brought to one place: the similarity transform of five landmarks onto ArcFace's template."""
import cv2
import numpy as np

from common.errors import UserError

LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")  # left and right as the picture shows them
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
                     [70.7299, 92.2041]])  # x, y in pixels of a 112x112 image
TEMPLATE.setflags(write=False)
_LARGEST = (1 << 15) - 2  # pixels of a side that cv2.warpAffine takes


class DegenerateLandmarks(UserError):
    """Landmarks that tell no place, size and direction of a face, or none that lies in the picture."""


def template(image_size=(112, 112)):
    """Where the landmarks of an aligned face lie: (5, 2) x, y in pixels.

    image_size: (height, width), either square or of the shape of 112x96, ArcFace's two forms; other sizes are these
    enlarged or reduced. Of 112x112, the narrow form leaves out 8 columns on each side.
    Raises UserError for another shape.
    """
    height, width = image_size
    if height < 1 or width not in (height, height * 96 / 112):
        raise UserError(f"image size {height}x{width} (height x width): aligned faces are square, such as 112x112, or "
                        "of the shape of 112x96")
    return (TEMPLATE - [0 if width == height else 8, 0]) * (height / 112)


def similarity_transform(source, target):
    """The rotation, scale and shift that brings points nearest to others, in least squares.

    source, target: (N, 2) x, y. Returns (2, 3) float64, as cv2.warpAffine takes it; it never mirrors.
    With points as complex numbers the transform is z -> a z + b, linear in a and b, so that this is Umeyama's result
    (1991) without a decomposition. Raises DegenerateLandmarks for points that are not finite, all in one place, or fit
    no size.
    """
    source, target = (np.asarray(points, np.float64) for points in (source, target))
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise DegenerateLandmarks(f"landmarks {_told(source)}: expected finite numbers")
    moved, onto = source - source.mean(0), target - target.mean(0)
    spread = (moved ** 2).sum()
    if spread <= 1e-12 * max(1, (source ** 2).sum()):
        raise DegenerateLandmarks(f"landmarks {_told(source)} are all in one place")
    cosine = (moved * onto).sum() / spread
    sine = (moved[:, 0] * onto[:, 1] - moved[:, 1] * onto[:, 0]).sum() / spread
    if np.hypot(cosine, sine) <= 1e-6 * np.sqrt((onto ** 2).sum() / spread):
        raise DegenerateLandmarks(f"landmarks {_told(source)} have nothing of a face's shape")
    matrix = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([matrix, target.mean(0) - matrix @ source.mean(0)])


def _told(points):
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def align(image, landmarks, image_size=(112, 112)):
    """Cut out a face so that its landmarks lie where the template has them.

    image: (H, W, 3) uint8; landmarks: (5, 2) x, y in pixels, in the order of LANDMARKS; image_size: (height, width),
    see `template`. Returns (height, width, 3) uint8 in the image's channel order; what lies outside of it is black.
    Raises UserError for landmarks of another shape, and as `similarity_transform` and `template` do;
    DegenerateLandmarks where all of them lie outside of the image, or it is too large for OpenCV.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape != (5, 2):
        raise UserError(f"landmarks of shape {landmarks.shape}; expected (5, 2): x and y of {', '.join(LANDMARKS)}")
    matrix = similarity_transform(landmarks, template(image_size))
    _check_inside(landmarks, *image.shape[:2])
    return cv2.warpAffine(image, matrix, tuple(image_size[::-1]))


def _check_inside(landmarks, height, width):
    if not ((landmarks > -1) & (landmarks < (width, height))).all(axis=1).any():
        raise DegenerateLandmarks(f"landmarks {_told(landmarks)} lie outside of the image of {height}x{width} "
                                  "(height x width)")
    if max(height, width) > _LARGEST:
        raise DegenerateLandmarks(f"an image of {height}x{width} (height x width); expected at most {_LARGEST} a side")
