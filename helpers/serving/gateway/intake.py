"""Takes in a client's request: its headers, checked and sorted, and its body, within limits."""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass

from starlette.types import Receive, Scope

from helpers.serving.common.body import drain, too_large
from helpers.serving.common.errors import RequestError
from helpers.serving.gateway.client import Header

BUFFER_LIMIT = 512 * 2**20  # bytes of all bodies held at once
BODY_SECONDS = 60.0  # for a client to send its body

_PUID = re.compile(rb"[!-~]{1,200}")
_NOT_FORWARDED = frozenset(
    (
        b"accept-encoding",  # answers are passed on and logged as they are: no compression
        b"connection",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"seldon-puid",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_TRUE = (b"true", b"1", b"t")  # what Go's strconv.ParseBool takes, in lower case


@dataclass(slots=True)
class Intake:
    """The headers of a request.

    Args:
        puid: the request's id, taken or made.
        forwarded: what goes on to the model server, `seldon-puid` included.
        content_type: as the client gave it.
        skip_logging: whether `seldon-skip-logging: true` was given.
        variant: the predictor of `seldon-variant`; None without that header.
    """

    puid: str
    forwarded: list[Header]
    content_type: str
    skip_logging: bool
    variant: str | None = None


def read_headers(scope: Scope) -> Intake:
    """Sort the headers of a request.

    Raises:
        RequestError: 400 a broken or impossible header, 415 a compressed body.
    """
    puid = b""
    content_type = b"application/json"
    skip_logging = False
    variant: bytes | None = None
    forwarded: list[Header] = []
    for name, value in scope["headers"]:
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise RequestError(400, "A header has a line break in its value.")
        if name == b"content-type":
            content_type = value
        elif name == b"seldon-puid":
            puid = value
        elif name == b"seldon-skip-logging":
            skip_logging = value.strip().lower() in _TRUE
        elif name == b"seldon-variant":
            if variant not in (None, value):
                raise RequestError(400, "Seldon-Variant is given twice, with different predictors.")
            variant = value
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise RequestError(415, "Send the body without a Content-Encoding.")
        if name not in _NOT_FORWARDED:
            forwarded.append((name, value))
    if not puid:
        puid = str(uuid.uuid4()).encode()
    elif not _PUID.fullmatch(puid):
        raise RequestError(400, "Seldon-Puid must be 1 to 200 visible ASCII characters.")
    forwarded.append((b"seldon-puid", puid))
    return Intake(
        puid=puid.decode(),
        forwarded=forwarded,
        content_type=content_type.decode("latin-1"),
        skip_logging=skip_logging,
        variant=None if variant is None else variant.decode("latin-1").strip(),
    )


class BodyReader:
    """Reads bodies; all that are held at once share one limit of memory.

    Args:
        body_limit: bytes of one body.
        buffer_limit: bytes of all bodies held at once.
    """

    def __init__(self, body_limit: int, buffer_limit: int = BUFFER_LIMIT) -> None:
        self._body_limit = body_limit
        self._buffer_limit = buffer_limit
        self.held = 0

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body; the caller gives its length back with `release`.

        Raises:
            RequestError: 413 too large, 408 too slow, 503 no memory left for it, 400 cut short.
        """
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read(scope, receive)
        except TimeoutError as problem:
            raise RequestError(
                408, f"The body did not come within {BODY_SECONDS:g} s."
            ) from problem

    def release(self, size: int) -> None:
        """Give back the memory of a body of `size` bytes."""
        self.held -= size

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        announced = _announced(scope)
        if announced > self._body_limit:
            await drain(receive)
            raise too_large(self._body_limit)
        self._reserve(announced)
        reserved = announced
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise RequestError(400, "The connection closed before the whole body came.")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > self._body_limit:
                    await drain(receive)
                    raise too_large(self._body_limit)
                if size > reserved:
                    self._reserve(size - reserved)
                    reserved = size
                chunks.append(chunk)
                if not message.get("more_body"):
                    self.held -= reserved - size
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except BaseException:
            self.held -= reserved
            raise

    def _reserve(self, size: int) -> None:
        if self.held + size > self._buffer_limit:
            raise RequestError(
                503, "Too many large requests at once; try again.", headers={"retry-after": "1"}
            )
        self.held += size


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 16 else 0
    return 0
