"""CIFAR-10 in its official Python layout: where it may lie on this machine, and how it is read.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from helpers.data import safe_pickle
from helpers.data.dataset import Dataset
from helpers.errors import DataError

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
FILES = (*BATCHES, "test_batch", "batches.meta")
IMAGES_PER_BATCH = 10_000
CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
REPOSITORY = Path(__file__).resolve().parents[2]


def home() -> Path:
    """Return the folder that downloads go to: `data/` of this repository."""
    return REPOSITORY / "data"


def _keras() -> Path:
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"


def candidates() -> list[Path]:
    """Return the folders that may hold the batches, in the order they are looked for."""
    folders = [
        home() / FOLDER,
        REPOSITORY.parent / "shared" / "cifar10" / FOLDER,
        _keras() / FOLDER,
        # Keras 3 unpacks to another place than tf-keras.
        _keras() / f"{FOLDER}-target_extracted" / FOLDER,
    ]
    if chosen := os.environ.get("CIFAR10_DIR"):
        root = Path(chosen).expanduser()
        holds_batches = root.name == FOLDER or (root / BATCHES[0]).is_file()
        folders.insert(0, root if holds_batches else root / FOLDER)
    return folders


def archives() -> list[Path]:
    """Return where a downloaded, still packed archive may lie, in the order they are tried."""
    keras = (ARCHIVE, f"{FOLDER}.tar.gz", f"{FOLDER}-target")
    return [home() / ARCHIVE, *(_keras() / name for name in keras)]


def find() -> Path | None:
    """Return the first folder that holds CIFAR-10, or None.

    Raises:
        DataError: `$CIFAR10_DIR` is set and holds no CIFAR-10. A folder that the user named is
            never passed over in silence.
    """
    folders = candidates()
    if (chosen := os.environ.get("CIFAR10_DIR")) and not folders[0].is_dir():
        raise DataError(
            f"CIFAR10_DIR is {chosen}, but {folders[0]} does not exist. "
            f"Let it name the folder that holds {FOLDER}/, or unset it."
        )
    return next((folder for folder in folders if folder.is_dir()), None)


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return one batch: uint8 images (10000, 32, 32, 3) and int64 labels (10000,)."""
    if not path.is_file():
        raise DataError(
            f"{path} is missing. CIFAR-10 needs {', '.join(BATCHES)} and test_batch in one folder; "
            f"delete {path.parent} to have it downloaded anew, or point CIFAR10_DIR elsewhere."
        )
    batch = safe_pickle.load(path)
    try:
        pixels, labels = batch[b"data"], batch[b"labels"]
    except KeyError:
        raise DataError(
            f"{path} holds no b'data' and b'labels'; it is not a CIFAR-10 batch. "
            f"Delete {path.parent} and fetch the data set again."
        ) from None
    wanted = (IMAGES_PER_BATCH, 3 * 32 * 32)
    is_array = isinstance(pixels, np.ndarray)
    if not is_array or pixels.dtype != np.uint8 or pixels.shape != wanted:
        found = f"{pixels.dtype} {pixels.shape}" if is_array else f"a {type(pixels).__name__}"
        raise DataError(
            f"{path} holds {found} as images; uint8 {wanted} is needed. "
            "Delete it and fetch the data set again."
        )
    classes = range(len(CLASS_NAMES))
    if (
        not isinstance(labels, list)
        or len(labels) != IMAGES_PER_BATCH
        or not all(type(label) is int and label in classes for label in labels)
    ):
        raise DataError(
            f"{path} holds other labels than a list of {IMAGES_PER_BATCH} integers from 0 to 9. "
            "Delete it and fetch the data set again."
        )
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def _read(folder: Path, batches: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the batches one after the other: float32 images in [0, 1] and int64 labels."""
    # Filled batch by batch: concatenating would need the 600 MB of the training images twice.
    x = np.empty((len(batches) * IMAGES_PER_BATCH, 32, 32, 3), np.float32)
    y = np.empty(len(x), np.int64)
    for number, name in enumerate(batches):
        rows = slice(number * IMAGES_PER_BATCH, (number + 1) * IMAGES_PER_BATCH)
        x[rows], y[rows] = _read_batch(folder / name)
    x /= 255
    return x, y


def read(folder: Path) -> Dataset:
    """Return CIFAR-10 from the official batches in `folder`.

    50,000 training images, 5,000 a class, in the order of the batches, and 10,000 test images.

    Raises:
        DataError: a batch is missing, truncated or of another shape.
    """
    x_train, y_train = _read(folder, BATCHES)
    x_test, y_test = _read(folder, ("test_batch",))
    return Dataset("cifar10", CLASS_NAMES, x_train, y_train, x_test, y_test)
