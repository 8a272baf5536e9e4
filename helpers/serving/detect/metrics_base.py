"""The base class of metrics servers: how a truth compares with a response.

A class of your own is given by its dotted path, and its module must be importable (PYTHONPATH):

    python -m helpers.serving.detect … --storage_uri my_metrics.Top3 MetricsServer

    class Top3(MetricsModel):
        def compare(self, truth, response, request):
            for label, scores in zip(truth.ravel(), response, strict=True):
                hit = label in np.argsort(scores)[-3:]
                yield Metric("top_3_hits" if hit else "top_3_misses", 1)

Classes written for Seldon's own server work too: any class with `transform(truth, response, request)` that
returns a list of metrics, or an object that has one as `metrics`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from helpers.serving.detect.verdict import COUNTER, GAUGE, TIMER, Metric

__all__ = ["COUNTER", "GAUGE", "TIMER", "Metric", "MetricsModel", "as_rows"]


class MetricsModel(ABC):
    """Compares the truth of a feedback event with the model's response.

    One instance lives as long as the server, and is never called twice at the same time: what it
    keeps between calls (a running sum, say) needs no lock.
    """

    @abstractmethod
    def compare(
        self, truth: np.ndarray, response: np.ndarray, request: np.ndarray | None
    ) -> Iterable[Metric]:
        """Return the metrics of one feedback event.

        Args:
            truth: (n, …), one row for each instance; a single value comes as (1, 1).
            response: (n, …) as the model answered.
            request: (n, …) if the feedback has it.

        Raises:
            ValueError: the two cannot be compared; the sentence goes to who sent the feedback.
        """

    def transform(
        self, truth: np.ndarray, response: np.ndarray, request: np.ndarray | None = None
    ) -> list[Metric]:
        """Return `compare`'s metrics as a list, its arguments brought into rows first."""
        truth, response = as_rows(truth), as_rows(response)
        if len(truth) != len(response) and 1 in (len(truth), len(response)):
            # [[0.1, 0.9]] next to [0, 1], or [3] next to [[3]]: one instance, its row left unwrapped
            truth, response = (_one_row(values) for values in (truth, response))
        if len(truth) != len(response):
            raise ValueError(f"{len(truth)} truths came with {len(response)} responses")
        rows = None if request is None else as_rows(request)
        return list(self.compare(truth, response, rows))


def as_rows(values: object) -> np.ndarray:
    """Return values as an array of rows, (n, …): a number is (1, 1), a flat list of n is (n, 1)."""
    array = np.asarray(values)
    if array.ndim == 0:
        return array.reshape(1, 1)
    return array.reshape(-1, 1) if array.ndim == 1 else array


def _one_row(rows: np.ndarray) -> np.ndarray:
    return rows if len(rows) == 1 else rows.reshape(1, -1)
