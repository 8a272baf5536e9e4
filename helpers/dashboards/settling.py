"""Waiting until Prometheus knows what has just happened."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from helpers.dashboards.prometheus import Prometheus
from helpers.errors import DashboardError, WalkthroughError

if TYPE_CHECKING:
    from helpers.stack.interface import Stack


SECONDS = 90.0  # a cluster's scrape interval is 30 s or a minute
_POLL = 0.2


def settle(
    stack: Stack | None = None, seconds: float = SECONDS, *, prometheus_url: str | None = None
) -> None:
    """Return once Prometheus has scraped every target after this call; at once where there is none.

    A target that does not answer counts as scraped: its `up` is 0. On the local stack every server
    that is ready and has metrics must be among the targets: Prometheus looks for new ones every 5 s.

    Args:
        stack: whose Prometheus; may be None with `prometheus_url`.
        seconds: how long to wait.
        prometheus_url: instead of the stack's.

    Raises:
        DashboardError: not all were scraped in time; names those that were not.
        ClientError: Prometheus does not answer.
    """
    url = prometheus_url or (stack.prometheus_url if stack is not None else None)
    if url is None:
        return
    end = time.monotonic() + seconds
    expected = _ready_servers(stack)
    with Prometheus(url) as prometheus:
        start = prometheus.now()
        while True:
            # `up` is stored together with the samples of its scrape, under the time it began.
            scraped = {
                (s.labels.get("job"), s.labels.get("instance"))
                for s in prometheus.instant("timestamp(up)")
                if s.values[0] > start
            }
            targets = [target["labels"] for target in prometheus.targets()]
            listed = {(labels.get("job"), labels.get("instance")) for labels in targets}
            expected -= {labels.get("pod") for labels in targets}
            expected = {name for name in expected if _has_metrics(stack, name)}
            missing = sorted(f"{instance} ({job})" for job, instance in listed - scraped)
            missing += sorted(expected)
            if listed and not missing:
                return
            if time.monotonic() > end:
                what = ", ".join(missing[:5]) if listed else "any target: it has none"
                raise DashboardError(
                    f"In {seconds:g} s Prometheus at {url} has not scraped {what}. "
                    f"Its own page says more: {url}/targets"
                )
            time.sleep(_POLL)


def _ready_servers(stack: Stack | None) -> set[str]:
    if stack is None or stack.backend != "local":  # a cluster's Prometheus finds what it was told
        return set()
    return {server.name for server in stack.status() if server.state == "ready"}


def _has_metrics(stack: Stack, name: str) -> bool:
    try:
        stack.metrics(name)
    except WalkthroughError:
        return False
    return True
