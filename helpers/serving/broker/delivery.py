"""One attempt to deliver one event over HTTP, and what its outcome means.

As in Knative: 404, 408, 409, 429, 5xx and broken connections are tried again, other answers that
are not 2xx are not; a CloudEvent in the answer is a new event; any other body is a failure.
"""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass

import aiohttp

from helpers.serving.common import events
from helpers.serving.common.body import BODY_LIMIT
from helpers.serving.common.errors import RequestError

RETRIED = frozenset({404, 408, 409, 429})
BAD_REPLY = 502  # the status Knative gives to an answer that is no CloudEvent
LONGEST_RETRY_AFTER = 300.0  # seconds
TOLD = 1024  # bytes of an error answer that are kept, as in Knative


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt.

    Attributes:
        delivered: the subscriber has taken the event.
        status: its HTTP status; None where no answer came.
        reason: why it failed, for people.
        again: whether another attempt makes sense.
        refused: no connection could be made at all.
        retry_after: seconds the subscriber asked to wait.
        reply: the event it answered with.
    """

    delivered: bool
    status: int | None = None
    reason: str = ""
    again: bool = False
    refused: bool = False
    retry_after: float = 0.0
    reply: events.CloudEvent | None = None


async def attempt(
    session: aiohttp.ClientSession,
    url: str,
    headers: dict[str, str],
    data: bytes,
    timeout: float,
) -> Outcome:
    """POST one event and judge the answer; never raises but for cancellation."""
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with session.post(
            url, data=data, headers=headers, timeout=limit, allow_redirects=False
        ) as response:
            body = await _read(response)
            return _judge(response, body)
    except TimeoutError:
        return Outcome(False, reason=f"no answer within {timeout:g} s", again=True)
    except aiohttp.ClientConnectorError as problem:
        return Outcome(False, reason=f"no connection: {problem}", again=True, refused=True)
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        told = str(problem) or type(problem).__name__
        return Outcome(False, reason=f"connection broke: {told}", again=True)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the body, None where it is larger than any event may be."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > BODY_LIMIT:
            return None
        parts.append(part)
    return b"".join(parts)


def _judge(response: aiohttp.ClientResponse, body: bytes | None) -> Outcome:
    status = response.status
    if not 200 <= status < 300:
        told = (body or b"")[:TOLD].decode("utf-8", "replace").strip()
        return Outcome(
            False,
            status=status,
            reason=told or response.reason or "",
            again=status >= 500 or status in RETRIED,
            retry_after=_retry_after(response.headers.get("Retry-After")),
        )
    if body == b"" and "ce-specversion" not in response.headers:
        return Outcome(True, status=status)
    if status == 202:  # "accepted, not done": by Knative's contract never a reply
        return Outcome(True, status=status)
    if body is None:
        return Outcome(False, status=BAD_REPLY, reason="the answer is too large", again=True)
    headers = {name.lower(): value for name, value in response.headers.items()}
    try:
        reply = events.from_http(headers, body)
    except RequestError as problem:
        return Outcome(
            False,
            status=BAD_REPLY,
            reason=f"the answer is neither empty nor a CloudEvent: {problem.message}",
            again=True,
        )
    return Outcome(True, status=status, reply=reply)


def _retry_after(value: str | None) -> float:
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else 0.0
