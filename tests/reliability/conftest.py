"""A local stack that is hurt while predictions keep coming, and the count of what the log has of them."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson
import pytest

from helpers import artifacts
from helpers.client import Client
from helpers.errors import StackError
from helpers.serving.common.polling import WaitError, wait_for
from helpers.stack.documents import ROOT
from helpers.stack.local.client import LocalStack

LOGGED = (
    "storage/s3-credentials.yaml",
    "eventing/broker.yaml",
    "logging/payload-logger.yaml",
    "eventing/trigger-payload-logger.yaml",
    "logging/cifar10-logged.yaml",
    "detectors/outlier-vae.yaml",
    "eventing/trigger-outlier-vae.yaml",
)
PATH = "/v1/models/resnet32:predict"
CLIENTS = 4
PAUSE_SECONDS = 0.5  # before another attempt
ACCEPT_SECONDS = 120.0  # for one request, over all its attempts: a stack is started again meanwhile
LOG_SECONDS = 240.0  # for the payload log to have everything; deliveries wait for whom they wait
DOCUMENTS = 500  # of one test that are read over HTTP; all events are counted on disk
KINDS = frozenset({"request", "response", "outlier"})


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Return poll(check, what, seconds=30), which returns the first true answer of `check`."""

    def poll(check: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        return wait_for(check, what, seconds=seconds, every=0.2, errors=(OSError, StackError))

    return poll


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], Path]:
    """Return path(name): a manifest of this repository."""
    return lambda name: ROOT / "manifests" / name


@pytest.fixture(scope="session")
def bodies() -> list[bytes]:
    """Requests to send: one image each."""
    with Client("http://nowhere") as client:
        images = np.random.default_rng(0).random((16, 32, 32, 3)).astype(np.float32)
        return [client.encode(images[number : number + 1]) for number in range(len(images))]


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, manifest) -> Iterator[LocalStack]:
    """Model, payload log and outlier detector, ready."""
    if not artifacts.exists("cifar10", "resnet32"):
        pytest.skip("artifacts/cifar10/resnet32 is not here")
    stack = LocalStack(folder=tmp_path_factory.mktemp("faults") / "state")
    try:
        stack.apply(*map(manifest, LOGGED))
        stack.wait(timeout=180)
        yield stack
    finally:
        stack.down()


class Program:
    """A process that says where it listens, as all servers here do.

    Args:
        arguments: of Python.
        log: what it writes.
        options: of Popen.
    """

    def __init__(self, arguments: list[str], log: Path, **options: Any) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], stdout=file, stderr=file, cwd=ROOT, **options
            )

    def said(self) -> str:
        """All that it has written."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def listening(self) -> str:
        """Wait until it listens, and return its `http://host:port`."""

        def found() -> str | None:
            assert self.process.poll() is None, self.said()
            told = re.search(r"listening on (http://[\d.]+:\d+)", self.said())
            return told[1] if told else None

        return wait_for(found, "a server to listen", seconds=60)

    def ended(self, seconds: float = 60) -> int:
        """Wait for its end, and return its exit code."""
        return self.process.wait(seconds)

    def stop(self) -> None:
        """End it, gracefully where that goes."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Return program(*arguments, **options), a Program that ends with the test."""
    programs: list[Program] = []

    def start(*arguments: str, **options: Any) -> Program:
        programs.append(Program(list(arguments), tmp_path / f"{len(programs)}.log", **options))
        return programs[-1]

    yield start
    for one in programs:
        one.stop()


# Takes `seconds` for a request, `slots` at a time; the rest waits, as at a real model.
SLOW = """
import asyncio, sys
from aiohttp import web
slots, seconds = asyncio.Semaphore(int(sys.argv[1])), float(sys.argv[2])
async def predict(request):
    await request.read()
    async with slots:
        await asyncio.sleep(seconds)
    return web.json_response({"predictions": [[0.1, 0.9]]})
async def main():
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/models/m:predict", predict)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def slow_server(program) -> Callable[[int, float], str]:
    """Return start(slots, seconds): a server at whose /v1/models/m:predict requests wait; its address."""
    return lambda slots, seconds: program("-c", SLOW, str(slots), str(seconds)).listening()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return mount(options): a file system of its own; the second time it gets other options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        told = f"remount,{options}" if mounted else options
        command = ["mount", "-t", "tmpfs", "-o", told, "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode and not mounted:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted = True
        return folder

    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here")
    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def kills() -> dict[str, Callable[[LocalStack], None]]:
    """What can be killed, and how."""
    return {
        "detector": lambda stack: kill(stack, "outlier-vae"),
        "model": lambda stack: kill(stack, "cifar10-default-0-resnet32"),
        "explainer": lambda stack: kill(stack, "cifar10-default-explainer"),
        "payload-log": lambda stack: kill(stack, "payload-logger"),
        "gateway-and-broker": kill_daemon,
    }


def pid(stack: LocalStack, name: str) -> int:
    """The process of a server that takes requests; 0 where there is none."""
    found = [one for one in stack.status() if one.name == name and one.state != "stopping"]
    return (found[0].pid or 0) if found else 0


def kill(stack: LocalStack, name: str) -> None:
    """kill -9 of a server, which is started again by the stack."""
    os.kill(wait_for(lambda: pid(stack, name), f"{name} to run", seconds=60), signal.SIGKILL)


def kill_daemon(stack: LocalStack) -> None:
    """kill -9 of gateway, broker and supervisor, with which every server ends; all are started again."""
    found = stack.state.listening()
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    wait_for(lambda: not stack.state.is_running(), "the daemon to be gone", seconds=20)
    stack.up()


@dataclass
class Traffic:
    """So many predictions by CLIENTS at a time, each asked again with the same id until it is answered."""

    stack: LocalStack
    bodies: list[bytes]
    count: int
    name: str
    accepted: set[str] = field(default_factory=set)
    again: set[str] = field(default_factory=set)  # those that took more than one attempt
    refused: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def run(self, hurt: Callable[[], None] | None = None, at: float = 0.4) -> None:
        """Send all, and call `hurt` once the share `at` of them has been answered."""
        numbers = iter(range(self.count))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                self._accept(f"{self.name}-{number}", self.bodies[number % len(self.bodies)])

        threads = [threading.Thread(target=work, daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        if hurt is not None:
            wait_for(
                lambda: len(self.accepted) >= at * self.count,
                "predictions to be answered",
                seconds=ACCEPT_SECONDS,
                every=0.02,
            )
            hurt()
        for thread in threads:
            thread.join(ACCEPT_SECONDS + self.count)
        assert not any(thread.is_alive() for thread in threads)
        assert self.lost == []
        assert len(self.accepted) == self.count

    def _accept(self, id: str, body: bytes) -> None:
        until = time.monotonic() + ACCEPT_SECONDS
        while time.monotonic() < until:
            started = time.perf_counter()
            told = self._attempt(id, body)
            if told == "200":
                self.seconds.append(time.perf_counter() - started)
                self.accepted.add(id)
                return
            self.refused[told] += 1
            self.again.add(id)
            time.sleep(PAUSE_SECONDS)
        self.lost.append(id)

    def _attempt(self, id: str, body: bytes) -> str:
        own = threading.current_thread().__dict__
        try:
            if own.get("connection") is None:
                parts = urlsplit(self.stack.url("cifar10"))
                own["prefix"] = parts.path
                own["connection"] = http.client.HTTPConnection(
                    parts.hostname or "", parts.port, timeout=30
                )
            headers = {"content-type": "application/json", "seldon-puid": id}
            own["connection"].request("POST", own["prefix"] + PATH, body, headers)
            answer = own["connection"].getresponse()
            answer.read()
            return str(answer.status)
        except (OSError, http.client.HTTPException, StackError) as problem:
            if own.get("connection") is not None:
                own["connection"].close()
            own["connection"] = None
            return type(problem).__name__

    def check(self, kinds: frozenset[str] = KINDS) -> str:
        """Wait until the payload log has every accepted request exactly once; return the counts."""

        def missing() -> list[str]:
            found = self._events()
            return [one for one in sorted(self.accepted) if not kinds <= found.get(one, {}).keys()]

        def whole() -> bool:
            nonlocal left
            left = missing()
            return not left

        left: list[str] = []
        try:
            wait_for(whole, "the payload log", seconds=LOG_SECONDS, every=1.0, errors=(OSError,))
        except WaitError:
            pytest.fail(f"{len(left)} of {self.count} are not whole in the log: {left[:5]}")
        found = self._events()
        twice = {
            one: found[one]
            for one in self.accepted - self.again
            if any(found[one][kind] != 1 for kind in kinds)
        }
        assert twice == {}, "events of requests that were sent once"
        # What readers get: one document, however often a request was sent and an event delivered.
        shown = sorted(self.accepted)[:: max(1, self.count // DOCUMENTS)]
        with httpx.Client(base_url=self.stack.url("payload-logger"), timeout=30) as reader:
            for one in shown:
                answer = reader.get(f"/v1/requests/{one}").raise_for_status()
                (document,) = orjson.loads(answer.content)["documents"]
                assert document["_id"] == one
                assert kinds <= document["_source"].keys()
        events = Counter(kind for one in self.accepted for kind in found[one].elements())
        return (
            f"{self.name}: {len(self.accepted)} accepted, {len(self.again)} of them after more "
            f"than one attempt {dict(self.refused)}; events in the log {dict(events)}, "
            f"{len(shown)} documents read"
        )

    def _events(self) -> dict[str, Counter[str]]:
        """Request -> kind -> events that the payload log has on disk; it merges those of one id."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for path in self.stack.state.folder.glob("servers/payload-logger-*/**/payloads.sqlite"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
                query = "SELECT request_id, kind FROM parts WHERE request_id LIKE ?"
                for request, kind in database.execute(query, [f"{self.name}-%"]):
                    found[request][kind] += 1
        return found


@pytest.fixture
def traffic(stack: LocalStack, bodies: list[bytes], request) -> Callable[[int], Traffic]:
    """Return traffic(count), whose requests have ids of this test's own."""
    name = request.node.name.replace("[", "-").replace("]", "")
    return lambda count: Traffic(stack, bodies, count, name)
