"""What the broker took, as the event log of kind/up wrote it to Elasticsearch."""

from __future__ import annotations

from typing import Any

import httpx

from helpers.errors import StackError
from helpers.stack.interface import NAMESPACE
from helpers.stack.kind.kinds import LOGGING

# Not the payload logger's inference-events-…: its trigger may filter, and notebooks delete it.
INDEX = f"broker-events-{NAMESPACE}"
EVENT_LOG = "event-log"  # its Deployment, Service and Trigger
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
MOST = 10_000  # Elasticsearch's own limit of one search
_ATTRIBUTES = {"type": "type", "request_id": "requestid"}


def events(
    url: str,
    *,
    limit: int,
    data: bool,
    **wanted: str | None,
) -> list[dict[str, Any]]:
    """Return events, newest first.

    `seq` is the event log's number of the event, the newest being the largest; `matched` and `waiting`
    are None: only the broker would know, and Knative's tells nobody. An event is here once that log has
    it, and Elasticsearch shows it a second later.

    Args:
        url: of Elasticsearch.
        limit: how many at most.
        data: whether with their payload.
        wanted: `type` and `request_id`, where only such events are asked for.

    Raises:
        StackError: Elasticsearch does not answer, or refuses.
    """
    if not 0 < limit <= MOST:
        raise StackError(f"limit is {limit}; a search has from 1 to {MOST} events.")
    filters = [
        {"term": {f"attributes.{_ATTRIBUTES[name]}": value}}
        for name, value in wanted.items()
        if value is not None
    ]
    query = {
        "size": limit,
        "query": {"bool": {"filter": filters}},
        "sort": [{"seq": {"order": "desc", "unmapped_type": "long"}}],
        "track_total_hits": False,
        "_source": ["seq", "arrived", "attributes", "bytes", *(["data"] if data else [])],
    }
    # An index that is not there has no events: the event log makes it with the first.
    found = _search(f"{url}/{INDEX}/_search?ignore_unavailable=true", query)
    return [_event(hit, data) for hit in found["hits"]["hits"]]


def _event(hit: dict[str, Any], data: bool) -> dict[str, Any]:
    source = hit["_source"]
    event = {
        "seq": source["seq"],
        "arrived": source["arrived"],
        "attributes": source["attributes"],
        "matched": None,
        "waiting": None,
        "bytes": source["bytes"],
    }
    if data:
        event["data"] = source.get("data")
    return event


def _search(url: str, query: dict[str, Any]) -> dict[str, Any]:
    try:
        with httpx.Client(timeout=TIMEOUT, trust_env=False) as http:
            answer = http.post(url, json=query)
    except httpx.HTTPError as problem:
        raise StackError(
            f"Elasticsearch at {url.partition(f'/{INDEX}')[0]} does not answer "
            f"({str(problem) or type(problem).__name__}); events are read from there. "
            f"`make kind-up PARTS={LOGGING}` installs it."
        ) from problem
    try:
        content = answer.json()
        if answer.is_success:
            content["hits"]["hits"]
            return content
        told = content["error"]["reason"]
    except (ValueError, KeyError, TypeError):
        told = answer.text[:200]
    raise StackError(f"Elasticsearch refuses the search for events ({answer.status_code}): {told}")
