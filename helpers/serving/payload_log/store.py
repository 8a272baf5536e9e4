"""What a store of payloads does, and how documents are put together from the parts it keeps.

Parts are kept as they came and put together when they are read, so that taking an event is one
write, whatever order events come in, and both back ends answer the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import orjson

from helpers.serving.common.events import CloudEvent
from helpers.serving.payload_log.documents import gather
from helpers.serving.payload_log.parts import Part


@dataclass(frozen=True)
class Search:
    """What documents to look for.

    Attributes:
        index: exact name; all by default.
        since, until: seconds since 1970, of the part's own time.
        kind: only requests that have such a part.
        flagged: only items that are outliers (True) or were judged and are none (False).
        limit: documents to return, the newest first.
    """

    index: str | None = None
    since: float | None = None
    until: float | None = None
    kind: str | None = None
    flagged: bool | None = None
    limit: int = 100

    def fits(self, document: dict[str, Any]) -> bool:
        """Whether a document of a request that was found is one of those looked for."""
        if self.kind is not None and self.kind not in document:
            return False
        if self.flagged is None:
            return True
        if "outlier" not in document:
            return False
        judged = document["outlier"]["data"]["is_outlier"]
        while isinstance(judged, list):
            judged = max((part if isinstance(part, int) else 1 for part in judged), default=0)
        return bool(judged) is self.flagged


class Store(Protocol):
    """What a store can do; sqlite3.Error, OSError or a RequestError of 503: it cannot just now.

    Attributes:
        problem: why it cannot, None where it can.
        expire_every: seconds between two calls of `expire`.
    """

    problem: str | None
    expire_every: float

    async def start(self) -> None:
        """Begin; called on the event loop."""

    async def close(self) -> None:
        """Write what is queued, and end."""

    async def add(self, event: CloudEvent, part: Part | None) -> bool:
        """Keep an event, durably; False where it was there already, or nothing of it is kept.

        Args:
            event: as it came.
            part: what it adds to documents; None where the log has no place for its type.
        """

    async def documents(self, request_id: str, index: str | None) -> list[dict[str, Any]]:
        """All documents of a request, each with `_index` and `_id`."""

    async def search(self, search: Search) -> list[dict[str, Any]]:
        """The newest documents that fit."""

    async def windows(self, index: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest drift results, as they came."""

    async def counts(self) -> dict[str, dict[str, int]]:
        """By index: requests, events of each kind, outliers, and windows that drifted."""

    async def expire(self, before: float | None, most_bytes: int | None) -> int:
        """Remove events older than `before`, and the oldest beyond a size; return how many."""


def assemble(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Return the documents of one request, each with `_index`, `_id` and `_source`."""
    by_index: dict[str, list[Part]] = {}
    for part in parts:
        by_index.setdefault(part.index, []).append(part)
    return [
        {"_index": name, "_id": id, "_source": document}
        for name, own in by_index.items()
        for id, document in gather(own).items()
    ]


def window(part: Part) -> dict[str, Any]:
    """Return a drift result as `/v1/drift` shows it."""
    shown = asdict(part) | {"data": orjson.loads(part.data), "drift": bool(part.flagged)}
    del shown["items"], shown["flagged"], shown["kind"]
    return shown
