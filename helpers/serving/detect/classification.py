"""The three metrics servers of Seldon: counters of right and wrong predictions, by class.

What each counts is what Seldon's count, so that one dashboard reads both. Seldon compares the first row of a
batch only; these count every row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from helpers.serving.detect.metrics_base import Metric, MetricsModel

TRUE_POSITIVE = "seldon_metric_true_positive"
TRUE_NEGATIVE = "seldon_metric_true_negative"
FALSE_POSITIVE = "seldon_metric_false_positive"
FALSE_NEGATIVE = "seldon_metric_false_negative"


class BinaryMetrics(MetricsModel):
    """Truth and response are 0 or 1; the four counters have no class."""

    def compare(
        self, truth: np.ndarray, response: np.ndarray, request: np.ndarray | None
    ) -> Iterable[Metric]:
        """Return one counter a row."""
        for true, answered in zip(_binary(truth), _binary(response), strict=True):
            if true:
                yield Metric(TRUE_POSITIVE if answered else FALSE_NEGATIVE, 1)
            else:
                yield Metric(FALSE_POSITIVE if answered else TRUE_NEGATIVE, 1)


class MultiClassNumeric(MetricsModel):
    """Truth and response are the number, or the name, of a class.

    A right answer raises true_positive of the class; a wrong one false_negative of the true class and
    false_positive of the answered one. true_negative is not counted: for a class it is the number of
    all answers less the other three.
    """

    def compare(
        self, truth: np.ndarray, response: np.ndarray, request: np.ndarray | None
    ) -> Iterable[Metric]:
        """Return one or two counters a row."""
        for true, answered in zip(_classes(truth), _classes(response), strict=True):
            if true == answered:
                yield _of_class(TRUE_POSITIVE, true)
            else:
                yield _of_class(FALSE_NEGATIVE, true)
                yield _of_class(FALSE_POSITIVE, answered)


class MulticlassOneHot(MetricsModel):
    """Truth and response are rows of k numbers, one-hot or probabilities; the largest is the class.

    As MultiClassNumeric, and a right answer also raises true_negative of that same class: so does
    Seldon's, and it is not what the word says. Compute true negatives of a class from the others.
    """

    def compare(
        self, truth: np.ndarray, response: np.ndarray, request: np.ndarray | None
    ) -> Iterable[Metric]:
        """Return two counters a row."""
        truth, response = _one_hot_rows(truth), _one_hot_rows(response)
        if truth.shape != response.shape or truth.shape[1] < 2:
            raise ValueError(
                f"truth {truth.shape} and response {response.shape} must have the same shape, with one "
                "number for each of at least 2 classes"
            )
        for true, answered in zip(truth.argmax(axis=1), response.argmax(axis=1), strict=True):
            if true == answered:
                yield _of_class(TRUE_POSITIVE, true)
                yield _of_class(TRUE_NEGATIVE, answered)
            else:
                yield _of_class(FALSE_NEGATIVE, true)
                yield _of_class(FALSE_POSITIVE, answered)


def _of_class(key: str, name: Any) -> Metric:
    return Metric(key, 1, tags={"class": f"CLASS_{name}"})


def _single(rows: np.ndarray) -> np.ndarray:
    """Return (n,) from rows of one value each."""
    flat = rows.reshape(len(rows), -1)
    if flat.shape[1] != 1:
        raise ValueError(f"one class for each row is expected, not {flat.shape[1]} values")
    return flat[:, 0]


def _classes(rows: np.ndarray) -> list[Any]:
    classes = _single(rows)
    if classes.dtype.kind == "f":
        if not np.array_equal(classes, np.round(classes)):
            raise ValueError(
                "classes must be whole numbers or names; for probabilities there is OneHot"
            )
        classes = classes.astype(int)
    return classes.tolist()


def _binary(rows: np.ndarray) -> list[int]:
    classes = _classes(rows)
    if not all(c in (0, 1) for c in classes):
        raise ValueError("classes must be 0 or 1")
    return [int(c) for c in classes]


def _one_hot_rows(rows: np.ndarray) -> np.ndarray:
    """A flat list of k numbers is one row of k, not k rows of one."""
    rows = rows.reshape(1, -1) if rows.ndim == 2 and rows.shape[1] == 1 else rows
    if rows.ndim != 2 or rows.dtype.kind not in "biuf":
        raise ValueError("rows of numbers are expected, one for each class")
    return rows
