"""How short a window may be and still hold samples."""

from __future__ import annotations

from helpers.dashboards.prometheus import Prometheus
from helpers.dashboards.variables import duration, seconds_of
from helpers.stack.interface import Stack

SCRAPES = 2  # a difference needs two samples


def window(stack: Stack, at_least: str = "0s") -> str:
    """Return a duration for a dashboard's sliding window: `at_least`, or what two scrapes take.

    Args:
        stack: whose Prometheus is asked how often it scrapes; without one `at_least` is returned.
        at_least: a duration as Prometheus writes it, "2s" or "1m30s".

    Raises:
        ClientError: Prometheus does not answer.
    """
    if stack.prometheus_url is None:
        return at_least
    with Prometheus(stack.prometheus_url) as prometheus:
        two = SCRAPES * prometheus.scrape_interval()
    return duration(max(two, seconds_of(at_least)))
