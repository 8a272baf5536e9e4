"""Calls servers on this machine through aiohttp: pooled connections, bytes in, bytes out.

No redirects, no cookies, no proxies. A POST is never sent twice here; whether it may be is for the
caller to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import aiohttp

IDLE_SECONDS = 1.5  # then we close a connection: before the server does, gunicorn after 2 s
ANSWER_LIMIT = 64 * 2**20  # bytes of an answer's body
CONNECT_SECONDS = 3.0

Header = tuple[bytes, bytes]


class UpstreamError(Exception):
    """No answer came; `started` tells whether the server may have begun to work on the request."""

    def __init__(self, message: str, *, started: bool) -> None:
        super().__init__(message)
        self.started = started


class UpstreamDownError(UpstreamError):
    """Nothing listens there, or the connection broke."""


class UpstreamTimeoutError(UpstreamError):
    """The answer did not come in time."""


class UpstreamBrokenError(UpstreamError):
    """What came back is not HTTP, or is too large."""


@dataclass(slots=True)
class Answer:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: list[Header]
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Return the first value of the header called `name`, b"" without one."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""


class Upstream(Protocol):
    """What sends a request: the pooled client here, an in-process app in tests."""

    async def send(
        self,
        method: str,
        base: str,
        path: str,
        headers: Iterable[Header],
        body: bytes,
        seconds: float,
    ) -> Answer:
        """Return the answer of `base` + `path`.

        Args:
            method: GET or POST.
            base: `http://host:port`.
            path: begins with a slash.
            headers: without host, content-length and connection.
            body: sent as it is.
            seconds: limit for the whole exchange.

        Raises:
            UpstreamError: nothing listens, no answer in time, or a broken one.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class PooledClient:
    """Keeps connections open and uses them again; for one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        base: str,
        path: str,
        headers: Iterable[Header],
        body: bytes,
        seconds: float,
    ) -> Answer:
        """See `Upstream.send`."""
        if self._session is None:
            self._session = _new_session()
        try:
            async with self._session.request(
                method,
                base + path,
                data=body or None,
                headers=[
                    (name.decode("ascii"), value.decode(errors="replace"))
                    for name, value in headers
                ],
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS),
                allow_redirects=False,
            ) as response:
                named = [(name.lower(), value) for name, value in response.raw_headers]
                return Answer(response.status, named, await _read(response))
        except aiohttp.ConnectionTimeoutError as problem:
            raise UpstreamDownError(
                f"no connection within {CONNECT_SECONDS:g} s", started=False
            ) from problem
        except aiohttp.ClientConnectorError as problem:
            raise UpstreamDownError(
                f"no connection: {problem.strerror or problem}", started=False
            ) from problem
        except TimeoutError as problem:
            raise UpstreamTimeoutError(f"no answer within {seconds:g} s", started=True) from problem
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as problem:
            raise UpstreamDownError("the connection broke", started=True) from problem
        except (aiohttp.ClientError, ValueError) as problem:
            raise UpstreamBrokenError(
                f"it did not answer in HTTP: {problem}", started=True
            ) from problem

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > ANSWER_LIMIT:
            raise UpstreamBrokenError(f"its answer is over {ANSWER_LIMIT} bytes", started=True)
        parts.append(part)
    return b"".join(parts)
