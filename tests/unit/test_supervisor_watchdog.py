"""The watchdog by its groups alone, as on macOS: these processes carry no mark."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from helpers.stack.local import watchdog
from helpers.stack.local.guard import Guard

SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.fixture
def sleeper() -> Iterator[Callable[..., subprocess.Popen]]:
    """Return start(code): a process in a group of its own."""
    started = []

    def start(code: str = SLEEP) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_it_ends_the_groups_it_knows_when_the_pipe_is_closed(sleeper):
    registered, stubborn, released = sleeper(), sleeper(STUBBORN), sleeper()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, "no-such-run"], stdin=subprocess.PIPE
    ) as dog:
        for line in (
            f"+{registered.pid}\n+{stubborn.pid}\n+{released.pid}\n",
            f"nonsense\n+\n+1\n-{released.pid}\n",
        ):
            dog.stdin.write(line.encode())
            dog.stdin.flush()
        assert registered.poll() is None
        started = time.monotonic()
        dog.stdin.close()
        assert registered.wait(2) == -signal.SIGTERM
        assert stubborn.wait(6) in (-signal.SIGKILL, -signal.SIGTERM)  # the latter: not yet set up
        assert dog.wait(4) == 0
        assert time.monotonic() - started < 7
    assert released.poll() is None


def test_a_group_whose_number_belongs_to_another_now_is_left_alone(sleeper):
    process = sleeper()
    watchdog.end({process.pid: "another start time"}, "no-such-run")
    assert process.poll() is None


def test_it_needs_neither_site_packages_nor_ours():
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", watchdog.__file__, "no-such-run"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stderr
    assert "subprocess" in shown
    for heavy in ("helpers", "psutil", "asyncio", "tensorflow"):
        assert heavy not in shown


@pytest.mark.timeout(30)
def test_its_successor_knows_all_groups(sleeper):
    process = sleeper()

    async def scenario() -> None:
        guard = Guard("no-such-run")
        await guard.start()
        guard.add(process.pid)
        first = guard.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        while guard.pid in (None, first):
            await asyncio.sleep(0.01)
        assert process.poll() is None
        await guard.stop()
        assert guard.pid is None

    asyncio.run(scenario())
    assert process.wait(5) == -signal.SIGTERM


@pytest.mark.timeout(30)
def test_one_that_reads_no_more_is_replaced(sleeper):
    process = sleeper()

    async def scenario() -> None:
        guard = Guard("no-such-run")
        await guard.start()
        guard.add(process.pid)
        first = guard.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        for group in range(100_000, 120_000):  # more than a pipe holds
            guard.add(group)
            guard.discard(group)
        while guard.pid in (None, first):
            await asyncio.sleep(0.01)
        await guard.stop()

    asyncio.run(scenario())
    assert process.wait(5) == -signal.SIGTERM
