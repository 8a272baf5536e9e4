"""The broker: stores each event before it acknowledges it, then hands it to the lanes that want it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from prometheus_client import CollectorRegistry

from helpers.serving.broker.delivery import Outcome, attempt
from helpers.serving.broker.lane import HELD_EVENTS, Item, Lane, Stored, error_headers, failure
from helpers.serving.broker.metrics import Gauges, Metrics
from helpers.serving.broker.model import Trigger
from helpers.serving.broker.retention import Limits, Retention
from helpers.serving.broker.store import Change, open_store
from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import CloudEvent, now, restore_event
from helpers.serving.common.sqlite import settle

log = logging.getLogger(__name__)

HOPS = 32  # how often a reply to a reply to a reply … is fed back; Knative's own limit is 255
TTL_EXTENSION = "knativebrokerttl"
PAGE_EVENTS = HELD_EVENTS // 4
PAGE_BYTES = 8 * 2**20
SETTLE_AGAIN_SECONDS = 1.0


class Broker:
    """All brokers and triggers of one state folder. Lives on one event loop.

    Raises:
        ServingError: the state folder cannot be used.
    """

    def __init__(self, folder: Path, registry: CollectorRegistry, limits: Limits) -> None:
        self.store = open_store(folder)
        self.registry = registry
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.by_id: dict[int, Lane] = {}
        self.brokers: set[tuple[str, str]] = set()
        self.backlog: Counter[int] = Counter()  # trigger id -> deliveries
        self.retention = Retention(limits, self._forget)
        self.next_seq = 1
        self.metrics = Metrics(registry)
        Gauges(self._backlogs, self.retention.stored, registry)
        self.session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Read the state and go on where the last process stopped, however it stopped."""
        self.store.start()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type"),
        )
        read = self.store.read_now
        needs: Counter[int] = Counter()
        for table in ("deliveries", "dead"):
            query = f"SELECT seq, count(*) FROM {table} GROUP BY seq"
            for seq, count in read(lambda db, query=query: db.execute(query).fetchall()):
                needs[seq] += count
        self.backlog.update(
            dict(
                read(
                    lambda db: db.execute(
                        "SELECT trigger, count(*) FROM deliveries GROUP BY trigger"
                    ).fetchall()
                )
            )
        )
        sizes = read(
            lambda db: db.execute("SELECT seq, length(data) FROM events ORDER BY seq").fetchall()
        )
        for seq, size in sizes:
            self.next_seq = seq + 1
            self.retention.add(seq, size, needs[seq])
        self.retention.trim()
        self.brokers = set(
            read(lambda db: db.execute("SELECT namespace, name FROM brokers").fetchall())
        )
        triggers = read(lambda db: db.execute("SELECT id, spec FROM triggers").fetchall())
        for id, spec in triggers:
            self._add_lane(id, Trigger.model_validate_json(spec))
        for lane in self.by_id.values():
            lane.pump()

    async def stop(self) -> None:
        """Stop delivering, write what is known, close."""
        await asyncio.gather(*(lane.stop() for lane in self.by_id.values()))
        if self.session is not None:
            await self.session.close()
        await self.store.close()

    async def accept(self, namespace: str, broker: str, event: CloudEvent) -> None:
        """Store an event; returns once it is on disk.

        Raises:
            RequestError: 404 no such broker, 429 too much is stored, 503 the disk does not take it.
        """
        if (namespace, broker) not in self.brokers:
            raise RequestError(
                404, f"There is no broker {broker[:80]!r} in namespace {namespace[:80]!r}."
            )
        if self.retention.full():
            count, size = self.retention.needed()
            raise RequestError(
                429,
                f"The backlog is full: {count} events of {size} bytes are not delivered yet.",
                headers={"retry-after": "1"},
            )
        hops = HOPS
        given = event.extensions.get(TTL_EXTENSION)
        if given is not None:
            if not given.isdecimal():
                raise RequestError(400, f"The extension {TTL_EXTENSION} is no whole number.")
            hops = min(HOPS, int(given[:9]))
            event = replace(
                event,
                extensions={k: v for k, v in event.extensions.items() if k != TTL_EXTENSION},
            )
        try:
            await self._store(namespace, broker, event, hops)
        except sqlite3.Error as problem:
            raise RequestError(
                503, f"The event cannot be stored: {problem}.", headers={"retry-after": "1"}
            ) from problem
        self.metrics.accepted.labels(namespace, broker).inc()

    async def declare_broker(self, namespace: str, name: str) -> None:
        """Make a broker known; without a trigger its events are kept for inspection only."""
        await self.store.write(
            lambda db: db.execute("INSERT OR IGNORE INTO brokers VALUES (?, ?)", (namespace, name))
        )
        self.brokers.add((namespace, name))

    async def delete_broker(self, namespace: str, name: str) -> bool:
        """Forget a broker; its triggers and their backlog stay, as in Knative."""
        known = (namespace, name) in self.brokers
        self.brokers.discard((namespace, name))
        await self.store.write(
            lambda db: db.execute(
                "DELETE FROM brokers WHERE namespace = ? AND name = ?", (namespace, name)
            )
        )
        return known

    async def put_trigger(self, trigger: Trigger) -> bool:
        """Add or change a trigger, and its broker where that is new; False where nothing changed.

        Raises:
            RequestError: 409, the trigger exists with another broker.
        """
        key = (trigger.namespace, trigger.name)
        lane = self.lanes.get(key)
        if lane is not None and lane.trigger.broker != trigger.broker:
            raise RequestError(
                409,
                f"Trigger {trigger.name} belongs to broker {lane.trigger.broker}; "
                "delete it first to move it to another.",
            )
        if (trigger.namespace, trigger.broker) not in self.brokers:
            await self.declare_broker(trigger.namespace, trigger.broker)
        if lane is not None and lane.trigger == trigger:
            return False
        spec = trigger.model_dump_json(by_alias=True)

        def write(db: sqlite3.Connection) -> int:
            return db.execute(
                "INSERT INTO triggers (namespace, name, spec) VALUES (?, ?, ?)"
                " ON CONFLICT (namespace, name) DO UPDATE SET spec = excluded.spec RETURNING id",
                (*key, spec),
            ).fetchone()[0]

        id = await self.store.write(write)
        if key in self.lanes:
            self.lanes[key].change(trigger)
        else:
            self._add_lane(id, trigger).pump()
        return True

    async def delete_trigger(self, namespace: str, name: str) -> bool:
        """Delete a trigger and its backlog; its dead letters stay. False where there is none."""
        lane = self.lanes.pop((namespace, name), None)
        if lane is None:
            return False
        del self.by_id[lane.id]
        await lane.stop()

        def write(db: sqlite3.Connection) -> list[int]:
            db.execute("DELETE FROM triggers WHERE id = ?", (lane.id,))
            rows = db.execute("DELETE FROM deliveries WHERE trigger = ? RETURNING seq", (lane.id,))
            return [row[0] for row in rows.fetchall()]

        for seq in await self.store.write(write):
            self.retention.release(seq)
        self.backlog.pop(lane.id, None)
        return True

    async def redrive(self, where: str, values: list[Any]) -> int:
        """Put dead letters back to be delivered; returns how many.

        Args:
            where: SQL condition on `dead d`, of constants and placeholders.
            values: for its placeholders.
        """

        def write(db: sqlite3.Connection) -> list[tuple[int, int, int]]:
            rows = db.execute(
                "SELECT d.id, t.id, d.seq FROM dead d JOIN triggers t"
                f" ON t.namespace = d.namespace AND t.name = d.trigger WHERE {where}",
                values,
            ).fetchall()
            fresh = []
            for id, trigger, seq in rows:
                db.execute("DELETE FROM dead WHERE id = ?", (id,))
                added = db.execute(
                    "INSERT OR IGNORE INTO deliveries VALUES (?, ?)", (trigger, seq)
                ).rowcount
                fresh.append((trigger, seq, added))
            return fresh

        rows = await self.store.write(write)
        for trigger, seq, added in rows:
            if added:
                self.backlog[trigger] += 1
            else:  # it was waiting already; one need less
                self.retention.release(seq)
        for trigger in {row[0] for row in rows}:
            if trigger in self.by_id:
                self.by_id[trigger].rescan()
        return len(rows)

    # What the lanes need; see lane.Host.

    async def attempt(self, lane: Lane, item: Item) -> Outcome:
        assert self.session is not None
        trigger, stored = lane.trigger, item.stored
        url, headers = trigger.subscriber, stored.headers()
        if item.error is not None:
            url = trigger.delivery.dead_letter_sink or url
            headers = headers | error_headers(item.error)
        timeout = trigger.delivery.timeout.total_seconds()
        outcome = await attempt(self.session, url, headers, stored.event.data, timeout)
        if outcome.reply is not None and item.error is None:
            names = (trigger.namespace, trigger.name)
            if stored.hops <= 1:
                self.metrics.loops.labels(*names).inc()
                log.warning(
                    "reply of %s/%s dropped: it answers %d replies in a row; does its type match "
                    "its own trigger's filter?",
                    *names,
                    HOPS,
                )
                return outcome
            try:
                await self._store(stored.namespace, stored.broker, outcome.reply, stored.hops - 1)
            except sqlite3.Error as problem:
                return Outcome(False, reason=f"the reply cannot be stored: {problem}", again=True)
            self.metrics.replies.labels(*names).inc()
        return outcome

    async def load(self, lane: Lane, after: int) -> tuple[list[Item], bool]:
        def read(db: sqlite3.Connection) -> tuple[list[tuple[Any, ...]], bool]:
            rows, size = [], 0
            cursor = db.execute(
                "SELECT e.seq, e.namespace, e.broker, e.arrived, e.hops, e.attributes, e.data"
                " FROM deliveries d JOIN events e ON e.seq = d.seq"
                " WHERE d.trigger = ? AND d.seq > ? ORDER BY d.seq LIMIT ?",
                (lane.id, after, PAGE_EVENTS),
            )
            for row in cursor:
                rows.append(row)
                size += len(row[6])
                if size >= PAGE_BYTES:
                    cursor.close()
                    return rows, True
            return rows, len(rows) == PAGE_EVENTS

        rows, more = await self.store.read(read)
        items = []
        for seq, namespace, broker, arrived, hops, attributes, data in rows:
            event = restore_event(attributes, data)
            items.append(Item(0.0, seq, Stored(seq, namespace, broker, event, hops, arrived)))
        return items, more

    def settle(self, lane: Lane, item: Item) -> None:
        names = (lane.trigger.namespace, lane.trigger.name)
        if item.error is None:
            self.metrics.delivered.labels(*names).inc()
            self.metrics.seconds.labels(*names).observe(max(0.0, time.time() - item.stored.arrived))
        self._end(lane, item, None)

    def give_up(self, lane: Lane, item: Item, outcome: Outcome) -> None:
        trigger = lane.trigger
        error = failure(trigger.subscriber, outcome, item.failures)
        if item.error is not None:
            sink = failure(trigger.delivery.dead_letter_sink or "", outcome, item.failures)
            error = {**item.error, "dead_letter_sink": sink}
        self.metrics.dead.labels(trigger.namespace, trigger.name).inc()
        log.warning(
            "event %s to %s/%s is a dead letter after %d attempts: %s %s",
            item.stored.event.id,
            trigger.namespace,
            trigger.name,
            item.failures,
            outcome.status or "",
            outcome.reason[:200],
        )
        self.retention.need(item.seq, len(item.stored.event.data))
        row = (trigger.namespace, trigger.name, item.seq, time.time(), orjson.dumps(error).decode())
        self._end(lane, item, row)

    def retried(self, lane: Lane) -> None:
        self.metrics.retried.labels(lane.trigger.namespace, lane.trigger.name).inc()

    # How events get onto the disk and off it again.

    async def _store(self, namespace: str, broker: str, event: CloudEvent, hops: int) -> None:
        event = event.with_extensions(knativearrivaltime=now())
        seq, self.next_seq = self.next_seq, self.next_seq + 1
        stored = Stored(seq, namespace, broker, event, hops, time.time())
        lanes = [
            lane
            for lane in self.by_id.values()
            if lane.trigger.namespace == namespace
            and lane.trigger.broker == broker
            and lane.trigger.matches(event)
        ]
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        finish = settle(future)
        size = len(event.data)
        self.retention.add(seq, size, len(lanes))

        def done(error: Exception | None, result: Any) -> None:
            if error is None:
                for lane in lanes:
                    if lane.id in self.by_id:
                        self.backlog[lane.id] += 1
                        lane.offer(stored)
            else:
                self.retention.release(seq, len(lanes))
            finish(error, result)

        row = (
            seq,
            namespace,
            broker,
            stored.arrived,
            hops,
            orjson.dumps([lane.trigger.name for lane in lanes]).decode(),
            orjson.dumps(event.attributes()),
            event.data,
        )
        self.store.put(
            Change(done=done, size=size, event=row, triggers=tuple(lane.id for lane in lanes))
        )
        self.retention.trim()
        await future

    def _end(self, lane: Lane, item: Item, dead: tuple[Any, ...] | None) -> None:
        def done(error: Exception | None, result: Any) -> None:
            if error is None:
                self.retention.release(item.seq)
                if lane.id in self.by_id:
                    self.backlog[lane.id] -= 1
                    lane.release(item.seq)
            elif lane.id in self.by_id:  # in memory until the disk takes it again
                asyncio.get_running_loop().call_later(SETTLE_AGAIN_SECONDS, self.store.put, write)

        write = Change(done=done, settled=(lane.id, item.seq), dead=dead, urgent=False)
        self.store.put(write)

    def _forget(self, seqs: list[int]) -> None:
        def done(error: Exception | None, result: Any) -> None:
            if error is not None:
                asyncio.get_running_loop().call_later(SETTLE_AGAIN_SECONDS, self.store.put, write)

        write = Change(done=done, forget=seqs, urgent=False)
        self.store.put(write)

    def _add_lane(self, id: int, trigger: Trigger) -> Lane:
        lane = Lane(id, trigger, self)
        self.lanes[trigger.namespace, trigger.name] = lane
        self.by_id[id] = lane
        return lane

    def _backlogs(self) -> Iterator[tuple[str, str, int]]:
        for lane in list(self.by_id.values()):
            yield lane.trigger.namespace, lane.trigger.name, self.backlog[lane.id]


def iso(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC."""
    with contextlib.suppress(OverflowError, ValueError):
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
    return str(seconds)
