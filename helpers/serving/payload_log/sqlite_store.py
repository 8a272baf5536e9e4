"""The store in one SQLite file: a row for each part; a duplicate is a row that is there already."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from helpers.serving.common.events import CloudEvent
from helpers.serving.common.sqlite import Database, Write, insert_rows, settle
from helpers.serving.payload_log.parts import KINDS, Part
from helpers.serving.payload_log.store import Search, assemble, window

FILE = "payloads.sqlite"
EXPIRE_SECONDS = 10.0
EXPIRE_ROWS = 200  # removed in one commit: events that come meanwhile wait for no more than that

_COLUMNS = tuple(field.name for field in fields(Part))
_NAMES = ", ".join(f'"{name}"' for name in _COLUMNS)
_KINDS = ", ".join(f"'{kind}'" for kind in KINDS)  # so that parts_by_kind serves for the time

SCHEMA = """
CREATE TABLE IF NOT EXISTS parts (
    seq INTEGER PRIMARY KEY, "index" TEXT NOT NULL, request_id TEXT NOT NULL, kind TEXT NOT NULL,
    source TEXT NOT NULL, event_id TEXT NOT NULL, type TEXT NOT NULL, at REAL NOT NULL,
    time TEXT NOT NULL, namespace TEXT NOT NULL, deployment TEXT NOT NULL, endpoint TEXT NOT NULL,
    model TEXT NOT NULL, items INTEGER NOT NULL, flagged TEXT NOT NULL, data BLOB NOT NULL,
    UNIQUE (event_id, type, source)
);
CREATE INDEX IF NOT EXISTS parts_by_request ON parts (request_id);
CREATE INDEX IF NOT EXISTS parts_by_kind ON parts (kind, at);
"""


@dataclass(slots=True, kw_only=True)
class _Insert(Write):
    row: tuple[Any, ...]
    added: bool = False


class SQLiteStore:
    """A Store in one file.

    Raises:
        ServingError: the folder cannot be used.
    """

    expire_every = EXPIRE_SECONDS

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / FILE, SCHEMA, _apply, "payload log")

    @property
    def problem(self) -> str | None:
        """Why the last commit failed."""
        return self.database.problem

    async def start(self) -> None:
        self.database.start()

    async def close(self) -> None:
        await self.database.close()

    async def add(self, event: CloudEvent, part: Part | None) -> bool:
        if part is None:
            return False
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        row = tuple(
            orjson.dumps(value).decode() if name == "flagged" else value
            for name, value in zip(_COLUMNS, astuple(part), strict=True)
        )
        insert = _Insert(done=settle(future), size=len(part.data), row=row)
        self.database.put(insert)
        await future
        return insert.added

    async def documents(self, request_id: str, index: str | None) -> list[dict[str, Any]]:
        return await self.database.read(lambda db: _documents(db, request_id, index))

    async def search(self, search: Search) -> list[dict[str, Any]]:
        where, values = ["1"], []
        for condition, value in (
            ('"index" = ?', search.index),
            ("at >= ?", search.since),
            ("at <= ?", search.until),
            ("kind = ?", "outlier" if search.flagged is not None else search.kind),
        ):
            if value is not None:
                where.append(condition)
                values.append(value)
        if search.flagged is True:
            where.append("flagged != '[]'")
        sql = (
            f"SELECT request_id FROM parts WHERE {' AND '.join(where)}"
            " GROUP BY request_id ORDER BY max(seq) DESC LIMIT ?"
        )

        def read(db: sqlite3.Connection) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for (id,) in db.execute(sql, [*values, search.limit]).fetchall():
                documents = _documents(db, id, search.index)
                found += [one for one in documents if search.fits(one["_source"])]
                if len(found) >= search.limit:
                    break
            return found[: search.limit]

        return await self.database.read(read)

    async def windows(self, index: str | None, limit: int) -> list[dict[str, Any]]:
        sql = (
            f"SELECT {_NAMES} FROM parts WHERE kind = 'drift' AND (? IS NULL OR \"index\" = ?)"
            " ORDER BY seq DESC LIMIT ?"
        )
        rows = await self.database.read(
            lambda db: db.execute(sql, (index, index, limit)).fetchall()
        )
        return [window(_part(row)) for row in rows]

    async def counts(self) -> dict[str, dict[str, int]]:
        def read(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
            counts: dict[str, dict[str, int]] = {}
            for index, requests in db.execute(
                'SELECT "index", count(DISTINCT request_id) FROM parts GROUP BY "index"'
            ):
                counts[index] = {"requests": requests} | dict.fromkeys(KINDS, 0)
                counts[index] |= {"outliers": 0, "drifts": 0}
            for index, kind, events, flagged in db.execute(
                'SELECT "index", kind, count(*), sum(json_array_length(flagged)) FROM parts'
                ' GROUP BY "index", kind'
            ):
                counts[index][kind] = events
                if kind in ("outlier", "drift"):
                    counts[index][kind + "s"] = flagged
            return counts

        return await self.database.read(read)

    async def expire(self, before: float | None, most_bytes: int | None) -> int:
        """Remove parts whose own time is before `before`, and the first that came beyond a size.

        The file keeps the room and fills it again: it stays about as large as it ever was.
        """
        removed = 0
        while count := await self.database.write(lambda db: _expire(db, before, most_bytes)):
            removed += count
        return removed


def _apply(connection: sqlite3.Connection, inserts: Sequence[_Insert]) -> None:
    """Insert what is new; in one statement where all is."""
    keys = [(insert.row[4], insert.row[5], insert.row[3]) for insert in inserts]
    if not keys:
        return
    found = connection.execute(
        "SELECT event_id, type, source FROM parts WHERE (event_id, type, source) IN"
        " (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?))",
        [orjson.dumps(keys).decode()],
    )
    known = set(found.fetchall())
    fresh = []
    for key, insert in zip(keys, inserts, strict=True):
        insert.added = key not in known
        if insert.added:
            known.add(key)
            fresh.append(insert.row)
    insert_rows(connection, f"INSERT INTO parts ({_NAMES})", fresh)


def _documents(db: sqlite3.Connection, request_id: str, index: str | None) -> list[dict[str, Any]]:
    rows = db.execute(f"SELECT {_NAMES} FROM parts WHERE request_id = ? ORDER BY seq", [request_id])
    return assemble(part for part in map(_part, rows) if index in (None, part.index))


def _part(row: tuple[Any, ...]) -> Part:
    named = dict(zip(_COLUMNS, row, strict=True))
    named["flagged"] = tuple(orjson.loads(named["flagged"]))
    return Part(**named)


def _expire(db: sqlite3.Connection, before: float | None, most_bytes: int | None) -> int:
    """Remove some of what is too old or too much; return how many rows."""
    removed = 0
    if before is not None:
        removed = db.execute(
            "DELETE FROM parts WHERE seq IN (SELECT seq FROM parts"
            f" WHERE kind IN ({_KINDS}) AND at < ? LIMIT {EXPIRE_ROWS})",
            [before],
        ).rowcount
    if most_bytes is not None:
        surplus = _used(db) - most_bytes
        oldest = db.execute(f"SELECT seq, length(data) FROM parts ORDER BY seq LIMIT {EXPIRE_ROWS}")
        last = None
        for seq, size in oldest if surplus > 0 else ():
            last = seq
            surplus -= size
            if surplus <= 0:
                break
        if last is not None:
            removed += db.execute("DELETE FROM parts WHERE seq <= ?", [last]).rowcount
    return removed


def _used(db: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
