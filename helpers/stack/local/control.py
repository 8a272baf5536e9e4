"""The daemon's control API. Every call but the scrape of /metrics needs the token.

POST  /v1/apply      {"documents": [{"origin", "content"}]}  -> {"applied": [...]}
POST  /v1/delete     the same                                -> {"applied": [...]}
GET   /v1/status     -> {"servers": [...], "objects": [...]}
GET   /v1/logs/<server or object>  ?lines                    -> text
GET   /v1/urls       -> {"<kind>/<name>": address}
GET   /v1/metrics/<server>                                   -> that server's exposition
GET   /v1/targets    -> Prometheus' HTTP service discovery
POST  /v1/down       -> the daemon ends
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from helpers.errors import ManifestError, StackError
from helpers.serving.common.app import JSON, create_app
from helpers.serving.common.body import read_json
from helpers.serving.common.errors import RequestError
from helpers.serving.common.tokens import require_token
from helpers.stack.documents import Document, checked
from helpers.stack.interface import NAMESPACE
from helpers.stack.local import prometheus
from helpers.stack.local.cluster import Cluster

SCRAPE_SECONDS = 5.0
LINES = 10_000  # of one log

Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    cluster: Cluster,
    token: str,
    own_targets: list[prometheus.Target],
    registry: CollectorRegistry,
    stop: Callable[[], None],
) -> Starlette:
    """Return the ASGI app.

    Args:
        cluster: what it controls.
        token: what callers must present.
        own_targets: scraped by Prometheus beside the servers: gateway, broker and this app.
        registry: the metrics of this app.
        stop: ends the daemon.
    """
    api = _Control(cluster, own_targets, stop)

    def guarded(handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            require_token(request, token)
            return await handler(request)

        return checked

    table: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/apply", api.apply),
        ("POST", "/v1/delete", api.delete),
        ("GET", "/v1/status", api.status),
        ("GET", "/v1/logs/{name}", api.logs),
        ("GET", "/v1/urls", api.urls),
        ("GET", "/v1/metrics/{name}", api.metrics),
        ("GET", "/v1/targets", api.targets),
        ("POST", "/v1/down", api.down),
    ]
    routes = [Route(path, guarded(handler), methods=[method]) for method, path, handler in table]
    return create_app("stack", routes, registry=registry, described_in="helpers.stack.local")


class _Control:
    def __init__(
        self, cluster: Cluster, own_targets: list[prometheus.Target], stop: Callable[[], None]
    ) -> None:
        self.cluster = cluster
        self.own_targets = own_targets
        self.stop = stop

    async def apply(self, request: Request) -> Response:
        return await self._change(request, self.cluster.apply)

    async def delete(self, request: Request) -> Response:
        return await self._change(request, self.cluster.delete)

    async def _change(self, request: Request, change: Callable[..., Awaitable[Any]]) -> Response:
        body = await read_json(request)
        try:
            given = [(one["origin"], one["content"]) for one in body["documents"]]
            if not all(isinstance(origin, str) for origin, _ in given):
                raise TypeError("an origin is text")
        except (KeyError, TypeError) as problem:
            raise RequestError(400, 'Wanted: {"documents": [{"origin", "content"}]}.') from problem
        try:
            applied = await change(
                [Document(origin, checked(content, origin)) for origin, content in given]
            )
        except ManifestError as problem:
            raise RequestError(422, str(problem), reason="MANIFEST") from problem
        except StackError as problem:
            raise RequestError(503, str(problem)) from problem
        told = [asdict(one) for one in applied]
        # A note is there where it says something.
        return JSON(
            {"applied": [{k: v for k, v in one.items() if v or k != "note"} for one in told]}
        )

    async def status(self, request: Request) -> Response:
        return JSON(
            {
                "servers": [asdict(one) for one in self.cluster.supervisor.status()],
                "objects": [asdict(one) for one in self.cluster.status()],
            }
        )

    async def logs(self, request: Request) -> Response:
        told = request.query_params.get("lines", "50")
        if not re.fullmatch("[0-9]{1,5}", told) or not 0 < int(told) <= LINES:
            raise RequestError(400, f"lines is a whole number up to {LINES}, not {told[:20]!r}.")
        names = self._servers(request.path_params["name"])
        try:
            found = [(name, self.cluster.supervisor.log(name, int(told))) for name in names]
        except StackError as problem:  # it has not begun yet
            raise RequestError(404, str(problem)) from problem
        if len(found) == 1:
            return PlainTextResponse(found[0][1])
        return PlainTextResponse("\n".join(f"== {name}\n{log}" for name, log in found))

    async def urls(self, request: Request) -> Response:
        return JSON(self.cluster.urls())

    async def metrics(self, request: Request) -> Response:
        name = request.path_params["name"]
        known = self._targets_by_name()
        if name not in known:
            server = self._servers(name)[0]
            if server not in known:
                raise RequestError(503, f"{server} has no metrics now; wait until it is ready.")
            name = server
        address, path = known[name]
        limit = aiohttp.ClientTimeout(total=SCRAPE_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.get(f"http://{address}{path}", allow_redirects=False) as answer,
            ):
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as problem:
            told = str(problem) or f"no answer within {SCRAPE_SECONDS:g} s"
            raise RequestError(503, f"The metrics of {name} cannot be read: {told}.") from problem
        if answer.status != 200:
            raise RequestError(503, f"The metrics of {name} answer {answer.status}.")
        return PlainTextResponse(text)

    async def targets(self, request: Request) -> Response:
        return JSON(prometheus.targets(self._targets()))

    async def down(self, request: Request) -> Response:
        self.stop()
        return JSON({"stopping": True})

    def _targets(self) -> list[prometheus.Target]:
        servers = [
            (
                address,
                spec.metrics_path,
                {"namespace": NAMESPACE, **spec.labels, "pod": spec.name, "container": spec.name},
            )
            for spec, address in self.cluster.supervisor.metrics_addresses()
            if spec.metrics_path is not None
        ]
        return [*self.own_targets, *servers]

    def _targets_by_name(self) -> dict[str, tuple[str, str]]:
        return {labels["pod"]: (address, path) for address, path, labels in self._targets()}

    def _servers(self, name: str) -> list[str]:
        """The servers called `name`, or of the objects called so."""
        servers = [one.name for one in self.cluster.supervisor.status()]
        if name in servers:
            return [name]
        objects = self.cluster.status()
        found = [server for one in objects if one.name == name for server in one.servers]
        if not found:
            known = ", ".join(sorted({*servers, *(one.name for one in objects)})) or "nothing"
            raise RequestError(404, f"There is no server {name[:80]!r}; there is {known}.")
        return list(dict.fromkeys(found))
