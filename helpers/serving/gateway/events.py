"""Sends payload events in the background, so that no broker slows or fails a prediction.

Events wait in memory, bounded in number and bytes, and with a spool on disk as well; each broker has
its own lane, so that a dead one does not hold up another. A failed delivery is tried again until the
event is too old. A broker gets an event at least once: twice, with the same id, where the gateway died
in between.

Where few requests are under way, nothing is sent before its request is answered, or has taken long: a broker and
its consumers on the same cores would slow the very prediction that they are told of.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from helpers.serving.common.events import CloudEvent
from helpers.serving.gateway.client import Upstream, UpstreamError
from helpers.serving.gateway.metrics import Metrics
from helpers.serving.gateway.spool import Spool

log = logging.getLogger(__name__)

MAX_EVENTS = 50_000
MAX_BYTES = 256 * 2**20
SENDERS = 16  # deliveries to one broker at a time
MAX_AGE = 600.0  # seconds that delivery is tried
SEND_SECONDS = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts, doubling
HOLD_SECONDS = 0.5  # that a request's events wait for its answer
HOLD_REQUESTS = 2  # whose events wait; with more under way the cores are busy whatever waits
LOG_EVERY = 10.0  # seconds between two lines about the same kind of loss

_RETRIED = (408, 425, 429)
_NEAR = "near:"  # instead of the address of a broker in this process


class Near(Protocol):
    """A broker in this process, which takes events without a connection."""

    def path(self, url: str) -> str | None:
        """Return the path of an address of this broker, None for an address elsewhere."""

    async def take(self, path: str, event: CloudEvent) -> int:
        """Store an event; return the status that the broker answers over HTTP."""


@dataclass(slots=True)
class _Waiting:
    event: CloudEvent
    since: float
    seq: int  # in the spool


@dataclass(slots=True)
class _Lane:
    address: str
    base: str  # empty for a broker in this process
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
        near: a broker in this process.
        spool: keeps events on disk; None keeps them in memory only.
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
        near: Near | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._senders = senders
        self._near = near
        self._spool = spool
        self._lanes: dict[str, _Lane] = {}
        self._held: dict[str, list[tuple[_Lane, _Waiting]]] = {}  # by request, until its answer
        self._told: dict[str, float] = {}
        self.waiting = 0
        self.waiting_bytes = 0
        metrics.events_waiting.set_function(lambda: self.waiting)
        metrics.events_waiting_bytes.set_function(lambda: self.waiting_bytes)

    def replay(self) -> None:
        """Take what an earlier gateway left in the spool; to be called once, on the event loop."""
        if self._spool is None:
            return
        count = 0
        for seq, address, event in self._spool.left():
            count += 1
            if self._full(event, address):
                self._spool.done(seq)
            else:
                self._send_soon(self._lane(address), self._waiting(event, seq))
        if count:
            self._metrics.events_replayed.inc(count)
            log.info("%d payload events of an earlier gateway are delivered now", count)

    def put(self, url: str, event: CloudEvent) -> None:
        """Take an event for the broker at `url`; returns at once, drops it when too much waits.

        Where few requests are under way, it is sent when its own is answered, see `release`, at the latest
        after HOLD_SECONDS; else at once.
        """
        lane = self._lane(url)
        if self._full(event, url):
            return
        seq = self._spool.put(lane.address, event) if self._spool is not None else 0
        waiting = self._waiting(event, seq)
        request = event.extensions.get("requestid", "")
        held = self._held.get(request)
        if held is None and len(self._held) < HOLD_REQUESTS:
            held = self._held[request] = []
            asyncio.get_running_loop().call_later(HOLD_SECONDS, self._send_held, request)
        if held is None:
            self._send_soon(lane, waiting)
        else:
            held.append((lane, waiting))

    def release(self, request: str) -> None:
        """Have the events of a request on disk, and send them: its answer goes out now."""
        if self._spool is not None:
            self._spool.keep(request)
        self._send_held(request)

    def _send_held(self, request: str) -> None:
        for lane, waiting in self._held.pop(request, ()):
            self._send_soon(lane, waiting)

    def _full(self, event: CloudEvent, url: str) -> bool:
        """Whether there is no room for an event, which is then counted as dropped."""
        full = (
            self.waiting >= self._max_events
            or self.waiting_bytes + len(event.data) > self._max_bytes
        )
        if full:
            self._dropped("queue full", url)
        return full

    def _lane(self, url: str) -> _Lane:
        """Return the lane of an address, or of what `_Lane.address` was in an earlier process."""
        lane = self._lanes.get(url)
        if lane is not None:
            return lane
        # The port of the broker in this process is another one after each start: not part of its address.
        path = url.removeprefix(_NEAR) if url.startswith(_NEAR) else None
        if self._near is not None and path is None:
            path = self._near.path(url)
        if path is not None:
            lane = self._lanes.get(_NEAR + path) or _Lane(_NEAR + path, "", path)
            self._lanes[lane.address] = lane
        else:
            parts = urlsplit(url)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            lane = _Lane(url, f"http://{parts.netloc}", path)
        self._lanes[url] = lane
        return lane

    def _waiting(self, event: CloudEvent, seq: int) -> _Waiting:
        self.waiting += 1
        self.waiting_bytes += len(event.data)
        return _Waiting(event, time.monotonic(), seq)

    def _send_soon(self, lane: _Lane, waiting: _Waiting) -> None:
        lane.queue.append(waiting)
        if lane.sending < self._senders:
            lane.sending += 1
            sender = asyncio.create_task(self._send_all(lane), name="event sender")
            lane.senders.add(sender)
            sender.add_done_callback(lane.senders.discard)

    async def flush(self, seconds: float) -> bool:
        """Wait until nothing waits; return whether that came within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while self.waiting:
                    for request in list(self._held):
                        self._send_held(request)
                    if not (senders := self._tasks()):
                        break
                    await asyncio.wait(senders)
        except TimeoutError:
            return False
        return not self.waiting

    async def aclose(self, seconds: float = 3.0) -> None:
        """Deliver what can be delivered within `seconds`; the rest stays in the spool, or is lost."""
        await self.flush(seconds)
        senders = self._tasks()
        for task in senders:
            task.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if self._spool is not None:
            self._spool.close()
        elif self.waiting:
            self._metrics.events_dropped.labels("stopped").inc(self.waiting)
        if self.waiting:
            told = "lost" if self._spool is None else f"in {self._spool.path}"
            log.warning("stopped with %d payload events undelivered: %s", self.waiting, told)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return list({task for lane in self._lanes.values() for task in lane.senders})

    async def _send_all(self, lane: _Lane) -> None:
        try:
            while lane.queue:
                waiting = lane.queue.popleft()
                try:
                    await self._send(lane, waiting)
                except Exception:
                    log.exception("fault while sending a payload event to %s", lane.address)
                    self._dropped("fault", lane.address)
                if self._spool is not None:
                    self._spool.done(waiting.seq)
                self.waiting -= 1
                self.waiting_bytes -= len(waiting.event.data)
        finally:
            lane.sending -= 1

    async def _send(self, lane: _Lane, waiting: _Waiting) -> None:
        pause = FIRST_PAUSE
        while True:
            problem = await self._attempt(lane, waiting.event)
            if problem is None:
                self._metrics.events_sent.inc()
                return
            if not problem:
                self._dropped("refused", lane.address)
                return
            if time.monotonic() - waiting.since + pause > self._max_age:
                self._dropped("too old", lane.address)
                return
            self._metrics.events_retried.inc()
            self._tell(
                f"retry {lane.address}", f"payload events for {lane.address} wait: {problem}"
            )
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _attempt(self, lane: _Lane, event: CloudEvent) -> str | None:
        """Return None when delivered, why it should be tried again, or "" when refused for good."""
        try:
            status = await self._post(lane, event)
        except UpstreamError as problem:
            return str(problem) or "no answer"
        if 200 <= status < 300:
            return None
        if status < 500 and status not in _RETRIED:
            return ""
        return f"the broker answers {status}"

    async def _post(self, lane: _Lane, event: CloudEvent) -> int:
        if lane.address.startswith(_NEAR):
            return 503 if self._near is None else await self._near.take(lane.path, event)
        named, body = event.to_binary()
        headers = [
            (name.encode(), value.encode("latin-1", "replace")) for name, value in named.items()
        ]
        answer = await self._upstream.send(
            "POST", lane.base, lane.path, headers, body, SEND_SECONDS
        )
        return answer.status

    def _dropped(self, reason: str, url: str) -> None:
        self._metrics.events_dropped.labels(reason).inc()
        self._tell(f"{reason} {url}", f"a payload event for {url} was dropped: {reason}")

    def _tell(self, kind: str, message: str) -> None:
        """Log the first of a kind, then at most one line every LOG_EVERY seconds."""
        now = time.monotonic()
        if now - self._told.get(kind, -LOG_EVERY) >= LOG_EVERY:
            self._told[kind] = now
            log.warning("%s", message)
