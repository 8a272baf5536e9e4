"""A Prometheus registry per app, and the response that exposes it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

disable_created_metrics()  # a second series for every counter, which no dashboard here reads


def new_registry() -> CollectorRegistry:
    """Return an empty registry with the process's own CPU seconds, memory and open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def expose(request: Request) -> Response:
    """Answer a scrape with the metrics of the app's registry."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    text = encode(request.app.state.registry)
    return Response(text, headers={"content-type": content_type})
