"""Reads the body of a request: bounded, strict JSON, errors that say what is wrong."""

from __future__ import annotations

import asyncio
import re
import zlib
from itertools import accumulate
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from helpers.serving.common.errors import RequestError

BODY_LIMIT = 32 * 2**20  # bytes, after decompression
DRAIN_LIMIT = 256 * 2**20  # bytes of a refused body still read, so that the client sees the answer
DRAIN_SECONDS = 10.0
DEPTH_LIMIT = 64  # nested lists and objects; a batch of images has 5

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_CURLY_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_STEPS = {ord("["): 1, ord("]"): -1}


async def read_body(request: Request, limit: int | None = None) -> bytes:
    """Return the body, gunzipped where the request says so.

    Args:
        request: the request of an app made by `create_app`.
        limit: bytes after decompression; the app's own limit by default.

    Raises:
        RequestError: 413 too large, 400 broken gzip or connection, 415 another encoding.
    """
    if limit is None:
        limit = getattr(request.app.state, "body_limit", BODY_LIMIT)
    try:
        body = await request.body()
    except ClientDisconnect as problem:
        raise RequestError(400, "The connection closed before the whole body came.") from problem
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "gzip":
        body = _gunzip(body, limit)
    elif encoding not in ("identity", ""):
        raise RequestError(
            415, f"Content-Encoding {encoding[:40]!r} is not supported: use gzip or none."
        )
    if len(body) > limit:
        raise too_large(limit)
    return body


async def read_json(request: Request, limit: int | None = None) -> Any:
    """Return the parsed JSON body; see `read_body` and `parse_json` for what is refused."""
    return parse_json(await read_body(request, limit))


def parse_json(body: bytes, depth_limit: int = DEPTH_LIMIT) -> Any:
    """Parse JSON as RFC 8259 has it: UTF-8, no NaN or Infinity, no endless nesting.

    Raises:
        RequestError: 400 with the place of the mistake.
    """
    if not body.strip():
        raise RequestError(400, "The body is empty; JSON is expected.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        hint = " NaN and Infinity are not JSON numbers." if _has_nan(body) else ""
        raise RequestError(400, f"The body is not JSON: {problem}.{hint}") from problem
    if deeper_than(body, depth_limit):
        raise RequestError(400, f"The JSON is nested deeper than {depth_limit} levels.")
    return value


def deeper_than(body: bytes, limit: int) -> bool:
    """Whether valid JSON nests lists and objects deeper than `limit`.

    All in C: reduced to its brackets, the text loses one level with every replacement of `[]`. Data
    is mostly leaves and soon gone; a text that shrinks slowly is counted through instead.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    brackets = _STRING.sub(b"", body).translate(_CURLY_AS_SQUARE, _NOT_BRACKETS)
    for removed in range(limit):
        if not brackets:
            return False
        outer = brackets.replace(b"[]", b"")
        if len(outer) > len(brackets) // 2:
            return max(accumulate(map(_STEPS.__getitem__, brackets))) > limit - removed
        brackets = outer
    return bool(brackets)


def too_large(limit: int) -> RequestError:
    """The refusal of a body of more than `limit` bytes."""
    return RequestError(413, f"The body is larger than {limit} bytes, the most this server takes.")


def _gunzip(body: bytes, limit: int) -> bytes:
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = inflate.decompress(body, limit + 1)
    except zlib.error as problem:
        raise RequestError(400, f"The body is not gzip as announced: {problem}.") from problem
    if len(plain) > limit:
        raise too_large(limit)
    if not inflate.eof or inflate.unused_data:
        raise RequestError(400, "The gzip body is cut short or followed by something else.")
    return plain


def _has_nan(body: bytes) -> bool:
    return b"NaN" in body or b"Infinity" in body


async def drain(receive: Receive) -> None:
    """Read and drop what a client is still sending: it would miss the answer otherwise."""
    dropped = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while dropped < DRAIN_LIMIT:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                dropped += len(message.get("body", b""))
    except TimeoutError:
        return
