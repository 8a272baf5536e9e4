"""A clock that jumps: nothing is lost, counted wrongly or waits longer than it should."""

from __future__ import annotations

import asyncio
import datetime
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from helpers.serving.broker import broker as broker_module
from helpers.serving.broker.broker import Broker
from helpers.serving.broker.ingress import NearIngress
from helpers.serving.broker.model import Trigger
from helpers.serving.broker.retention import Limits
from helpers.serving.common.server import bind, uvicorn_config
from helpers.serving.gateway import orchestrator as orchestrator_module
from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.client import Answer, PooledClient
from helpers.serving.gateway.routes import RouteTable
from helpers.serving.payload_log.cli import make_app

HOUR = 3600.0
INDEX = "inference-log-seldon-default-model-main"


class Clock:
    """The wall clock of all servers of this process, moved by `offset` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.offset)

        def now() -> str:
            at = datetime.datetime.fromtimestamp(real() + self.offset, datetime.UTC)
            return at.isoformat().replace("+00:00", "Z")

        monkeypatch.setattr(broker_module, "now", now)
        monkeypatch.setattr(orchestrator_module, "now", now)


class Model(PooledClient):
    """Answers by itself; brokers are asked over HTTP."""

    async def send(self, method, base, path, headers, body, seconds) -> Answer:
        return Answer(200, [(b"content-type", b"application/json")], b'{"predictions": [[1.0]]}')


@asynccontextmanager
async def served(app, listener: socket.socket):
    server = uvicorn.Server(uvicorn_config(app, 1.0))
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await task


async def until(check: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await check():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("jump", [-HOUR, HOUR], ids=["back", "forward"])
def test_a_clock_that_jumps(jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def scenario() -> None:
        listener = bind("127.0.0.1", 0)
        log = f"http://127.0.0.1:{listener.getsockname()[1]}"
        broker = Broker(tmp_path / "broker", registry := CollectorRegistry(), Limits())
        await broker.start()
        await broker.put_trigger(
            Trigger.model_validate(
                {"namespace": "default", "name": "log", "broker": "default", "subscriber": log}
            )
        )
        logger = {"url": "http://127.0.0.1:9/default/default", "mode": "all"}
        model = {"name": "main", "model": "m", "url": "http://127.0.0.1:1", "logger": logger}
        one = {
            "namespace": "default",
            "name": "model",
            "protocol": "tensorflow",
            "predictors": [model],
        }
        gateway = Gateway(
            RouteTable.model_validate({"deployments": [one]}),
            upstream=Model(),
            spool=tmp_path / "spool",
            near=NearIngress(broker, "127.0.0.1:9"),
        )
        transport = httpx.ASGITransport(app=gateway)

        async def predict(first: int) -> None:
            async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
                for number in range(first, first + 10):
                    answer = await client.post(
                        "/seldon/default/model/v1/models/m:predict",
                        content=b'{"instances": [[1.0]]}',
                        headers={"seldon-puid": f"p{number}"},
                    )
                    assert answer.status_code == 200

        await predict(0)  # the log does not answer yet: deliveries wait for their next attempt
        clock.offset = jump
        await predict(10)
        async with served(make_app(tmp_path / "log"), listener):
            await predict(20)
            async with httpx.AsyncClient(base_url=log) as client:

                async def complete() -> bool:
                    # A log that is busy answers 503, and is asked again.
                    found = (await client.get("/v1/counts")).json().get("counts", {}).get(INDEX, {})
                    return found.get("request") == found.get("response") == 30

                with suppress(TimeoutError):
                    await until(complete, 30)
                found = (await client.get("/v1/counts")).json()["counts"][INDEX]
                assert (found["request"], found["response"]) == (30, 30)
                for number in range(30):
                    answer = (await client.get(f"/v1/requests/p{number}")).json()
                    (document,) = answer["documents"]
                    assert {"request", "response"} <= document["_source"].keys()
            await gateway.aclose()
            await broker.stop()
        labels = {"namespace": "default", "trigger": "log"}
        assert registry.get_sample_value("broker_deliveries_total", labels) == 60
        assert registry.get_sample_value("broker_dead_letters_total", labels) in (None, 0)
        assert registry.get_sample_value("broker_delivery_seconds_sum", labels) >= 0

    asyncio.run(scenario())
