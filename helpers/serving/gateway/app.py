"""The ASGI app: finds what a path means and answers, in the protocol's own shape of an error."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from helpers.serving.common import openapi
from helpers.serving.common.body import BODY_LIMIT
from helpers.serving.common.errors import ErrorShape, RequestError, plain_error, seldon_error
from helpers.serving.common.metrics import new_registry
from helpers.serving.gateway.client import Answer, Header, PooledClient, Upstream
from helpers.serving.gateway.events import EventSender, Near
from helpers.serving.gateway.intake import BUFFER_LIMIT, BodyReader, Intake, read_headers
from helpers.serving.gateway.metrics import Metrics
from helpers.serving.gateway.orchestrator import JSON_TYPE, Orchestrator, Request
from helpers.serving.gateway.paths import explain_target, resolve
from helpers.serving.gateway.routes import Deployment, Predictor, Routes, RouteTable
from helpers.serving.gateway.split import Splitter
from helpers.serving.gateway.spool import Spool
from helpers.serving.gateway.variant import Variant
from helpers.serving.gateway.watch import watch

log = logging.getLogger(__name__)

_PROBES = ("ready", "live", "prometheus")
_PLACE = re.compile(r"/(seldon|predictor)/([^/]+)/([^/]+)(?:/(.*))?", re.DOTALL)
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_PASSED_ON = (b"content-type", b"retry-after", b"allow")
_OF_EXPLAINERS = (  # there is no orchestrator before them in a cluster: all headers pass
    *_PASSED_ON,
    *(b"location", b"preference-applied", b"x-explanation-source", b"x-explanation-audit"),
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose variant is chosen; `rest` is its path behind the deployment's prefix."""

    deployment: Deployment
    variant: Variant
    rest: str
    intake: Intake


class Gateway:
    """The gateway as an ASGI app.

    Args:
        routes: what is served; swap its table at any time.
        config: a JSON file of a RouteTable to follow, beside or instead of `routes`.
        upstream: calls model servers and brokers; a PooledClient by default.
        seed: makes the traffic split repeatable.
        registry: for the metrics; a new one by default.
        body_limit: bytes of one body; more is answered with 413.
        buffer_limit: bytes of all bodies held at once; more is answered with 503.
        spool: folder in which payload events survive the process; None keeps them in memory.
        near: a broker in this process.

    Raises:
        ServingError: the spool's folder cannot be used.
    """

    def __init__(
        self,
        routes: Routes | RouteTable | None = None,
        *,
        config: Path | None = None,
        upstream: Upstream | None = None,
        seed: int | None = None,
        registry: CollectorRegistry | None = None,
        body_limit: int = BODY_LIMIT,
        buffer_limit: int = BUFFER_LIMIT,
        spool: Path | None = None,
        near: Near | None = None,
    ) -> None:
        self.routes = routes if isinstance(routes, Routes) else Routes(routes)
        self._config = config
        self._upstream = upstream if upstream is not None else PooledClient()
        self.metrics = Metrics(registry if registry is not None else new_registry())
        kept = Spool(spool, self.metrics) if spool is not None else None
        self.events = EventSender(self._upstream, self.metrics, near=near, spool=kept)
        self._orchestrator = Orchestrator(
            self.routes, self._upstream, self.events, self.metrics, Splitter(seed)
        )
        self._bodies = BodyReader(body_limit, buffer_limit)
        self._in_flight: Counter[tuple[str, str, str, str]] = Counter()
        self._under_way = 0
        self.metrics.in_flight.set_function(lambda: self._under_way)

    async def aclose(self) -> None:
        """Deliver the last events, as far as that goes quickly, and close every connection."""
        await self._orchestrator.aclose()
        await self.events.aclose()
        await self._upstream.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's start and stop."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        self._under_way += 1
        try:
            answer = await self._answer(scope, receive)
        finally:
            self._under_way -= 1
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body)), _NOSNIFF]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        watching = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.events.replay()
                if self._config is not None:
                    watching = asyncio.create_task(watch(self._config, self.routes), name="watch")
                await send({"type": "lifespan.startup.complete"})
            else:
                if watching is not None:
                    watching.cancel()
                    with suppress(asyncio.CancelledError):
                        await watching
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path: str = scope["path"]
        deployment: Deployment | None = None
        added: list[Header] = []
        passing = _PASSED_ON
        try:
            place = _PLACE.fullmatch(path)
            if place is None:
                return self._own(path, scope)
            area, namespace, name, rest = place.groups(default="")
            intake = read_headers(scope)
            added = [(b"seldon-puid", intake.puid.encode())]
            table = self.routes.table
            deployment = table.deployment(namespace, name)
            if deployment is not None:
                only, rest = _addressed(deployment, rest) if area == "predictor" else (None, rest)
                if rest in _PROBES:
                    answer = await self._probe(deployment, only, rest, scope)
                else:
                    variant = self._orchestrator.choose(deployment, intake, only)
                    added += variant.headers
                    asked = _Asked(deployment, variant, rest, intake)
                    answer = await self._deployment(asked, only is None, scope, receive)
            elif area == "seldon" and (explained := table.explained(namespace, name)):
                explainer, rest = _with_explainer(explained, rest)
                variant = self._orchestrator.choose(explained, intake, explainer)
                added += variant.headers
                asked = _Asked(explained, variant, rest, intake)
                passing = _OF_EXPLAINERS
                answer = await self._explain(asked, scope, receive)
            else:
                raise RequestError(
                    404, f"There is no deployment {name[:80]} in namespace {namespace[:80]}."
                )
        except RequestError as problem:
            self.metrics.refused.labels(problem.status).inc()
            answer = _refusal(problem, deployment, path)
        except Exception:
            log.exception("fault while answering %s", path[:200])
            fault = RequestError(500, "Internal error; the log of the gateway has the details.")
            answer = _refusal(fault, deployment, path)
        passed_on = [header for header in answer.headers if header[0] in passing]
        return Answer(answer.status, passed_on + added, answer.body)

    async def _deployment(
        self, asked: _Asked, copied: bool, scope: Scope, receive: Receive
    ) -> Answer:
        """Answer for a deployment; `copied` is whether its shadow sees the request."""
        deployment, variant = asked.deployment, asked.variant
        predictor = variant.predictor
        target = resolve(deployment.protocol, scope["method"], f"/{asked.rest}", predictor.model)
        started = time.perf_counter()
        try:
            async with self._admitted(deployment, predictor, "model", scope, receive) as body:
                request = Request(deployment, variant, target, asked.intake, body)
                answer = await self._orchestrator.serve(
                    request, copied=copied and not variant.pinned
                )
        except RequestError as problem:
            answer = variant.tagged(_refusal(problem, deployment, asked.rest), deployment, target)
        finally:
            self.events.release(asked.intake.puid)
        seconds = time.perf_counter() - started
        self.metrics.served(deployment, predictor, target, answer.status, seconds)
        if variant.pinned:
            self.metrics.pinned.labels(deployment.name, predictor.name).inc()
        return answer

    async def _explain(self, asked: _Asked, scope: Scope, receive: Receive) -> Answer:
        deployment, predictor = asked.deployment, asked.variant.predictor
        target = explain_target(scope["method"], asked.rest)
        async with self._admitted(deployment, predictor, "explainer", scope, receive) as body:
            request = Request(deployment, asked.variant, target, asked.intake, body)
            return await self._orchestrator.explain(request)

    @asynccontextmanager
    async def _admitted(
        self,
        deployment: Deployment,
        predictor: Predictor,
        server: Literal["model", "explainer"],
        scope: Scope,
        receive: Receive,
    ) -> AsyncIterator[bytes]:
        """Yield a request's body, and count it among those under way and in memory meanwhile."""
        key = (*deployment.key, predictor.name, server)
        if self._in_flight[key] >= predictor.max_in_flight:
            self.metrics.shed.labels(deployment.name).inc()
            raise RequestError(
                503,
                f"{predictor.max_in_flight} requests are under way at the {server} of the "
                f"predictor {predictor.name}; try again.",
                headers={"retry-after": "1"},
            )
        self._in_flight[key] += 1
        size = 0
        try:
            body = await self._bodies.read(scope, receive) if scope["method"] == "POST" else b""
            size = len(body)
            yield body
        finally:
            self._in_flight[key] -= 1
            self._bodies.release(size)

    async def _probe(
        self, deployment: Deployment, only: Predictor | None, name: str, scope: Scope
    ) -> Answer:
        if name != "ready":
            return self._own(f"/{name}", scope)
        _check_get(name, scope)
        reason = await self._orchestrator.not_ready(deployment, only)
        if reason is None:
            return _json(200, {"ready": True})
        return _json(503, {"ready": False, "reason": reason})

    def _own(self, path: str, scope: Scope) -> Answer:
        """The gateway's own paths."""
        if path == openapi.PATH:
            _check_get(path, scope)
            return _json(200, _described())
        if path not in ("/ready", "/live", "/prometheus"):
            raise RequestError(
                404,
                f"Nothing is served at {path[:200]}; deployments are at "
                "/seldon/<namespace>/<deployment>/, their predictors at "
                "/predictor/<namespace>/<deployment>/<predictor>/.",
            )
        _check_get(path, scope)
        if path == "/prometheus":
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            text, content_type = self.metrics.expose(accept)
            return Answer(200, [(b"content-type", content_type.encode())], text)
        if path == "/live":
            return _json(200, {"live": True})
        table = self.routes.table
        names = [f"{one.namespace}/{one.name}" for one in table.deployments]
        return _json(200, {"ready": True, "revision": table.revision, "deployments": names})


def _addressed(deployment: Deployment, rest: str) -> tuple[Predictor, str]:
    """Return the predictor that `rest` begins with, and what follows it."""
    name, _, tail = rest.partition("/")
    predictor = deployment.predictor(name)
    if predictor is None:
        raise RequestError(404, f"The deployment {deployment.name} has no predictor {name[:80]!r}.")
    return predictor, tail


def _with_explainer(deployment: Deployment, rest: str) -> tuple[Predictor, str]:
    """Return the predictor whose explainer `rest` names, and the path there."""
    name, slash, tail = rest.partition("/")
    predictor = deployment.predictor(name)
    if predictor is None or predictor.explainer is None:
        raise RequestError(
            404, f"The predictor {name[:80]!r} of {deployment.name} has no explainer."
        )
    return predictor, slash + tail


def _check_get(path: str, scope: Scope) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        raise RequestError(405, f"{path} takes GET.", headers={"allow": "GET"})


def _described() -> openapi.Document:
    return openapi.document(
        "helpers.serving.gateway", shape_error=plain_error, metrics_path="/prometheus"
    )


def _json(status: int, content: dict) -> Answer:
    return Answer(status, [JSON_TYPE], orjson.dumps(content))


def _refusal(problem: RequestError, deployment: Deployment | None, path: str) -> Answer:
    """Return the error in the deployment's protocol; where there is none, the path decides."""
    seldon = deployment.protocol == "seldon" if deployment is not None else "/api/v" in path
    shape: ErrorShape = seldon_error if seldon else plain_error
    answer = _json(problem.status, shape(problem, path))
    answer.headers += [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    return answer
