"""Where the log is kept: the interface, and the store in SQLite.

Parts are kept as they came and put together when they are read, so that taking an event is one
insert, whatever order events come in, and a duplicate is a row that is there already.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import orjson

from helpers.serving.common.sqlite import Database, Write, insert_rows, settle
from helpers.serving.payload_log.documents import gather
from helpers.serving.payload_log.parts import KINDS, Part

FILE = "payloads.sqlite"

_COLUMNS = tuple(field.name for field in fields(Part))
_NAMES = ", ".join(f'"{name}"' for name in _COLUMNS)

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


@dataclass(frozen=True)
class Search:
    """What documents to look for.

    Attributes:
        index: exact name; all by default.
        since, until: seconds since 1970, of the part's own time.
        kind: only requests that have such a part.
        flagged: only items that are outliers (True) or were judged and are none (False).
        limit: documents to return, the newest first.
    """

    index: str | None = None
    since: float | None = None
    until: float | None = None
    kind: str | None = None
    flagged: bool | None = None
    limit: int = 100


class Store(Protocol):
    """What a store of payloads can do; sqlite3.Error or OSError mean that it cannot just now."""

    async def add(self, part: Part) -> bool:
        """Keep a part, durably; False where it was there already."""

    async def documents(self, request_id: str, index: str | None) -> list[dict[str, Any]]:
        """All documents of a request, each with `_index` and `_id`."""

    async def search(self, search: Search) -> list[dict[str, Any]]:
        """The newest documents that fit."""

    async def windows(self, index: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest drift results, as they came."""

    async def counts(self) -> dict[str, dict[str, int]]:
        """By index: requests, events of each kind, outliers, and windows that drifted."""


@dataclass(slots=True, kw_only=True)
class _Insert(Write):
    row: tuple[Any, ...]
    added: bool = False


class SQLiteStore:
    """A Store in one file.

    Raises:
        ServingError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / FILE, SCHEMA, _apply, "payload log")

    async def add(self, part: Part) -> bool:
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
        return await self.database.read(lambda db: _documents(db, [request_id], index))

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
            ids = [row[0] for row in db.execute(sql, [*values, search.limit])]
            found: list[dict[str, Any]] = []
            for id in ids:
                for document in _documents(db, [id], search.index):
                    if _fits(document["_source"], search):
                        found.append(document)
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
        windows = []
        for part in map(_part, rows):
            shown = asdict(part) | {"data": orjson.loads(part.data), "drift": bool(part.flagged)}
            del shown["items"], shown["flagged"], shown["kind"]
            windows.append(shown)
        return windows

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


def _documents(
    db: sqlite3.Connection, request_ids: Iterable[str], index: str | None
) -> list[dict[str, Any]]:
    found = []
    for request_id in request_ids:
        by_index: dict[str, list[Part]] = {}
        for row in db.execute(
            f"SELECT {_NAMES} FROM parts WHERE request_id = ? ORDER BY seq", (request_id,)
        ):
            part = _part(row)
            if index in (None, part.index):
                by_index.setdefault(part.index, []).append(part)
        for name, parts in by_index.items():
            for id, document in gather(parts).items():
                found.append({"_index": name, "_id": id, "_source": document})
    return found


def _part(row: tuple[Any, ...]) -> Part:
    named = dict(zip(_COLUMNS, row, strict=True))
    named["flagged"] = tuple(orjson.loads(named["flagged"]))
    return Part(**named)


def _fits(document: dict[str, Any], search: Search) -> bool:
    if search.kind is not None and search.kind not in document:
        return False
    if search.flagged is None:
        return True
    if "outlier" not in document:
        return False
    judged = document["outlier"]["data"]["is_outlier"]
    while isinstance(judged, list):
        judged = max((part if isinstance(part, int) else 1 for part in judged), default=0)
    return bool(judged) is search.flagged
