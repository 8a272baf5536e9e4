"""What the server says of itself to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tf_server_requests", "Requests answered.", ["method", "code"], registry=registry
        )
        self.request_seconds = Histogram(
            "tf_server_request_seconds",
            "Time from a predict request to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.model_seconds = Histogram(
            "tf_server_model_seconds",
            "Time of one call of the model.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "tf_server_batch_rows",
            "Rows of one call of the model.",
            buckets=_ROWS,
            registry=registry,
        )
        self.waiting_rows = Gauge(
            "tf_server_waiting_rows", "Rows that wait to be computed.", registry=registry
        )

    def called(self, rows: int, seconds: float) -> None:
        """Note one call of the model."""
        self.batch_rows.observe(rows)
        self.model_seconds.observe(seconds)
