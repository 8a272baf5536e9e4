"""SQLite written by one thread that commits for all that wait: many writes share one fsync.

While one commit waits for the disk, the next batch gathers. A write is on disk, safe from kill -9
and from loss of power, when its `done` is called.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.serving.common.errors import ServingError

log = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005  # the writer must not wait 5 ms, Python's default, for the interpreter lock
BATCH_WRITES = 512
BATCH_BYTES = 32 * 2**20
LINGER_SECONDS = 0.01  # what nobody waits for may gather this long before a commit
CHUNKS = (64, 16, 4, 1)  # rows of one INSERT: few sizes, so that statements stay prepared
PRAGMAS = """
PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864;
"""

Done = Callable[[Exception | None, Any], None]


@dataclass(slots=True, kw_only=True)
class Write:
    """Something to be written, committed whole or not at all.

    Attributes:
        done: called on the event loop with (None, result) after the commit, (error, None) where
            it failed.
        size: bytes, roughly; bounds a batch.
        urgent: somebody waits for it.
        call: what to do with the connection; subclasses for many rows at once leave it None.
    """

    done: Done
    size: int = 0
    urgent: bool = True
    call: Callable[[sqlite3.Connection], Any] | None = None


class Database:
    """One file, one writer thread, one reader thread.

    Args:
        path: the file; its folder is made, and locked against a second process.
        schema: SQL that makes what is missing.
        apply: writes what a batch's subclasses of Write hold, in few statements; each statement
            hands the interpreter lock back and forth.
        name: of the server, for the errors.
        shared: other processes may have it open too, each as shared.

    Raises:
        ServingError: the folder cannot be written, is in use, or the file is damaged.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        apply: Callable[[sqlite3.Connection, Sequence[Any]], None],
        name: str,
        shared: bool = False,
    ) -> None:
        self.path = path
        self.apply = apply
        self.problem: str | None = None  # why the last commit failed, None when it worked
        folder = path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = path.with_suffix(".lock").open("w")
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._lock, kind | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise ServingError(
                f"Another {name} uses the folder {folder}; stop it or choose another folder."
            ) from problem
        except OSError as problem:
            raise ServingError(f"The folder {folder} cannot be written: {problem}.") from problem
        try:
            self._writer = self._connect()
            self._writer.executescript(schema)
            self._reader = self._connect()
        except sqlite3.Error as problem:
            raise ServingError(
                f"{path} cannot be opened: {problem}. Move it away to start without its contents."
            ) from problem
        self._reads = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-reader")
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=f"{name}-writer", daemon=True)

    def start(self) -> None:
        """Start the writer; to be called on the event loop that `done` is called on."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def put(self, write: Write) -> None:
        """Queue a write; writes are committed in this order."""
        self._queue.put(write)

    async def write(self, call: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run `call` in the next commit and return its result once that is on disk.

        Raises:
            sqlite3.Error: it could not be written.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.put(Write(done=settle(future), call=call))
        return await future

    async def read(self, call: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run `call` beside the writer, on what has been committed."""
        return await asyncio.get_running_loop().run_in_executor(self._reads, call, self._reader)

    def read_now(self, call: Callable[[sqlite3.Connection], Any]) -> Any:
        """The same, blocking; for start-up."""
        return call(self._reader)

    async def close(self) -> None:
        """Write what is queued and close the file."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, 10)
        self._reads.shutdown()
        self._reader.close()
        self._writer.close()
        self._lock.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=10
        )
        connection.executescript(PRAGMAS)
        return connection

    def _run(self) -> None:
        ending = False
        while not ending:
            batch = self._gather()
            ending = batch[-1] is None
            writes = [write for write in batch if write is not None]
            error: Exception | None = None
            results: list[Any] = []
            try:
                if writes:
                    results = self._commit(writes)
            except Exception as problem:
                error = problem
                if self._writer.in_transaction:
                    self._writer.rollback()
                if self.problem is None:
                    log.error("cannot write to %s: %s", self.path, problem)
            self.problem = None if error is None else f"cannot write to {self.path}: {error}"
            try:
                assert self._loop is not None
                self._loop.call_soon_threadsafe(_report, writes, error, results)
            except RuntimeError:  # the loop has ended
                return
            if error is not None:
                time.sleep(0.05)

    def _gather(self) -> list[Write | None]:
        batch: list[Write | None] = [self._queue.get()]
        first = batch[0]
        size, until = 0, time.monotonic() + LINGER_SECONDS
        urgent = first is None or first.urgent
        while batch[-1] is not None and len(batch) < BATCH_WRITES and size < BATCH_BYTES:
            wait = 0.0 if urgent else until - time.monotonic()
            try:
                write = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            batch.append(write)
            if write is not None:
                urgent = urgent or write.urgent
                size += write.size
        return batch

    def _commit(self, writes: list[Write]) -> list[Any]:
        self._writer.execute("BEGIN IMMEDIATE")
        self.apply(self._writer, [write for write in writes if write.call is None])
        results = [write.call(self._writer) if write.call else None for write in writes]
        self._writer.execute("COMMIT")
        return results


def settle(future: asyncio.Future[Any]) -> Done:
    """Return the `done` of a Write that somebody awaits."""

    def done(error: Exception | None, result: Any) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    return done


def insert_rows(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert many rows in few statements; `into` is e.g. `INSERT INTO events`."""
    start = 0
    for size in CHUNKS:
        while len(rows) - start >= size:
            chunk = rows[start : start + size]
            places = "(" + ",".join("?" * len(chunk[0])) + ")"
            connection.execute(
                f"{into} VALUES {','.join([places] * size)}",
                [value for row in chunk for value in row],
            )
            start += size


def _report(writes: list[Write], error: Exception | None, results: list[Any]) -> None:
    for number, write in enumerate(writes):
        write.done(error, None if error else results[number])
