"""Bulk requests: what comes within a short window goes together, and each event has its own outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from helpers.serving.common.errors import RequestError
from helpers.serving.payload_log.elastic.client import BUSY, Client, UnavailableError
from helpers.serving.payload_log.elastic.operations import Operation

log = logging.getLogger(__name__)

WINDOW_SECONDS = 0.005  # an event waits so long for others to go with it
FLIGHTS = 2  # bulk requests under way at once
OPERATIONS = 1000  # of one bulk request
BYTES = 8 * 2**20  # of one bulk request; an action that is larger goes alone
ACTION_BYTES = 96 * 2**20  # less than http.max_content_length, 100 MiB unless it is set
WAIT_SECONDS = 10.0  # for Elasticsearch to acknowledge an event, its wait for a place included
PENDING_BYTES = 96 * 2**20  # that wait or are under way; one event that is larger goes alone
PATH = "/_bulk?timeout=8s"
HEADERS = {"content-type": "application/x-ndjson"}
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """What Prometheus learns of Elasticsearch."""

    def __init__(self, registry: CollectorRegistry) -> None:
        start = "payload_log_elasticsearch_"
        self.documents = Counter(
            start + "documents",
            "Documents acknowledged: events, and parts of requests.",
            ("kind", "result"),
            registry=registry,
        )
        self.errors = Counter(
            start + "errors",
            "Actions not done: rejected for good, conflict, busy, unavailable.",
            ("reason",),
            registry=registry,
        )
        self.actions = Histogram(
            start + "bulk_actions", "Actions of a bulk request.", buckets=SIZES, registry=registry
        )
        self.seconds = Histogram(
            start + "bulk_seconds",
            "From a bulk request to its answer.",
            buckets=SECONDS,
            registry=registry,
        )
        self.pending = Gauge(
            start + "pending_bytes", "Waiting for Elasticsearch, or sent to it.", registry=registry
        )


@dataclass(slots=True, eq=False)
class _Entry:
    """One event's actions on their way."""

    left: int
    done: asyncio.Future[bool]
    again: bool = False  # the event was there already
    busy: UnavailableError | None = None
    rejected: list[str] = field(default_factory=list)

    def settle(self, count: int = 1) -> None:
        self.left -= count
        if self.left or self.done.done():
            return
        if self.busy is not None:
            self.done.set_exception(self.busy)
        elif self.rejected:
            self.done.set_exception(
                RequestError(400, f"Elasticsearch rejects the event: {self.rejected[0]}.")
            )
        else:
            self.done.set_result(not self.again)


class BulkWriter:
    """Writes events' actions in bulk requests.

    Args:
        client: of Elasticsearch.
        metrics: what is counted.
        lost: told where Elasticsearch may be another one when it answers again.
    """

    def __init__(
        self, client: Client, metrics: Metrics, lost: Callable[[UnavailableError], None]
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._lost = lost
        self._waiting: deque[tuple[_Entry, Operation]] = deque()
        self._some = asyncio.Event()
        self._places = asyncio.Semaphore(FLIGHTS)
        self._flights: set[asyncio.Task[None]] = set()
        self._pending = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; called on the event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End; whoever waits still has been cut off by the server already."""
        tasks = [task for task in (self._task, *self._flights) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Hold room for an event of about so many bytes while it is on its way.

        Raises:
            UnavailableError: too much is on its way already.
        """
        if self._pending and self._pending + size > PENDING_BYTES:
            self._metrics.errors.labels("busy").inc()
            raise UnavailableError("has too much to take already")
        self._pending += size
        self._metrics.pending.set(self._pending)
        try:
            yield
        finally:
            self._pending -= size
            self._metrics.pending.set(self._pending)

    async def write(self, actions: Iterable[Operation]) -> bool:
        """Return once all are acknowledged: False where the event was there already.

        Raises:
            UnavailableError: not all were, or not in time; they may be written again.
            RequestError: Elasticsearch rejects one for what it holds, 400, or for its size, 413.
        """
        listed = list(actions)
        largest = max(len(action.lines) for action in listed)
        if largest > ACTION_BYTES:
            self._metrics.errors.labels("rejected").inc()
            raise RequestError(
                413,
                f"The event is {largest} bytes as a document, and Elasticsearch takes {ACTION_BYTES} at most.",
            )
        entry = _Entry(len(listed), asyncio.get_running_loop().create_future())
        self._waiting.extend((entry, action) for action in listed)
        self._some.set()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await entry.done
        except TimeoutError:
            self._metrics.errors.labels("unavailable").inc()
            raise UnavailableError(f"does not take it within {WAIT_SECONDS:g} s") from None

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await self._places.acquire()
            await asyncio.sleep(WINDOW_SECONDS)
            batch = self._take()
            if not batch:
                self._places.release()
                continue
            task = asyncio.create_task(self._fly(batch))
            self._flights.add(task)
            task.add_done_callback(self._flights.discard)

    def _take(self) -> list[tuple[_Entry, Operation]]:
        batch: list[tuple[_Entry, Operation]] = []
        size = 0
        while self._waiting and len(batch) < OPERATIONS:
            entry, action = self._waiting[0]
            if not entry.done.done():  # else nobody waits for it any more
                if batch and size + len(action.lines) > BYTES:
                    break
                batch.append((entry, action))
                size += len(action.lines)
            self._waiting.popleft()
        if not self._waiting:
            self._some.clear()
        return batch

    async def _fly(self, batch: list[tuple[_Entry, Operation]]) -> None:
        try:
            await self._send(batch)
        finally:
            self._places.release()

    async def _send(self, batch: list[tuple[_Entry, Operation]]) -> None:
        try:
            items = await self._items(batch)
        except BaseException as problem:
            if isinstance(problem, UnavailableError):
                told = problem
                if told.lost:
                    self._lost(told)
            else:
                told = UnavailableError("was not waited for: the payload log stops")
            self._metrics.errors.labels("unavailable").inc(len(batch))
            for entry, _ in batch:
                entry.busy = told
                entry.settle()
            if told is not problem:
                raise
            return
        if items is None:  # one of them spoils it: which?
            half = len(batch) // 2
            await self._send(batch[:half])
            await self._send(batch[half:])
            return
        for (entry, action), item in zip(batch, items, strict=True):
            self._settle(entry, action, item)

    async def _items(self, batch: list[tuple[_Entry, Operation]]) -> list[dict[str, Any]] | None:
        """Send a bulk request; return what came of each action, None where all were refused."""
        body = b"".join(action.lines for _, action in batch)
        self._metrics.actions.observe(len(batch))
        with self._metrics.seconds.time():
            status, answer = await self._client.call(
                "POST", PATH, content=body, headers=HEADERS, expected=(200, 400, 413)
            )
        if status != 200:
            return [{"error": answer.get("error"), "status": status}] if len(batch) == 1 else None
        try:
            items = [next(iter(item.values())) for item in answer["items"]]
            if len(items) == len(batch) and all("status" in item for item in items):
                return items
        except (LookupError, TypeError, AttributeError, StopIteration):
            pass
        raise UnavailableError("answers a bulk request as Elasticsearch does not", True)

    def _settle(self, entry: _Entry, action: Operation, item: dict[str, Any]) -> None:
        status = item["status"]
        if status in (200, 201):
            result = item.get("result", "created")
            self._metrics.documents.labels(action.purpose, result).inc()
        elif status == 409 and action.purpose == "event":
            self._metrics.documents.labels("event", "duplicate").inc()
            entry.again = True
        elif status in (400, 413) and not _is_full(item):
            self._metrics.errors.labels("rejected").inc()
            entry.rejected.append(_reason(item))
            log.warning("an event is rejected: %s", _reason(item))
        else:
            reason = {409: "conflict"}.get(status, "busy" if status in BUSY else "unavailable")
            self._metrics.errors.labels(reason).inc()
            entry.busy = UnavailableError(f"answers an action with {status}: {_reason(item)}")
        entry.settle()


def _is_full(item: dict[str, Any]) -> bool:
    """Whether there may be no further index: a 400 that is no fault of the event."""
    error = item.get("error")
    return isinstance(error, dict) and (
        error.get("type") == "validation_exception" or "maximum" in str(error.get("reason"))
    )


def _reason(item: dict[str, Any]) -> str:
    error = item.get("error")
    if not isinstance(error, dict):
        return str(error or "without a reason")[:300]
    return f"{error.get('type')}: {error.get('reason')}"[:300]
