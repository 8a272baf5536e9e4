"""Corruptions: alibi-detect's and ImageMagick's arithmetic, seeded, on batches."""

import math
import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from helpers.data.corruptions import (
    BRIGHTNESS,
    GAUSSIAN_NOISE,
    KINDS,
    MOTION_BLUR,
    PIXELATE,
    SEVERITIES,
    corrupt,
)
from helpers.errors import DataError


@pytest.fixture(scope="module")
def images():
    """24 cloudy pictures in steps of 1/255, as photographs come; one is black and one white."""
    clouds = gaussian_filter(np.random.default_rng(0).random((24, 32, 32, 3)), (0, 1, 1, 0))
    clouds = (clouds - clouds.min()) / np.ptp(clouds)
    clouds[0], clouds[1] = 0, 1
    return np.round(clouds * 255).astype(np.float32) / 255


@pytest.fixture(scope="module")
def alibi():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from alibi_detect.utils import perturbation
    return perturbation


def test_there_are_four():
    assert KINDS == ("gaussian_noise", "motion_blur", "brightness", "pixelate")


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_batch_in_batch_out(images, kind, severity):
    before = images.copy()
    corrupted = corrupt(images, kind, severity)
    assert corrupted.shape == images.shape
    assert corrupted.dtype == np.float32
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    assert np.abs(corrupted - images).max() > 0.01
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_changes_more(images, kind):
    change = [np.abs(corrupt(images, kind, severity) - images).mean() for severity in SEVERITIES]
    # Motion blur of severity 3 and 4 differ by rounding only.
    assert min(np.diff(change)) > -1e-6
    assert change[-1] > 1.5 * change[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(images, kind):
    first = corrupt(images, kind, 3, seed=1)
    np.testing.assert_array_equal(corrupt(images, kind, 3, seed=1), first)
    if kind in ("gaussian_noise", "motion_blur"):
        assert np.abs(corrupt(images, kind, 3, seed=2) - first).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_numpys_global_generator_is_neither_read_nor_moved(images, kind):
    np.random.seed(7)
    first = corrupt(images, kind, 3)
    after = np.random.random()
    np.random.seed(8)
    np.testing.assert_array_equal(corrupt(images, kind, 3), first)
    np.random.seed(7)
    assert np.random.random() == after


@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_prefixes_do_not_matter(images, kind, monkeypatch):
    whole = corrupt(images, kind, 4)
    np.testing.assert_array_equal(corrupt(images[:5], kind, 4), whole[:5])
    monkeypatch.setattr("helpers.data.corruptions.PART", 7)
    np.testing.assert_array_equal(corrupt(images, kind, 4), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_no_images_stay_no_images(kind):
    empty = np.empty((0, 32, 32, 3), np.float32)
    assert corrupt(empty, kind, 1).shape == empty.shape


@pytest.mark.parametrize("severity", SEVERITIES)
class TestSameAsAlibiDetect:
    def test_gaussian_noise(self, alibi, images, severity):
        state = np.random.get_state()
        np.random.seed(5)
        theirs = alibi.gaussian_noise(images, GAUSSIAN_NOISE[severity - 1], xrange=(0, 1))
        np.random.set_state(state)
        ours = corrupt(images, "gaussian_noise", severity, seed=5)
        np.testing.assert_array_equal(ours, theirs.astype(np.float32))

    def test_brightness(self, alibi, images, severity):
        strength = BRIGHTNESS[severity - 1]
        theirs = [alibi.brightness(image, strength, xrange=(0, 1)) for image in images]
        np.testing.assert_allclose(corrupt(images, "brightness", severity), theirs, atol=1e-6)

    def test_pixelate(self, alibi, images, severity):
        strength = PIXELATE[severity - 1]
        theirs = [alibi.pixelate(image, strength, xrange=(0, 1)) for image in images]
        np.testing.assert_array_equal(corrupt(images, "pixelate", severity), theirs)


def blurred_pixel(image, y, x, radius, sigma, angle):
    """ImageMagick's MotionBlurImage, written out for one pixel."""
    total, weights = np.zeros(3), 0.0
    for step in range(2 * radius + 1):
        weight = math.exp(-(step**2) / (2 * sigma**2))
        right = math.ceil(step * math.cos(angle) - 0.5)
        down = math.ceil(step * math.sin(angle) - 0.5)
        total += weight * image[min(max(y + down, 0), 31), min(x + right, 31)]
        weights += weight
    return total / weights


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_that_of_imagemagick(images, severity):
    ours = corrupt(images, "motion_blur", severity, seed=3)
    angles = np.deg2rad(np.random.RandomState(3).uniform(-45, 45, len(images)))
    for number in (2, 9, 17):
        for y, x in ((0, 0), (0, 31), (15, 16), (31, 3), (31, 31)):
            expected = blurred_pixel(
                images[number], y, x, *MOTION_BLUR[severity - 1], angles[number]
            )
            np.testing.assert_allclose(ours[number, y, x], expected, atol=1e-6)


def test_motion_blur_keeps_an_even_colour(images):
    blurred = corrupt(images, "motion_blur", 5)
    np.testing.assert_allclose(blurred[:2], images[:2], atol=1e-6)


def test_motion_blur_has_a_direction_of_its_own_for_each_image():
    dots = np.zeros((50, 32, 32, 3), np.float32)
    dots[:, 16, 16] = 1
    blurred = corrupt(dots, "motion_blur", 3)
    assert len({image.tobytes() for image in blurred}) > 10
    np.testing.assert_allclose(blurred.sum(axis=(1, 2, 3)), 3, rtol=1e-4)


def test_brightness_of_nearly_black_does_not_overflow():
    x = np.full((1, 32, 32, 3), 1e-45, np.float32)
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(corrupt(x, "brightness", 1), 0.05, atol=1e-6)


GOOD = np.full((2, 32, 32, 3), 0.5, np.float32)


def with_value(value):
    x = GOOD.copy()
    x[1, 4, 4, 0] = value
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD, "fog", 1), r"no corruption 'fog'.*gaussian_noise, motion_blur"),
        ((GOOD, None, 1), "no corruption None"),
        ((GOOD, "pixelate", 0), "severity is 0; an integer from 1 to 5"),
        ((GOOD, "pixelate", 6), "severity is 6"),
        ((GOOD, "pixelate", 2.5), "severity is 2.5"),
        ((GOOD, "pixelate", True), "severity is True"),
        ((GOOD, "pixelate", "3"), "severity is '3'"),
        ((GOOD, "pixelate", np.array([1, 2])), "severity is array"),
        ((GOOD, "pixelate", 1, -1), "seed is -1"),
        ((GOOD, "pixelate", 1, 2**32), "seed is 4294967296"),
        ((GOOD, "pixelate", 1, None), "seed is None"),
        ((GOOD[0], "pixelate", 1), r"pass image\[None\]"),
        ((GOOD[:, :16], "pixelate", 1), r"\(2, 16, 32, 3\); \(n, 32, 32, 3\) is needed"),
        ((GOOD.tolist(), "pixelate", 1), "numpy array, not list"),
        ((GOOD.astype(float), "pixelate", 1), r"float64.*astype\(np.float32\)"),
        ((np.zeros((1, 32, 32, 3), np.uint8), "pixelate", 1), r"uint8.*/ 255"),
        ((with_value(np.nan), "pixelate", 1), "NaN"),
        ((with_value(np.inf), "pixelate", 1), "to inf"),
        ((with_value(1.01), "pixelate", 1), "to 1.01.*clip"),
        ((with_value(-0.1), "pixelate", 1), "from -0.1"),
    ],
)
def test_bad_arguments_are_named_with_a_remedy(arguments, message):
    with pytest.raises(DataError, match=message):
        corrupt(*arguments)
