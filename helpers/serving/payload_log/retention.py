"""Bounds of the log: what is older, or more, than they allow is removed now and then."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from helpers.serving.common.errors import RequestError
from helpers.serving.payload_log.store import Store

log = logging.getLogger(__name__)

KEEP_DAYS = 30.0
KEEP_MIB = 2048


@dataclass(frozen=True)
class Retention:
    """How much is kept.

    Attributes:
        days: events older than that are removed; 0 keeps them whatever their age.
        mib: in SQLite, the oldest are removed beyond this size; 0 for no bound.
    """

    days: float = KEEP_DAYS
    mib: int = KEEP_MIB

    def __str__(self) -> str:
        age = f"up to {self.days:g} days" if self.days else "whatever their age"
        size = f"up to {self.mib} MiB" if self.mib else "whatever their size"
        off = "" if self.days or self.mib else "; nothing bounds the log"
        return f"events are kept {age}, {size}{off}"


@contextlib.asynccontextmanager
async def kept_within(
    bounds: Retention, store: Store, registry: CollectorRegistry
) -> AsyncIterator[None]:
    """Remove from `store` what is beyond `bounds`, at once and again and again until the block ends."""
    log.info("%s", bounds)
    removed = Counter("payload_log_expired", "Events removed for age or size.", registry=registry)
    if not bounds.days and not bounds.mib:
        yield
        return
    task = asyncio.create_task(_keep(bounds, store, removed))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep(bounds: Retention, store: Store, removed: Counter) -> None:
    most_bytes = bounds.mib * 2**20 or None
    while True:
        before = time.time() - bounds.days * 86_400 if bounds.days else None
        try:
            count = await store.expire(before, most_bytes)
        except (sqlite3.Error, OSError, RequestError) as problem:
            log.warning("nothing could be removed from the log: %s", problem)
        else:
            removed.inc(count)
            if count:
                log.info("%d events removed: %s", count, bounds)
        await asyncio.sleep(store.expire_every)
