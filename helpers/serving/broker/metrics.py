"""What the broker counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300)
TRIGGER = ("namespace", "trigger")


class Metrics:
    """Counters by broker and by trigger; times in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.accepted = Counter(
            "broker_events_accepted",
            "Events stored and acknowledged.",
            ("namespace", "broker"),
            registry=registry,
        )
        self.rejected = Counter(
            "broker_events_rejected", "Events refused.", ("code",), registry=registry
        )
        self.replies = Counter(
            "broker_replies", "Replies fed back as events.", TRIGGER, registry=registry
        )
        self.loops = Counter(
            "broker_reply_loops", "Replies dropped at the hop limit.", TRIGGER, registry=registry
        )
        self.delivered = Counter(
            "broker_deliveries", "Deliveries taken by the subscriber.", TRIGGER, registry=registry
        )
        self.retried = Counter(
            "broker_retries",
            "Attempts that failed and are tried again.",
            TRIGGER,
            registry=registry,
        )
        self.dead = Counter(
            "broker_dead_letters",
            "Deliveries that failed for good.",
            TRIGGER,
            registry=registry,
        )
        self.seconds = Histogram(
            "broker_delivery_seconds",
            "From arrival to delivery.",
            TRIGGER,
            buckets=SECONDS,
            registry=registry,
        )


class Gauges(Collector):
    """Backlog and disk, read when scraped."""

    def __init__(
        self,
        backlogs: Callable[[], Iterable[tuple[str, str, int]]],
        stored: Callable[[], tuple[int, int]],
        registry: CollectorRegistry,
    ) -> None:
        self.backlogs = backlogs
        self.stored = stored
        registry.register(self)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the families; called by prometheus_client."""
        backlog = GaugeMetricFamily(
            "broker_backlog_events", "Events not delivered yet.", labels=TRIGGER
        )
        for namespace, trigger, count in self.backlogs():
            backlog.add_metric((namespace, trigger), count)
        yield backlog
        events, size = self.stored()
        yield GaugeMetricFamily("broker_stored_events", "Events on disk.", value=events)
        yield GaugeMetricFamily("broker_stored_bytes", "Data of events on disk.", value=size)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Name nothing in advance."""
        return ()
