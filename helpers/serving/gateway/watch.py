"""Reads the routes again when their file changes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from helpers.serving.common.errors import ServingError
from helpers.serving.gateway.routes import Routes, read_table

log = logging.getLogger(__name__)

EVERY = 0.1  # seconds


async def watch(path: Path, routes: Routes) -> None:
    """Swap the table of `routes` whenever `path` changes; never returns.

    A file that cannot be used is logged, and the last good table stays. Write the file elsewhere and
    rename it over `path`: it is then never seen half written.
    """
    seen = _state(path)
    while True:
        await asyncio.sleep(EVERY)
        now = _state(path)
        if now == seen:
            continue
        seen = now
        try:
            table = read_table(path)
        except ServingError as problem:
            log.error("%s The routes in use stay.", problem)
            continue
        routes.replace(table)
        log.info("routes: revision %r, %d deployments", table.revision, len(table.deployments))


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
