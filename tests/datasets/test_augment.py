"""Changes to images: against a float64 reference of one step after the other, their shares, and their limits."""
import cv2
import numpy as np
import pytest
from pictures import picture

from common.errors import UserError
from datasets.augment import Augmentation, Change

LUMA = np.array([0.114, 0.587, 0.299])


def draw(count, seed=0, **settings):
    return Augmentation(**settings).draw([seed], count, (112, 96))


def step_by_step(image, colours):
    """Brightness, contrast and saturation as MXNet's augmenters compute them, in float64."""
    image = image.astype(float)
    for which, factor in colours:
        if which == 0:
            image = image * factor
        elif which == 1:
            image = image * factor + (1 - factor) * (image @ LUMA).mean()
        else:
            image = image * factor + (1 - factor) * (image @ LUMA)[..., None]
    return np.clip(image, 0, 255)


def test_colour_against_a_reference():
    orders = set()
    for seed, change in enumerate(draw(40, rand_mirror=False, color=1)):
        image = picture(seed)
        orders.add(tuple(which for which, _ in change.colours))
        assert all(0.875 <= factor <= 1.125 for _, factor in change.colours)
        # OpenCV rounds the factors to 1/1024
        np.testing.assert_allclose(change(image), step_by_step(image, change.colours), atol=0.9)
    assert len(orders) == 6


def test_jpeg_noise_in_every_second_image():
    changes = draw(600, rand_mirror=False, color=2)
    qualities = [change.quality for change in changes if change.quality is not None]
    assert 250 < len(qualities) < 350 and set(qualities) == set(range(2, 21))
    image, change = picture(1), Change(False, (), 5, None)
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 5])[1]
    np.testing.assert_array_equal(change(image), cv2.imdecode(coded, cv2.IMREAD_COLOR))


def test_cutoff_is_a_grey_square_in_every_second_image():
    changes, cut, whole = draw(400, rand_mirror=False, cutoff=20), 0, 0
    for change in changes:
        image = np.zeros((112, 96, 3), np.uint8)
        rows, columns = np.nonzero(change(image)[..., 0])
        if len(rows):
            cut += 1
            assert set(np.unique(image)) == {0, 128}
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == height * width and 10 <= height <= 20 and 10 <= width <= 20
            whole += height == width == 20
    assert 160 < cut < 240 and whole > cut / 2


def test_mirror_and_nothing():
    image = picture(3)
    mirrored = [np.array_equal(change(image), image[:, ::-1]) for change in draw(400)]
    assert 160 < sum(mirrored) < 240
    assert all(change(image) is image for change in draw(50, rand_mirror=False))


def test_settings_do_not_move_each_other():
    """The same images are mirrored whatever else is on: one setting can be compared with another."""
    plain, all_on = draw(50), draw(50, color=2, cutoff=30)
    assert [change.mirror for change in plain] == [change.mirror for change in all_on]


@pytest.mark.parametrize("settings, message", [(dict(color=3), "colour augmentation 3"),
                                               (dict(cutoff=-1), "cutoff -1")])
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**settings).check()
