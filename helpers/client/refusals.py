"""Errors that say what happened, where, and what to do next."""

from __future__ import annotations

import httpx
import orjson

from helpers.errors import ClientError

LONGEST = 500  # characters of a server's own message

_NEXT = {
    400: "Compare what was sent with `client.metadata()`, which says what the model takes.",
    404: "Compare the URL, protocol and model name with the manifest; `python -m helpers.stack status` "
    "shows what runs.",
    413: "Send fewer instances in one request.",
    503: "`cluster.wait()` returns once it is ready; `python -m helpers.stack status` shows its state.",
    504: "The server's log says what it is busy with: `python -m helpers.stack logs`.",
}
_CLIENT_FAULT = "The request is wrong; the message says how."
_SERVER_FAULT = "The server's log has the details: `python -m helpers.stack logs`."


def server_says(body: bytes) -> str:
    """Return the message in an error's body: the text of its JSON in any protocol's shape, or as it is."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace").strip()[:LONGEST] or "(an empty body)"
    if isinstance(content, dict):
        status = content.get("status")
        if isinstance(status, dict):  # Seldon's
            content = status.get("info") or status
        else:
            content = content.get("error") or content.get("detail") or content
    text = content if isinstance(content, str) else orjson.dumps(content).decode()
    return text[:LONGEST]


def refused(method: str, url: str, response: httpx.Response) -> ClientError:
    """Return the error for an answer that is not a success."""
    code = response.status_code
    advice = _NEXT.get(code, _CLIENT_FAULT if code < 500 else _SERVER_FAULT)
    return ClientError(
        f"{method} {url} was answered with {code}: {server_says(response.content)} {advice}", code
    )


def unanswered(method: str, url: str, problem: httpx.HTTPError, timeout: float) -> ClientError:
    """Return the error for a request that got no answer."""
    if isinstance(problem, httpx.TimeoutException):
        return ClientError(
            f"{method} {url} got no answer within {timeout:g} s. Look at the server "
            "(`python -m helpers.stack status`), or give it longer with Client(timeout=…)."
        )
    reason = str(problem) or type(problem).__name__
    return ClientError(
        f"{method} {url} got no answer: {reason}. Is the stack up? `python -m helpers.stack status` "
        "shows it, and `cluster.apply(…)` starts what is missing."
    )


def unreadable(method: str, url: str, response: httpx.Response) -> ClientError:
    """Return the error for a success whose body is not what the protocol says."""
    return ClientError(
        f"{method} {url} was answered with {response.status_code} and a body that is not the protocol's: "
        f"{server_says(response.content)[:200]!r}. Compare Client(protocol=…) with the manifest's.",
        response.status_code,
    )
