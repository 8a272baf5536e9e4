"""The executor's metrics, with its names, labels and buckets, and the gateway's own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from helpers.serving.gateway.paths import Target
from helpers.serving.gateway.routes import Deployment, Predictor

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

_SERVER_LABELS = (
    "deployment_name",
    "predictor_name",
    "predictor_version",
    "service",
    "method",
    "code",
)
_MODEL_LABELS = ("model_image", "model_name", "model_version")


class Metrics:
    """Counts and times everything, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._server = Histogram(
            "seldon_api_executor_server_requests_seconds",
            "A histogram of latencies for executor server",
            _SERVER_LABELS,
            buckets=BUCKETS,
            registry=registry,
        )
        self._client = Histogram(
            "seldon_api_executor_client_requests_seconds",
            "A histogram of latencies for client calls from executor",
            _SERVER_LABELS + _MODEL_LABELS,
            buckets=BUCKETS,
            registry=registry,
        )
        self.refused = Counter(
            "gateway_refused_requests",
            "Requests refused before they reached a model.",
            ["code"],
            registry=registry,
        )
        self.shed = Counter(
            "gateway_shed_requests",
            "Requests refused because too many were under way.",
            ["deployment_name"],
            registry=registry,
        )
        self.pinned = Counter(
            "gateway_pinned_requests",
            "Requests that the caller pinned to a predictor; the executor's histograms have them too.",
            ["deployment_name", "predictor_name"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "gateway_requests_in_flight", "Requests under way.", registry=registry
        )
        self.shadow_dropped = Counter(
            "gateway_shadow_dropped",
            "Copies not sent to a shadow because too many were under way.",
            ["deployment_name"],
            registry=registry,
        )
        self.events_sent = Counter(
            "gateway_events_sent", "Payload events that a broker took.", registry=registry
        )
        self.events_retried = Counter(
            "gateway_events_retried", "Attempts that failed and are tried again.", registry=registry
        )
        self.events_dropped = Counter(
            "gateway_events_dropped", "Payload events given up.", ["reason"], registry=registry
        )
        self.events_waiting = Gauge(
            "gateway_events_waiting", "Payload events not yet delivered.", registry=registry
        )
        self.events_waiting_bytes = Gauge(
            "gateway_events_waiting_bytes", "The size of their data.", registry=registry
        )
        self.events_replayed = Counter(
            "gateway_events_replayed",
            "Payload events that an earlier gateway had not delivered.",
            registry=registry,
        )
        self.spool_errors = Counter(
            "gateway_spool_errors",
            "Attempts to keep payload events on disk that failed.",
            registry=registry,
        )

    def served(
        self,
        deployment: Deployment,
        predictor: Predictor,
        target: Target,
        code: int,
        seconds: float,
    ) -> None:
        """Note an answer to a client."""
        known = _labels(deployment, predictor, target.service, target.method, code)
        self._server.labels(*known).observe(seconds)

    def called(
        self,
        deployment: Deployment,
        predictor: Predictor,
        target: Target,
        code: int,
        seconds: float,
    ) -> None:
        """Note an answer of a model server; its `service` is a path, as the executor has it."""
        known = _labels(deployment, predictor, target.path, target.method, code)
        model = (predictor.image, predictor.model, predictor.image_version)
        self._client.labels(*known, *model).observe(seconds)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return the text for Prometheus and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def _labels(
    deployment: Deployment, predictor: Predictor, service: str, method: str, code: int
) -> tuple[str | int, ...]:
    """Return the values of _SERVER_LABELS."""
    return deployment.name, predictor.name, predictor.version, service, method.lower(), code
