"""`python -m helpers.serving.gateway`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from helpers.serving.common.body import BODY_LIMIT
from helpers.serving.common.errors import ServingError
from helpers.serving.common.server import run
from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.routes import read_table

cli = typer.Typer(add_completion=False)


@cli.command()
def main(
    config: Annotated[Path, typer.Option(help="Routes as JSON; read again when it changes.")],
    port: Annotated[int, typer.Option(help="HTTP port; 0 takes a free one.")] = 8003,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    seed: Annotated[int | None, typer.Option(help="Makes the traffic split repeatable.")] = None,
    spool: Annotated[
        Path | None, typer.Option(help="Folder in which payload events survive a crash.")
    ] = None,
    body_limit: Annotated[int, typer.Option(min=1, help="Bytes of one body.")] = BODY_LIMIT,
) -> None:
    """Serve the deployments of a route file at /seldon/<namespace>/<deployment>/."""
    try:
        table = read_table(config)
    except ServingError as problem:
        sys.exit(f"gateway: {problem}")

    def build() -> Gateway:
        try:
            return Gateway(table, config=config, seed=seed, body_limit=body_limit, spool=spool)
        except ServingError as problem:
            sys.exit(f"gateway: {problem}")

    run(build, name="gateway", port=port, host=host)


if __name__ == "__main__":
    cli()
