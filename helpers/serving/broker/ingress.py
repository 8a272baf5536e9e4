"""POST /<namespace>/<broker>: where senders put their events, over HTTP or in the same process."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving.broker.broker import Broker
from helpers.serving.common.body import read_body
from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import CloudEvent, from_http


def routes(broker: Broker) -> list[Route]:
    """Return the routes; 202 means that the event is on disk."""

    async def accept(request: Request) -> Response:
        try:
            body = await read_body(request)
            namespace, name = request.path_params["namespace"], request.path_params["broker"]
            await _accept(broker, namespace, name, request.headers, body)
        except RequestError as error:
            broker.metrics.rejected.labels(str(error.status)).inc()
            raise
        return Response(status_code=202)

    return [Route("/{namespace}/{broker}", accept, methods=["POST"])]


class NearIngress:
    """The same without a connection, for a sender in the broker's own process.

    Args:
        broker: takes the events.
        address: `host:port` where it listens for everybody else.
    """

    def __init__(self, broker: Broker, address: str) -> None:
        self._broker = broker
        self._address = address

    def path(self, url: str) -> str | None:
        """Return the path of an address of this broker, None for an address elsewhere."""
        parts = urlsplit(url)
        ours = parts.netloc == self._address and parts.path.count("/") == 2 and not parts.query
        return parts.path if ours else None

    async def take(self, path: str, event: CloudEvent) -> int:
        """Store an event; return the status that an HTTP request would have got."""
        if self._broker.session is None:  # it reads its state
            return 503
        _, namespace, name = path.split("/")
        headers, body = event.to_binary()
        try:
            await _accept(self._broker, namespace, name, headers, body)
        except RequestError as error:
            self._broker.metrics.rejected.labels(str(error.status)).inc()
            return error.status
        return 202


async def _accept(
    broker: Broker, namespace: str, name: str, headers: Mapping[str, str], body: bytes
) -> None:
    await broker.accept(namespace, name, from_http(dict(headers), body))
