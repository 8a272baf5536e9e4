"""A daemon that is killed leaves no server and no port behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from helpers.stack.local.process import STACK_VARIABLE

pytestmark = pytest.mark.timeout(60)

DAEMON = r"""
import asyncio, json, sys
from pathlib import Path
from helpers.stack.local.spec import ServerSpec
from helpers.stack.local.supervisor import Supervisor

SERVER = '''
import http.server, signal, subprocess, sys
sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
subprocess.Popen(sleeper)
subprocess.Popen(sleeper, start_new_session=True)
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''

async def main():
    supervisor = Supervisor(Path(sys.argv[1]))
    await supervisor.start()
    for name in ("plain", "stubborn"):
        supervisor.apply(
            ServerSpec(name, name, (sys.executable, "-S", "-c", SERVER, "{port}", name))
        )
    while True:
        known = {status.name: [status.pid, status.address] for status in supervisor.status()
                 if status.state == "ready"}
        facts = {"id": supervisor.id, "watchdog": supervisor.watchdog_pid, "servers": known}
        new = Path(sys.argv[1], "facts.new")
        new.write_text(json.dumps(facts))
        new.rename(Path(sys.argv[1], "facts.json"))
        await asyncio.sleep(0.05)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


class Daemon:
    """A supervisor in a process of its own, with two servers and four of their children."""

    def __init__(self, folder: Path, loop: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(folder), loop], start_new_session=True
        )

    def facts(self) -> dict:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / "facts.json").read_text())
        return {"id": "", "watchdog": None, "servers": {}}

    def is_up(self) -> bool:
        return len(self.facts()["servers"]) == 2

    def left(self) -> list[psutil.Process]:
        """Everything of it that runs, itself left out."""
        facts = self.facts()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                marked = process.environ().get(STACK_VARIABLE) == facts["id"]
                if (marked or process.pid == facts["watchdog"]) and process.status() != "zombie":
                    found.append(process)
        return found

    def free_ports(self) -> bool:
        for _, address in self.facts()["servers"].values():
            host, port = address.split(":")
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def loop() -> str:
    """Of the daemon."""
    return "uvloop"


@pytest.fixture
def daemon(loop: str, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose servers are ready."""
    one = Daemon(tmp_path, loop)
    try:
        until(one.is_up, "the servers are ready")
        assert len(one.left()) == 7  # two servers, two children each, the watchdog
        yield one
    finally:
        one.kill()
        for process in one.left():
            with contextlib.suppress(psutil.Error):
                process.kill()


def until(condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_nothing_survives_a_killed_daemon(daemon):
    daemon.kill()
    until(lambda: not daemon.left(), "all processes are gone", 8)
    assert daemon.free_ports()


def test_a_watchdog_that_was_killed_is_replaced_and_knows_all(daemon):
    first = daemon.facts()["watchdog"]
    os.kill(first, signal.SIGKILL)
    until(lambda: daemon.facts()["watchdog"] not in (None, first), "another watchdog")
    daemon.kill()
    until(lambda: not daemon.left(), "all processes are gone", 8)
    assert daemon.free_ports()


def test_without_a_watchdog_the_next_daemon_sweeps(daemon):
    # Stopped, the daemon cannot replace it.
    os.kill(daemon.process.pid, signal.SIGSTOP)
    watchdog = psutil.Process(daemon.facts()["watchdog"])
    watchdog.kill()
    until(lambda: watchdog.status() == psutil.STATUS_ZOMBIE, "the watchdog is dead")
    before = {process.pid for process in daemon.left()}
    daemon.kill()
    assert len(before) == 6
    (daemon.folder / "facts.json").unlink()
    second = Daemon(daemon.folder, "asyncio")
    try:
        until(second.is_up, "the second daemon's servers are ready")
        now = {process.pid for process in second.left()}
        assert len(now) == 7
        assert not before & now
    finally:
        second.kill()
        until(lambda: not second.left(), "all processes are gone", 8)


def test_the_watchdog_outlives_the_signals_of_a_terminal(daemon):
    watchdog = daemon.facts()["watchdog"]
    assert os.getsid(watchdog) == watchdog
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(watchdog, number)
    daemon.kill()
    until(lambda: not daemon.left(), "all processes are gone", 8)
