"""What every data set of this repository looks like once it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helpers.errors import DataError

IMAGE_SHAPE = (32, 32, 3)


# Without eq, two data sets would be compared array by array, which numpy refuses to call a bool.
@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, split once and for all into training and test.

    x_train, x_test: float32 (n, 32, 32, 3) in [0, 1]
    y_train, y_test: int64 (n,), indices into `class_names`

    Raises:
        DataError: a shape or type differs, or a label has no class name.
    """

    name: str
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            if x.shape[1:] != IMAGE_SHAPE or y.shape != x.shape[:1]:
                raise DataError(
                    f"{self.name}: {split} has images {x.shape} and labels {y.shape}; "
                    f"(n, {', '.join(map(str, IMAGE_SHAPE))}) and (n,) are needed."
                )
            if x.dtype != np.float32 or y.dtype != np.int64:
                raise DataError(
                    f"{self.name}: {split} has {x.dtype} images and {y.dtype} labels; "
                    "float32 and int64 are needed."
                )
            if len(y) and not 0 <= y.min() <= y.max() < len(self.class_names):
                raise DataError(
                    f"{self.name}: {split} labels run from {y.min()} to {y.max()}, "
                    f"but there are {len(self.class_names)} classes."
                )

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name}: {len(self.x_train):,} training and {len(self.x_test):,} test "
            f"images of {len(self.class_names)} classes)"
        )


def check_images(x: object) -> None:
    """Check that `x` is a batch as a data set holds it: float32 (n, 32, 32, 3) in [0, 1].

    Raises:
        DataError: it is not; the message says what to do about it.
    """
    if not isinstance(x, np.ndarray):
        raise DataError(f"Images must be a numpy array, not {type(x).__name__}.")
    if x.shape == IMAGE_SHAPE:
        raise DataError(f"One image of shape {x.shape} is not a batch; pass image[None].")
    if x.shape[1:] != IMAGE_SHAPE:
        raise DataError(f"Images have shape {x.shape}; (n, 32, 32, 3) is needed.")
    if x.dtype != np.float32:
        remedy = "x.astype(np.float32) / 255" if x.dtype == np.uint8 else "x.astype(np.float32)"
        raise DataError(f"Images are {x.dtype}; float32 in [0, 1] is needed: pass {remedy}.")
    if not len(x):
        return
    low, high = x.min(), x.max()
    if np.isnan(low):
        raise DataError("Images hold NaN; look for a division by zero where they were made.")
    if low < 0 or high > 1:
        raise DataError(
            f"Images run from {low:g} to {high:g}; [0, 1] is needed: "
            "divide by 255 if they are bytes, np.clip them if they are a network's output."
        )


def check_seed(seed: object) -> None:
    """Check that `seed` is what numpy's generators take.

    Raises:
        DataError: it is not an integer from 0 to 2**32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise DataError(f"The seed is {seed!r}; an integer from 0 to 4294967295 is needed.")
