"""The frame of every server: routes, JSON errors, limits, `/ready`, `/live` and metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.serving.common.body import BODY_LIMIT, drain, too_large
from helpers.serving.common.errors import ErrorShape, RequestError, plain_error
from helpers.serving.common.metrics import expose, new_registry
from helpers.serving.common.openapi import PATH as OPENAPI_PATH
from helpers.serving.common.openapi import document

log = logging.getLogger(__name__)

CONCURRENCY_LIMIT = 512  # requests under way at once; the surplus is told to come back


class JSON(Response):
    """A JSON response written by orjson; numpy arrays and scalars are understood."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def create_app(
    name: str,
    routes: Sequence[BaseRoute],
    *,
    shape_error: ErrorShape = plain_error,
    not_ready: Callable[[], str | None] = lambda: None,
    registry: CollectorRegistry | None = None,
    metrics_path: str = "/metrics",
    body_limit: int = BODY_LIMIT,
    concurrency_limit: int = CONCURRENCY_LIMIT,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
    described_in: str | None = None,
) -> Starlette:
    """Return an ASGI app with `routes` in this project's frame.

    A handler refuses a request by raising RequestError. Any other exception is a fault of ours: it
    is logged with its traceback and answered by a bare 500.

    Args:
        name: the server's name, used in its log and in the answer to a fault.
        routes: starlette routes; those of this frame come after them.
        shape_error: builds the JSON object of a refusal, as the server's protocol has it.
        not_ready: returns why the server cannot serve yet, or None; `/ready` answers 503 meanwhile.
        registry: the metrics to expose; a new one by default, also at `app.state.registry`.
        metrics_path: where Prometheus scrapes.
        body_limit: bytes of a body as sent; more is answered with 413.
        concurrency_limit: requests under way at once; more is answered with 503 and Retry-After.
        lifespan: starlette's start-up and shutdown.
        described_in: the package whose `openapi.yaml` describes the routes; `/openapi.json` answers with it.
    """

    def live(request: Request) -> Response:
        return JSON({"live": True})

    def ready(request: Request) -> Response:
        reason = not_ready()
        if reason is None:
            return JSON({"ready": True})
        return JSON({"ready": False, "reason": reason}, status_code=503)

    def described(request: Request) -> Response:
        assert described_in is not None
        return JSON(document(described_in, shape_error=shape_error, metrics_path=metrics_path))

    own = {"/live", "/ready", metrics_path}

    async def refuse(request: Request, error: Exception) -> Response:
        return _answer(_as_request_error(error, request), request.scope["path"], shape_error)

    frame = [Route("/live", _async(live)), Route("/ready", _async(ready))]
    if described_in is not None:
        frame.append(Route(OPENAPI_PATH, _async(described)))
    app = Starlette(
        routes=[*routes, *frame, Route(metrics_path, _async(expose))],
        exception_handlers={RequestError: refuse, HTTPException: refuse},
        middleware=[
            Middleware(
                Guard,
                name=name,
                shape_error=shape_error,
                body_limit=body_limit,
                concurrency_limit=concurrency_limit,
                unlimited=own,
            )
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.body_limit = body_limit
    app.state.registry = registry if registry is not None else new_registry()
    return app


class Guard:
    """Outermost layer: too many requests, too large bodies, and faults of our own."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        name: str,
        shape_error: ErrorShape,
        body_limit: int,
        concurrency_limit: int,
        unlimited: set[str],
    ) -> None:
        self.app = app
        self.name = name
        self.shape_error = shape_error
        self.body_limit = body_limit
        self.concurrency_limit = concurrency_limit
        self.unlimited = unlimited
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self.under_way += 1
        try:
            announced = self._check(scope)
            if announced is None:
                receive = self._counted(receive)
            await self.app(scope, receive, watched_send)
        except RequestError as error:
            if not started:
                if error.status == 413:
                    await drain(receive)
                await self._refuse(error, scope, receive, send)
        except Exception:
            log.exception("%s: fault while answering %s", self.name, scope["path"])
            if not started:
                fault = RequestError(
                    500, f"Internal error; the log of {self.name} has the details."
                )
                await self._refuse(fault, scope, receive, send)
        finally:
            self.under_way -= 1

    def _check(self, scope: Scope) -> int | None:
        """Return the announced length of the body in bytes; None where it comes in chunks."""
        if self.under_way > self.concurrency_limit and scope["path"] not in self.unlimited:
            raise RequestError(
                503,
                f"{self.name} already has {self.concurrency_limit} requests under way; try again.",
                headers={"retry-after": "1"},
            )
        length = None
        for header, value in scope["headers"]:
            if header == b"content-length":
                length = int(value) if value.isdigit() else 0
            elif header == b"transfer-encoding":
                return None
        if length is not None and length > self.body_limit:
            raise too_large(self.body_limit)
        return length or 0

    def _counted(self, receive: Receive) -> Receive:
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.body_limit:
                if message.get("more_body"):
                    await drain(receive)
                raise too_large(self.body_limit)
            return message

        return counted

    async def _refuse(
        self, error: RequestError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        await _answer(error, scope["path"], self.shape_error)(scope, receive, send)


def _async(handler: Callable[[Request], Response]) -> Any:
    """Run a quick handler on the event loop: starlette would send it to a thread."""

    async def wrapped(request: Request) -> Response:
        return handler(request)

    return wrapped


def _as_request_error(error: Exception, request: Request) -> RequestError:
    if isinstance(error, RequestError):
        return error
    assert isinstance(error, HTTPException)
    path = request.scope["path"][:200]  # not request.url, which a malformed Host header changes
    if error.status_code == 404:
        message = f"Nothing is served at {path}."
    elif error.status_code == 405:
        message = f"{request.method} is not allowed at {path}."
    else:
        message = str(error.detail)
    return RequestError(error.status_code, message, headers=error.headers)


def _answer(error: RequestError, path: str, shape_error: ErrorShape) -> Response:
    headers = dict(error.headers)
    if error.status == 413:
        headers["connection"] = "close"
    return JSON(shape_error(error, path), status_code=error.status, headers=headers)
