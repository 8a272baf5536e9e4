"""The command line of the payload log."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from starlette.applications import Starlette

from helpers.serving.common.app import create_app
from helpers.serving.common.errors import ServingError
from helpers.serving.common.metrics import new_registry
from helpers.serving.common.server import run
from helpers.serving.common.sqlite import SWITCH_SECONDS
from helpers.serving.payload_log.server import routes
from helpers.serving.payload_log.store import SQLiteStore

NAME = "payload-log"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def make_app(folder: Path) -> Starlette:
    """Return the payload log's ASGI app over a state folder.

    Raises:
        ServingError: the folder cannot be used.
    """
    registry = new_registry()
    store = SQLiteStore(folder)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        store.database.start()
        yield
        await store.database.close()

    return create_app(
        NAME,
        routes(store, registry),
        not_ready=lambda: store.database.problem,
        registry=registry,
        lifespan=lifespan,
    )


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)],
    state: Annotated[Path, typer.Option(help="Folder of the log; made where missing.")],
    host: Annotated[
        str, typer.Option(envvar="SERVING_HOST", help="Loopback unless you know better.")
    ] = "127.0.0.1",
) -> None:
    """Keep the payloads of every request, and answer questions about them."""
    sys.setswitchinterval(SWITCH_SECONDS)
    os.umask(0o077)

    def build() -> Starlette:
        try:
            return make_app(state)
        except ServingError as problem:
            sys.exit(f"{NAME}: {problem}")

    run(build, name=NAME, host=host, port=port)


def main() -> None:
    """Run the command."""
    app()
