"""What stands beside the API server on node ports: Istio's ingress and Prometheus."""

from __future__ import annotations

import re
import time
from typing import Any

from aiohttp import web

from tests.fakes.cluster.controllers import Controllers

SELECTOR = re.compile(
    r'(timestamp\()?(\w+)\{namespace="walkthrough",container!="",container!="POD"\}\)?'
)


class Neighbours:
    """Their content is the test's to set; for Elasticsearch there is tests/fakes/elasticsearch.py.

    Args:
        controllers: know which paths the ingress has.
    """

    def __init__(self, controllers: Controllers) -> None:
        self.controllers = controllers
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = {}  # by metric
        self.lag = 0.0  # seconds; Prometheus' samples are so old
        self.prometheus_ready = True
        self.alerts: list[dict[str, Any]] = []

    def routes(self) -> list[web.RouteDef]:
        """Paths on the fake's own port; addresses are the same with these prefixes."""
        return [
            web.get("/ingress/seldon/{path:.+}", self._ingress),
            web.get("/prometheus/-/ready", self._ready),
            web.post("/prometheus/api/v1/query", self._query),
            web.get("/prometheus/api/v1/alerts", self._alerts),
        ]

    async def _ingress(self, request: web.Request) -> web.Response:
        place = request.match_info["path"].removesuffix("/ready")
        if place in self.controllers.routes:
            headers = {"server": "istio-envoy", "x-envoy-upstream-service-time": "3"}
            # An explain server has no such path, and says so itself.
            return web.Response(status=404 if "-explainer/" in place else 200, headers=headers)
        return web.Response(status=404, headers={"server": "istio-envoy"})

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response(text="ok", status=200 if self.prometheus_ready else 503)

    async def _alerts(self, request: web.Request) -> web.Response:
        return _prometheus({"alerts": self.alerts})

    async def _query(self, request: web.Request) -> web.Response:
        query = (await request.post())["query"]
        if query == "time()":
            return _prometheus({"resultType": "scalar", "result": [time.time(), str(time.time())]})
        found = SELECTOR.fullmatch(query)
        if found is None:
            body = {"status": "error", "errorType": "bad_data", "error": f"not known here: {query}"}
            return web.json_response(body, status=400)
        when = time.time() - self.lag
        result = [
            {"metric": {"__name__": found[2], **labels}, "value": [when, str(when if found[1] else value)]}
            for labels, value in self.samples.get(found[2], [])
            if labels.get("namespace") == "walkthrough" and labels.get("container")
        ]  # fmt: skip
        return _prometheus({"resultType": "vector", "result": result})


def _prometheus(data: dict[str, Any]) -> web.Response:
    return web.json_response({"status": "success", "data": data})
