"""More requests than the model can serve, and consumers that cannot keep up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.timeout(180)

SLOTS, SECONDS = 4, 0.1  # what the model works on at once, and how long: 40 requests a second
CAPACITY = SLOTS / SECONDS
IN_FLIGHT = 8
USUAL_SECONDS, OVER_SECONDS = 2, 3
PATH = "/seldon/default/model/v1/models/m:predict"
BODY = json.dumps({"instances": [[0.123456789] * 400]}).encode()


@dataclass
class Answer:
    status: int
    seconds: float
    retry_after: str | None


class Load:
    """Requests to one gateway, each with its time from when it was due."""

    def __init__(self, url: str) -> None:
        self.url = url + PATH
        self.answers: list[Answer] = []

    def times(self, status: int) -> np.ndarray:
        return np.array([one.seconds for one in self.answers if one.status == status])

    async def closed(self, clients: int, seconds: float) -> None:
        """So many clients, each with one request at a time."""
        until = time.perf_counter() + seconds
        async with self._session() as session:

            async def client() -> None:
                while time.perf_counter() < until:
                    await self._one(session)

            await asyncio.gather(*(client() for _ in range(clients)))

    async def open(self, rate: float, seconds: float) -> None:
        """So many requests a second, answered or not."""
        started = time.perf_counter()
        tasks = []
        async with self._session() as session:
            for number in range(round(rate * seconds)):
                await asyncio.sleep(started + number / rate - time.perf_counter())
                tasks.append(asyncio.create_task(self._one(session)))
            await asyncio.gather(*tasks)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def _one(self, session: aiohttp.ClientSession) -> None:
        started = time.perf_counter()
        async with session.post(self.url, data=BODY) as answer:
            await answer.read()
            told = answer.headers.get("retry-after")
        self.answers.append(Answer(answer.status, time.perf_counter() - started, told))


def routes(path: Path, model: str, **more: object) -> Path:
    predictor = {"name": "main", "model": "m", "url": model, "max_in_flight": IN_FLIGHT, **more}
    one = {
        "namespace": "default",
        "name": "model",
        "protocol": "tensorflow",
        "predictors": [predictor],
    }
    path.write_text(json.dumps({"deployments": [one]}))
    return path


def test_four_times_the_load_is_refused_quickly_and_costs_the_rest_nothing(
    program: Callable, slow_server: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = slow_server(SLOTS, SECONDS)
    config = routes(tmp_path / "routes.json", model)
    gateway = program("-m", "helpers.serving.gateway", "--port=0", f"--config={config}")
    url = gateway.listening()
    asyncio.run(Load(url).closed(2, 0.5))  # connections and code are warm

    usual = Load(url)
    asyncio.run(usual.closed(IN_FLIGHT, USUAL_SECONDS))
    assert {one.status for one in usual.answers} == {200}
    memory = psutil.Process(gateway.process.pid).memory_info().rss

    over = Load(url)
    asyncio.run(over.open(4 * CAPACITY, OVER_SECONDS))
    grown = psutil.Process(gateway.process.pid).memory_info().rss - memory
    after = Load(url)
    asyncio.run(after.closed(1, 1))

    accepted, refused = over.times(200), over.times(503)
    with capsys.disabled():
        print(
            f"\n{4 * CAPACITY:.0f} requests/s for {OVER_SECONDS} s at a model of {CAPACITY:.0f}: "
            f"{len(accepted)} accepted, p50 {np.median(accepted) * 1000:.0f} ms, p99 "
            f"{np.quantile(accepted, 0.99) * 1000:.0f} ms (usual {np.median(usual.times(200)) * 1000:.0f} "
            f"and {np.quantile(usual.times(200), 0.99) * 1000:.0f}); {len(refused)} refused, p50 "
            f"{np.median(refused) * 1000:.1f} ms, p99 {np.quantile(refused, 0.99) * 1000:.0f} ms; "
            f"memory +{grown / 2**20:.1f} MiB; then p50 {np.median(after.times(200)) * 1000:.0f} ms"
        )
    assert {one.status for one in over.answers} == {200, 503}
    assert {one.retry_after for one in over.answers if one.status == 503} == {"1"}
    assert len(accepted) / OVER_SECONDS > 0.7 * len(usual.answers) / USUAL_SECONDS
    assert np.median(accepted) < 1.5 * np.median(usual.times(200))
    assert np.quantile(accepted, 0.99) < 2 * np.quantile(usual.times(200), 0.99) + 0.1
    assert np.median(refused) < SECONDS / 2
    assert np.quantile(refused, 0.99) < SECONDS * 5
    assert grown < 32 * 2**20
    assert {one.status for one in after.answers} == {200}
    assert np.median(after.times(200)) < 2 * SECONDS
    counted = httpx.get(f"{url}/prometheus").text
    told = 'seldon_api_executor_server_requests_seconds_count{code="503"'
    assert told in counted  # as Seldon's own does


def test_a_consumer_that_takes_seconds_does_not_slow_predictions(
    program: Callable, slow_server: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = slow_server(SLOTS, SECONDS)
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    broker = program(
        "-m",
        "helpers.serving.broker",
        "--port=0",
        f"--state={tmp_path / 'broker'}",
        f"--token-file={token}",
    ).listening()
    slow = slow_server(SLOTS, 3)
    config = routes(
        tmp_path / "routes.json", model, logger={"url": f"{broker}/default/default", "mode": "all"}
    )
    gateway = program(
        "-m",
        "helpers.serving.gateway",
        "--port=0",
        f"--config={config}",
        f"--spool={tmp_path / 'spool'}",
    ).listening()
    control = httpx.Client(
        base_url=f"{broker}/control/v1", headers={"authorization": "Bearer secret"}, timeout=30
    )
    brokers = control.put("/brokers/default/default")
    assert brokers.is_success, brokers.text
    asyncio.run(Load(gateway).closed(2, 0.5))
    before = Load(gateway)
    asyncio.run(before.closed(2, 2))
    trigger = {"broker": "default", "subscriber": f"{slow}/v1/models/m:predict"}
    added = control.put("/triggers/default/slow", json=trigger)
    assert added.is_success, added.text
    during = Load(gateway)
    asyncio.run(during.closed(2, 3))
    control.close()
    with capsys.disabled():
        print(
            f"\nconsumer of 3 s: p50 {np.median(during.times(200)) * 1000:.1f} ms, without "
            f"{np.median(before.times(200)) * 1000:.1f} ms"
        )
    assert {one.status for one in [*before.answers, *during.answers]} == {200}
    assert np.median(during.times(200)) < 1.25 * np.median(before.times(200)) + 0.005
    waiting = 'broker_backlog_events{namespace="default",trigger="slow"}'
    counted = httpx.get(f"{broker}/metrics").text
    assert any(
        line.startswith(waiting) and float(line.split()[-1]) > 20 for line in counted.splitlines()
    )
