"""The bearer token of a control API."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from starlette.requests import Request

from helpers.serving.common.errors import RequestError, ServingError


def make_token(path: Path) -> str:
    """Write a new token to `path`, readable by the user alone, and return it."""
    token = secrets.token_urlsafe(32)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token)
    return token


def read_token(path: Path) -> str:
    """Return the token in `path`.

    Raises:
        ServingError: the file is missing, empty, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise ServingError(f"The token file {path} cannot be read: {problem}.") from problem
    if mode & 0o077:
        raise ServingError(f"Others may read the token file {path}; run: chmod 600 {path}")
    if not token:
        raise ServingError(f"The token file {path} is empty.")
    return token


def require_token(request: Request, token: str) -> None:
    """Refuse a request without `Authorization: Bearer <token>`, in constant time.

    Raises:
        RequestError: 401.
    """
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())
    if scheme.lower() != "bearer" or not same:
        raise RequestError(
            401,
            "This needs the header `Authorization: Bearer <token>` with the server's token.",
            headers={"www-authenticate": "Bearer"},
        )
