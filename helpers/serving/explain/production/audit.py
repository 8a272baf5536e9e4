"""The audit trail: which explanation was given to whom, when, made by what; rows are added, never changed.

    trail = AuditTrail(Path("audit.sqlite"), registry, labels, secret)     # before the port is announced
    trail.start()                                                          # in the app's lifespan
    receipt = await trail.record(Entry(...))                               # on disk when it returns
    await trail.close()

    python -m helpers.serving.explain.production.audit audit.sqlite [--key-file FILE] [--receipt 17:ab12…]

Record before the response is sent, and send `str(receipt)` with it (`x-explanation-audit`): an explanation
that nobody can prove was not given. `record` raises a RequestError with 503 where it cannot write. What is
redacted in the response must be redacted in the entry: nothing is masked here.

Each row holds the hash of the row before it, HMAC-SHA256 where a secret is given. `verify` finds a row that was
changed, removed, inserted or moved, and says which. Without a secret, who can write to the file can make
the whole chain anew, and in either case can cut its end off together with SQLite's own count: a receipt that
was kept elsewhere shows both.

Several processes of one machine may write to one file. `AuditWriter` is what the server needs of a trail:
`audit_elasticsearch` is another, for replicas that share no file, with one chain for each of them. `document`
is a row as a document, for which manifests/logging/elasticsearch/audit-index-template.json is the template.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from prometheus_client import CollectorRegistry, Counter

from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.common.sqlite import Database, Write, settle

PENDING = 512  # records that wait for the disk; more are refused
WAIT_SECONDS = 5.0  # for the disk
OPEN_SECONDS = 10.0  # for other processes that open the same file
TEXT = 256  # characters of an id or a name that a client chooses
JSON_BYTES = 64 * 2**10  # of parameters, and of top attributions
GENESIS = "0" * 64  # the row before the first

COLUMNS = (
    "seq", "chain", "time", "request_id", "caller", "method", "explainer", "explainer_version",
    "model", "model_version", "parameters", "input_hash", "top", "outcome", "previous",
)  # fmt: skip

SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    chain TEXT NOT NULL, time TEXT NOT NULL, request_id TEXT NOT NULL, caller TEXT NOT NULL,
    method TEXT NOT NULL, explainer TEXT NOT NULL, explainer_version TEXT NOT NULL,
    model TEXT NOT NULL, model_version TEXT NOT NULL, parameters TEXT NOT NULL,
    input_hash TEXT NOT NULL, top TEXT NOT NULL, outcome TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS audit_by_request ON audit (request_id);
CREATE TRIGGER IF NOT EXISTS audit_no_update BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'The audit trail is append-only: rows are not changed.');
END;
CREATE TRIGGER IF NOT EXISTS audit_no_delete BEFORE DELETE ON audit BEGIN
    SELECT RAISE(ABORT, 'The audit trail is append-only: rows are not removed.');
END;
-- REPLACE removes a row without asking the trigger above.
CREATE TRIGGER IF NOT EXISTS audit_at_the_end BEFORE INSERT ON audit
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit)
    OR NEW.previous IS NOT coalesce(
        (SELECT hash FROM audit ORDER BY seq DESC LIMIT 1), printf('%064d', 0))
BEGIN
    SELECT RAISE(ABORT, 'The audit trail is append-only: a row is added at its end.');
END;
"""

_INSERT = f"INSERT INTO audit ({', '.join(COLUMNS)}, hash) VALUES ({', '.join('?' * 16)})"
_SELECT = f"SELECT {', '.join(COLUMNS)}, hash FROM audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One explanation that was given, or refused.

    Args:
        request_id: Seldon-Puid or x-request-id.
        caller: who asked, as the server knows: a name from a proxy's header, or an address.
        method: the explanation method.
        explainer, explainer_version: its artefact, and the checksum of it.
        model, model_version: the explained model.
        parameters: all of them, the seed included.
        input_hash: `cache.input_hash` of the instances: not the instances.
        top: feature and attribution, the largest first; of an anchor, its predicates and None.
        outcome: `made`, `memory`, `redis`, `disk`, `shared`, or the HTTP status of a refusal.
        time: when it was given.
    """

    request_id: str
    caller: str
    method: str
    explainer: str
    explainer_version: str
    model: str
    model_version: str
    parameters: Mapping[str, Any]
    input_hash: str
    top: Sequence[tuple[str, float | None]]
    outcome: str = "made"
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Receipt:
    """A row's number and hash, to be kept outside of the trail; as text `17:ab12…`."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Receipt:
        """Return the receipt that a text holds.

        Raises:
            ServingError: it holds none.
        """
        number, _, digest = text.strip().partition(":")
        if not (number.isascii() and number.isdecimal() and len(digest) == 64):
            raise ServingError(
                f"{text[:80]!r} is no receipt of an audit trail, a number, a colon and 64 digits."
            )
        return cls(int(number), digest)


class AuditWriter(Protocol):
    """What the server needs of an audit trail, wherever it is kept."""

    def start(self) -> None:
        """Begin; called on the event loop."""

    async def record(self, entry: Entry) -> Receipt:
        """Return once the entry is kept durably; RequestError 503 where it cannot be."""

    async def close(self) -> None:
        """Finish what is under way."""


class AuditTrail:
    """An AuditWriter in one file of SQLite.

    Args:
        path: of the file; its folder is made. Not on a network file system.
        registry: for its metrics.
        labels: of every metric.
        secret: keys the hashes; the same for all who write to the file and verify it.
        chain: names what writes, where several trails are gathered in one place.

    Raises:
        ServingError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        registry: CollectorRegistry,
        labels: Mapping[str, str],
        secret: bytes = b"",
        chain: str = "",
    ) -> None:
        self._secret = secret
        self._chain = clipped(chain)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite refuses, not waits, where two processes turn a new file to WAL at once.
            with FileLock(path.with_name(path.name + ".open"), timeout=OPEN_SECONDS):
                self._database = Database(path, SCHEMA, _nothing, "audit trail", shared=True)
        except Timeout:
            raise ServingError(
                f"The audit trail {path} is being opened by another process for more than "
                f"{OPEN_SECONDS:g} s; end that one."
            ) from None
        except OSError as problem:
            raise ServingError(
                f"The audit trail {path} cannot be written: {problem}. Choose another file."
            ) from problem
        self._pending = 0
        self._records, self._failures = counters(registry, labels)

    def start(self) -> None:
        """Start the writer; called on the event loop."""
        self._database.start()

    async def record(self, entry: Entry) -> Receipt:
        """Add a row, and return once it is on disk.

        A row that is not on disk in time is refused here and may still be added.

        Raises:
            RequestError: 503, it cannot be written, or not in time.
        """
        if self._pending >= PENDING:
            self._failures.inc()
            raise unavailable(f"{PENDING} records wait for it already")
        row = row_of(entry, self._chain)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        write = Write(done=settle(future), size=512, call=lambda db: self._append(db, row))
        self._pending += 1
        future.add_done_callback(self._settled)
        self._database.put(write)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                # Not cancelled with its request: it counts as pending until the disk has it.
                receipt = await asyncio.shield(future)
        except TimeoutError:
            self._failures.inc()
            raise unavailable(f"the disk does not take it within {WAIT_SECONDS:g} s") from None
        except sqlite3.Error as problem:
            self._failures.inc()
            raise unavailable(str(problem)) from problem
        self._records.inc()
        return receipt

    async def rows(self, request_id: str) -> list[dict[str, Any]]:
        """Return the rows of a request as documents, the oldest first."""
        return await self._database.read(
            lambda db: [
                document(row)
                for row in db.execute(
                    f"{_SELECT} WHERE request_id = ? ORDER BY seq LIMIT 1000",
                    (clipped(request_id),),
                )
            ]
        )

    async def close(self) -> None:
        """Write what waits, and close the file."""
        await self._database.close()

    def _append(self, db: sqlite3.Connection, row: tuple[Any, ...]) -> Receipt:
        last = db.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
        seq, previous = last or (0, GENESIS)
        whole = (seq + 1, *row, previous)
        digest = row_hash(whole, self._secret)
        db.execute(_INSERT, (*whole, digest))
        return Receipt(seq + 1, digest)

    def _settled(self, future: asyncio.Future[Receipt]) -> None:
        self._pending -= 1
        if not future.cancelled():
            future.exception()  # its request may have gone


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found.

    Args:
        ok: every row is as it was written.
        rows: how many were read.
        row: the number of the first that is not; None where all are.
        message: the same as a sentence.
    """

    ok: bool
    rows: int
    row: int | None
    message: str


def verify(path: Path, secret: bytes = b"", receipt: Receipt | None = None) -> Verdict:
    """Check every row of a trail against the one before it; the file may be written to meanwhile.

    Args:
        path: of the file.
        secret: that it was written with.
        receipt: of a row that must be there.

    Raises:
        ServingError: the file cannot be read as a trail.
    """
    with _reading(path) as db:
        previous, rows, at_receipt = GENESIS, 0, None
        for *row, digest in db.execute(f"{_SELECT} ORDER BY seq"):
            seq = row[0]
            if seq != rows + 1:
                return broken(rows, rows + 1, "is missing")
            if row[-1] != previous:
                return broken(rows, seq, "does not follow the row before it")
            if not hmac.compare_digest(row_hash(row, secret).encode(), str(digest).encode()):
                return broken(rows, seq, "was changed, or written with another key")
            previous, rows = digest, seq
            if receipt is not None and receipt.seq == seq:
                at_receipt = digest
        (count,) = db.execute(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'audit'"
        ).fetchone()
    if count > rows:
        return broken(rows, rows + 1, "is missing, with all after it")
    if receipt is not None and at_receipt is None:
        return broken(rows, rows + 1, f"is missing, up to {receipt.seq} of the receipt")
    if receipt is not None and at_receipt != receipt.hash:
        return broken(rows, receipt.seq, "is not the one of the receipt")
    return Verdict(True, rows, None, f"All {rows} rows are as they were written.")


def document(row: Sequence[Any]) -> dict[str, Any]:
    """Return a row, its columns and its hash, as a document of the index template's shape."""
    named = dict(zip((*COLUMNS, "hash"), row, strict=True))
    named["@timestamp"] = named.pop("time")
    named["parameters"] = json.loads(named["parameters"])
    named["top"] = [
        {"feature": feature, "attribution": value} for feature, value in json.loads(named["top"])
    ]
    return named


def main(argv: Sequence[str] | None = None) -> None:
    """Verify a trail; exit code 1 where a row is not as it was written."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.serving.explain.production.audit", description="Verify a trail."
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--key-file", type=Path, help="holds the secret that it was written with")
    parser.add_argument("--receipt", help="of a row that must be there, e.g. from a response")
    args = parser.parse_args(argv)
    try:
        secret = args.key_file.read_bytes().strip() if args.key_file else b""
        receipt = Receipt.parse(args.receipt) if args.receipt else None
        verdict = verify(args.path, secret, receipt)
    except (ServingError, OSError) as problem:
        sys.exit(str(problem))
    if not verdict.ok:
        sys.exit(verdict.message)
    print(verdict.message)


def counters(registry: CollectorRegistry, labels: Mapping[str, str]) -> tuple[Counter, Counter]:
    """Return the counters of rows that were added, and of those that could not be."""
    added, failed = (
        Counter(f"explain_server_audit_{name}", what, list(labels), registry=registry).labels(
            **labels
        )
        for name, what in (
            ("records", "Rows added to the audit trail"),
            ("failures", "Rows that could not be added to the audit trail"),
        )
    )
    return added, failed


def row_of(entry: Entry, chain: str) -> tuple[Any, ...]:
    """Return the columns from `chain` to `outcome`."""
    at = entry.time if entry.time.tzinfo else entry.time.replace(tzinfo=UTC)
    return (
        chain,
        at.astimezone(UTC).isoformat(timespec="microseconds"),
        *map(
            clipped,
            (
                entry.request_id,
                entry.caller,
                entry.method,
                entry.explainer,
                entry.explainer_version,
                entry.model,
                entry.model_version,
            ),
        ),
        json_text(dict(entry.parameters), "parameters"),
        clipped(entry.input_hash),
        json_text(
            [[str(name), None if value is None else float(value)] for name, value in entry.top],
            "top attributions",
        ),
        clipped(entry.outcome),
    )


def json_text(value: Any, what: str) -> str:
    """Return canonical JSON of bounded length."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise ServingError(f"The {what} of an audit entry are not JSON: {problem}.") from problem
    if len(text) > JSON_BYTES:
        raise ServingError(
            f"The {what} of an audit entry take {len(text)} bytes, more than {JSON_BYTES}; give fewer."
        )
    return text


def clipped(text: str) -> str:
    """Return text that a client may have chosen, its length bounded and visibly so."""
    text = str(text).encode("utf-8", "replace").decode()
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"


def row_hash(row: Sequence[Any], secret: bytes) -> str:
    """The hash of all columns up to `previous`, as a JSON list."""
    text = json.dumps(list(row), separators=(",", ":")).encode()
    if secret:
        return hmac.new(secret, text, hashlib.sha256).hexdigest()
    return hashlib.sha256(text).hexdigest()


def broken(rows: int, row: int, what: str) -> Verdict:
    """Return the verdict on the first row that is not as it was written."""
    good = f"rows 1 to {rows} are as they were written" if rows else "no row before it is in order"
    return Verdict(False, rows, row, f"Row {row} of the audit trail {what}; {good}.")


def unavailable(why: str) -> RequestError:
    """Return the refusal of an explanation that cannot be recorded."""
    return RequestError(
        503,
        f"The audit trail cannot be written: {why}. No explanation is given without it.",
        headers={"retry-after": "5"},
    )


def _nothing(db: sqlite3.Connection, writes: Sequence[Any]) -> None:
    """There are only writes with a call of their own."""


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open for reading only, as it is at one point in time."""
    try:
        db = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None
        )
        try:
            db.execute("BEGIN")
            yield db
        finally:
            db.close()
    except sqlite3.Error as problem:
        raise ServingError(f"{path} cannot be read as an audit trail: {problem}.") from problem


if __name__ == "__main__":
    main()
