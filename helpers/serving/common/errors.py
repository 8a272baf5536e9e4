"""What a server answers when it refuses a request, in the shape of the protocol it speaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from helpers.errors import WalkthroughError


class ServingError(WalkthroughError):
    """A server cannot start or go on: port in use, unreadable token, broken state folder."""


class RequestError(WalkthroughError):
    """A request that is refused; it becomes a JSON answer, never a traceback.

    Args:
        status: the HTTP status, 400 to 599.
        message: what is wrong with the request and what would be right.
        reason: one upper-case word for programs, e.g. `BAD_REQUEST`.
        headers: response headers to add, e.g. `Retry-After` in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason or REASONS.get(status, "ERROR")
        self.headers = dict(headers or {})


REASONS = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    409: "CONFLICT",
    413: "TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_ERROR",
    502: "BAD_GATEWAY",
    503: "UNAVAILABLE",
    504: "GATEWAY_TIMEOUT",
}

# (error, path of the request) -> the JSON object to answer with. A gateway, which speaks every
# protocol, decides by the path.
ErrorShape = Callable[[RequestError, str], dict[str, Any]]


def plain_error(error: RequestError, path: str) -> dict[str, Any]:
    """`{"error": "..."}`: TensorFlow Serving's REST API and the v2 protocol."""
    return {"error": error.message}


def seldon_error(error: RequestError, path: str) -> dict[str, Any]:
    """`{"status": {...}}`: the seldon protocol."""
    return {
        "status": {
            "code": error.status,
            "info": error.message,
            "reason": error.reason,
            "status": "FAILURE",
        }
    }
