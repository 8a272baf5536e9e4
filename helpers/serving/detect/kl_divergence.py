"""An example of a metrics server of one's own: how far the predicted distribution is from the true one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import rel_entr

from helpers.serving.detect.metrics_base import COUNTER, GAUGE, Metric, MetricsModel

SMALLEST = 1e-12  # a class predicted with probability 0 would make the divergence infinite


class KLDivergence(MetricsModel):
    """Kullback-Leibler divergence of response from truth, in nats, over rows of probabilities.

    `kl_divergence` (gauge) is the mean over the rows of the latest feedback; the counters
    `kl_divergence_sum` and `kl_divergence_count` give the mean over any time:
    rate(kl_divergence_sum_total[5m]) / rate(kl_divergence_count_total[5m]).
    """

    def compare(
        self, truth: np.ndarray, response: np.ndarray, request: np.ndarray | None
    ) -> Iterable[Metric]:
        """Return the three metrics; rows are normalised to sum to 1."""
        p, q = _distributions(truth), _distributions(response)
        if p.shape != q.shape:
            raise ValueError(f"truth {p.shape} and response {q.shape} must have the same shape")
        q = np.maximum(q, SMALLEST)
        divergences = rel_entr(p, q / q.sum(axis=1, keepdims=True)).sum(axis=1)
        total = max(0.0, float(divergences.sum()))  # rounding can leave it a hair below zero
        return [
            Metric("kl_divergence", total / len(p), GAUGE),
            Metric("kl_divergence_sum", total, COUNTER),
            Metric("kl_divergence_count", len(p), COUNTER),
        ]


def _distributions(rows: np.ndarray) -> np.ndarray:
    rows = rows.reshape(1, -1) if rows.ndim == 2 and rows.shape[1] == 1 else rows
    if rows.ndim != 2 or rows.dtype.kind not in "biuf" or (rows < 0).any():
        raise ValueError("rows of probabilities are expected")
    rows = rows.astype(float)
    with np.errstate(over="ignore"):
        sums = rows.sum(axis=1, keepdims=True)
    if not ((sums > 0) & np.isfinite(sums)).all():
        raise ValueError("a row of probabilities sums to zero or to no number")
    return rows / sums
