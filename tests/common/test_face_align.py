"""The five-point alignment against known transforms, a general least-squares solver and the original's matrices."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.face_align import TEMPLATE, DegenerateLandmarks, align, similarity_transform, template


def similarity(scale, angle, x, y):
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


def moved(points, matrix):
    return points @ matrix[:, :2].T + matrix[:, 2]


@settings(deadline=None)
@given(st.floats(0.01, 100), st.floats(-np.pi, np.pi), st.floats(-5000, 5000), st.floats(-5000, 5000))
def test_a_known_transform_is_recovered(scale, angle, x, y):
    matrix = similarity(scale, angle, x, y)
    np.testing.assert_allclose(similarity_transform(TEMPLATE, moved(TEMPLATE, matrix)), matrix, rtol=1e-9,
                               atol=1e-9 * max(scale, abs(x), abs(y)))


@settings(deadline=None)
@given(st.integers(0, 2 ** 32 - 1), st.booleans())
def test_least_squares_and_never_a_reflection(seed, mirrored):
    """The solution of the normal equations in (a, b, x, y), written out and solved by NumPy."""
    rng = np.random.RandomState(seed)
    source = rng.normal(size=(5, 2)) * rng.uniform(1, 300) + rng.uniform(-500, 500, 2)
    target = (source * [-1, 1] if mirrored else TEMPLATE) + rng.normal(size=(5, 2)) * rng.uniform(0, 30)
    equations = np.concatenate([[[u, -v, 1, 0], [v, u, 0, 1]] for u, v in source])
    (a, b, x, y), *_ = np.linalg.lstsq(equations, target.ravel(), rcond=None)
    found = similarity_transform(source, target)
    np.testing.assert_allclose(found, [[a, -b, x], [b, a, y]], rtol=1e-6, atol=1e-6 * max(1, abs(x), abs(y)))
    assert np.linalg.det(found[:, :2]) > 0


def test_the_original_s_matrices(golden):
    values = np.load(golden / "face_align.npz")
    np.testing.assert_allclose(template(), values["arcface_src"], atol=1e-4)
    for landmarks, expected in zip(values["landmarks"], values["M_arcface"]):
        np.testing.assert_allclose(similarity_transform(landmarks, template()), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("landmarks, message", [
    (np.full((5, 2), 30.0), "all in one place"),
    (np.array([[np.nan, 1], *TEMPLATE[1:]]), "finite"),
    (np.array([[np.inf, 1], *TEMPLATE[1:]]), "finite"),
    (np.full((5, 2), 5e8) + np.arange(10).reshape(5, 2) * 1e-7, "all in one place"),
])
def test_degenerate_landmarks(landmarks, message):
    with pytest.raises(DegenerateLandmarks, match=message):
        align(np.zeros((50, 50, 3), np.uint8), landmarks)


def test_landmarks_that_fit_no_size():
    with pytest.raises(DegenerateLandmarks, match="nothing of a face's shape"):
        similarity_transform(np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]]), np.array([[1, 1], [0, 0], [0, 0], [1, 1.0]]))


@pytest.mark.parametrize("shape, message", [((32, 32), "lie outside of the image of 32x32"), (
    (1, 1000000), "lie outside"), ((112, 40000), "an image of 112x40000 .* expected at most 32766")])
def test_images_without_the_face(shape, message):
    with pytest.raises(DegenerateLandmarks, match=message):
        align(np.zeros((*shape, 3), np.uint8), TEMPLATE)
    align(np.zeros((60, 60, 3), np.uint8), TEMPLATE)  # two eyes of the five


def test_landmarks_of_another_shape():
    with pytest.raises(UserError, match=r"shape \(10,\); expected \(5, 2\)"):
        align(np.zeros((50, 50, 3), np.uint8), TEMPLATE.ravel())


def test_templates():
    np.testing.assert_array_equal(template((112, 96)), TEMPLATE - [8, 0])
    np.testing.assert_array_equal(template((224, 224)), TEMPLATE * 2)
    assert template((112, 96)).min() > 0 and (template((112, 96)) < [96, 112]).all()
    for size in ((96, 112), (112, 100), (0, 0)):
        with pytest.raises(UserError, match="square"):
            template(size)


def dots(points, shape):
    """A picture with a smooth spot at each point, each of its own brightness."""
    y, x = np.mgrid[:shape[0], :shape[1]]
    spots = sum((150 + 20 * i) * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 18) for i, (u, v) in enumerate(points))
    return np.repeat(np.clip(spots, 0, 255).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("size", [(112, 112), (112, 96)])
def test_align_brings_every_landmark_to_its_place(size):
    landmarks = moved(TEMPLATE, similarity(1.4, 0.5, 60, -10))
    face = align(dots(landmarks, (200, 240)), landmarks, size)
    assert face.shape == (*size, 3) and face.dtype == np.uint8
    for x, y in template(size):
        left, top = int(round(x)) - 6, int(round(y)) - 6
        moments = cv2.moments(face[top:top + 13, left:left + 13, 0])
        assert abs(left + moments["m10"] / moments["m00"] - x) < 0.3
        assert abs(top + moments["m01"] / moments["m00"] - y) < 0.3
