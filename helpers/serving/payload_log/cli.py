"""The command line of the payload log."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from helpers.serving.common.app import create_app
from helpers.serving.common.errors import ServingError
from helpers.serving.common.metrics import new_registry
from helpers.serving.common.server import run
from helpers.serving.common.sqlite import SWITCH_SECONDS
from helpers.serving.payload_log.retention import KEEP_DAYS, KEEP_MIB, Retention, kept_within
from helpers.serving.payload_log.server import event_routes, routes
from helpers.serving.payload_log.store import Store

NAME = "payload-log"
KEY = (
    "PAYLOAD_LOG_ELASTICSEARCH_KEY"  # an API key; no option, which the list of processes would show
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def make_app(
    folder: Path | None,
    elasticsearch_url: str = "",
    bounds: Retention | None = None,
    events_only: str = "",
) -> Starlette:
    """Return the payload log's ASGI app.

    Args:
        folder: of the log in SQLite.
        elasticsearch_url: where the log is kept in place of a folder.
        bounds: how much is kept; by default as the options have it.
        events_only: namespace of a broker whose events are kept as they come, and nothing else of them.

    Raises:
        ServingError: the folder cannot be used, there is none, the URL is none, or only events are to
            be kept and not in Elasticsearch.
    """
    registry = new_registry()
    bounds = bounds or default_bounds(elasticsearch_url)
    if elasticsearch_url:
        store = _elasticsearch(elasticsearch_url, registry, events_only)
        bounds = replace(bounds, mib=0)
    elif events_only:
        raise ServingError(
            "events only (PAYLOAD_LOG_EVENTS_ONLY, --events-only) are kept in Elasticsearch, not in SQLite: "
            "say where that is in PAYLOAD_LOG_ELASTICSEARCH_URL."
        )
    else:
        store = _sqlite(folder)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await store.start()
        async with kept_within(bounds, store, registry):
            yield
        await store.close()

    return create_app(
        NAME,
        event_routes(store, registry) if events_only else routes(store, registry),
        not_ready=lambda: store.problem,
        registry=registry,
        lifespan=lifespan,
        described_in=None if events_only else "helpers.serving.payload_log",
    )


def default_bounds(elasticsearch_url: str, days: float | None = None) -> Retention:
    """Return how much is kept: in Elasticsearch everything unless `days` are told, for its indices may
    hold what others wrote."""
    if days is None:
        days = 0.0 if elasticsearch_url else KEEP_DAYS
    return Retention(days)


def _sqlite(folder: Path | None) -> Store:
    from helpers.serving.payload_log.sqlite_store import SQLiteStore

    if folder is None:
        raise ServingError(
            "say where the log is kept: --state FOLDER, or PAYLOAD_LOG_ELASTICSEARCH_URL."
        )
    return SQLiteStore(folder)


def _elasticsearch(url: str, registry: CollectorRegistry, events_only: str) -> Store:
    from helpers.serving.payload_log.elastic.client import Client
    from helpers.serving.payload_log.elastic.store import ElasticsearchStore

    return ElasticsearchStore(Client(url, os.environ.get(KEY, "")), registry, events_only)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)],
    state: Annotated[
        Path | None, typer.Option(help="Folder of the log in SQLite; made where missing.")
    ] = None,
    elasticsearch_url: Annotated[
        str,
        typer.Option(
            envvar="PAYLOAD_LOG_ELASTICSEARCH_URL",
            help=f"http(s)://host:port; keeps the log there, not in SQLite. {KEY} is an API key of it.",
        ),
    ] = "",
    events_only: Annotated[
        str,
        typer.Option(
            envvar="PAYLOAD_LOG_EVENTS_ONLY",
            metavar="NAMESPACE",
            help="Namespace of a broker: keep each of its events as it comes, in the index"
            " broker-events-NAMESPACE of Elasticsearch, and nothing else of them; nothing is answered then.",
        ),
    ] = "",
    keep_days: Annotated[
        float | None,
        typer.Option(
            envvar="PAYLOAD_LOG_KEEP_DAYS",
            help="Remove what is older, in Elasticsearch from all indices of the log, whoever wrote it; 0 never."
            f" Where it is not told, {KEEP_DAYS:g} in SQLite and 0 in Elasticsearch.",
            min=0,
        ),
    ] = None,
    keep_mib: Annotated[
        int,
        typer.Option(
            envvar="PAYLOAD_LOG_KEEP_MIB",
            help="In SQLite, remove the oldest beyond this size; 0 never.",
            min=0,
        ),
    ] = KEEP_MIB,
    host: Annotated[
        str, typer.Option(envvar="SERVING_HOST", help="Loopback unless you know better.")
    ] = "127.0.0.1",
) -> None:
    """Keep the payloads of every request, and answer questions about them."""
    sys.setswitchinterval(SWITCH_SECONDS)
    os.umask(0o077)

    def build() -> Starlette:
        try:
            bounds = replace(default_bounds(elasticsearch_url, keep_days), mib=keep_mib)
            return make_app(state, elasticsearch_url, bounds, events_only)
        except ServingError as problem:
            sys.exit(f"{NAME}: {problem}")

    run(build, name=NAME, host=host, port=port)


def main() -> None:
    """Run the command."""
    app()
