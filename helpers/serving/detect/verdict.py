"""What a detector says about an event, and the interface that all detectors have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from helpers.serving.common.events import CloudEvent

COUNTER = "COUNTER"
GAUGE = "GAUGE"
TIMER = "TIMER"

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TAG_NAME = re.compile(r"(?!__|le$)[a-zA-Z_][a-zA-Z0-9_]*")  # `le` is for a timer's buckets


@dataclass(frozen=True, slots=True)
class Metric:
    """One change of a metric, as Seldon's custom metrics have it.

    Args:
        key: the metric's name; `_total` is added to a counter's when it is exposed.
        value: what a counter is raised by, what a gauge is set to, a timer's milliseconds.
        type: COUNTER, GAUGE or TIMER.
        tags: labels of its own, besides those that every metric here has.

    Raises:
        ValueError: the name, the type, the value or a tag is not one.
    """

    key: str
    value: float
    type: str = COUNTER
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not _METRIC_NAME.fullmatch(self.key):
            raise ValueError(f"{str(self.key)[:60]!r} is no metric's name")
        if self.type not in (COUNTER, GAUGE, TIMER):
            raise ValueError(f"the type of {self.key} must be {COUNTER}, {GAUGE} or {TIMER}")
        number = isinstance(self.value, int | float | np.number) and not isinstance(
            self.value, bool
        )
        if not number or not np.isfinite(self.value):
            raise ValueError(f"the value of {self.key} is not a number")
        if self.type == COUNTER and self.value < 0:
            raise ValueError(f"{self.key} is a counter and cannot go down")
        for name, text in self.tags.items():
            if not _TAG_NAME.fullmatch(str(name)) or not isinstance(text, str):
                raise ValueError(f"the tags of {self.key} must have plain names and text values")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a detector has to say about one event.

    Args:
        reply: the data of the reply event; None for no reply.
        metrics: what changes in the metrics.
        inliers: (n,) of bool, which rows of the request are no outliers; None where that is not the
            question.
    """

    reply: dict[str, Any] | None = None
    metrics: Sequence[Metric] = ()
    inliers: np.ndarray | None = None


class Detector(Protocol):
    """What the server asks of a detector. Its methods are never called at the same time."""

    event_type: str
    """The type of its reply events, unless the server was told another."""

    def load(self) -> None:
        """Load what it needs; may take long. Raises WalkthroughError with what to do."""

    def process(self, body: Any, headers: Mapping[str, str], event: CloudEvent | None) -> Verdict:
        """Return the verdict on one payload.

        Args:
            body: the payload, parsed.
            headers: the request's headers, names in lower case.
            event: the event that carried it; None for a plain POST.

        Raises:
            RequestError: the payload is refused.
        """
