"""A subscriber that takes every event and does nothing with it: what the broker delivers to.

python -m benchmarks.sink PORT
"""

from __future__ import annotations

import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving.common.server import run


async def _take(request: Request) -> Response:
    async for _ in request.stream():
        pass
    return Response()


async def _ready(request: Request) -> Response:
    return Response()


def main() -> None:
    """Serve until told to stop."""
    routes = [Route("/", _take, methods=["POST"]), Route("/ready", _ready)]
    run(lambda: Starlette(routes=routes), name="sink", port=int(sys.argv[1]))


if __name__ == "__main__":
    main()
