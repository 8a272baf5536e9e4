"""scikit-learn's bundled digits in the shape of CIFAR-10: a data set that is always at hand.

Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
"""

from __future__ import annotations

import numpy as np

from helpers.data.dataset import IMAGE_SHAPE, Dataset

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_EVERY = 5


def _enlarge(images: np.ndarray) -> np.ndarray:
    """Return (n, 8, 8) images in [0, 1] as float32 (n, 32, 32, 3) in [0, 1]."""
    from scipy.ndimage import zoom

    # Cubic splines, not repeated pixels: repeated ones show 4x4 blocks whose edges the superpixels
    # of the explainer follow, and which pixelate would hardly change. grid_mode keeps the picture
    # in place. Splines are linear, so enlarging the identity gives the matrix that enlarges any
    # row or column, and two products do in 0.1 s what `zoom` does to all images in 1 s.
    size = images.shape[1]
    factor = IMAGE_SHAPE[0] // size
    rows = zoom(np.eye(size), (factor, 1), order=3, mode="nearest", grid_mode=True)
    # Splines overshoot at the edge of a stroke.
    grey = np.clip(rows @ images @ rows.T, 0, 1).astype(np.float32)
    return np.repeat(grey[..., None], IMAGE_SHAPE[2], axis=3)


def read() -> Dataset:
    """Return the 1,797 digits, enlarged from 8x8 to 32x32x3; about a fifth of each class is test.

    The split is always the same: of each class every fifth image, in the order of the source. That
    order follows the writers, so that writers occur in both parts.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = _enlarge(images.reshape(-1, 8, 8) / 16), labels.astype(np.int64)
    test = np.zeros(len(y), bool)
    for label in range(len(CLASS_NAMES)):
        test[np.flatnonzero(y == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return Dataset("digits", CLASS_NAMES, x[~test], y[~test], x[test], y[test])
