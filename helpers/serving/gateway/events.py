"""Sends payload events in the background, so that no broker slows or fails a prediction.

Events wait in memory, bounded in number and bytes; each broker has its own lane, so that a dead one
does not hold up another. A failed delivery is tried again until the event is too old.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from helpers.serving.common.events import CloudEvent
from helpers.serving.gateway.client import Upstream, UpstreamError
from helpers.serving.gateway.metrics import Metrics

log = logging.getLogger(__name__)

MAX_EVENTS = 50_000
MAX_BYTES = 256 * 2**20
SENDERS = 4  # deliveries to one broker at a time
MAX_AGE = 600.0  # seconds that delivery is tried
SEND_SECONDS = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts, doubling
LOG_EVERY = 10.0  # seconds between two lines about the same kind of loss

_RETRIED = (408, 425, 429)


@dataclass(slots=True)
class _Waiting:
    event: CloudEvent
    since: float


@dataclass(slots=True)
class _Lane:
    base: str
    path: str
    queue: deque[_Waiting] = field(default_factory=deque)
    senders: set[asyncio.Task[None]] = field(default_factory=set)
    sending: int = (
        0  # senders that will look at the queue again; a finished task lingers in the set
    )


class EventSender:
    """A bounded queue before each broker.

    Args:
        upstream: what sends.
        metrics: counts what is sent, tried again and dropped.
        max_events, max_bytes: of all waiting events together; more are dropped.
        max_age: seconds after which an undelivered event is dropped.
        senders: deliveries to one broker at a time.
    """

    def __init__(
        self,
        upstream: Upstream,
        metrics: Metrics,
        *,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        max_age: float = MAX_AGE,
        senders: int = SENDERS,
    ) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._senders = senders
        self._lanes: dict[str, _Lane] = {}
        self._told: dict[str, float] = {}
        self.waiting = 0
        self.waiting_bytes = 0
        metrics.events_waiting.set_function(lambda: self.waiting)
        metrics.events_waiting_bytes.set_function(lambda: self.waiting_bytes)

    def put(self, url: str, event: CloudEvent) -> None:
        """Take an event for the broker at `url`; returns at once, drops it when too much waits."""
        size = len(event.data)
        if self.waiting >= self._max_events or self.waiting_bytes + size > self._max_bytes:
            self._dropped("queue full", url)
            return
        lane = self._lanes.get(url)
        if lane is None:
            parts = urlsplit(url)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            lane = self._lanes[url] = _Lane(f"http://{parts.netloc}", path)
        lane.queue.append(_Waiting(event, time.monotonic()))
        self.waiting += 1
        self.waiting_bytes += size
        if lane.sending < self._senders:
            lane.sending += 1
            sender = asyncio.create_task(self._send_all(url, lane), name="event sender")
            lane.senders.add(sender)
            sender.add_done_callback(lane.senders.discard)

    async def flush(self, seconds: float) -> bool:
        """Wait until nothing waits; return whether that came within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while self.waiting and (senders := self._tasks()):
                    await asyncio.wait(senders)
        except TimeoutError:
            return False
        return True

    async def aclose(self, seconds: float = 3.0) -> None:
        """Deliver what can be delivered within `seconds`, then drop the rest."""
        await self.flush(seconds)
        senders = self._tasks()
        for task in senders:
            task.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if self.waiting:
            self._metrics.events_dropped.labels("stopped").inc(self.waiting)
            log.warning("stopped with %d payload events undelivered", self.waiting)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for lane in self._lanes.values() for task in lane.senders]

    async def _send_all(self, url: str, lane: _Lane) -> None:
        try:
            while lane.queue:
                waiting = lane.queue.popleft()
                try:
                    await self._send(url, lane, waiting)
                except Exception:
                    log.exception("fault while sending a payload event to %s", url)
                    self._dropped("fault", url)
                self.waiting -= 1
                self.waiting_bytes -= len(waiting.event.data)
        finally:
            lane.sending -= 1

    async def _send(self, url: str, lane: _Lane, waiting: _Waiting) -> None:
        named, body = waiting.event.to_binary()
        headers = [
            (name.encode(), value.encode("latin-1", "replace")) for name, value in named.items()
        ]
        pause = FIRST_PAUSE
        while True:
            problem = await self._attempt(lane, headers, body)
            if problem is None:
                self._metrics.events_sent.inc()
                return
            if not problem:
                self._dropped("refused", url)
                return
            if time.monotonic() - waiting.since + pause > self._max_age:
                self._dropped("too old", url)
                return
            self._metrics.events_retried.inc()
            self._tell(f"retry {url}", f"payload events for {url} wait: {problem}")
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _attempt(
        self, lane: _Lane, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> str | None:
        """Return None when delivered, why it should be tried again, or "" when refused for good."""
        try:
            answer = await self._upstream.send(
                "POST", lane.base, lane.path, headers, body, SEND_SECONDS
            )
        except UpstreamError as problem:
            return str(problem) or "no answer"
        if 200 <= answer.status < 300:
            return None
        if answer.status < 500 and answer.status not in _RETRIED:
            return ""
        return f"the broker answers {answer.status}"

    def _dropped(self, reason: str, url: str) -> None:
        self._metrics.events_dropped.labels(reason).inc()
        self._tell(f"{reason} {url}", f"a payload event for {url} was dropped: {reason}")

    def _tell(self, kind: str, message: str) -> None:
        """Log the first of a kind, then at most one line every LOG_EVERY seconds."""
        now = time.monotonic()
        if now - self._told.get(kind, -LOG_EVERY) >= LOG_EVERY:
            self._told[kind] = now
            log.warning("%s", message)
