"""The payload log over HTTP.

POST /                         one CloudEvent; answered by an empty 200. Of an events-only log, all there is
GET  /<index>/_doc/<id>        one document, as Elasticsearch answers
GET  /v1/requests/<id>         all documents of a request  ?index
GET  /v1/documents             ?index since until (RFC 3339) kind outlier limit
GET  /v1/drift                 the results of drift windows  ?index limit
GET  /v1/counts                by index
"""

from __future__ import annotations

import datetime
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving.common.app import JSON
from helpers.serving.common.body import read_body
from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import from_http
from helpers.serving.payload_log.parts import KINDS, kind_of, read_part
from helpers.serving.payload_log.store import Search, Store

log = logging.getLogger(__name__)

LIMIT = 1000  # documents of one answer

Handler = Callable[[Request], Awaitable[Response]]


def routes(store: Store, registry: CollectorRegistry) -> list[Route]:
    """Return the routes over a store."""
    taken = Counter("payload_log_events", "Events kept, by kind.", ("kind",), registry=registry)
    again = Counter("payload_log_duplicates", "Events that were there already.", registry=registry)
    ignored = Counter(
        "payload_log_ignored", "Events of types the log has no place for.", registry=registry
    )

    async def take(request: Request) -> Response:
        event = from_http(dict(request.headers), await read_body(request))
        kind = kind_of(event.type)
        added = await store.add(event, None if kind is None else read_part(event, kind))
        if kind is None:
            log.info("no document has a place for an event of type %s", event.type[:200])
            ignored.inc()
        elif added:
            taken.labels(kind).inc()
        else:
            again.inc()
        # Empty: Knative takes any other answer that is no event for a failure.
        return Response(status_code=200)

    async def document(request: Request) -> Response:
        index, id = request.path_params["index"], request.path_params["id"]
        request_id, item, number = id.rpartition("-item-")
        candidates = [id, request_id] if item and number.isdigit() else [id]
        for candidate in candidates:
            for found in await store.documents(candidate, index):
                if found["_id"] == id:
                    return JSON({**found, "found": True})
        return JSON({"_index": index, "_id": id, "found": False}, status_code=404)

    async def of_request(request: Request) -> Response:
        id = request.path_params["id"]
        found = await store.documents(id, request.query_params.get("index"))
        if not found:
            raise RequestError(404, f"Nothing is kept of the request {id[:200]!r}.")
        return JSON({"documents": found})

    async def search(request: Request) -> Response:
        return JSON({"documents": await store.search(_search(request.query_params))})

    async def windows(request: Request) -> Response:
        query = request.query_params
        return JSON({"windows": await store.windows(query.get("index"), _limit(query))})

    async def counts(request: Request) -> Response:
        return JSON({"counts": await store.counts()})

    return [
        Route("/", _available(take), methods=["POST"]),
        Route("/v1/requests/{id:path}", _available(of_request), methods=["GET"]),
        Route("/v1/documents", _available(search), methods=["GET"]),
        Route("/v1/drift", _available(windows), methods=["GET"]),
        Route("/v1/counts", _available(counts), methods=["GET"]),
        Route("/{index}/_doc/{id:path}", _available(document), methods=["GET"]),
    ]


def event_routes(store: Store, registry: CollectorRegistry) -> list[Route]:
    """Return the routes over a store that keeps events only: whatever a broker has is taken."""
    taken = Counter("event_log_events", "Events kept.", registry=registry)
    again = Counter("event_log_duplicates", "Events that were there already.", registry=registry)

    async def take(request: Request) -> Response:
        event = from_http(dict(request.headers), await read_body(request))
        (taken if await store.add(event, None) else again).inc()
        return Response(status_code=200)

    return [Route("/", _available(take), methods=["POST"])]


def _available(handler: Handler) -> Handler:
    async def checked(request: Request) -> Response:
        try:
            return await handler(request)
        except (sqlite3.Error, OSError) as problem:
            raise RequestError(
                503, f"The store does not answer: {problem}.", headers={"retry-after": "1"}
            ) from problem

    return checked


def _search(query: QueryParams) -> Search:
    kind, outlier = query.get("kind"), query.get("outlier")
    if kind is not None and kind not in KINDS:
        raise RequestError(400, f"kind is one of {', '.join(KINDS)}.")
    if outlier not in (None, "true", "false"):
        raise RequestError(400, "outlier is true or false.")
    return Search(
        index=query.get("index"),
        since=_moment(query, "since"),
        until=_moment(query, "until"),
        kind=kind,
        flagged=None if outlier is None else outlier == "true",
        limit=_limit(query),
    )


def _moment(query: QueryParams, name: str) -> float | None:
    value = query.get(name)
    if value is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(value.replace(" ", "+"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return moment.timestamp()
    except (ValueError, OverflowError) as problem:
        raise RequestError(400, f"{name} is a time as in 2026-01-31T12:00:00Z.") from problem


def _limit(query: Any) -> int:
    value = query.get("limit", "100")
    if not value.isascii() or not value.isdigit() or not 0 < int(value[:9]) <= LIMIT:
        raise RequestError(400, f"limit is a whole number from 1 to {LIMIT}.")
    return int(value)
