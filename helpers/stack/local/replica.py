"""Keeps one server process up: start, readiness, restart with backoff, stop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from helpers.errors import StackError
from helpers.stack.interface import ServerStatus
from helpers.stack.local import ready
from helpers.stack.local.guard import Guard
from helpers.stack.local.logs import Log
from helpers.stack.local.ports import Ports
from helpers.stack.local.process import Process
from helpers.stack.local.spec import ServerSpec

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5  # seconds before the first restart; doubles
LONGEST_PAUSE = 30.0
JITTER = 0.2  # of the pause, up or down: servers that died together do not start together
STEADY_SECONDS = 60.0  # of being ready, after which a death is the first again
KILL_SECONDS = 5.0  # from SIGKILL until a process is given up; only a broken disk holds one longer

POLL_SECONDS = (0.1, 0.5, 2.0)  # at first, later, once ready
POLLS_AT_FIRST = 20
FAILURES = 3  # in a row, after which a ready server is not ready any more


@dataclass(frozen=True)
class Surroundings:
    """What all servers of a supervisor share.

    Args:
        ports: where they get theirs.
        guard: ends them with the daemon.
        client: asks whether they are ready.
        environment: of every server.
        run: of this daemon; every process appends a number of its own.
        changed: called when a state or an address is another.
    """

    ports: Ports
    guard: Guard
    client: httpx.AsyncClient
    environment: Mapping[str, str]
    run: str
    changed: Callable[[], None]


_numbers = itertools.count(1)


class Replica:
    """A spec and the process that runs it now, if there is one.

    Only its task touches the process. It is never cancelled: `request_stop` asks it to end, which
    takes `stop_seconds` plus `KILL_SECONDS` at most, and `gone` is set once nothing is left.

    Args:
        spec: what to run.
        folder: of its own.
        log: of its own.
        shared: see `Surroundings`.
        after: replicas that must be gone before this one starts.
    """

    def __init__(
        self,
        spec: ServerSpec,
        *,
        folder: Path,
        log: Log,
        shared: Surroundings,
        after: Iterable[Replica] = (),
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.log = log
        self.restarts = 0
        self.process: Process | None = None
        self.has_been_ready = False
        self.gone = asyncio.Event()
        self._shared = shared
        self._after = list(after)
        self._state = "starting"
        self._since = time.monotonic()
        self._answers = False  # takes requests, or will when it is less busy
        self._reason = ""  # why it is not ready, from itself or from us
        self._reason_start = 0  # what stands behind it in the log is newer
        self._log_start = 0  # of the present process
        self._stop = asyncio.Event()
        self._stop_seconds = spec.stop_seconds
        self._keeps_folder = False
        self._task = asyncio.create_task(self._run(), name=f"supervise-{spec.name}")

    @property
    def state(self) -> str:
        """starting, ready, restarting or stopping."""
        return self._state

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to end."""
        return self._stop.is_set()

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it takes requests; None while it does not."""
        return self.process.address if self.process is not None and self._answers else None

    def status(self) -> ServerStatus:
        """Return what it does now; reads the end of its log."""
        process = self.process
        return ServerStatus(
            name=self.spec.name,
            owner=self.spec.owner,
            state=self._state,
            restarts=self.restarts,
            pid=process.pid if process is not None else None,
            address=":".join(map(str, process.address)) if process is not None else None,
            seconds=time.monotonic() - self._since,
            last_line=self._last_line(),
        )

    def request_stop(self, *, keep_folder: bool = False) -> None:
        """Ask it to end; `gone` tells when it has.

        Args:
            keep_folder: leave the spec's folder: it will be started again.
        """
        self._keeps_folder = keep_folder
        if not self._stop.is_set():
            self._stop.set()
            self._set("stopping")

    async def _run(self) -> None:
        try:
            for earlier in self._after:
                await earlier.gone.wait()
            self._after.clear()
            await self._keep_up()
        except Exception:
            log.exception("the supervision of %s broke off", self.spec.name)
        finally:
            if not self._keeps_folder:
                await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
            self.gone.set()
            self._shared.changed()

    async def _keep_up(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            self._set("starting")
            self._log_start = self.log.size()
            try:
                steady = await self._one_life()
            except StackError as problem:
                self._say(str(problem))
                steady = False
            except Exception as problem:  # a full disk, no more processes: may pass
                log.exception("%s cannot be started", self.spec.name)
                self._say(f"{self.spec.name} cannot be started: {problem}")
                steady = False
            if self._stop.is_set():
                return
            pause = FIRST_PAUSE if steady else pause
            self._set("restarting")
            seconds = pause * random.uniform(1 - JITTER, 1 + JITTER)
            pause = min(2 * pause, LONGEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), seconds)
                return
            self.restarts += 1

    async def _one_life(self) -> bool:
        """Start the program and wait for its end; return whether it was ready for long."""
        shared = self._shared
        process = await Process.start(
            self.spec,
            folder=self.folder,
            log=self.log,
            ports=shared.ports,
            environment=shared.environment,
            run=f"{shared.run}:{next(_numbers)}",
        )
        shared.guard.add(process.pid)
        self._reason, self._reason_start = "", self._log_start
        self.process = process
        shared.changed()
        ready_since: float | None = None
        poll = asyncio.create_task(self._poll(process), name=f"ready-{self.spec.name}")
        ended = asyncio.create_task(process.wait(), name=f"wait-{self.spec.name}")
        stop = asyncio.create_task(self._stop.wait(), name=f"stop-{self.spec.name}")
        try:
            await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
            poll.cancel()
            if not ended.done():
                process.terminate()
                await asyncio.wait({ended}, timeout=self._stop_seconds)
            if not ended.done():
                self.log.note(f"did not end within {self._stop_seconds:g} s of SIGTERM: killed")
                process.kill()
                await asyncio.wait({ended}, timeout=KILL_SECONDS)
            if self._state == "ready":
                ready_since = self._since
        finally:
            self._answers = False
            if ended.done():
                self.process = None
            if self._stop.is_set():
                self.log.note("stopped" if ended.done() else "does not end; given up")
            else:
                self._died(ended.result() if ended.done() else None)
                self._set("restarting")  # at once, not when its remains are cleared
            for task in (poll, stop, ended):
                task.cancel()
            await asyncio.wait({poll, stop, ended})
            await process.clear(shared.ports)
            shared.guard.discard(process.pid)
            self.process = None
        return ready_since is not None and time.monotonic() - ready_since >= STEADY_SECONDS

    async def _poll(self, process: Process) -> None:
        failures = 0
        for number in itertools.count():
            answer = await ready.ask(self._shared.client, process.address, self.spec.ready_path)
            if answer.ready:
                failures = 0
                self._become(True, "ready")
            else:
                failures += 1
                if self._state != "ready" or failures >= FAILURES:
                    self._because(answer.reason)
                    # Too busy to answer us is no reason to refuse everybody else.
                    self._become(self._answers and answer.silent, "starting")
            await asyncio.sleep(POLL_SECONDS[_stage(answer.ready, number)])

    def _become(self, answers: bool, state: str) -> None:
        before, self._answers = self._answers, answers
        if self._answers:
            self.has_been_ready = True
        if not self._set(state) and before != answers:
            self._shared.changed()

    def _set(self, state: str) -> bool:
        if self._stop.is_set() and state != "stopping":
            return False
        if self._state == state:
            return False
        self._state, self._since = state, time.monotonic()
        self._shared.changed()
        return True

    def _say(self, sentence: str) -> None:
        self.log.note(sentence)
        self._reason, self._reason_start = sentence, self.log.size()

    def _died(self, code: int | None) -> None:
        sentence = f"{self.spec.name} {_ended(code)}"
        itself = code is not None and (code >= 0 or code == -signal.SIGABRT)
        if itself and self.log.last_line(self._reason_start):
            self.log.note(sentence)
            self._reason = ""  # its own last line says more
        else:
            self._say(sentence)

    def _because(self, reason: str) -> None:
        if reason and reason != self._reason:
            self._reason, self._reason_start = reason, self.log.size()

    def _last_line(self) -> str:
        if self._state == "ready" or not self._reason:
            return self.log.last_line(self._log_start)
        # What is newer: the log, or what the server answers when asked whether it is ready.
        return self.log.last_line(self._reason_start) or self._reason


def _stage(ready: bool, number: int) -> int:
    if ready:
        return 2
    return 0 if number < POLLS_AT_FIRST else 1


def _ended(code: int | None) -> str:
    if code is None:
        return "could not be ended"
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"
