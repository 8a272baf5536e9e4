"""The command line of the broker."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from starlette.applications import Starlette

from helpers.serving.broker import control, ingress
from helpers.serving.broker.broker import Broker
from helpers.serving.broker.retention import Limits
from helpers.serving.common.app import create_app
from helpers.serving.common.errors import ServingError
from helpers.serving.common.metrics import new_registry
from helpers.serving.common.server import run
from helpers.serving.common.sqlite import SWITCH_SECONDS
from helpers.serving.common.tokens import read_token

NAME = "broker"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def make_app(folder: Path, token: str, limits: Limits) -> Starlette:
    """Return the ASGI app of a broker over a state folder.

    Raises:
        ServingError: the state folder cannot be used.
    """
    return app_of(Broker(folder, new_registry(), limits), token)


def app_of(broker: Broker, token: str) -> Starlette:
    """Return a broker's ASGI app, which starts and stops it; `token` opens its control API."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await broker.start()
        yield
        await broker.stop()

    return create_app(
        NAME,
        [*ingress.routes(broker), *control.routes(broker, token)],
        not_ready=lambda: broker.store.problem,
        registry=broker.registry,
        concurrency_limit=1024,
        lifespan=lifespan,
        described_in="helpers.serving.broker",
    )


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)],
    state: Annotated[Path, typer.Option(help="Folder of the events; made where missing.")],
    token_file: Annotated[Path, typer.Option(help="Holds the token of /control, mode 600.")],
    host: Annotated[
        str, typer.Option(envvar="SERVING_HOST", help="Loopback; in a container 0.0.0.0.")
    ] = "127.0.0.1",
    max_events: Annotated[int, typer.Option(min=1, help="Undelivered events, then 429.")] = (
        Limits.events
    ),
    max_bytes: Annotated[int, typer.Option(min=1, help="Their bytes, then 429.")] = Limits.bytes,
    keep_events: Annotated[int, typer.Option(min=0, help="Delivered events kept to look at.")] = (
        Limits.keep_events
    ),
    keep_bytes: Annotated[int, typer.Option(min=0, help="Their bytes.")] = Limits.keep_bytes,
) -> None:
    """Take CloudEvents at POST /<namespace>/<broker> and deliver them to triggers."""
    sys.setswitchinterval(SWITCH_SECONDS)
    os.umask(0o077)
    limits = Limits(max_events, max_bytes, keep_events, keep_bytes)

    def build() -> Starlette:
        try:
            return make_app(state, read_token(token_file), limits)
        except ServingError as problem:
            sys.exit(f"{NAME}: {problem}")

    run(build, name=NAME, host=host, port=port)


def main() -> None:
    """Run the command."""
    app()
