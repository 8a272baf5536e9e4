"""Sends prepared requests over HTTP as fast as the answers come, and takes little time for itself.

The client shares the cores with what it measures, so bodies are made beforehand and answers are not
parsed: about 40 µs a request, where aiohttp's client takes 300. For HTTP/1.1 servers that say the length
of their answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.figures import percentile
from helpers.errors import WalkthroughError
from helpers.serving.common.events import CloudEvent

ANSWER_SECONDS = 30.0  # for the last answers, once the time is up


@dataclass
class Load:
    """What came of it; seconds of every request, in the order of the answers."""

    seconds: list[float] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    duration: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.duration

    def p(self, percent: float) -> float:
        """Return a percentile of the seconds."""
        return percentile(self.seconds, percent)


@dataclass(frozen=True)
class Target:
    """Where requests go.

    Args:
        url: the whole address.
        headers: of every request, beside host, content-length and content-type.
        accepted: statuses that are no failure.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    accepted: tuple[int, ...] = (200, 202)

    def request(self, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
        """Return the bytes of one POST."""
        parts = urlsplit(self.url)
        named = {
            "host": parts.netloc,
            "content-type": "application/json",
            "content-length": str(len(body)),
            **self.headers,
            **(headers or {}),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        return f"POST {parts.path or '/'} HTTP/1.1\r\n{lines}\r\n".encode() + body

    def event(self, event: CloudEvent) -> bytes:
        """Return the bytes of one POST of a CloudEvent in binary mode."""
        headers, body = event.to_binary()
        return self.request(body, headers)


class _FailedError(Exception):
    """An answer that is none."""


class _Plan:
    def __init__(
        self, requests: Sequence[bytes], count: int | None, seconds: float | None, pause: float
    ) -> None:
        self.requests = requests
        self.pause = pause
        self.count = count
        self.load = Load()
        self.began = time.perf_counter()
        self.ends = None if seconds is None else self.began + seconds
        self.sent = 0

    def next(self) -> bytes | None:
        """Return the next request, None at the end."""
        if self.count is not None and self.sent >= self.count:
            return None
        if self.ends is not None and time.perf_counter() >= self.ends:
            return None
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        return request


class _Connection(asyncio.Protocol):
    def __init__(self, plan: _Plan, done: asyncio.Future[None]) -> None:
        self._plan = plan
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._began = 0.0
        self._head = b""
        self._missing = -1  # bytes of the body that have not come; -1 before its head has
        self._code = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has another parent
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        request = self._plan.next()
        if request is None:
            if not self._done.done():
                self._done.set_result(None)
            self._transport.close()
            return
        self._head, self._missing = b"", -1
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            try:
                self._code = int(head[9:12])
                length = head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
                self._missing = int(length) - len(body)
            except (ValueError, IndexError):
                self._fail(f"an answer without a length: {head[:200]!r}")
                return
        else:
            self._missing -= len(data)
        if self._missing == 0:
            load = self._plan.load
            load.seconds.append(time.perf_counter() - self._began)
            load.codes[self._code] += 1
            if self._plan.pause:
                asyncio.get_running_loop().call_later(self._plan.pause, self._send)
            else:
                self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server closed the connection: {exc or 'at its own wish'}")

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(_FailedError(why))


def send(
    target: Target,
    requests: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float | None = None,
    count: int | None = None,
    pause: float = 0.0,
) -> Load:
    """Send requests for so long, or so many; they are taken in turn, from the first again after the last.

    Args:
        target: where they go.
        requests: as `target.request` makes them.
        concurrency: connections, each with one request under way.
        seconds: until when requests are sent.
        count: how many are sent.
        pause: seconds of each connection between an answer and its next request.

    Raises:
        WalkthroughError: a connection breaks, answers do not come, or one of them is a failure.
    """
    if seconds is None and count is None:
        raise WalkthroughError("Say for how long to send, or how many.")
    load = uvloop.run(_run(target, requests, concurrency, seconds, count, pause))
    failed = {code: n for code, n in load.codes.items() if code not in target.accepted}
    if failed:
        raise WalkthroughError(f"{target.url} answered {failed} of {len(load.seconds)} requests.")
    return load


async def _run(
    target: Target,
    requests: Sequence[bytes],
    concurrency: int,
    seconds: float | None,
    count: int | None,
    pause: float,
) -> Load:
    parts = urlsplit(target.url)
    loop = asyncio.get_running_loop()
    plan = _Plan(requests, count, seconds, pause)
    dones = [loop.create_future() for _ in range(concurrency)]
    limit = (seconds or 120.0) + ANSWER_SECONDS
    try:
        async with asyncio.timeout(limit):
            for done in dones:
                await loop.create_connection(
                    lambda done=done: _Connection(plan, done), parts.hostname, parts.port
                )
            await asyncio.gather(*dones)
    except TimeoutError as problem:
        raise WalkthroughError(f"{target.url}: no last answer within {limit:g} s.") from problem
    except (OSError, _FailedError) as problem:
        raise WalkthroughError(f"{target.url}: {problem}") from problem
    plan.load.duration = time.perf_counter() - plan.began
    return plan.load
