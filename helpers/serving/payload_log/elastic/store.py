"""The Store in Elasticsearch."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from prometheus_client import CollectorRegistry

from helpers.serving.common.events import CloudEvent
from helpers.serving.payload_log.elastic import queries, templates
from helpers.serving.payload_log.elastic.bulk import BulkWriter, Metrics
from helpers.serving.payload_log.elastic.client import Client, UnavailableError
from helpers.serving.payload_log.elastic.operations import event_only, index_name, operations
from helpers.serving.payload_log.elastic.templates import BROKER_EVENTS, EVENTS, TEMPLATES
from helpers.serving.payload_log.parts import KINDS, Part
from helpers.serving.payload_log.store import Search, assemble, window

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # between two questions whether Elasticsearch is there, and
RETRY_SECONDS = 0.5  # while it is not
EXPIRE_SECONDS = 3600.0
EXPIRE_DOCUMENTS = 5000  # removed by one request
PAGE = 100  # events of one search
REQUESTS = 20  # whose events are asked for together
LENIENT = "ignore_unavailable=true&allow_no_indices=true"
SEARCH = f"/{EVENTS}*/_search?{LENIENT}&allow_partial_search_results=false"
GROWTH = 5  # bytes that an event takes on its way for each of its own: as itself and in documents

# By age, which time of which indices.
EXPIRING = (
    (f"{EVENTS}*", "arrived"),
    (",".join(TEMPLATES["payload-log"]["index_patterns"]), "@timestamp"),
)


class ElasticsearchStore:
    """A Store in Elasticsearch.

    Nothing is written before the index templates are there, nor after a lost connection until they
    have been found again: an index that is made without them maps every field of every payload.

    Args:
        client: of Elasticsearch.
        registry: for metrics.
        events_only: namespace of a broker: each event is kept in `broker-events-<namespace>`, and nothing
            else of it. Nothing reads that through the store, nor touches the indices of others.
    """

    expire_every = EXPIRE_SECONDS

    def __init__(
        self, client: Client, registry: CollectorRegistry, events_only: str | None = None
    ) -> None:
        self.problem: str | None = f"Elasticsearch at {client.address} has not answered yet"
        self._client = client
        self._bulk = BulkWriter(client, Metrics(registry), self._lost)
        self._only = index_name(f"{BROKER_EVENTS}{events_only}") if events_only else None
        self._seq = 0
        self._check = asyncio.Event()
        self._checking: asyncio.Task[None] | None = None
        self._refreshing = asyncio.Lock()
        self._asked = self._refreshed = 0

    async def start(self) -> None:
        self._bulk.start()
        self._checking = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        await self._bulk.close()
        await self._client.close()

    async def add(self, event: CloudEvent, part: Part | None) -> bool:
        if self.problem is not None:
            raise UnavailableError(f"is not ready: {self.problem}")
        self._seq = max(time.time_ns(), self._seq + 1)
        with self._bulk.room(GROWTH * len(event.data)):
            if self._only is not None:
                return await self._bulk.write([event_only(event, self._only, self._seq)])
            return await self._bulk.write(operations(event, part, self._seq))

    async def documents(self, request_id: str, index: str | None) -> list[dict[str, Any]]:
        await self._refresh()
        return assemble([part async for part in self._parts([request_id], index)])

    async def search(self, search: Search) -> list[dict[str, Any]]:
        await self._refresh()
        hits = await self._hits(queries.newest_requests(search))
        ids = [hit["_source"]["part"]["request_id"] for hit in hits]
        found: list[dict[str, Any]] = []
        for start in range(0, len(ids), REQUESTS):
            some = ids[start : start + REQUESTS]
            parts: dict[str, list[Part]] = {id: [] for id in some}
            async for part in self._parts(some, search.index):
                parts[part.request_id].append(part)
            for own in parts.values():
                found += [one for one in assemble(own) if search.fits(one["_source"])]
            if len(found) >= search.limit:
                break
        return found[: search.limit]

    async def windows(self, index: str | None, limit: int) -> list[dict[str, Any]]:
        await self._refresh()
        body = queries.sorted_by_arrival(queries.of_windows(index), limit, "desc")
        return [window(queries.part_of(hit["_source"])) for hit in await self._hits(body)]

    async def counts(self) -> dict[str, dict[str, int]]:
        await self._refresh()
        _, answer = await self._client.call("POST", SEARCH, queries.counted())
        counts: dict[str, dict[str, int]] = {}
        with _understood():
            # Without any index there are no aggregations.
            for index in answer.get("aggregations", {}).get("indices", {}).get("buckets", ()):
                told = {"requests": index["requests"]["value"]} | dict.fromkeys(KINDS, 0)
                counts[index["key"]] = told = told | {"outliers": 0, "drifts": 0}
                for kind in index["kinds"]["buckets"]:
                    told[kind["key"]] = kind["doc_count"]
                    if kind["key"] in ("outlier", "drift"):
                        told[kind["key"] + "s"] = int(kind["flags"]["value"])
        return counts

    async def expire(self, before: float | None, most_bytes: int | None) -> int:
        """Remove events and documents that are older; their size is not bounded here.

        An index of a deployment is updated for as long as the deployment lives: it can neither roll
        over nor be a data stream, so that a lifecycle policy, which removes whole indices, is no use.
        """
        if before is None:
            return 0
        while self.problem is not None:  # as `/ready` tells
            await asyncio.sleep(RETRY_SECONDS)
        removed = 0
        moment = datetime.datetime.fromtimestamp(before, datetime.UTC).isoformat()
        expiring = EXPIRING if self._only is None else ((self._only, "arrived"),)
        for indices, name in expiring:
            path = f"/{indices}/_delete_by_query?{LENIENT}&conflicts=proceed&max_docs={EXPIRE_DOCUMENTS}"
            query = {"range": {name: {"lt": moment}}}
            deleted = EXPIRE_DOCUMENTS
            while deleted == EXPIRE_DOCUMENTS:
                _, answer = await self._client.call("POST", path, {"query": query}, seconds=120.0)
                with _understood():
                    deleted = answer["deleted"]
                removed += deleted
        return removed

    async def _watch(self) -> None:
        while True:
            self._check.clear()
            try:
                await templates.install(self._client, self._only or f"{EVENTS}*")
            except UnavailableError as problem:
                self._lost(problem)
            except (LookupError, TypeError, AttributeError):
                self._lost(UnavailableError("does not answer as Elasticsearch does"))
            else:
                if self.problem is not None:
                    log.info("Elasticsearch at %s is ready", self._client.address)
                self.problem = None
            if self.problem is not None:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._check.wait(), CHECK_SECONDS)

    def _lost(self, problem: UnavailableError) -> None:
        if self.problem is None or problem.why not in self.problem:
            log.warning("%s", problem.message)
        self.problem = f"Elasticsearch {problem.why}"
        self._check.set()

    async def _refresh(self) -> None:
        """Make all that was written before this call visible; calls that wait share one refresh."""
        self._asked += 1
        wanted = self._asked
        async with self._refreshing:
            if self._refreshed < wanted:
                covered = self._asked
                await self._client.call("POST", f"/{EVENTS}*/_refresh?{LENIENT}")
                self._refreshed = covered

    async def _parts(self, request_ids: list[str], index: str | None) -> AsyncIterator[Part]:
        query, after = queries.of_requests(request_ids, index), None
        while True:
            body = queries.sorted_by_arrival(query, PAGE, "asc", after)
            hits = await self._hits(body)
            for hit in hits:
                yield queries.part_of(hit["_source"])
            if len(hits) < PAGE:
                return
            after = hits[-1]["sort"]

    async def _hits(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        _, answer = await self._client.call("POST", SEARCH, body)
        with _understood():
            return answer["hits"]["hits"]


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, AttributeError) as problem:
        raise UnavailableError("does not answer as Elasticsearch does") from problem
