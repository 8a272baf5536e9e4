"""The alerts of a Prometheus, of the local stack's as of a cluster's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx

from helpers.errors import StackError

TIMEOUT = httpx.Timeout(30.0, connect=5.0)  # seconds


@dataclass(frozen=True)
class Alert:
    """One alert that is pending or firing.

    Args:
        name: of its rule, "PredictionsFail".
        labels: those of its series and of the rule, with severity; without `alertname`.
        state: pending (for less than the rule's `for`) or firing.
        value: of the rule's expression.
        since: when the expression began to hold.
        annotations: summary, description and runbook, filled in.
    """

    name: str
    labels: Mapping[str, str]
    state: str
    value: float
    since: datetime
    annotations: Mapping[str, str]


def read(prometheus_url: str) -> list[Alert]:
    """Return the alerts of a Prometheus, by name.

    Raises:
        StackError: it does not answer, or not as Prometheus does.
    """
    url = f"{prometheus_url.rstrip('/')}/api/v1/alerts"
    try:
        answer = httpx.get(url, timeout=TIMEOUT, trust_env=False)
        found = answer.raise_for_status().json()["data"]["alerts"]
        alerts = [_alert(one) for one in found]
    except httpx.HTTPError as problem:
        told = str(problem) or type(problem).__name__
        raise StackError(
            f"Prometheus does not tell its alerts: {told}. Is the stack up?"
        ) from problem
    except (ValueError, KeyError, TypeError) as problem:
        raise StackError(f"{url} does not answer as Prometheus does: {problem!r}.") from problem
    return sorted(alerts, key=lambda one: (one.name, sorted(one.labels.items())))


def _alert(found: Mapping) -> Alert:
    labels = dict(found["labels"])
    try:
        value = float(found["value"])
    except ValueError:
        value = math.nan
    return Alert(
        name=labels.pop("alertname"),
        labels=labels,
        state=found["state"],
        value=value,
        since=datetime.fromisoformat(found["activeAt"]),
        annotations=found.get("annotations", {}),
    )
