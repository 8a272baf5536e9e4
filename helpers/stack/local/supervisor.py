"""Runs the servers of the local stack: one process each, restarted, rolled over, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import psutil

from helpers.errors import StackError
from helpers.stack.interface import ServerStatus
from helpers.stack.local import ready
from helpers.stack.local.guard import Guard
from helpers.stack.local.logs import Log
from helpers.stack.local.ports import HOST, Ports
from helpers.stack.local.process import (
    STACK_VARIABLE,
    Meter,
    Usage,
    server_environment,
    sweep,
)
from helpers.stack.local.replica import Replica, Surroundings
from helpers.stack.local.spec import ServerSpec

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
# From the switch to the new process until the old one gets SIGTERM: who took the old address just
# before still connects in time.
DRAIN_SECONDS = 0.5
HOUSEKEEPING_SECONDS = 1.0  # between two readings of the usage and of the sizes of the logs
STOP_SECONDS = 15.0  # beyond the servers' own limits, until `stop` gives up


class Supervisor:
    """Runs what it is told by `apply` until it is told otherwise.

    Args:
        folder: state. Logs are `<folder>/logs/<name>.log`; `{folder}` of a spec is
            `<folder>/servers/<name>-<fingerprint>`, removed when the spec is.
        environment: added to the environment of every server.
        on_change: called from the event loop whenever a state or an address is another.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder.resolve()
        self.id = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        self._environment = {**(environment or {}), STACK_VARIABLE: self.id}
        self._on_change = on_change
        self._servers: dict[str, _Server] = {}
        self._shared: Surroundings | None = None
        self._client: httpx.AsyncClient | None = None
        self._guard: Guard | None = None
        self._housekeeper: asyncio.Task[None] | None = None

    @property
    def watchdog_pid(self) -> int | None:
        """Process id of the watchdog; None where it does not run (now)."""
        return self._guard.pid if self._guard is not None else None

    async def start(self) -> None:
        """End what an earlier supervisor of this folder has left, and start the watchdog.

        Raises:
            OSError: the folder cannot be written, or the watchdog cannot be started.
        """
        for part in ("logs", "servers"):
            (self.folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        left = await asyncio.to_thread(sweep, self.id)
        if left:
            log.warning("ended %d processes that an earlier daemon had left", left)
        run = uuid.uuid4().hex
        self._guard = Guard(run)
        await self._guard.start()
        self._client = ready.client()
        ports = Ports()
        # Nobody listens there, but the first request loads modules: now, when nothing waits.
        unused = ports.take()
        await ready.ask(self._client, (HOST, unused), "/")
        ports.give_back([unused])
        self._shared = Surroundings(
            ports=ports,
            guard=self._guard,
            client=self._client,
            environment=server_environment(self._environment),
            run=run,
            changed=self._changed,
        )
        self._housekeeper = asyncio.create_task(self._keep_house(), name="housekeeping")

    def apply(self, spec: ServerSpec) -> str:
        """Make a server run as the spec says; the work goes on in tasks.

        Returns:
            "created", "configured" or "unchanged".

        Raises:
            StackError: the supervisor does not run, or the name is not one.
        """
        if self._shared is None:
            raise StackError("The supervisor does not run; start the stack first.")
        if not NAME.fullmatch(spec.name):
            raise StackError(f"{spec.name!r} is no server name; use a-z, 0-9, '-' and '.'.")
        server = self._servers.get(spec.name)
        if server is None:
            server = self._servers[spec.name] = _Server(spec.name, self.folder, self._shared)
        return server.apply(spec)

    def remove(self, name: str) -> bool:
        """Stop a server for good, gracefully and in a task; its log stays.

        Returns:
            whether there was one.
        """
        server = self._servers.get(name)
        return server is not None and server.remove()

    def address(self, name: str) -> tuple[str, int] | None:
        """Return host and port of the process that takes requests now, None where there is none.

        While a server rolls over that is the old one, until the new one is ready. A process that
        answers that it is not ready has no address; one that is too busy to answer keeps it.
        """
        server = self._servers.get(name)
        return server.active.address if server is not None and server.active is not None else None

    def is_ready(self, spec: ServerSpec) -> bool:
        """Whether the process that takes requests now is one of this very spec, and ready."""
        server = self._servers.get(spec.name)
        active = server.active if server is not None else None
        return (
            active is not None
            and active.state == "ready"
            and active.spec.fingerprint == spec.fingerprint
        )

    def metrics_addresses(self) -> list[tuple[ServerSpec, str]]:
        """Return spec and `host:port` of the metrics of every process that is up."""
        return [
            (replica.spec, replica.process.metrics_address)
            for server in self._servers.values()
            for replica in server.wanted()
            if replica.process is not None and replica.spec.metrics_path is not None
        ]

    def status(self) -> list[ServerStatus]:
        """Return every process that runs or should.

        While a server rolls over there are several of its name: those that stop come first, then
        the one that takes requests, then the one that is to follow it.
        """
        return [
            status for name in sorted(self._servers) for status in self._servers[name].statuses()
        ]

    def log(self, name: str, lines: int) -> str:
        """Return the last lines of a server's log, also of one that was removed.

        Raises:
            StackError: there is no log of that name.
        """
        path = self._log_path(name)
        if not NAME.fullmatch(name) or not (name in self._servers or path.exists()):
            known = ", ".join(sorted(self._servers)) or "none"
            raise StackError(f"There is no log of {name!r}. Servers: {known}.")
        return Log(path).tail(lines)

    def usage(self) -> dict[str, Usage]:
        """Return what each server uses, read within the last second or so."""
        return {name: server.usage for name, server in self._servers.items()}

    async def stop(self) -> None:
        """Stop every server and the watchdog; takes the longest `stop_seconds` and a little more."""
        replicas = [replica for server in self._servers.values() for replica in server.all()]
        for server in self._servers.values():
            server.stop()
        if replicas:
            limit = max(replica.spec.stop_seconds for replica in replicas) + STOP_SECONDS
            gone = [asyncio.create_task(replica.gone.wait()) for replica in replicas]
            _, late = await asyncio.wait(gone, timeout=limit)
            if late:
                for task in late:
                    task.cancel()
                log.error("%d servers did not end within %g s", len(late), limit)
        for server in self._servers.values():
            await server.settle()
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.wait({self._housekeeper})
        if self._guard is not None:
            await self._guard.stop()
        if self._client is not None:
            await self._client.aclose()
        self._servers.clear()
        self._shared = self._housekeeper = self._guard = self._client = None

    def _log_path(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _changed(self) -> None:
        for server in list(self._servers.values()):
            server.advance()
        self._servers = {name: server for name, server in self._servers.items() if server.all()}
        try:
            self._on_change()
        except Exception:
            log.exception("on_change failed")

    async def _keep_house(self) -> None:
        while True:
            try:
                for server in list(self._servers.values()):
                    await server.keep_house()
            except Exception:
                log.exception("housekeeping failed")
            await asyncio.sleep(HOUSEKEEPING_SECONDS)


class _Server:
    """All replicas of one name.

    active takes the requests, or will; pending follows it once it is ready; those in leaving have
    been asked to end, or will be in a moment.
    """

    def __init__(self, name: str, folder: Path, shared: Surroundings) -> None:
        self.name = name
        self.active: Replica | None = None
        self.pending: Replica | None = None
        self.leaving: list[Replica] = []
        self.usage = Usage()
        self._folder = folder
        self._shared = shared
        self._meter = Meter()
        self._drains: set[asyncio.Task[None]] = set()

    def all(self) -> list[Replica]:
        return [*self.leaving, *self.wanted()]

    def statuses(self) -> list[ServerStatus]:
        # One that drains still answers, but nothing new goes to it.
        leaving = [replace(replica.status(), state="stopping") for replica in self.leaving]
        return [*leaving, *(replica.status() for replica in self.wanted())]

    def wanted(self) -> list[Replica]:
        return [replica for replica in (self.active, self.pending) if replica is not None]

    def apply(self, spec: ServerSpec) -> str:
        current = self.pending or self.active
        if current is not None and current.spec.fingerprint == spec.fingerprint:
            return "unchanged"
        action = "created" if current is None else "configured"
        superseded, self.pending = self.pending, None
        if superseded is not None:
            self._leave(superseded)
            if self.active is not None and self.active.spec.fingerprint == spec.fingerprint:
                return action  # back to what still runs
        active = self.active
        if active is not None and (
            spec.recreate or active.spec.recreate or not active.has_been_ready
        ):
            self.active = None
            self._leave(active)
        new = self._replica(spec)
        if self.active is None:
            self.active = new
        else:
            self.pending = new
        self._shared.changed()
        return action

    def remove(self) -> bool:
        replicas = self.wanted()
        self.active = self.pending = None
        for replica in replicas:
            self._leave(replica)
        return bool(replicas)

    def stop(self) -> None:
        wanted = self.wanted()
        self.active = self.pending = None
        for replica in self.leaving:
            replica.request_stop()  # one that drains does not go on draining
        for replica in wanted:
            self._leave(replica, keep_folder=True)

    def advance(self) -> None:
        """Switch to the pending replica once it is ready; forget those that are gone."""
        self.leaving = [replica for replica in self.leaving if not replica.gone.is_set()]
        if self.pending is not None and self.pending.state == "ready":
            old, self.active, self.pending = self.active, self.pending, None
            if old is not None:
                self.leaving.append(old)
                drain = asyncio.create_task(self._drain(old), name=f"drain-{self.name}")
                self._drains.add(drain)
                drain.add_done_callback(self._drains.discard)

    async def settle(self) -> None:
        """Wait for the tasks of this server; those of the replicas have ended before."""
        for task in list(self._drains):
            task.cancel()
        if self._drains:
            await asyncio.wait(set(self._drains))

    async def keep_house(self) -> None:
        replicas = self.all()
        processes = [replica.process for replica in replicas if replica.process is not None]

        def work() -> Usage:
            members: dict[int, psutil.Process] = {}
            for process in processes:
                members |= {member.pid: member for member in process.members()}
            for one in {replica.log.path: replica.log for replica in replicas}.values():
                with contextlib.suppress(OSError):
                    one.cap()
            return self._meter.read(members.values())

        self.usage = await asyncio.to_thread(work)

    def _leave(self, replica: Replica, *, keep_folder: bool = False) -> None:
        self.leaving.append(replica)
        replica.request_stop(keep_folder=keep_folder)

    async def _drain(self, replica: Replica) -> None:
        await asyncio.sleep(DRAIN_SECONDS)
        replica.request_stop()

    def _replica(self, spec: ServerSpec) -> Replica:
        # One with the same folder, or with state that only one may hold, must be gone first.
        after = [
            replica
            for replica in self.leaving
            if spec.recreate
            or replica.spec.recreate
            or replica.spec.fingerprint == spec.fingerprint
        ]
        return Replica(
            spec,
            folder=self._folder / "servers" / f"{self.name}-{spec.fingerprint}",
            log=self._fresh_log(),
            shared=self._shared,
            after=after,
        )

    def _fresh_log(self) -> Log:
        new = Log(self._folder / "logs" / f"{self.name}.log")
        if self.active is not None and self.active.log.path == new.path:
            self.active.log.move_aside()  # so that the new one's last line is its own
        return new
