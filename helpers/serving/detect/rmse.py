"""An example of a metrics server of one's own, for regression: the root of the mean squared error."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from helpers.serving.detect.metrics_base import COUNTER, GAUGE, Metric, MetricsModel


class RMSE(MetricsModel):
    """Root mean squared error of the responses, in the unit of the truth.

    `rmse` (gauge) is over all feedback since the server started; the counters `squared_error_sum` and
    `squared_error_count` give it over any time:
    sqrt(rate(squared_error_sum_total[5m]) / rate(squared_error_count_total[5m])).
    """

    def __init__(self) -> None:
        self.squares = 0.0
        self.count = 0

    def compare(
        self, truth: np.ndarray, response: np.ndarray, request: np.ndarray | None
    ) -> Iterable[Metric]:
        """Return the three metrics."""
        if truth.dtype.kind not in "biuf" or response.dtype.kind not in "biuf":
            raise ValueError("numbers are expected")
        if truth.size != response.size:
            raise ValueError(f"{truth.size} truths came with {response.size} responses")
        with np.errstate(over="ignore"):
            squares = float(np.square(truth.ravel() - response.ravel().astype(float)).sum())
        if not np.isfinite(self.squares + squares):
            raise ValueError("the error is too large for a float64")
        self.squares += squares
        self.count += truth.size
        return [
            Metric("rmse", float(np.sqrt(self.squares / self.count)), GAUGE),
            Metric("squared_error_sum", squares, COUNTER),
            Metric("squared_error_count", truth.size, COUNTER),
        ]
