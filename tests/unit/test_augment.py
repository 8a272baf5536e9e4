"""Random crops and flips: each result is its image, shifted, with a black border, and maybe mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.models.augment import crop_and_flip

PAD = 2
# No pixel is black and no two are equal, so that a shift can be told from another.
IMAGES = np.arange(1, 200 * 6 * 5 * 3 + 1).reshape(200, 6, 5, 3)


def every_result(image: np.ndarray, pad: int) -> dict[tuple[int, int, bool], np.ndarray]:
    """Return what may come of one image, by shift down, shift right and mirroring."""
    height, width, _ = image.shape
    results = {}
    for down in range(-pad, pad + 1):
        for right in range(-pad, pad + 1):
            shifted = np.zeros_like(image)
            for row in range(height):
                for column in range(width):
                    if 0 <= row - down < height and 0 <= column - right < width:
                        shifted[row, column] = image[row - down, column - right]
            results[down, right, False] = shifted
            results[down, right, True] = shifted[:, ::-1]
    return results


def outcomes(results: np.ndarray, pad: int = PAD) -> list[tuple[int, int, bool]]:
    """Return which outcome each image had; every one is exactly one."""
    found = []
    for image, result in zip(IMAGES, results, strict=True):
        fitting = [
            key
            for key, candidate in every_result(image, pad).items()
            if np.array_equal(candidate, result)
        ]
        assert len(fitting) == 1
        found.extend(fitting)
    return found


def test_every_result_is_its_own_image_shifted_and_maybe_mirrored():
    found = outcomes(crop_and_flip(IMAGES, np.random.default_rng(0), PAD))
    downs, rights, mirrored = zip(*found, strict=True)
    assert set(downs) == set(rights) == {-2, -1, 0, 1, 2}  # the borders are reached, on both sides
    assert 70 < sum(mirrored) < 130


def test_without_flips_nothing_is_mirrored():
    found = outcomes(crop_and_flip(IMAGES, np.random.default_rng(0), PAD, flip=False))
    assert not any(mirrored for *_, mirrored in found)


def test_without_padding_nothing_is_shifted():
    found = outcomes(crop_and_flip(IMAGES, np.random.default_rng(0), 0), 0)
    assert {mirrored for *_, mirrored in found} == {False, True}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
def test_shape_and_type_are_kept_and_the_images_too(dtype):
    images = IMAGES[:50].astype(dtype)
    before = images.copy()
    result = crop_and_flip(images, np.random.default_rng(0))
    assert result.shape == images.shape
    assert result.dtype == dtype
    assert result.flags.c_contiguous
    assert not np.shares_memory(result, images)
    np.testing.assert_array_equal(images, before)


def test_the_generator_decides():
    first = crop_and_flip(IMAGES, np.random.default_rng(3))
    np.testing.assert_array_equal(crop_and_flip(IMAGES, np.random.default_rng(3)), first)
    assert (crop_and_flip(IMAGES, np.random.default_rng(4)) != first).any()


def test_no_image_is_no_error():
    assert crop_and_flip(IMAGES[:0], np.random.default_rng(0)).shape == (0, 6, 5, 3)
