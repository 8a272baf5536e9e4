"""Payload events on disk: kept before an answer goes out, replayed, bounded, and never in the way."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from helpers.serving.broker.broker import Broker
from helpers.serving.broker.ingress import NearIngress
from helpers.serving.broker.retention import Limits
from helpers.serving.common.errors import ServingError
from helpers.serving.common.events import CloudEvent
from helpers.serving.common.metrics import new_registry
from helpers.serving.gateway import events as events_module
from helpers.serving.gateway import spool as spool_module
from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.client import Answer, Header, UpstreamDownError
from helpers.serving.gateway.events import EventSender
from helpers.serving.gateway.metrics import Metrics
from helpers.serving.gateway.routes import RouteTable
from helpers.serving.gateway.spool import FILE, Spool

MODEL, BROKER = "http://127.0.0.1:1", "http://127.0.0.1:2"
URL = f"{BROKER}/default/default"


class Servers:
    """A model that answers, and a broker that does while it is up."""

    def __init__(self, broker_up: bool = False) -> None:
        self.broker_up = broker_up
        self.got: list[str] = []

    async def send(
        self,
        method: str,
        base: str,
        path: str,
        headers: Iterable[Header],
        body: bytes,
        seconds: float,
    ) -> Answer:
        if base == MODEL:
            return Answer(200, [(b"content-type", b"application/json")], b'{"predictions": [[1]]}')
        if not self.broker_up:
            raise UpstreamDownError("no connection", started=False)
        self.got.append(dict(headers)[b"ce-id"].decode())
        return Answer(202, [], b"")

    async def aclose(self) -> None:
        pass


def table(url: str = URL, shadow: bool = False) -> RouteTable:
    predictor = {"name": "main", "model": "m", "url": MODEL, "logger": {"url": url}}
    predictors = [predictor]
    if shadow:
        predictors.append(predictor | {"name": "copy", "traffic": 0, "shadow": True})
    one = {"namespace": "default", "name": "c", "protocol": "tensorflow", "predictors": predictors}
    return RouteTable.model_validate({"deployments": [one]})


async def predict(gateway: Gateway, puid: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=gateway)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.post(
            "/seldon/default/c/v1/models/m:predict",
            content=b'{"instances": [[1]]}',
            headers={"seldon-puid": puid},
        )


def on_disk(folder: Path) -> int:
    with sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True) as database:
        return database.execute("SELECT count(*) FROM events").fetchone()[0]


async def until_empty(folder: Path, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while on_disk(folder):
            await asyncio.sleep(0.02)


async def until_sent(gateway: Gateway, seconds: float = 10.0) -> None:
    """Unlike `flush`, which would send what is held."""
    async with asyncio.timeout(seconds):
        while gateway.events.waiting:
            await asyncio.sleep(0.01)


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


async def killed(gateway: Gateway) -> None:
    """What is left of a gateway after kill -9: its file, and its lock not held any more."""
    for task in gateway.events._tasks():
        task.cancel()
    await asyncio.sleep(0)
    kept = gateway.events._spool
    assert kept is not None
    if kept._timer is not None:
        kept._timer.cancel()
    kept._lock.close()


class HeldModel(Servers):
    """Answers once it is let go, while the broker takes events."""

    def __init__(self) -> None:
        super().__init__(broker_up=True)
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    async def send(self, method: str, base: str, *rest: Any) -> Answer:
        if base == MODEL:
            self.asked.set()
            await self.let_go.wait()
        return await super().send(method, base, *rest)


@asynccontextmanager
async def asked_of_held_models(count: int = 1) -> AsyncIterator[tuple[HeldModel, Gateway]]:
    """Predictions whose models answer at the end of the block; all of their events arrive."""
    servers = HeldModel()
    gateway = Gateway(table(), upstream=servers)
    asked = [asyncio.create_task(predict(gateway, f"r{number}")) for number in range(count)]
    async with asyncio.timeout(10):
        await servers.asked.wait()
        yield servers, gateway
        assert not any(task.done() for task in asked)
        servers.let_go.set()
        await asyncio.gather(*asked)
    await until_sent(gateway)
    assert len(set(servers.got)) == 2 * count
    await gateway.aclose()


@pytest.fixture
def _held_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is sent was released, and did not just wait long enough."""
    monkeypatch.setattr(events_module, "HOLD_SECONDS", 60.0)


@pytest.mark.usefixtures("_held_for_a_minute")
def test_no_event_is_sent_while_its_model_computes() -> None:
    async def scenario() -> None:
        async with asked_of_held_models() as (servers, gateway):
            await asyncio.sleep(0.05)
            assert (servers.got, gateway.events.waiting) == ([], 1)

    run(scenario())


@pytest.mark.usefixtures("_held_for_a_minute")
def test_events_of_more_requests_than_a_few_are_sent_at_once() -> None:
    async def scenario() -> None:
        few = events_module.HOLD_REQUESTS
        async with asked_of_held_models(few + 3) as (servers, gateway):
            while len(servers.got) < 3:
                await asyncio.sleep(0.01)
            assert (len(servers.got), gateway.events.waiting) == (3, few)

    run(scenario())


def test_a_model_that_takes_long_does_not_hold_its_events_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events_module, "HOLD_SECONDS", 0.05)

    async def scenario() -> None:
        async with asked_of_held_models() as (servers, _):
            while not servers.got:
                await asyncio.sleep(0.01)

    run(scenario())


@pytest.mark.usefixtures("_held_for_a_minute")
def test_a_shadows_events_are_sent_when_its_model_has_answered() -> None:
    """It has the id of the request that it is a copy of, and mostly answers later."""

    async def scenario() -> None:
        servers = Servers(broker_up=True)
        gateway = Gateway(table(shadow=True), upstream=servers)
        await predict(gateway, "r")
        async with asyncio.timeout(10):
            while len(servers.got) < 4:
                await asyncio.sleep(0.01)
        await until_sent(gateway)
        await gateway.aclose()

    run(scenario())


def test_who_stops_sends_what_comes_meanwhile() -> None:
    async def scenario() -> None:
        servers = Servers()  # the first event has to wait for the broker
        sender = EventSender(servers, metrics())
        sender.put(URL, CloudEvent(type="t", source="s", extensions={"requestid": "early"}))
        flushing = asyncio.create_task(sender.flush(10))
        await asyncio.sleep(0)
        sender.put(URL, CloudEvent(type="t", source="s", extensions={"requestid": "late"}))
        servers.broker_up = True
        assert await flushing
        assert sender.waiting == 0
        assert len(servers.got) == 2
        await sender.aclose(10)

    run(scenario())


def test_who_stops_sends_what_is_held() -> None:
    async def scenario() -> None:
        servers = Servers(broker_up=True)
        sender = EventSender(servers, metrics())
        sender.put(URL, CloudEvent(type="t", source="s", extensions={"requestid": "r"}))
        assert servers.got == []
        await sender.aclose(10)
        assert len(servers.got) == 1
        assert sender.waiting == 0

    run(scenario())


def test_an_answered_request_is_on_disk_and_delivered_by_the_next_gateway(tmp_path: Path) -> None:
    async def scenario() -> None:
        servers = Servers()
        first = Gateway(table(), upstream=servers, spool=tmp_path)
        for number in range(5):
            assert (await predict(first, f"r{number}")).status_code == 200
            assert on_disk(tmp_path) == 2 * (number + 1)
        await killed(first)
        servers.broker_up = True
        second = Gateway(table(), upstream=servers, spool=tmp_path)
        assert servers.got == []
        second.events.replay()
        assert await second.events.flush(10)
        assert len(set(servers.got)) == len(servers.got) == 10
        assert second.metrics.events_replayed._value.get() == 10
        await until_empty(tmp_path)
        await second.aclose()

    run(scenario())


def test_what_is_delivered_at_once_is_not_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        kept = Spool(tmp_path, metrics())
        seq = kept.put(URL, CloudEvent(type="t", source="s", extensions={"requestid": "r"}))
        kept.done(seq)
        kept.keep("r")
        assert on_disk(tmp_path) == 0
        assert not kept._new
        assert not kept._done
        kept.close()

    run(scenario())


def test_a_graceful_stop_leaves_what_was_not_delivered(tmp_path: Path) -> None:
    async def scenario() -> None:
        gateway = Gateway(table(), upstream=Servers(), spool=tmp_path)
        await predict(gateway, "r")
        await gateway.events.aclose(0.01)
        assert on_disk(tmp_path) == 2
        again = Spool(tmp_path, metrics())
        ((_, address, event), _) = again.left()
        assert address == URL
        assert event.extensions["requestid"] == "r"
        assert event.data == b'{"instances": [[1]]}'
        again.close()

    run(scenario())


def test_too_many_events_are_dropped_and_counted_here_and_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        counted = metrics()
        sender = EventSender(Servers(), counted, max_events=4, spool=Spool(tmp_path, counted))
        for number in range(6):
            sender.put(URL, CloudEvent(type="t", source="s", extensions={"requestid": f"{number}"}))
            sender.release(f"{number}")
        assert on_disk(tmp_path) == 4
        assert counted.events_dropped.labels("queue full")._value.get() == 2
        await sender.aclose(0.01)
        counted = metrics()
        smaller = EventSender(Servers(), counted, max_events=3, spool=Spool(tmp_path, counted))
        smaller.replay()
        assert smaller.waiting == 3
        assert counted.events_dropped.labels("queue full")._value.get() == 1
        await smaller.aclose(0.01)
        assert on_disk(tmp_path) == 3

    run(scenario())


def test_a_full_disk_costs_durability_only_and_is_over_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spool_module, "SWEEP_SECONDS", 0.05)

    async def scenario() -> None:
        gateway = Gateway(table(), upstream=Servers(), spool=tmp_path)
        database = gateway.events._spool._database
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")  # then: database or disk is full
        for number in range(40):
            body = b'{"instances": [[1]]}'.ljust(20_000)
            transport = httpx.ASGITransport(app=gateway)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                answer = await client.post(
                    "/seldon/default/c/v1/models/m:predict",
                    content=body,
                    headers={"seldon-puid": f"r{number}"},
                )
            assert answer.status_code == 200
        assert gateway.metrics.spool_errors._value.get() > 0
        assert gateway.events.waiting == 80
        database.execute("PRAGMA max_page_count = 1000000")
        async with asyncio.timeout(10):
            while on_disk(tmp_path) < 80:
                await asyncio.sleep(0.02)
        await gateway.events.aclose(0.01)

    run(scenario())
    told = [
        record.getMessage() for record in caplog.records if "cannot be written" in record.message
    ]
    assert len(told) == 1
    assert "full" in told[0]
    assert any(
        "written to" in record.message and "again" in record.message for record in caplog.records
    )


def test_a_damaged_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        kept = Spool(tmp_path, metrics())
        for number in range(50):
            event = CloudEvent(
                type="t", source="s", data=b"x" * 5000, extensions={"requestid": f"{number}"}
            )
            kept.put(URL, event)
            kept.keep(f"{number}")
        kept.close()
        whole = (tmp_path / FILE).read_bytes()
        (tmp_path / FILE).write_bytes(whole[:9000] + os.urandom(30_000) + whole[39_000:])
        again = Spool(tmp_path, metrics())
        assert list(again.left()) == []
        again.close()

    run(scenario())
    assert (tmp_path / "spool.damaged").exists()
    assert "is damaged" in caplog.text


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    first = Spool(tmp_path, metrics())
    with pytest.raises(ServingError, match=f"Another gateway uses the folder {tmp_path}"):
        Spool(tmp_path, metrics())
    first._lock.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match="cannot be kept in"):
        Spool(tmp_path / "file" / "folder", metrics())


def test_a_broker_in_the_same_process_needs_no_address(tmp_path: Path) -> None:
    """Its port is another one after each start: what was put for the old one is for it as well."""

    async def scenario() -> None:
        broker = Broker(tmp_path / "broker", new_registry(), Limits())
        gateway = Gateway(
            table(), upstream=Servers(), spool=tmp_path / "g", near=NearIngress(broker, URL[7:18])
        )
        assert (await predict(gateway, "early")).status_code == 200
        assert on_disk(tmp_path / "g") == 2  # the broker has not started
        await killed(gateway)
        await broker.start()
        await broker.declare_broker("default", "default")
        gateway = Gateway(
            table("http://127.0.0.1:99/default/default"),
            upstream=Servers(),
            spool=tmp_path / "g",
            near=NearIngress(broker, "127.0.0.1:99"),
        )
        gateway.events.replay()
        assert (await predict(gateway, "late")).status_code == 200
        assert await gateway.events.flush(10)

        def stored(database: sqlite3.Connection) -> list[tuple[str]]:
            query = "SELECT attributes ->> 'requestid' FROM events ORDER BY seq"
            return [row[0] for row in database.execute(query)]

        assert await broker.store.read(stored) == ["early", "early", "late", "late"]
        await gateway.aclose()
        await broker.stop()

    run(scenario())


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://127.0.0.1:5/walkthrough/default", "/walkthrough/default"),
        ("http://127.0.0.1:6/walkthrough/default", None),
        ("http://127.0.0.1:5/walkthrough", None),
        ("http://127.0.0.1:5/walkthrough/default?x=1", None),
    ],
)
def test_only_the_broker_s_own_addresses_are_near(url: str, path: str | None) -> None:
    assert NearIngress(None, "127.0.0.1:5").path(url) == path  # type: ignore[arg-type]
