"""Growing masks: each step contains the one before, and the first is clean."""

import numpy as np
import pytest

from helpers.data.masks import growing_masks
from helpers.errors import DataError

IMAGE = np.random.default_rng(1).random((32, 32, 3), np.float32)


@pytest.mark.parametrize("mask_size", [(1, 1), (5, 5), (4, 8), (10, 10)])
def test_masks_are_nested_and_grow(mask_size):
    images, masks = growing_masks(IMAGE, mask_size=mask_size)
    assert images.shape == masks.shape == (10, 32, 32, 3)
    assert images.dtype == masks.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    np.testing.assert_array_equal(images[0], IMAGE)
    covered = masks != 0
    area = covered.any(axis=-1).sum(axis=(1, 2))
    assert area[0] == 0
    assert (np.diff(area) > 0).all()
    for earlier, later, mask_before, mask_after in zip(
        images, images[1:], masks, masks[1:], strict=False
    ):
        was_covered = mask_before != 0
        np.testing.assert_array_equal(later[was_covered], earlier[was_covered])
        np.testing.assert_array_equal(mask_after[was_covered], mask_before[was_covered])


def test_only_the_mask_differs_and_by_its_noise():
    images, masks = growing_masks(IMAGE)
    np.testing.assert_allclose(images, np.clip(IMAGE + masks, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(masks[..., 0], masks[..., 2])


@pytest.mark.parametrize("seed", range(20))
def test_small_patches_never_overlap(seed):
    _, masks = growing_masks(IMAGE, seed=seed, mask_size=(5, 5))
    assert (masks != 0).any(axis=-1).sum(axis=(1, 2)).tolist() == list(range(0, 250, 25))


def test_the_seed_decides():
    first, _ = growing_masks(IMAGE, seed=4)
    np.testing.assert_array_equal(growing_masks(IMAGE, seed=4)[0], first)
    assert (growing_masks(IMAGE, seed=5)[0] != first).any()


def test_numpys_global_generator_is_neither_read_nor_moved():
    np.random.seed(7)
    first, _ = growing_masks(IMAGE)
    after = np.random.random()
    np.random.seed(8)
    np.testing.assert_array_equal(growing_masks(IMAGE)[0], first)
    np.random.seed(7)
    growing_masks(IMAGE)
    assert np.random.random() == after


def test_the_whole_image_can_be_covered():
    _, masks = growing_masks(IMAGE, steps=5, mask_size=(16, 16))
    sizes = (masks != 0).any(axis=-1).sum(axis=(1, 2))
    assert sizes[0] == 0
    assert sizes[-1] > 512


def test_one_step_is_the_clean_image():
    images, masks = growing_masks(IMAGE, steps=1)
    np.testing.assert_array_equal(images, IMAGE[None])
    assert not masks.any()


def test_the_image_is_not_changed():
    image = IMAGE.copy()
    growing_masks(image)
    np.testing.assert_array_equal(image, IMAGE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": IMAGE[None]}, r"\(1, 32, 32, 3\); one numpy array of \(32, 32, 3\)"),
        ({"image": IMAGE.astype(float)}, "float64"),
        ({"image": IMAGE * 2}, r"\[0, 1\] is needed"),
        ({"image": IMAGE.tolist()}, "image is list; one numpy array"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.0}, "steps is 2.0"),
        ({"mask_size": (0, 4)}, r"mask_size is \(0, 4\)"),
        ({"mask_size": (33, 4)}, r"mask_size is \(33, 4\)"),
        ({"mask_size": 4}, "mask_size is 4"),
        ({"seed": -1}, "seed is -1"),
        ({"steps": 3, "mask_size": (32, 32)}, "Step 2 finds no clean pixel.*fewer steps than 3"),
    ],
)
def test_bad_arguments_are_named_with_a_remedy(arguments, message):
    with pytest.raises(DataError, match=message):
        growing_masks(**({"image": IMAGE} | arguments))
