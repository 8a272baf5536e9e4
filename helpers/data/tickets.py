"""Support tickets, billing or technical: 240 short texts in tickets.csv, written for this repository."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from helpers.data.texts import Texts
from helpers.errors import DataError

FILE = Path(__file__).with_suffix(".csv")
CLASS_NAMES = ("billing", "technical")
TEST_EVERY = 4


def read(file: Path = FILE) -> Texts:
    """Return the tickets; of each class every fourth is test, in the order of the file.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened, strict=True))
        labels = np.array([CLASS_NAMES.index(row["label"]) for row in rows], np.int64)
        texts = [row["text"].strip() for row in rows]
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as problem:
        raise DataError(
            f"{file} does not hold tickets, rows of label and text: {problem}. "
            "Restore it with `git checkout`."
        ) from problem
    test = np.zeros(len(labels), bool)
    for label in range(len(CLASS_NAMES)):
        test[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return Texts(
        name="tickets",
        class_names=CLASS_NAMES,
        x_train=tuple(text for text, tested in zip(texts, test, strict=True) if not tested),
        y_train=labels[~test],
        x_test=tuple(text for text, tested in zip(texts, test, strict=True) if tested),
        y_test=labels[test],
    )
