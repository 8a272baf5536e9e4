"""What one event adds to the documents of its request."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

from helpers.serving.common.body import parse_json
from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import CloudEvent
from helpers.serving.payload_log.documents import count_items

Kind = Literal["request", "response", "feedback", "outlier", "drift"]
KINDS: tuple[str, ...] = get_args(Kind)

# Characters that Seldon's logger takes out of whatever becomes part of an index name.
_CLEANED = str.maketrans("", "", '!@#$"<>/?')


@dataclass(frozen=True, slots=True)
class Part:
    """One event, as the store keeps it: the data untouched, the rest found out once.

    Attributes:
        index: `inference-log-seldon-<namespace>-<deployment>-<predictor>`.
        request_id: what joins the parts of a request.
        kind: request, response, feedback, outlier or drift.
        source, event_id, type: together they name the event; a second one is a duplicate.
        at: the event's time, seconds since 1970.
        time: the same as it was written.
        namespace, deployment, endpoint, model: of the sender.
        items: size of the batch; 0 where the part belongs to the request as a whole.
        flagged: positions in the batch that are outliers, or [0] for a window that drifted.
        data: JSON.
    """

    index: str
    request_id: str
    kind: str
    source: str
    event_id: str
    type: str
    at: float
    time: str
    namespace: str
    deployment: str
    endpoint: str
    model: str
    items: int
    flagged: tuple[int, ...]
    data: bytes


def kind_of(type: str) -> str | None:
    """Return what an event of this type is, None for one that the log has no place for."""
    family, _, last = type.rpartition(".")
    if last in KINDS and family.startswith(("io.seldon.", "org.kubeflow.")):
        return last
    return None


def read_part(event: CloudEvent, kind: str) -> Part:
    """Return what `event` adds.

    Raises:
        RequestError: 400, its data is not what this kind holds.
    """
    content = parse_json(event.data)
    if not isinstance(content, dict):
        raise RequestError(400, f"The data of a {kind} event is a JSON object.")
    namespace = _clean(event, "namespace")
    model = _clean(event, "modelid")
    deployment = _clean(event, "inferenceservicename") or model
    endpoint = _clean(event, "endpoint")
    engine = "seldon" if event.type.startswith("io.seldon.") else "inferenceservice"
    at, written = _time(event.time)
    return Part(
        index="-".join(
            (
                "inference-log",
                engine,
                namespace or "unknown-namespace",
                deployment or "unknown-inferenceservice",
                endpoint or "unknown-endpoint",
            )
        ),
        request_id=event.extensions.get("requestid") or event.id,
        kind=kind,
        source=event.source,
        event_id=event.id,
        type=event.type,
        at=at,
        time=written,
        namespace=namespace,
        deployment=deployment,
        endpoint=endpoint,
        model=model,
        items=count_items(kind, content),
        flagged=_flagged(kind, content),
        data=event.data,
    )


def _clean(event: CloudEvent, name: str) -> str:
    return event.extensions.get(name, "").translate(_CLEANED)


def _time(written: str | None) -> tuple[float, str]:
    if written is not None:
        moment = datetime.datetime.fromisoformat(written)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        try:
            return moment.timestamp(), written
        except (OverflowError, ValueError):
            pass
    at = time.time()
    return at, datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()


def _flagged(kind: str, content: dict[str, Any]) -> tuple[int, ...]:
    data = content.get("data")
    if not isinstance(data, dict):
        if kind in ("outlier", "drift"):
            raise RequestError(400, f"The data of a {kind} event has an object `data`.")
        return ()
    if kind == "outlier":
        rows = data.get("is_outlier")
        if not isinstance(rows, list):
            raise RequestError(400, "`data.is_outlier` of an outlier event is a list.")
        return tuple(
            number
            for number, row in enumerate(rows)
            if (any(_leaves(row)) if isinstance(row, list) else row)
        )
    if kind == "drift":
        drifted = data.get("is_drift")
        return (0,) if (any(_leaves(drifted)) if isinstance(drifted, list) else drifted) else ()
    return ()


def _leaves(rows: list[Any]) -> list[Any]:
    leaves, waiting = [], [rows]
    while waiting:
        for row in waiting.pop():
            (waiting if isinstance(row, list) else leaves).append(row)
    return leaves
