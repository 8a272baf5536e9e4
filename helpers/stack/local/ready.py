"""Asks a server whether it can serve."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx

TIMEOUT_SECONDS = 2.0
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
    try:
        response = await client.get(f"http://{host}:{port}{path}")
    except httpx.ConnectError:
        return Answer(False)
    except httpx.TimeoutException:
        seconds = f"{TIMEOUT_SECONDS:g}"
        return Answer(False, silent=True, reason=f"no answer to GET {path} within {seconds} s")
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        return Answer(False, reason=f"GET {path}: {problem or type(problem).__name__}")
    if response.status_code == 200:
        return Answer(True)
    return Answer(False, reason=_reason(response) or f"GET {path} answers {response.status_code}")


def _reason(response: httpx.Response) -> str:
    try:
        body: Any = json.loads(response.content)
    except ValueError:
        return ""
    if isinstance(body, dict) and isinstance(body.get("status"), dict):  # the seldon protocol
        body = {"reason": body["status"].get("info")}
    if not isinstance(body, dict):
        return ""
    found = next((body[key] for key in ("reason", "error", "detail") if body.get(key)), "")
    return str(found)[:SHOWN_CHARACTERS]
