"""POST /<namespace>/<broker>: where senders put their events."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving.broker.broker import Broker
from helpers.serving.common.body import read_body
from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import from_http


def routes(broker: Broker) -> list[Route]:
    """Return the routes; 202 means that the event is on disk."""

    async def accept(request: Request) -> Response:
        try:
            event = from_http(dict(request.headers), await read_body(request))
            namespace, name = request.path_params["namespace"], request.path_params["broker"]
            await broker.accept(namespace, name, event)
        except RequestError as error:
            broker.metrics.rejected.labels(str(error.status)).inc()
            raise
        return Response(status_code=202)

    return [Route("/{namespace}/{broker}", accept, methods=["POST"])]
