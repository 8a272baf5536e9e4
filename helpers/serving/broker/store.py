"""What the broker has on disk, and how a batch of writes becomes a handful of SQL statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from helpers.serving.common.sqlite import Database, Write, insert_rows

FILE = "broker.sqlite"

SCHEMA = """
CREATE TABLE IF NOT EXISTS triggers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, name TEXT NOT NULL,
    spec TEXT NOT NULL, UNIQUE (namespace, name)
);
CREATE TABLE IF NOT EXISTS brokers (
    namespace TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, namespace TEXT NOT NULL, broker TEXT NOT NULL, arrived REAL NOT NULL,
    hops INTEGER NOT NULL, matched TEXT NOT NULL, attributes BLOB NOT NULL, data BLOB NOT NULL
);
-- What is still to be delivered; a row goes when its event has been.
CREATE TABLE IF NOT EXISTS deliveries (
    trigger INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (trigger, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, trigger TEXT NOT NULL,
    seq INTEGER NOT NULL, at REAL NOT NULL, error TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS dead_by_trigger ON dead (namespace, trigger);
"""


@dataclass(slots=True, kw_only=True)
class Change(Write):
    """What happens to one event: it arrives, is delivered, given up, or forgotten."""

    event: tuple[Any, ...] | None = None  # a row of `events`
    triggers: tuple[int, ...] = ()  # those that it is to be delivered to
    settled: tuple[int, int] | None = None  # (trigger, seq) that needs no further attempt
    dead: tuple[Any, ...] | None = None  # a row of `dead`, without its id
    forget: Sequence[int] = ()  # seqs of events to delete


def open_store(folder: Path) -> Database:
    """Open the state folder of one broker; see Database for what can go wrong."""
    return Database(folder / FILE, SCHEMA, _apply, "broker")


def _apply(connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
    insert_rows(connection, "INSERT INTO events", [c.event for c in changes if c.event])
    waiting = [(id, c.event[0]) for c in changes if c.event for id in c.triggers]
    if waiting:
        connection.execute(
            "INSERT INTO deliveries SELECT value ->> 0, value ->> 1 FROM json_each(?)",
            [_json(waiting)],
        )
    settled = [c.settled for c in changes if c.settled]
    if settled:
        connection.execute(
            "DELETE FROM deliveries WHERE (trigger, seq) IN"
            " (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
            [_json(settled)],
        )
    dead = [c.dead for c in changes if c.dead]
    insert_rows(connection, "INSERT INTO dead (namespace, trigger, seq, at, error)", dead)
    forgotten = [seq for c in changes for seq in c.forget]
    if forgotten:
        connection.execute(
            "DELETE FROM events WHERE seq IN (SELECT value FROM json_each(?))", [_json(forgotten)]
        )


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
