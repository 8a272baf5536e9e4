"""Payload events on disk until a broker has them, so that a kill -9 of the gateway loses none.

An event is written before the answer that it belongs to goes out, in one transaction with the others of its
request: who has an answer has it in the log as well. One that was delivered before that, which under load
some are, is never written.
There is no fsync: what is written survives the death of the process, not the loss of power. Where that
damages the file, it is set aside and the gateway starts without it.

SQLite on the event loop: a hop to a thread and back takes longer than the 0.05 ms of such a transaction.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import orjson

from helpers.serving.common.errors import ServingError
from helpers.serving.common.events import CloudEvent, restore_event
from helpers.serving.gateway.metrics import Metrics

log = logging.getLogger(__name__)

FILE = "spool.sqlite"
SWEEP_SECONDS = 0.5  # from a delivery until its row goes at the latest
DONE_ROWS = 64  # rows that are deleted together

_SCHEMA = """
PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
PRAGMA wal_autocheckpoint = 500; PRAGMA journal_size_limit = 16777216;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, address TEXT NOT NULL, attributes BLOB NOT NULL, data BLOB NOT NULL
);
"""


class Spool:
    """The events of one gateway that no broker has yet. Lives on one event loop.

    Its size is bounded by who puts events in: EventSender drops those beyond its own limits.

    Args:
        folder: made where it is missing, and locked against a second gateway.
        metrics: counts what could not be written.

    Raises:
        ServingError: the folder cannot be written or is in use.
    """

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self.path = folder / FILE
        self._metrics = metrics
        self._new: dict[str, dict[int, tuple[str, CloudEvent]]] = defaultdict(dict)
        self._request: dict[int, str] = {}  # seq -> request, of those in _new
        self._done: list[int] = []
        self._failing = False
        self._timer: asyncio.TimerHandle | None = None
        lock: IO[str] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = self._lock = (folder / "spool.lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._database = self._open()
            lock = None
        except BlockingIOError as problem:
            raise ServingError(
                f"Another gateway uses the folder {folder}; stop it or choose another folder."
            ) from problem
        except (OSError, sqlite3.Error) as problem:
            raise ServingError(
                f"Payload events cannot be kept in {folder}: {problem}. Make room there or choose "
                "another folder."
            ) from problem
        finally:
            if lock is not None:
                lock.close()
        (last,) = self._database.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        self._next = last + 1

    def left(self) -> Iterator[tuple[int, str, CloudEvent]]:
        """Yield number, address and event of what an earlier gateway could not deliver."""
        rows = self._database.execute(
            "SELECT seq, address, attributes, data FROM events ORDER BY seq"
        )
        for seq, address, attributes, data in rows.fetchall():
            yield seq, address, restore_event(attributes, data)

    def put(self, address: str, event: CloudEvent) -> int:
        """Take an event, to be written by `keep`; return its number."""
        seq, self._next = self._next, self._next + 1
        request = event.extensions.get("requestid", "")
        self._new[request][seq] = (address, event)
        self._request[seq] = request
        self._arrange()
        return seq

    def done(self, seq: int) -> None:
        """The event needs no further attempt."""
        request = self._request.pop(seq, None)
        if request is None:
            self._done.append(seq)
            self._arrange()
            return
        del self._new[request][seq]
        if not self._new[request]:
            del self._new[request]

    def keep(self, request: str) -> None:
        """Write the events of a request; what the disk does not take stays in memory and is counted."""
        if request in self._new:
            self._write([request])

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._timer is not None:
            self._timer.cancel()
        self._write(list(self._new))
        self._database.close()
        self._lock.close()

    def _write(self, requests: list[str]) -> None:
        rows = [
            (seq, address, orjson.dumps(event.attributes()), event.data)
            for request in requests
            for seq, (address, event) in self._new[request].items()
        ]
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
            gone = self._done if len(self._done) >= DONE_ROWS or not rows else []
            self._database.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq in gone])
            self._database.execute("COMMIT")
        except sqlite3.Error as problem:
            if self._database.in_transaction:
                self._database.rollback()
            self._failed(problem, len(rows))
            return
        if gone:
            self._done.clear()
        for request in requests:
            for seq in self._new.pop(request, ()):
                del self._request[seq]
        if self._failing:
            self._failing = False
            log.warning("payload events are written to %s again", self.path)

    def _failed(self, problem: sqlite3.Error, events: int) -> None:
        self._metrics.spool_errors.inc()
        if not self._failing:
            self._failing = True
            log.error(
                "%d payload events cannot be written to %s: %s. Predictions go on; until it can be "
                "written again, events are in memory only",
                events,
                self.path,
                problem,
            )

    def _arrange(self) -> None:
        """See to it that nothing lies about for long."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        if self._new:
            self._write(list(self._new))
        if self._done:
            self._write([])
        if self._new or self._done:
            self._arrange()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as problem:
            if isinstance(problem, sqlite3.OperationalError):  # the disk's fault, not the file's
                raise
            aside = self.path.with_suffix(".damaged")
            os.replace(self.path, aside)
            for rest in ("-wal", "-shm"):
                self.path.with_name(FILE + rest).unlink(missing_ok=True)
            log.error("%s is damaged (%s): set aside as %s", self.path, problem, aside.name)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, timeout=1)
        try:
            database.executescript(_SCHEMA)
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        except sqlite3.Error:
            database.close()
            raise
        return database
