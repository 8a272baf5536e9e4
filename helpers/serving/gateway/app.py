"""The ASGI app: finds what a path means and answers, in the protocol's own shape of an error."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import orjson
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from helpers.serving.common.body import BODY_LIMIT
from helpers.serving.common.errors import ErrorShape, RequestError, plain_error, seldon_error
from helpers.serving.common.metrics import new_registry
from helpers.serving.gateway.client import Answer, PooledClient, Upstream
from helpers.serving.gateway.events import EventSender
from helpers.serving.gateway.intake import BUFFER_LIMIT, BodyReader, Intake, read_headers
from helpers.serving.gateway.metrics import Metrics
from helpers.serving.gateway.orchestrator import JSON_TYPE, Orchestrator, Pin
from helpers.serving.gateway.paths import explainer_path, resolve
from helpers.serving.gateway.routes import Deployment, Predictor, Routes, RouteTable
from helpers.serving.gateway.split import Splitter
from helpers.serving.gateway.watch import watch

log = logging.getLogger(__name__)

_NOSNIFF = (b"x-content-type-options", b"nosniff")
_PASSED_ON = (b"content-type", b"retry-after", b"allow")


class Gateway:
    """The gateway as an ASGI app.

    Args:
        routes: what is served; swap its table at any time.
        config: a JSON file of a RouteTable to follow, beside or instead of `routes`.
        upstream: calls model servers and brokers; a PooledClient by default.
        seed: makes the traffic split repeatable.
        registry: for the metrics; a new one by default.
        pin: may choose the predictor of a request before the split does.
        body_limit: bytes of one body; more is answered with 413.
        buffer_limit: bytes of all bodies held at once; more is answered with 503.
    """

    def __init__(
        self,
        routes: Routes | RouteTable | None = None,
        *,
        config: Path | None = None,
        upstream: Upstream | None = None,
        seed: int | None = None,
        registry: CollectorRegistry | None = None,
        pin: Pin | None = None,
        body_limit: int = BODY_LIMIT,
        buffer_limit: int = BUFFER_LIMIT,
    ) -> None:
        self.routes = routes if isinstance(routes, Routes) else Routes(routes)
        self._config = config
        self._upstream = upstream if upstream is not None else PooledClient()
        self.metrics = Metrics(registry if registry is not None else new_registry())
        self.events = EventSender(self._upstream, self.metrics)
        self._orchestrator = Orchestrator(
            self.routes, self._upstream, self.events, self.metrics, Splitter(seed), pin
        )
        self._bodies = BodyReader(body_limit, buffer_limit)
        self._in_flight: Counter[tuple[str, str]] = Counter()
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
        shape: ErrorShape = seldon_error if "/api/v" in path else plain_error
        intake: Intake | None = None
        try:
            parts = path.split("/", 4)
            if len(parts) < 4 or parts[1] not in ("seldon", "predictor") or parts[0]:
                return self._own(path, scope)
            intake = read_headers(scope)
            rest = "/" + parts[4] if len(parts) == 5 else "/"
            table = self.routes.table
            deployment = table.deployment(parts[2], parts[3])
            if deployment is not None:
                shape = seldon_error if deployment.protocol == "seldon" else plain_error
                only = None
                if parts[1] == "predictor":
                    only, rest = _addressed(deployment, rest)
                answer = await self._deployment(
                    deployment, only, rest, intake, scope, receive, shape
                )
            else:
                deployment = table.explained(parts[2], parts[3])
                if deployment is None or parts[1] == "predictor":
                    raise RequestError(
                        404,
                        f"There is no deployment {parts[3][:80]} in namespace {parts[2][:80]}.",
                    )
                answer = await self._explain(deployment, rest, intake, scope, receive)
        except RequestError as problem:
            self.metrics.refused.labels(problem.status).inc()
            answer = _refusal(problem, path, shape)
        except Exception:
            log.exception("fault while answering %s", path[:200])
            answer = _refusal(
                RequestError(500, "Internal error; the log of the gateway has the details."),
                path,
                shape,
            )
        headers = [header for header in answer.headers if header[0] in _PASSED_ON]
        if intake is not None:
            headers.append((b"seldon-puid", intake.puid.encode()))
        return Answer(answer.status, headers, answer.body)

    async def _deployment(
        self,
        deployment: Deployment,
        only: Predictor | None,
        rest: str,
        intake: Intake,
        scope: Scope,
        receive: Receive,
        shape: ErrorShape,
    ) -> Answer:
        method: str = scope["method"]
        if rest in ("/ready", "/live", "/prometheus"):
            return await self._probe(deployment, only, rest, scope)
        predictor = only or self._orchestrator.choose(deployment, intake)
        target = resolve(deployment.protocol, method, rest, predictor.model)
        started = time.perf_counter()
        size = 0
        self._admit(deployment, deployment.key)
        try:
            body = await self._bodies.read(scope, receive) if method == "POST" else b""
            size = len(body)
            answer = await self._orchestrator.serve(
                deployment, predictor, target, intake, body, copied=only is None
            )
        except RequestError as problem:
            answer = _refusal(problem, rest, shape)
        finally:
            self._in_flight[deployment.key] -= 1
            self._bodies.release(size)
        self.metrics.served(
            deployment,
            predictor,
            target.service,
            method,
            answer.status,
            time.perf_counter() - started,
        )
        return answer

    async def _explain(
        self, deployment: Deployment, rest: str, intake: Intake, scope: Scope, receive: Receive
    ) -> Answer:
        name, slash, tail = rest[1:].partition("/")
        predictor = deployment.predictor(name)
        if predictor is None or predictor.explainer is None:
            raise RequestError(
                404, f"The predictor {name[:80]!r} of {deployment.name} has no explainer."
            )
        path = explainer_path(slash + tail)
        method: str = scope["method"]
        if method not in ("GET", "POST"):
            raise RequestError(
                405,
                f"An explainer takes POST and GET, not {method}.",
                headers={"allow": "GET, POST"},
            )
        key = (deployment.namespace, f"{deployment.name}-explainer/{name}")
        size = 0
        self._admit(deployment, key)
        try:
            body = await self._bodies.read(scope, receive) if method == "POST" else b""
            size = len(body)
            return await self._orchestrator.explain(
                deployment, predictor, path, method, intake, body
            )
        finally:
            self._in_flight[key] -= 1
            self._bodies.release(size)

    def _admit(self, deployment: Deployment, key: tuple[str, str]) -> None:
        if self._in_flight[key] >= deployment.max_in_flight:
            self.metrics.shed.labels(deployment.name).inc()
            raise RequestError(
                503,
                f"{deployment.max_in_flight} requests are under way; try again.",
                headers={"retry-after": "1"},
            )
        self._in_flight[key] += 1

    async def _probe(
        self, deployment: Deployment, only: Predictor | None, rest: str, scope: Scope
    ) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            raise RequestError(405, f"{rest} takes GET.", headers={"allow": "GET"})
        if rest == "/prometheus":
            return self._scrape(scope)
        if rest == "/live":
            return _json(200, {"live": True})
        reason = await self._orchestrator.not_ready(deployment, only)
        if reason is None:
            return _json(200, {"ready": True})
        return _json(503, {"ready": False, "reason": reason})

    def _own(self, path: str, scope: Scope) -> Answer:
        """The gateway's own paths."""
        if path not in ("/ready", "/live", "/prometheus"):
            raise RequestError(
                404,
                f"Nothing is served at {path[:200]}; deployments are at "
                "/seldon/<namespace>/<deployment>/ and /predictor/<namespace>/<deployment>/<predictor>/.",
            )
        if scope["method"] not in ("GET", "HEAD"):
            raise RequestError(405, f"{path} takes GET.", headers={"allow": "GET"})
        if path == "/prometheus":
            return self._scrape(scope)
        if path == "/live":
            return _json(200, {"live": True})
        table = self.routes.table
        names = [f"{one.namespace}/{one.name}" for one in table.deployments]
        return _json(200, {"ready": True, "revision": table.revision, "deployments": names})

    def _scrape(self, scope: Scope) -> Answer:
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        text, content_type = self.metrics.expose(accept)
        return Answer(200, [(b"content-type", content_type.encode())], text)


def _addressed(deployment: Deployment, rest: str) -> tuple[Predictor, str]:
    """Return the predictor that `rest` begins with, and what follows it."""
    name, slash, tail = rest[1:].partition("/")
    predictor = deployment.predictor(name)
    if predictor is None:
        raise RequestError(404, f"The deployment {deployment.name} has no predictor {name[:80]!r}.")
    return predictor, slash + tail


def _json(status: int, content: dict) -> Answer:
    return Answer(status, [JSON_TYPE], orjson.dumps(content))


def _refusal(problem: RequestError, path: str, shape: ErrorShape) -> Answer:
    answer = _json(problem.status, shape(problem, path))
    answer.headers += [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    return answer
