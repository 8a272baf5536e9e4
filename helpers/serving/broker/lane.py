"""The deliveries of one trigger: begun in order of arrival, retried with backoff, bounded in memory.

A lane never waits for another. What it does not hold in memory stays on disk until there is room,
so a subscriber that is slow or gone costs disk only. Time is the event loop's monotonic clock: a
clock that jumps moves no retry.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from helpers.serving.broker.delivery import Outcome
from helpers.serving.broker.model import Trigger
from helpers.serving.common.events import CloudEvent

log = logging.getLogger(__name__)

UNDER_WAY = 16  # attempts of one trigger at once; one where it is ordered
HELD_EVENTS = 512  # events of one trigger in memory, waiting or under way
HELD_BYTES = 32 * 2**20
PROBE_SECONDS = (0.1, 1.0)  # first and longest pause between looks for a subscriber that is gone


@dataclass(slots=True)
class Stored:
    """An event on disk and in memory, shared by the lanes that deliver it."""

    seq: int
    namespace: str
    broker: str
    event: CloudEvent
    hops: int  # how often a reply to it may still be fed back
    arrived: float  # seconds since 1970
    _headers: dict[str, str] | None = None

    def headers(self) -> dict[str, str]:
        """The event's headers in binary mode, made once for all subscribers."""
        if self._headers is None:
            self._headers = {**self.event.to_binary()[0], "prefer": "reply"}
        return self._headers


@dataclass(order=True, slots=True)
class Item:
    """One delivery that is due at `due` on the loop's clock."""

    due: float
    seq: int
    stored: Stored = field(compare=False)
    error: dict[str, Any] | None = field(compare=False, default=None)  # set: on to the sink
    failures: int = field(compare=False, default=0)
    refused: bool = field(compare=False, default=False)


class Host(Protocol):
    """What a lane needs of the broker."""

    async def attempt(self, lane: Lane, item: Item) -> Outcome:
        """Deliver once; the reply, if any, is stored together with the delivery's end."""

    async def load(self, lane: Lane, after: int) -> tuple[list[Item], bool]:
        """Return deliveries after this seq, and whether there are more."""

    def settle(self, lane: Lane, item: Item) -> None:
        """Record that the delivery needs no further attempt."""

    def give_up(self, lane: Lane, item: Item, outcome: Outcome) -> None:
        """Record that the delivery has failed for good."""

    def retried(self, lane: Lane) -> None:
        """Count a retry."""


class Lane:
    """See the module."""

    def __init__(self, id: int, trigger: Trigger, host: Host) -> None:
        self.id = id
        self.trigger = trigger
        self.host = host
        self.loop = asyncio.get_running_loop()
        self.queue: deque[Item] = deque()
        self.retries: list[Item] = []
        self.under_way: set[asyncio.Task[None]] = set()
        self.held: dict[int, int] = {}  # seq -> bytes, until its end is on disk
        self.held_bytes = 0
        self.loaded = 0  # highest seq taken into memory
        self.on_disk = True  # there may be deliveries beyond it
        self.refilling: asyncio.Task[None] | None = None
        self.unreachable = False
        self.probe: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.stopped = False

    def offer(self, stored: Stored) -> None:
        """Take a newly stored event if all before it are held and there is room, else leave it."""
        if self.on_disk or self.refilling or not self._room():
            self.on_disk = True
        elif stored.seq > self.loaded:  # else a look at the disk has found it already
            self.loaded = stored.seq
            self._hold(Item(0.0, stored.seq, stored))
        self.pump()

    def change(self, trigger: Trigger) -> None:
        """Go on with another subscriber, delivery or filter; what waits for a retry goes at once."""
        self.trigger = trigger
        self.unreachable = False
        self._hasten(self.retries)
        self.pump()

    def rescan(self) -> None:
        """Look for deliveries on disk from the beginning: some have been put back."""
        self.loaded = 0
        self.on_disk = True
        self.pump()

    def release(self, seq: int) -> None:
        """The end of this delivery is on disk; its memory is free."""
        self.held_bytes -= self.held.pop(seq, 0)
        self.pump()

    def pump(self) -> None:
        """Begin what may begin now, and arrange for the rest."""
        if self.stopped:
            return
        limit = 1 if self.trigger.delivery.order == "ordered" else UNDER_WAY
        while len(self.under_way) < limit and (item := self._next()) is not None:
            task = self.loop.create_task(self._deliver(item))
            self.under_way.add(task)
            task.add_done_callback(self._ended)
        if self.on_disk and self.refilling is None and self._room(0.5):
            self.refilling = self.loop.create_task(self._refill())
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.retries and len(self.under_way) < limit:
            self.timer = self.loop.call_at(self.retries[0].due, self.pump)

    async def stop(self) -> None:
        """Begin nothing more and cut off what is under way; the disk still has it."""
        self.stopped = True
        if self.timer is not None:
            self.timer.cancel()
        tasks = [task for task in (*self.under_way, self.refilling, self.probe) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _next(self) -> Item | None:
        if self.retries and self.retries[0].due <= self.loop.time():
            return heapq.heappop(self.retries)
        if self.retries and self.trigger.delivery.order == "ordered":
            return None
        if self.unreachable and (self.retries or self.under_way):
            return None  # those are the probes; the rest keeps its attempts
        return self.queue.popleft() if self.queue else None

    def _room(self, share: float = 1.0) -> bool:
        return len(self.held) < HELD_EVENTS * share and self.held_bytes < HELD_BYTES * share

    def _hasten(self, items: Iterable[Item]) -> None:
        for item in items:
            item.due = self.loop.time()
        heapq.heapify(self.retries)

    def _hold(self, item: Item) -> None:
        size = len(item.stored.event.data)
        self.held[item.seq] = size
        self.held_bytes += size
        self.queue.append(item)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("delivery to %s failed", self.trigger.name, exc_info=task.exception())
        self.pump()

    async def _deliver(self, item: Item) -> None:
        to_sink = item.error is not None
        try:
            outcome = await self.host.attempt(self, item)
        except Exception as problem:  # a fault of ours must not cost the event its further attempts
            log.exception("an attempt to deliver to %s failed", self.trigger.name)
            outcome = Outcome(False, reason=f"fault of the broker: {problem!r}", again=True)
        if outcome.status is not None and not to_sink:
            self.unreachable = False
        if outcome.delivered:
            self.host.settle(self, item)
            return
        item.failures += 1
        item.refused = outcome.refused
        delivery = self.trigger.delivery
        if outcome.again and item.failures <= delivery.retry:
            wait = max(delivery.wait(item.failures), outcome.retry_after)
            item.due = self.loop.time() + wait
            heapq.heappush(self.retries, item)
            self.host.retried(self)
        elif not to_sink and delivery.dead_letter_sink is not None:
            item.error = failure(self.trigger.subscriber, outcome, item.failures)
            item.failures, item.due = 0, 0.0
            heapq.heappush(self.retries, item)
        else:
            self.host.give_up(self, item, outcome)
        if outcome.refused and not to_sink:
            self.unreachable = True
            if self.probe is None or self.probe.done():
                self.probe = self.loop.create_task(self._look_for_subscriber())

    async def _refill(self) -> None:
        self.on_disk = False
        try:
            items, more = await self.host.load(self, self.loaded)
            for item in items:
                self.loaded = max(self.loaded, item.seq)
                if item.seq not in self.held:
                    self._hold(item)
            self.on_disk = self.on_disk or more
        except Exception:
            log.exception("cannot read the backlog of %s", self.trigger.name)
            self.on_disk = True
            await asyncio.sleep(1.0)
        finally:
            self.refilling = None
        self.pump()

    async def _look_for_subscriber(self) -> None:
        """Bring retries forward once a subscriber that refused connections takes them again.

        Only after it was seen to refuse one here: a server that takes connections but no requests
        must not use up its retries in an instant.
        """
        address = urlsplit(self.trigger.subscriber)
        port = address.port or (443 if address.scheme == "https" else 80)
        pause, longest = PROBE_SECONDS
        refused = False
        while self.unreachable:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, longest)
            try:
                async with asyncio.timeout(1.0):
                    _, writer = await asyncio.open_connection(address.hostname, port)
            except (OSError, TimeoutError):
                refused = True
                continue
            writer.close()
            if not refused:
                return
            self.unreachable = False
            self._hasten(item for item in self.retries if item.refused)
            self.pump()


def failure(url: str, outcome: Outcome, attempts: int) -> dict[str, Any]:
    """What is kept of a delivery that failed for good."""
    return {
        "destination": url,
        "status": outcome.status,
        "reason": outcome.reason,
        "attempts": attempts,
    }


def error_headers(error: dict[str, Any]) -> dict[str, str]:
    """The extensions that Knative adds to an event on its way to a dead letter sink."""
    status = error["status"]
    return {
        "ce-knativeerrordest": quote(error["destination"], safe="!#$&'()*+,/:;=?@[]~"),
        "ce-knativeerrorcode": "-1" if status is None else str(status),
        "ce-knativeerrordata": quote(error["reason"][:1024], safe="!#$&'()*+,/:;=?@[]~"),
    }
