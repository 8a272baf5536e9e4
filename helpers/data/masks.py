"""Noise that grows over one image: what the outlier detector is shown in its chapter."""

from __future__ import annotations

import warnings

import numpy as np

from helpers.data.dataset import IMAGE_SHAPE, check_images, check_seed
from helpers.errors import DataError
from helpers.seeds import numpy_state_kept


def _uncovered(covered: np.ndarray, mask_size: tuple[int, int]) -> np.ndarray:
    """Return how many pixels a mask would newly cover, for each place of its upper left corner."""
    windows = np.lib.stride_tricks.sliding_window_view(~covered, mask_size)
    return windows.sum(axis=(2, 3))


def growing_masks(
    image: np.ndarray, steps: int = 10, seed: int = 0, mask_size: tuple[int, int] = (3, 3)
) -> tuple[np.ndarray, np.ndarray]:
    """Return `steps` copies of `image` under more and more noise, and the noise.

    The first copy is clean; each further one is the one before with one more patch of noise, made
    with alibi-detect's `apply_mask`: normal with mean 0 and standard deviation 1, the same in all
    channels, the image then clipped to [0, 1]. A patch lies at random among the places where it
    covers most that is still clean, so patches overlap only where no free place is left.

    image: float32 (32, 32, 3) in [0, 1]
    steps: number of copies, 1 or more
    seed: the same seed gives the same result; numpy's global generator is as before afterwards
    mask_size: height and width of a patch, in pixels

    Returns the copies, float32 (steps, 32, 32, 3) in [0, 1], and the noise that was added to each,
    float32 of the same shape, 0 where nothing was.

    Raises:
        DataError: an argument is not as described, or no clean pixel is left for the last patches.
    """
    shape = getattr(image, "shape", type(image).__name__)
    if shape != IMAGE_SHAPE:
        raise DataError(f"The image is {shape}; one numpy array of {IMAGE_SHAPE} is needed.")
    check_images(image[None])
    check_seed(seed)
    _check_sizes(steps, mask_size)
    with warnings.catch_warnings():
        # alibi-detect 0.13 imports from a namespace that scipy calls deprecated.
        warnings.simplefilter("ignore")
        from alibi_detect.utils.perturbation import apply_mask

    images, masks = np.empty((2, steps, *IMAGE_SHAPE), np.float32)
    images[0], masks[0] = image, 0
    covered = np.zeros(IMAGE_SHAPE[:2], bool)
    with numpy_state_kept(seed):  # apply_mask draws from the global generator
        for step in range(1, steps):
            gain = _uncovered(covered, mask_size)
            places = np.argwhere(gain == gain.max())
            row, column = places[np.random.randint(len(places))]
            noisy, noise = apply_mask(
                images[step - 1 : step],
                mask_size=mask_size,
                coord=(np.array([row]), np.array([column])),
                mask_type="normal",
            )
            patch = np.zeros_like(covered)
            patch[row : row + mask_size[0], column : column + mask_size[1]] = True
            # What is covered stays as it is: each step contains the one before.
            fresh = (patch & ~covered)[..., None]
            images[step] = np.where(fresh, noisy[0], images[step - 1])
            masks[step] = np.where(fresh, noise[0], masks[step - 1])
            covered |= patch
            if not fresh.any():
                raise DataError(
                    f"Step {step} finds no clean pixel left to cover; "
                    f"take fewer steps than {steps} or a smaller mask_size than {mask_size}."
                )
    return images, masks


def _check_sizes(steps: object, mask_size: object) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise DataError(f"steps is {steps!r}; an integer of 1 or more is needed.")
    if (
        not isinstance(mask_size, tuple)
        or len(mask_size) != 2
        or not all(isinstance(side, int) and 1 <= side <= IMAGE_SHAPE[0] for side in mask_size)
    ):
        raise DataError(f"mask_size is {mask_size!r}; (height, width) of 1 to 32 is needed.")
