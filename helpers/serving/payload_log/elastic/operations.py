"""What an event becomes in Elasticsearch: actions and documents, as the lines of a bulk request."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from helpers.serving.common.events import CloudEvent
from helpers.serving.payload_log.documents import alone
from helpers.serving.payload_log.elastic.templates import EVENTS
from helpers.serving.payload_log.parts import Part

ID_BYTES = 512  # of a document's id, Elasticsearch's limit
NAME_BYTES = 255  # of an index's name
CONFLICT_RETRIES = 5  # parts of one request are merged at the same time

_NOT_IN_NAMES = re.compile(r'[\\/*?"<>| ,#:]')
_FIRST_ONLY = ("@timestamp", "Ce-Modelid")  # the request's own, or of the part that came first

Purpose = Literal["event", "item"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One action of a bulk request.

    Attributes:
        purpose: an event as it came, or an item's part of a document.
        lines: action and document, each with its end of line.
    """

    purpose: Purpose
    lines: bytes


def operations(event: CloudEvent, part: Part | None, seq: int) -> Iterator[Operation]:
    """Yield what keeps an event.

    Args:
        event: as it came.
        part: what it adds to documents, if anything.
        seq: nanoseconds since 1970, another one for each event.
    """
    content = _content(event.data)
    namespace = event.extensions.get("namespace") or "unknown-namespace"
    yield _event(event, content, part, index_name(f"{EVENTS}{namespace}"), seq)
    if part is None:
        return
    index = index_name(part.index)
    for id, document in alone(part, content).items():
        if part.kind == "request":
            change: dict[str, Any] = {"doc": document, "doc_as_upsert": True}
        else:
            later = {name: value for name, value in document.items() if name not in _FIRST_ONLY}
            change = {"doc": later, "upsert": document}
        key = document_key(id)
        yield _operation("item", "update", index, key, change, retry_on_conflict=CONFLICT_RETRIES)


def event_only(event: CloudEvent, index: str, seq: int) -> Operation:
    """Return what keeps an event as it came, in this index, and nothing else of it."""
    return _event(event, _content(event.data), None, index, seq)


def event_key(event: CloudEvent) -> str:
    """Return the id of an event's document: what is delivered again has it again.

    Source and id name an event; a reply may keep both, and then differs in its type.
    """
    named = "\0".join((event.source, event.id, event.type))
    return hashlib.sha256(named.encode()).hexdigest()


def document_key(id: str) -> str:
    """Return the id of a document; one that Elasticsearch has no room for by its hash."""
    written = id.encode()
    return id if len(written) <= ID_BYTES else f"sha256-{hashlib.sha256(written).hexdigest()}"


def index_name(name: str) -> str:
    """Return an index's name as Elasticsearch takes it; names of Kubernetes stay as they are."""
    allowed = _NOT_IN_NAMES.sub("_", name.lower())
    written = allowed.encode()
    if len(written) <= NAME_BYTES:
        return allowed
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{written[: NAME_BYTES - 17].decode(errors='ignore')}-{digest}"


def _event(event: CloudEvent, content: Any, part: Part | None, index: str, seq: int) -> Operation:
    source = {
        "seq": seq,
        "arrived": _iso(seq),
        "attributes": event.attributes(),
        "bytes": len(event.data),
        "data": content,
    }
    if part is not None:
        source["part"] = _described(part)
    return _operation("event", "create", index, event_key(event), source)


def _operation(
    purpose: Purpose, action: str, index: str, id: str, source: dict[str, Any], **more: Any
) -> Operation:
    told = orjson.dumps({action: {"_index": index, "_id": id, **more}})
    return Operation(purpose, b"%b\n%b\n" % (told, orjson.dumps(source)))


def _content(data: bytes) -> Any:
    """Return the data parsed, None where it is no JSON.

    Written anew it is one line without repeated keys, as a bulk request needs it.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _described(part: Part) -> dict[str, Any]:
    return {
        "index": part.index,
        "request_id": part.request_id,
        "kind": part.kind,
        "at": part.at,
        "time": part.time,
        "namespace": part.namespace,
        "deployment": part.deployment,
        "endpoint": part.endpoint,
        "model": part.model,
        "items": part.items,
        "flagged": part.flagged,
        "flags": len(part.flagged),
    }


def _iso(nanoseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(nanoseconds / 1e9, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
