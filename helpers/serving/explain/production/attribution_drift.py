"""Attribution drift: do features weigh in answers today as they did in a reference window?

    drift = AttributionDrift(settings, registry, labels)
    drift.add({"income": -0.25, "age": 0.125})          # after an explanation; in a worker thread
    drift.reset()                                       # where another model or explainer is served

The first rows are the reference, unless one is given. Each following window is, once it is full, tested against
it feature by feature with the two-sample Kolmogorov-Smirnov test (scipy.stats.ks_2samp, asymptotic p-values,
as alibi-detect's KSDrift has them), and then begun anew: windows do not overlap. A window drifts where the
p-value of any feature is below p_val / features (Bonferroni): undrifted windows are called drifted with a
probability of p_val at most.

Drift of attributions can be seen without labels and where inputs drift without consequence for the answers
it stays quiet. It needs a number for each feature of each explanation: anchors have none.

Feature names become labels of metrics and come from the caller: give them as they may be shown, redacted ones
masked. Of more than `max_features` those of the largest mean absolute attribution in the reference are tested,
so that neither the labels nor the time of a test grow with the inputs; a gauge says how many are left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge
from scipy.stats import ks_2samp

from helpers.serving.common.errors import ServingError

log = logging.getLogger(__name__)

INPUT_FEATURES = 10_000  # an explanation of more is not looked at
REFERENCE_VALUES = 10_000_000  # held while the reference is gathered: 80 MB
NAME = 100  # characters of a feature's name in a label


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSettings:
    """Sizes and the threshold.

    Args:
        reference: rows of the reference window.
        window: rows of each window that is tested against it.
        p_val: the probability that an undrifted window is called drifted, at most.
        max_features: that are tested and shown.

    Raises:
        ServingError: a value that cannot be.
    """

    reference: int = 500
    window: int = 200
    p_val: float = 0.01
    max_features: int = 30

    def __post_init__(self) -> None:
        for name in ("reference", "window"):
            value = getattr(self, name)
            if not 20 <= value <= 100_000:
                raise ServingError(
                    f"Attribution drift's {name} is {value} rows; 20 to 100000 are possible."
                )
        if not 0 < self.p_val < 1:
            raise ServingError(
                f"Attribution drift's p_val is {self.p_val}; it lies between 0 and 1."
            )
        if not 1 <= self.max_features <= 200:
            raise ServingError(
                f"Attribution drift's max_features is {self.max_features}; 1 to 200 are possible."
            )


@dataclass(frozen=True, slots=True)
class DriftResult:
    """The test of one window.

    Args:
        is_drift: whether any feature's p-value is below the threshold.
        threshold: p_val over the number of features.
        distance: the Kolmogorov-Smirnov statistic of each feature.
        p_val: of each feature.
    """

    is_drift: bool
    threshold: float
    distance: Mapping[str, float]
    p_val: Mapping[str, float]


class AttributionDrift:
    """Gathers attributions and tests them window by window; may be used from any thread.

    `add` tests the window that it fills: some milliseconds, not on the event loop.

    Args:
        settings: sizes and threshold.
        registry: for its metrics.
        labels: of every metric.
        reference: attributions of a reference window, by feature; the first rows otherwise.

    Raises:
        ServingError: a reference that cannot be.
    """

    def __init__(
        self,
        settings: DriftSettings,
        registry: CollectorRegistry,
        labels: Mapping[str, str],
        reference: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._labels = dict(labels)
        names = list(labels)

        def gauge(name: str, what: str, *more: str) -> Gauge:
            return Gauge(
                f"explain_server_attribution_drift_{name}", what, [*names, *more], registry=registry
            )

        self._by_feature = {
            "distance": gauge(
                "distance", "Kolmogorov-Smirnov distance from the reference, last window", "feature"
            ),
            "p_val": gauge("p_val", "p-value of that distance, last window", "feature"),
        }
        self._gauges = {
            name: gauge(name, what).labels(**labels)
            for name, what in (
                ("is_drift", "Whether the last window drifted"),
                ("threshold", "p-value below which a feature drifted: p_val over the features"),
                ("window_rows", "Rows gathered in the window, or in the reference before it"),
                ("reference_ready", "Whether the reference window is full"),
                ("features_left_out", "Features that are not tested"),
            )
        }
        counter = Counter(
            "explain_server_attribution_drift_windows",
            "Windows tested, by result",
            [*names, "drift"],
            registry=registry,
        )
        self._windows = {drift: counter.labels(**labels, drift=drift) for drift in ("0", "1")}
        self._ignored = Counter(
            "explain_server_attribution_drift_ignored",
            "Explanations that were not looked at: of other features, or not finite",
            names,
            registry=registry,
        ).labels(**labels)
        self._clear()
        if reference is not None:
            self._use(reference)

    def add(self, attributions: Mapping[str, float]) -> DriftResult | None:
        """Take one explanation's attributions.

        Returns:
            The result of a window that this one filled; None otherwise.
        """
        with self._lock:
            row = self._row(attributions)
            if row is None:
                self._ignored.inc()
                return None
            self._rows.append(row)
            self._gauges["window_rows"].set(len(self._rows))
            if self._reference is None:
                if len(self._rows) >= self.settings.reference:
                    self._take_reference(np.array(self._rows))
                return None
            if len(self._rows) < self.settings.window:
                return None
            window, self._rows = np.array(self._rows), []
            self._gauges["window_rows"].set(0)
            return self._tested(window)

    def reset(self) -> None:
        """Forget reference and window, and gather a reference anew."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._names: list[str] = []
        self._known: frozenset[str] = frozenset()
        self._chosen: np.ndarray | None = None  # places of the features that are tested
        self._tested_names: list[str] = []
        self._reference: np.ndarray | None = None
        self._rows: list[np.ndarray] = []
        for whole in self._by_feature.values():
            whole.clear()
        for one in self._gauges.values():
            one.set(0)

    def _use(self, reference: Mapping[str, Sequence[float]]) -> None:
        lengths = {len(values) for values in reference.values()}
        if len(lengths) != 1 or min(lengths) < 20:
            raise ServingError(
                "The reference of attribution drift needs 20 rows at least, as many for each feature; "
                f"it has {sorted(lengths)[:5]}."
            )
        columns = np.array(list(reference.values()), np.float64)
        if not np.isfinite(columns).all():
            raise ServingError(
                "The reference of attribution drift holds what is not a finite number."
            )
        self._name(reference)
        self._take_reference(columns.T)

    def _name(self, attributions: Mapping[str, float] | Mapping[str, Sequence[float]]) -> None:
        self._names = list(attributions)
        self._known = frozenset(self._names)

    def _row(self, attributions: Mapping[str, float]) -> np.ndarray | None:
        """Return the numbers in the order of the reference's features; None where they do not fit."""
        if not self._names:
            size = len(attributions)
            if not 0 < size <= INPUT_FEATURES or size * self.settings.reference > REFERENCE_VALUES:
                return None
            self._name(attributions)
        if attributions.keys() != self._known:
            return None
        row = np.fromiter(
            (attributions[name] for name in self._names), np.float64, len(self._names)
        )
        if not np.isfinite(row).all():
            return None
        return row if self._chosen is None else row[self._chosen]

    def _take_reference(self, rows: np.ndarray) -> None:
        weight = np.abs(rows).mean(axis=0)
        chosen = np.argsort(-weight, kind="stable")[: self.settings.max_features]
        self._chosen = np.sort(chosen)
        self._reference = np.ascontiguousarray(rows[:, self._chosen])
        self._tested_names = _distinct([self._names[place] for place in self._chosen])
        self._rows = []
        self._gauges["window_rows"].set(0)
        self._gauges["reference_ready"].set(1)
        self._gauges["features_left_out"].set(len(self._names) - len(self._chosen))
        self._gauges["threshold"].set(self.settings.p_val / len(self._chosen))

    def _tested(self, window: np.ndarray) -> DriftResult:
        assert self._reference is not None
        distance, p_val = {}, {}
        for place, name in enumerate(self._tested_names):
            found = ks_2samp(self._reference[:, place], window[:, place], method="asymp")
            distance[name], p_val[name] = float(found.statistic), float(found.pvalue)
        threshold = self.settings.p_val / len(self._tested_names)
        is_drift = min(p_val.values()) < threshold
        for name in self._tested_names:
            self._by_feature["distance"].labels(**self._labels, feature=name).set(distance[name])
            self._by_feature["p_val"].labels(**self._labels, feature=name).set(p_val[name])
        self._gauges["is_drift"].set(is_drift)
        self._windows[str(int(is_drift))].inc()
        if is_drift:
            furthest = min(p_val, key=lambda name: (p_val[name], -distance[name]))
            log.warning(
                "attributions have drifted, most of %s: distance %.2f, p-value %.2g",
                furthest, distance[furthest], p_val[furthest],
            )  # fmt: skip
        return DriftResult(is_drift, threshold, distance, p_val)


def _distinct(names: list[str]) -> list[str]:
    """Return names of a bounded length, those alike once cut told apart by a number."""
    cut: list[str] = []
    taken: set[str] = set()
    for name in names:
        short = name if len(name) <= NAME else name[: NAME - 1] + "…"
        number = 2
        while short in taken:
            short = f"{name[: NAME - 8]}… {number}"
            number += 1
        taken.add(short)
        cut.append(short)
    return cut
