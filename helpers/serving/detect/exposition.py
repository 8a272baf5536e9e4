"""Detectors' metrics for Prometheus, under the names and labels that Seldon's servers give them."""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import orjson
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from helpers.serving.detect.verdict import COUNTER, GAUGE, Metric

UNKNOWN = "NOT_IMPLEMENTED"  # what Seldon writes where the environment says nothing
SERIES_LIMIT = 10_000  # tags come from the network: they must not fill the memory
TIMER_BOUNDS = [*np.logspace(-3, np.log10(30), 50).tolist(), float("inf")]  # seconds


def labels_from_environment() -> dict[str, str]:
    """Return the labels that every metric has, from the variables that Seldon's operator sets."""
    image, _, version = os.environ.get("PREDICTIVE_UNIT_IMAGE", f"{UNKNOWN}:{UNKNOWN}").rpartition(
        ":"
    )
    try:
        predictor_labels = orjson.loads(os.environ.get("PREDICTOR_LABELS", "{}"))
        predictor_version = str(predictor_labels.get("version", UNKNOWN))
    except (orjson.JSONDecodeError, AttributeError):
        predictor_version = UNKNOWN
    deployment = os.environ.get("SELDON_DEPLOYMENT_ID", UNKNOWN)
    return {
        "deployment_name": deployment,
        "model_name": os.environ.get("PREDICTIVE_UNIT_ID", UNKNOWN),
        "model_image": image,
        "model_version": version,
        "predictor_name": os.environ.get("PREDICTOR_ID", UNKNOWN),
        "predictor_version": predictor_version,
        "seldon_deployment_name": deployment,
        "seldon_deployment_namespace": os.environ.get("SELDON_DEPLOYMENT_NAMESPACE", UNKNOWN),
        "image_name": image,
        "image_version": version,
    }


class RuntimeMetrics(Collector):
    """Collects what detectors report, one time series for each name and set of tags.

    Seldon's server makes a new `worker_id` for every event, so that its counters never pass 1 and only
    their sum means anything. Here it is the process's number: counters count, and their sum is the same.

    Args:
        method: the label `method`: the type of the reply events.
        labels: what every series has besides; from the environment by default.
    """

    def __init__(self, method: str, labels: Mapping[str, str] | None = None) -> None:
        common = labels_from_environment() if labels is None else dict(labels)
        self._common = {"method": method, **common, "worker_id": str(os.getpid())}
        self._types: dict[str, str] = {}
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], float | list[float]] = {}
        self._lock = threading.Lock()

    def update(self, metrics: Iterable[Metric]) -> None:
        """Apply changes, all or none.

        Raises:
            ValueError: a name is already in use with another type, or there are too many series.
        """
        changes = [(metric, (metric.key, tuple(sorted(metric.tags.items())))) for metric in metrics]
        with self._lock:
            types: dict[str, str] = {}
            for metric, _ in changes:
                taken = self._common.keys() & metric.tags.keys()
                if taken:
                    raise ValueError(f"{metric.key} cannot have a tag {min(taken)!r} of its own")
                known = self._types.get(metric.key) or types.setdefault(metric.key, metric.type)
                if known != metric.type:
                    raise ValueError(f"{metric.key} is a {known}, not a {metric.type}")
            new = {key for _, key in changes} - self._series.keys()
            if len(self._series) + len(new) > SERIES_LIMIT:
                raise ValueError(
                    f"there are {SERIES_LIMIT} series already; {len(new)} more were sent"
                )
            self._types |= types
            for metric, key in changes:
                self._apply(metric, key)

    def _apply(self, metric: Metric, key: tuple[str, tuple[tuple[str, str], ...]]) -> None:
        if metric.type == COUNTER:
            self._series[key] = self._series.get(key, 0.0) + float(metric.value)
        elif metric.type == GAUGE:
            self._series[key] = float(metric.value)
        else:  # a timer: counts of each bucket, then the sum
            counts = self._series.setdefault(key, [0.0] * (len(TIMER_BOUNDS) + 1))
            seconds = float(metric.value) / 1000
            counts[bisect.bisect_left(TIMER_BOUNDS, seconds)] += 1
            counts[-1] += seconds

    def collect(self) -> Iterator[Family]:
        """Yield one family for each name, for prometheus_client."""
        with self._lock:
            types = dict(self._types)
            series = [
                (key, list(value) if isinstance(value, list) else value)
                for key, value in self._series.items()
            ]
        families: dict[tuple[str, tuple[str, ...]], Family] = {}
        for (name, tags), value in series:
            labels = {**self._common, **dict(tags)}
            # One family holds one set of label names; tags may differ between calls.
            family = families.setdefault((name, tuple(labels)), _family(name, types[name], labels))
            if isinstance(value, list):
                cumulated = np.cumsum(value[:-1]).tolist()
                bounds = [floatToGoString(bound) for bound in TIMER_BOUNDS]
                buckets = list(zip(bounds, cumulated, strict=True))
                family.add_metric(list(labels.values()), buckets, sum_value=value[-1])
            else:
                family.add_metric(list(labels.values()), value)
        yield from families.values()


def _family(name: str, type: str, labels: Mapping[str, str]) -> Family:
    if type == COUNTER:
        return CounterMetricFamily(name.removesuffix("_total"), "", labels=list(labels))
    if type == GAUGE:
        return GaugeMetricFamily(name, "", labels=list(labels))
    return HistogramMetricFamily(name, "", labels=list(labels))
