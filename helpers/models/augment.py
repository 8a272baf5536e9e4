"""The two augmentations every CIFAR ResNet trains with: random crops and flips."""

from __future__ import annotations

import numpy as np


def crop_and_flip(
    images: np.ndarray, rng: np.random.Generator, pad: int = 4, flip: bool = True
) -> np.ndarray:
    """Return each image shifted by up to `pad` pixels (black border), half of them mirrored.

    images: (n, height, width, channels), any dtype; the result has the same shape and dtype.
    `flip=False` leaves out the mirroring, for what means something else in a mirror, as digits do.
    """
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    # A view of every crop there is: (n, 2·pad+1, 2·pad+1, channels, height, width).
    crops = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    top, left = rng.integers(0, 2 * pad + 1, (2, n))
    result = crops[np.arange(n), top, left].transpose(0, 2, 3, 1)
    if flip:
        mirrored = rng.random(n) < 0.5
        result[mirrored] = result[mirrored, :, ::-1]
    return np.ascontiguousarray(result)
