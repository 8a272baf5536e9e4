"""Asks a server whether it can serve."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT_SECONDS = 2.0
BODY_BYTES = 64 * 1024  # of an answer; what is longer is no reason
SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Args:
        ready: it answered 200.
        silent: it took the connection, or will, but did not answer in time: it is busy.
        reason: why it is not ready.
    """

    ready: bool
    silent: bool = False
    reason: str = ""


def client() -> httpx.AsyncClient:
    """Return the client to ask with; the caller closes it."""
    # No connection is kept: an idle one would hold up the graceful stop of some servers.
    return httpx.AsyncClient(
        timeout=TIMEOUT_SECONDS,
        trust_env=False,
        verify=False,  # plain HTTP on loopback: no certificates to load
        limits=httpx.Limits(max_keepalive_connections=0),
        headers={"connection": "close"},
    )


async def ask(client: httpx.AsyncClient, address: tuple[str, int], path: str) -> Answer:
    """Return whether the server is ready; never raises for what a server does.

    Args:
        client: see `client`.
        address: host and port.
        path: to GET.
    """
    host, port = address
    body = b""
    try:
        # httpx limits each step; a body that comes in drops is limited here.
        async with (
            asyncio.timeout(2 * TIMEOUT_SECONDS),
            client.stream("GET", f"http://{host}:{port}{path}") as response,
        ):
            if response.status_code == 200:
                return Answer(True)
            async for part in response.aiter_bytes():
                body += part
                if len(body) > BODY_BYTES:
                    break
    except httpx.ConnectError:
        return Answer(False)
    except (httpx.TimeoutException, TimeoutError):
        seconds = f"{TIMEOUT_SECONDS:g}"
        return Answer(False, silent=True, reason=f"no answer to GET {path} within {seconds} s")
    except Exception as problem:  # whatever it sends, it will be asked again
        return Answer(False, reason=f"GET {path}: {str(problem) or type(problem).__name__}")
    return Answer(False, reason=_reason(body) or f"GET {path} answers {response.status_code}")


def _reason(content: bytes) -> str:
    try:
        body: Any = json.loads(content)
    except ValueError:
        return ""
    if isinstance(body, dict) and isinstance(body.get("status"), dict):  # the seldon protocol
        body = {"reason": body["status"].get("info")}
    if not isinstance(body, dict):
        return ""
    found = next((body[key] for key in ("reason", "error", "detail") if body.get(key)), "")
    return str(found)[:SHOWN_CHARACTERS]
