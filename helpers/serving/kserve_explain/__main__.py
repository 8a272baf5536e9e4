"""`python -m helpers.serving.kserve_explain`: see the package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.errors import WalkthroughError
from helpers.serving.common.app import JSON
from helpers.serving.common.errors import RequestError
from helpers.serving.common.server import run
from helpers.serving.explain import cli
from helpers.serving.explain.app import ExplainServer, make_app
from helpers.serving.explain.methods import METHODS
from helpers.serving.kserve_explain.single_file import SingleFile
from helpers.serving.payloads import TENSORFLOW

MODELS = "/mnt/models"


def parser() -> argparse.ArgumentParser:
    """Return the parser of KServe's arguments and the adapter's own."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.serving.kserve_explain", allow_abbrev=False
    )
    parser.add_argument("--model_name", required=True, help="the InferenceService's name")
    parser.add_argument("--predictor_host", required=True, help="host of its predictor")
    parser.add_argument("--http_port", type=int, default=8080, help="port to listen on")
    parser.add_argument("--workers", help="KServe's; there is one process")
    parser.add_argument("--explainer_type", choices=METHODS, required=True, help="the method")
    parser.add_argument("--storage_uri", default=MODELS, help="see the package")
    return parser


def build(argv: Sequence[str] | None) -> tuple[ExplainServer, int]:
    """Return the explain server that the arguments describe, and its port.

    Raises:
        WalkthroughError: an argument or an artefact that cannot be.
    """
    own, options = parser().parse_known_args(argv)
    single = None if "://" in own.storage_uri else SingleFile(Path(own.storage_uri))
    uri = own.storage_uri if single is None else f"s3://walkthrough/{single.location}"
    args = cli.parser().parse_args(
        [
            f"--model_name={own.model_name}",
            f"--predictor_host={own.predictor_host}",
            f"--protocol={TENSORFLOW}",
            f"--storage_uri={uri}",
            own.explainer_type,
            *options,
        ]
    )
    server = cli.build(args)
    if single is not None:
        method: Any = server.service.method
        method.load = lambda location: method.use(single.load())
    return server, own.http_port


def kserve_app(server: ExplainServer) -> Starlette:
    """Return the explain server's app with the paths that KServe asks besides."""
    app = make_app(server, _give_up)

    async def status(request: Request) -> Response:
        name = request.path_params["model"]
        if name != server.model_name:
            raise RequestError(
                404, f"Unknown model {name[:80]!r}; this explains {server.model_name}."
            )
        ready = server.service.not_ready() is None
        return JSON({"name": name, "ready": ready}, status_code=200 if ready else 503)

    async def models(request: Request) -> Response:
        return JSON({"models": [server.model_name]})

    app.router.routes += [
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{model}", status, methods=["GET"]),
    ]
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to stop; a wrong argument or artefact ends the process with one sentence."""
    try:
        server, port = build(argv)
    except WalkthroughError as problem:
        sys.exit(f"kserve_explain: {problem}")
    run(
        lambda: kserve_app(server),
        name=f"{server.model_name}-explainer",
        port=port,
        host=os.environ.get("SERVING_HOST", "127.0.0.1"),
    )


def _give_up(sentence: str) -> None:
    """End the process: without its explainer it has nothing to serve, and who started it sees why."""
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
