"""Four ways in which images go bad after deployment, each in five severities.

The arithmetic and its parameters are those of CIFAR-10-C: Hendrycks and Dietterich, "Benchmarking
neural network robustness to common corruptions and perturbations", ICLR 2019, and
https://github.com/hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py. alibi-detect has three
of them in `alibi_detect.utils.perturbation`, for one image at a time, drawing from numpy's global
generator, and importing it imports TensorFlow. Here they work on batches; a test holds the results
equal to alibi-detect's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from helpers.data.dataset import IMAGE_SHAPE, check_images, check_seed
from helpers.errors import DataError

# Strength at severity 1 to 5.
GAUSSIAN_NOISE = (0.04, 0.06, 0.08, 0.09, 0.10)  # standard deviation
# Radius and standard deviation in pixels. Severity 4 is hardly more than 3, in CIFAR-10-C as here:
# at the same standard deviation, what the larger radius adds weighs nothing.
MOTION_BLUR = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)  # added to the value of HSV
PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)  # side of the smaller image, relative

SEVERITIES = (1, 2, 3, 4, 5)
MAX_ANGLE = 45  # degrees, of the motion
# Images are taken in parts, since some intermediate results are several times their size.
PART = 1000


def _gaussian_noise(x: np.ndarray, severity: int, random: np.random.RandomState) -> np.ndarray:
    return np.clip(x + random.normal(scale=GAUSSIAN_NOISE[severity - 1], size=x.shape), 0, 1)


def _motion_blur(x: np.ndarray, severity: int, random: np.random.RandomState) -> np.ndarray:
    """Average pixels along a line, in a direction of its own for each image.

    As ImageMagick's MotionBlurImage does, with which CIFAR-10-C was made: the line starts at the
    pixel and runs to one side only, with the weights of half a Gaussian; its points are rounded to
    whole pixels; beyond the border the border's pixels are repeated.
    """
    radius, sigma = MOTION_BLUR[severity - 1]
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    angles = np.deg2rad(random.uniform(-MAX_ANGLE, MAX_ANGLE, len(x)))[:, None]
    right = np.ceil(steps * np.cos(angles) - 0.5).astype(int)
    down = np.ceil(steps * np.sin(angles) - 0.5).astype(int)
    # Nearby angles round to the same pixels: images that share a line are blurred together.
    lines, line_of = np.unique(np.hstack([right, down]), axis=0, return_inverse=True)
    height, width, _ = IMAGE_SHAPE
    border = len(steps)
    blurred = np.empty_like(x)
    for number, line in enumerate(lines):
        chosen = np.flatnonzero(line_of == number)
        wide = np.pad(x[chosen], ((0, 0), (border, border), (0, border), (0, 0)), mode="edge")
        total = np.zeros((len(chosen), *IMAGE_SHAPE), np.float32)
        for weight, column, row in zip(weights, *line.reshape(2, -1), strict=True):
            row += border
            total += weight * wide[:, row : row + height, column : column + width]
        blurred[chosen] = total
    return np.clip(blurred, 0, 1)


def _brightness(x: np.ndarray, severity: int, random: np.random.RandomState) -> np.ndarray:
    # In HSV, value is the largest of red, green and blue; to change it and keep hue and saturation
    # is to scale all three. Black has no hue: it becomes grey.
    value = x.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + np.float32(BRIGHTNESS[severity - 1]), 1)
    black = value == 0
    return np.where(black, 1, x / np.where(black, 1, value)) * brighter


def _pixelate(x: np.ndarray, severity: int, random: np.random.RandomState) -> np.ndarray:
    from PIL import Image

    size = IMAGE_SHAPE[0]
    small = int(size * PIXELATE[severity - 1])
    pixelated = np.empty(x.shape, np.uint8)
    for number, image in enumerate((x * 255).astype(np.uint8)):
        shrunk = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
        pixelated[number] = shrunk.resize((size, size), Image.Resampling.BOX)
    return pixelated.astype(np.float32) / 255


_FUNCTIONS: dict[str, Callable[[np.ndarray, int, np.random.RandomState], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise,
    "motion_blur": _motion_blur,
    "brightness": _brightness,
    "pixelate": _pixelate,
}
KINDS = tuple(_FUNCTIONS)


def corrupt(x: np.ndarray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Return a corrupted copy of the images `x`.

    x: float32 (n, 32, 32, 3) in [0, 1]; so is what is returned
    kind: one of KINDS
    severity: 1 (hardly visible) to 5
    seed: the same seed gives the same result. What happens to image i depends on the images before
        it only through their number, so corrupting the first 100 gives the first 100 of all.
        brightness and pixelate have nothing random. numpy's global generator is not touched.

    Raises:
        DataError: an argument is not as described.
    """
    if kind not in KINDS:
        raise DataError(f"There is no corruption {kind!r}. Choose one of: {', '.join(KINDS)}.")
    whole = isinstance(severity, int | np.integer) and not isinstance(severity, bool)
    if not whole or severity not in SEVERITIES:
        raise DataError(f"The severity is {severity!r}; an integer from 1 to 5 is needed.")
    check_seed(seed)
    check_images(x)
    # RandomState, not default_rng: its numbers are the same in every version of numpy, and those
    # that alibi-detect draws after np.random.seed(seed).
    random = np.random.RandomState(seed)
    corrupted = np.empty_like(x)
    for start in range(0, len(x), PART):
        part = slice(start, start + PART)
        corrupted[part] = _FUNCTIONS[kind](x[part], severity, random)
    return corrupted
