"""One run of a server's program: its start, its process group, its end, and what it uses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from helpers.errors import StackError
from helpers.stack.local.logs import Log
from helpers.stack.local.ports import HOST, Ports
from helpers.stack.local.spec import BRACE, ServerSpec
from helpers.stack.local.watchdog import RUN_VARIABLE

STACK_VARIABLE = "WALKTHROUGH_STACK"  # in the environment of every server; survives setsid
CLEAR_SECONDS = 5.0  # to wait for what got SIGKILL
SWEEP_SECONDS = 3.0  # from SIGTERM to SIGKILL for what an earlier daemon left
POLL_SECONDS = 0.02
# Which pages are shared takes the kernel up to 10 ms for a process with TensorFlow: it is asked
# again when the resident memory has changed by this part, or after this time.
SHARE_CHANGE = 0.01
SHARE_SECONDS = 15.0

SECRET = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSW|CREDENTIAL|PRIVATE|COOKIE|AUTH|(^|_)(API_?|ACCESS_?)?KEY(_|$)|_DSN$|_PAT$",
    re.IGNORECASE,
)
# Of a notebook's kernel, or what would make a server noisier than it is elsewhere.
UNWANTED = re.compile(r"PYTHONWARNINGS|PYTHONSTARTUP|JPY_.*|MPLBACKEND|WALKTHROUGH_.*")
LOCAL_HOSTS = "127.0.0.1,localhost"


@dataclass(frozen=True)
class Usage:
    """What a server's processes use.

    Args:
        cpu_seconds: user and system time since the server was first started; never falls.
        memory_bytes: resident now, pages that processes share counted once (elsewhere than on
            Linux, every time).
        processes: how many there are now.
    """

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    processes: int = 0


def server_environment(added: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a server: the daemon's own without its secrets, and `added`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not SECRET.search(name) and not UNWANTED.fullmatch(name)
    }
    if any(name.lower().endswith("_proxy") for name in inherited):
        # Servers talk to each other on loopback; a proxy cannot reach that.
        known = inherited.get("NO_PROXY") or inherited.get("no_proxy") or ""
        hosts = f"{known},{LOCAL_HOSTS}".lstrip(",")
        inherited |= {"NO_PROXY": hosts, "no_proxy": hosts}
    fixed = {"TF_USE_LEGACY_KERAS": "1", "PYTHONUNBUFFERED": "1", "SERVING_HOST": HOST}
    return inherited | fixed | dict(added)


@dataclass
class Process:
    """A program that was started, leader of a session and process group of its own.

    Args:
        spec: what it runs.
        ports: by placeholder: port, and grpc_port and metrics_port where the spec names them.
        run: marks its environment, and no other's.
    """

    spec: ServerSpec
    ports: Mapping[str, int]
    run: str
    _child: asyncio.subprocess.Process
    _leader: psutil.Process | None = field(default=None)

    @classmethod
    async def start(
        cls,
        spec: ServerSpec,
        *,
        folder: Path,
        log: Log,
        ports: Ports,
        environment: Mapping[str, str],
        run: str,
    ) -> Process:
        """Write the spec's files and start its program.

        Args:
            spec: what to run.
            folder: stands for `{folder}`; made where it is missing.
            log: takes stdout and stderr.
            ports: where free ones come from; given back by `clear`.
            environment: of every server; the spec's own is added.
            run: see the class.

        Raises:
            StackError: the program cannot be found or started; says why and what to do.
        """
        chosen: dict[str, int] = {}
        try:
            for placeholder in placeholders(spec):
                chosen[placeholder] = ports.take()
            values = {"folder": str(folder)} | {name: str(port) for name, port in chosen.items()}
            command = [fill(part, values) for part in spec.command]
            own = {name: fill(value, values) for name, value in spec.environment.items()}
            files = {name: fill(content, values) for name, content in spec.files.items()}
            await asyncio.to_thread(write_files, folder, files)
            log.note(f"starts {' '.join(command)}")
            child = await _spawn(command, {**environment, **own, RUN_VARIABLE: run}, log)
        except BaseException as problem:
            ports.give_back(chosen.values())
            if isinstance(problem, OSError):
                raise StackError(_why(spec, problem)) from problem
            raise
        process = cls(spec, chosen, run, child)
        with contextlib.suppress(psutil.Error):
            process._leader = psutil.Process(child.pid)
        return process

    @property
    def pid(self) -> int:
        """Process id, and the id of the group and session."""
        return self._child.pid

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the HTTP server."""
        return HOST, self.ports["port"]

    @property
    def metrics_address(self) -> str:
        """`host:port` of the metrics."""
        return f"{HOST}:{self.ports[self.spec.metrics_placeholder]}"

    async def wait(self) -> int:
        """Wait for the end of the program; return its exit code, -N after signal N."""
        return await self._child.wait()

    def terminate(self) -> None:
        """Send SIGTERM to the group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the group."""
        self._signal(signal.SIGKILL)

    async def clear(self, ports: Ports) -> None:
        """Kill what the program has left behind, wait for that, and give its ports back.

        Args:
            ports: that they came from.
        """
        await asyncio.to_thread(self._clear)
        ports.give_back(self.ports.values())

    def members(self, *, escaped: bool = False) -> list[psutil.Process]:
        """Return the living processes of the group and session; walks the process table.

        Args:
            escaped: also those that went into a session of their own, which takes longer.
        """
        pid = self.pid
        # The number of a group is free again only once the group is empty: another process under
        # it means that all of ours are gone.
        reused = self._leader is not None and psutil.pid_exists(pid) and not _same(self._leader)
        found = []
        for number in psutil.pids():
            with contextlib.suppress(psutil.Error, OSError):
                # Costs a microsecond; the environment needs a file.
                grouped = pid in (os.getpgid(number), os.getsid(number)) and not reused
                if not grouped and not escaped:
                    continue
                process = psutil.Process(number)
                if (grouped or _has(process, RUN_VARIABLE, self.run)) and (
                    process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def _signal(self, number: int) -> None:
        # While the child is not reaped its number cannot be another's.
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _clear(self) -> None:
        deadline = time.monotonic() + CLEAR_SECONDS
        while (left := self.members(escaped=True)) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()  # psutil compares the creation time first
            time.sleep(POLL_SECONDS)


class Meter:
    """Adds up what the processes of a server use, those that are gone included."""

    def __init__(self) -> None:
        self._gone_seconds = 0.0
        self._seconds: dict[tuple[int, float], float] = {}
        self._shares: dict[tuple[int, float], _Share] = {}

    def read(self, processes: Iterable[psutil.Process]) -> Usage:
        """Return the usage of these and of all that were passed before; takes milliseconds.

        Args:
            processes: those that live now.
        """
        seconds: dict[tuple[int, float], float] = {}
        shares: dict[tuple[int, float], _Share] = {}
        for process in processes:
            with contextlib.suppress(psutil.Error), process.oneshot():
                key = (process.pid, process.create_time())
                times = process.cpu_times()
                seconds[key] = max(times.user + times.system, self._seconds.get(key, 0.0))
                shares[key] = _share(process, self._shares.get(key))
        for key, last in self._seconds.items():
            if key not in seconds:
                self._gone_seconds += last
        self._seconds, self._shares = seconds, shares
        memory = sum(share.bytes for share in shares.values())
        return Usage(self._gone_seconds + sum(seconds.values()), memory, len(seconds))


@dataclass(frozen=True)
class _Share:
    bytes: int
    resident: int
    moment: float


def sweep(stack_id: str) -> int:
    """End what an earlier daemon of this stack has left; takes a few seconds at most.

    Args:
        stack_id: what `STACK_VARIABLE` is in the environment of its servers.

    Returns:
        the number of processes that were found.
    """
    found = 0
    asked: set[psutil.Process] = set()
    started = time.monotonic()
    while time.monotonic() < started + SWEEP_SECONDS + CLEAR_SECONDS:
        left = marked(stack_id)
        if not left:
            break
        late = time.monotonic() > started + SWEEP_SECONDS
        for process in left:
            with contextlib.suppress(psutil.Error):
                if late:
                    process.kill()
                elif process not in asked:
                    process.terminate()
                    found += 1
        asked.update(left)
        time.sleep(POLL_SECONDS)
    return found


def marked(stack_id: str) -> list[psutil.Process]:
    """Return the living processes of a stack, own user's only and never this one.

    Args:
        stack_id: see `sweep`.
    """
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for number in psutil.pids():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(number)
            if (
                number not in family
                and process.uids().real == os.getuid()
                and _has(process, STACK_VARIABLE, stack_id)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def placeholders(spec: ServerSpec) -> list[str]:
    """Return which ports a spec needs."""
    texts = "\n".join((*spec.command, *spec.environment.values(), *spec.files.values()))
    return [
        name
        for name in ("port", "grpc_port", "metrics_port")
        if name in ("port", spec.metrics_placeholder) or f"{{{name}}}" in texts
    ]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return the text with the placeholders replaced; other braces (JSON) stay as they are."""
    known = {**values, BRACE: "{"}
    return re.sub(
        rf"\{{({'|'.join(map(re.escape, known))})\}}", lambda match: known[match[1]], text
    )


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write a spec's files into its folder.

    Raises:
        StackError: a path leads out of the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise StackError(
                f"File {name!r} is outside the server's folder; give a path inside it."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


async def _spawn(
    command: list[str], environment: dict[str, str], log: Log
) -> asyncio.subprocess.Process:
    descriptor = log.open()
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=environment,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def _why(spec: ServerSpec, problem: OSError) -> str:
    program = spec.command[0] if spec.command else ""
    if isinstance(problem, FileNotFoundError):
        return (
            f"{spec.name} cannot start: the program {program!r} was not found; install it or put its"
            " folder on PATH, then apply the manifest again."
        )
    if isinstance(problem, PermissionError):
        return f"{spec.name} cannot start: {program!r} may not be run; check its permissions (chmod +x)."
    return f"{spec.name} cannot start: {problem.strerror or problem} ({program!r})."


def _has(process: psutil.Process, name: str, value: str) -> bool:
    return process.environ().get(name) == value


def _same(process: psutil.Process) -> bool:
    return process.is_running()  # also compares the creation time


def _share(process: psutil.Process, last: _Share | None) -> _Share:
    resident = process.memory_info().rss
    now = time.monotonic()
    if sys.platform != "linux":
        return _Share(resident, resident, now)
    if (
        last is not None
        and now - last.moment < SHARE_SECONDS
        and abs(resident - last.resident) <= SHARE_CHANGE * last.resident
    ):
        return last
    try:
        share = process.memory_full_info().pss
    except (psutil.Error, AttributeError):
        share = resident
    return _Share(share, resident, now)
