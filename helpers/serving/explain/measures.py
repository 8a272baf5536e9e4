"""What the explain server counts and times."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from helpers.serving.explain.methods.base import Explained
from helpers.serving.explain.reuse import Usage

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CALLS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
SAMPLES = (1, 2, 5, 10, 20, 32, 50, 64, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Measures:
    """The metrics of one explain server; every one has the labels `method` and `model_name`."""

    def __init__(self, registry: CollectorRegistry, method: str, model_name: str) -> None:
        labels = {"method": method, "model_name": model_name}

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            whole = Histogram(
                f"explain_server_{name}", what, list(labels), buckets=buckets, registry=registry
            )
            return whole.labels(**labels)

        self.seconds = histogram("seconds", "Time of one explanation, without waiting", SECONDS)
        self.waited = histogram("wait_seconds", "Time a request waited for its turn", SECONDS)
        self.calls = histogram("model_calls", "Requests to the model, per explanation", CALLS)
        self.samples = histogram("samples", "Inputs drawn, per explanation", SAMPLES)
        self.distinct = histogram(
            "distinct_samples", "Inputs that the model was asked about, per explanation", SAMPLES
        )
        self.precision = histogram("anchor_precision", "Precision of the anchors", SHARES)
        self.coverage = histogram("anchor_coverage", "Coverage of the anchors", SHARES)
        counter = Counter(
            "explain_server_requests",
            "Requests by HTTP status",
            [*labels, "code"],
            registry=registry,
        )
        empty = Counter(
            "explain_server_empty_anchors",
            "Anchors that hold nothing: the prediction stays whatever is changed",
            list(labels),
            registry=registry,
        )
        self.empty = empty.labels(**labels)
        self.cut_short = Counter(
            "explain_server_cut_short",
            "Explanations that are the best found when their time was over",
            list(labels),
            registry=registry,
        ).labels(**labels)
        self._requests = counter
        self._labels = labels
        counter.labels(**labels, code="200")  # 0 now: a rate needs a value before the first one

    def answered(self, code: int) -> None:
        """Count a request by the status that it was answered with."""
        self._requests.labels(**self._labels, code=str(code)).inc()

    def explained(self, explained: Explained, usage: Usage, seconds: float) -> None:
        """Measure one explanation."""
        self.seconds.observe(seconds)
        self.calls.observe(usage.calls)
        self.distinct.observe(usage.distinct)
        figures = explained.figures
        self.samples.observe(figures.get("samples", usage.samples))
        if "precision" in figures:
            self.precision.observe(figures["precision"])
            self.coverage.observe(figures["coverage"])
        if figures.get("size") == 0:
            self.empty.inc()
