"""The payload log's bounds: what is too old or too much goes, the oldest first, and it is said."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from helpers.serving.common.events import REQUEST_TYPE, new_event
from helpers.serving.payload_log import sqlite_store
from helpers.serving.payload_log.cli import default_bounds
from helpers.serving.payload_log.parts import read_part
from helpers.serving.payload_log.retention import KEEP_DAYS, Retention, kept_within
from helpers.serving.payload_log.sqlite_store import SQLiteStore

pytestmark = pytest.mark.timeout(60)

OLD = "2020-01-01T00:00:00Z"
ROW = "x" * 10_000


async def fill(store: SQLiteStore, count: int, time: str | None = None, start: int = 0) -> None:
    for number in range(start, start + count):
        data = {"instances": [[ROW]]}
        event = new_event(REQUEST_TYPE, "s", data, time=time, requestid=f"r{number}")
        assert await store.add(event, read_part(event, "request"))


async def kept(store: SQLiteStore, count: int) -> list[int]:
    found = [await store.documents(f"r{number}", None) for number in range(count)]
    return [number for number, documents in enumerate(found) if documents]


def run(folder: Path, scenario: Callable[[SQLiteStore], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = SQLiteStore(folder)
        await store.start()
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(whole())


def test_sqlite_removes_what_is_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "EXPIRE_ROWS", 3)

    async def scenario(store: SQLiteStore) -> None:
        await fill(store, 8, OLD)
        await fill(store, 4, start=8)
        assert await store.expire(time.time() - 60, None) == 8
        assert await kept(store, 12) == [8, 9, 10, 11]
        assert await store.expire(time.time() - 60, None) == 0

    run(tmp_path, scenario)


@pytest.mark.parametrize("at_once", [7, 200])
def test_sqlite_removes_the_oldest_beyond_a_size_and_fills_the_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(sqlite_store, "EXPIRE_ROWS", at_once)

    async def scenario(store: SQLiteStore) -> None:
        most = 400_000
        for round in range(4):
            await fill(store, 60, start=60 * round)
            assert await store.expire(None, most) > 0
            assert await store.expire(None, most) == 0
            left = await kept(store, 60 * (round + 1))
            assert left == list(range(left[0], 60 * (round + 1)))  # the newest
            assert 20 < len(left) < 40

    run(tmp_path, scenario)
    assert most_of(60) < (tmp_path / sqlite_store.FILE).stat().st_size < most_of(200)


def most_of(rows: int) -> int:
    """Bytes of so many rows, about: without room that is filled again there would be 240."""
    return rows * len(ROW)


def test_bounds_are_kept_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(SQLiteStore, "expire_every", 0.02)
    registry = CollectorRegistry()

    async def scenario(store: SQLiteStore) -> None:
        async with kept_within(Retention(days=1, mib=0), store, registry):
            for round in range(2):
                await fill(store, 2, OLD, start=2 * round)
                await gone(store, 2 * round + 2)
        assert registry.get_sample_value("payload_log_expired_total") == 4
        await fill(store, 1, OLD, start=9)
        await asyncio.sleep(0.1)  # five times as long as between two rounds
        assert await kept(store, 10) == [9]

    run(tmp_path, scenario)
    assert "events are kept up to 1 days, whatever their size" in caplog.text


async def gone(store: SQLiteStore, count: int) -> None:
    end = time.monotonic() + 10
    while await kept(store, count):
        assert time.monotonic() < end, "waited 10 s for old events to be removed"
        await asyncio.sleep(0.01)


def test_that_nothing_bounds_the_log_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(store: SQLiteStore) -> None:
        async with kept_within(Retention(days=0, mib=0), store, CollectorRegistry()):
            pass

    run(tmp_path, scenario)
    assert "nothing bounds the log" in caplog.text


def test_a_store_that_cannot_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SQLiteStore, "expire_every", 0.01)
    broken: list[Any] = [OSError("disk full"), OSError("disk full")]

    async def expire(self: Any, before: float | None, most: int | None) -> int:
        if broken:
            raise broken.pop()
        done.set()
        return 0

    monkeypatch.setattr(SQLiteStore, "expire", expire)
    done = asyncio.Event()

    async def scenario(store: SQLiteStore) -> None:
        async with kept_within(Retention(), store, CollectorRegistry()):
            await asyncio.wait_for(done.wait(), 10)

    run(tmp_path, scenario)
    assert not broken
    assert caplog.text.count("disk full") == 2


def test_an_elasticsearch_that_others_write_to_is_left_alone_unless_days_are_told() -> None:
    url = "http://elasticsearch:9200"
    assert default_bounds(url).days == 0
    assert default_bounds("").days == KEEP_DAYS
    assert default_bounds(url, 7).days == default_bounds("", 7).days == 7
    assert default_bounds("", 0).days == 0
