"""What the payload log asks of its events, and a Part from what it finds."""

from __future__ import annotations

from typing import Any

import orjson

from helpers.serving.payload_log.parts import Part
from helpers.serving.payload_log.store import Search

INDICES = 1000  # that `counts` tells of
PRECISION = 40_000  # requests of one index are counted exactly about so far; Elasticsearch's most

Query = dict[str, Any]


def of_requests(request_ids: list[str], index: str | None) -> Query:
    """The parts of requests."""
    found: list[Query] = [{"terms": {"part.request_id": request_ids}}]
    if index is not None:
        found.append({"term": {"part.index": index}})
    return {"bool": {"filter": found}}


def of_search(search: Search) -> Query:
    """One part at least of what is looked for."""
    found: list[Query] = [{"exists": {"field": "part.request_id"}}]
    kind = "outlier" if search.flagged is not None else search.kind
    for name, value in (("index", search.index), ("kind", kind)):
        if value is not None:
            found.append({"term": {f"part.{name}": value}})
    if search.flagged is True:
        found.append({"range": {"part.flags": {"gt": 0}}})
    bounds = {"gte": search.since, "lte": search.until}
    bounds = {name: value for name, value in bounds.items() if value is not None}
    if bounds:
        found.append({"range": {"part.at": bounds}})
    return {"bool": {"filter": found}}


def of_windows(index: str | None) -> Query:
    """Drift results."""
    found: list[Query] = [{"term": {"part.kind": "drift"}}]
    if index is not None:
        found.append({"term": {"part.index": index}})
    return {"bool": {"filter": found}}


def sorted_by_arrival(query: Query, size: int, order: str, after: Any = None) -> dict[str, Any]:
    """A search whose hits come in the order that events came, or against it."""
    body = {
        "size": size,
        "query": query,
        "sort": [{"seq": {"order": order, "unmapped_type": "long"}}],
        "track_total_hits": False,
    }
    return body if after is None else body | {"search_after": after}


def newest_requests(search: Search) -> dict[str, Any]:
    """The ids of the newest requests that have such a part."""
    body = sorted_by_arrival(of_search(search), search.limit, "desc")
    return body | {"_source": ["part.request_id"], "collapse": {"field": "part.request_id"}}


def counted() -> dict[str, Any]:
    """Requests and events by index and kind."""
    kinds = {
        "terms": {"field": "part.kind", "size": 10},
        "aggs": {"flags": {"sum": {"field": "part.flags"}}},
    }
    requests = {"cardinality": {"field": "part.request_id", "precision_threshold": PRECISION}}
    return {
        "size": 0,
        "query": {"exists": {"field": "part.request_id"}},
        "track_total_hits": False,
        "aggs": {
            "indices": {
                "terms": {"field": "part.index", "size": INDICES},
                "aggs": {"requests": requests, "kinds": kinds},
            }
        },
    }


def part_of(source: dict[str, Any]) -> Part:
    """Return the Part that an event's document describes."""
    described, attributes = dict(source["part"]), source["attributes"]
    del described["flags"]
    described["flagged"] = tuple(described["flagged"])
    return Part(
        **described,
        source=attributes["source"],
        event_id=attributes["id"],
        type=attributes["type"],
        data=orjson.dumps(source["data"]),
    )
