"""The daemon's side of the watchdog: starts it, tells it the process groups, replaces it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys

from helpers.stack.local import watchdog

log = logging.getLogger(__name__)

STOP_SECONDS = 8.0  # more than the watchdog's own limits together
RESTART_SECONDS = (0.05, 5.0)  # first and longest pause before another one starts


class Guard:
    """Keeps one watchdog running that knows every process group.

    Args:
        run: marks this daemon's processes; see `watchdog`.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._groups: set[int] = set()
        self._pipe: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Process id of the watchdog; None where it does not run (now)."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start the watchdog.

        Raises:
            OSError: it cannot be started.
        """
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name="watchdog-keeper")

    def add(self, group: int) -> None:
        """Register a process group: it ends with the daemon."""
        self._groups.add(group)
        self._tell(b"+%d\n" % group)

    def discard(self, group: int) -> None:
        """Take a process group off: it is empty."""
        self._groups.discard(group)
        self._tell(b"-%d\n" % group)

    async def stop(self) -> None:
        """End the watchdog; groups that are still registered end with it."""
        self._closing = True
        if not self._groups:
            self._tell(watchdog.GOODBYE)
        self._close_pipe()
        if self._keeper is not None:
            done, _ = await asyncio.wait({self._keeper}, timeout=STOP_SECONDS)
            if not done:
                self._kill()
                self._keeper.cancel()
                await asyncio.wait({self._keeper}, timeout=STOP_SECONDS)

    async def _spawn(self) -> None:
        # os.pipe's ends are closed on exec: no server holds the end that must vanish with us.
        read_end, write_end = os.pipe()
        try:
            os.set_blocking(write_end, False)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", watchdog.__file__, self._run),
                stdin=read_end,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._close_pipe()
        self._pipe = write_end
        for group in sorted(self._groups):
            self._tell(b"+%d\n" % group)
        if self._closing:
            self._close_pipe()

    async def _keep(self) -> None:
        pause = RESTART_SECONDS[0]
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            if self._process is not None:
                await self._process.wait()
            if self._closing:
                return
            log.warning("the watchdog died; starting another")
            pause = RESTART_SECONDS[0] if loop.time() - started > 10 else pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, RESTART_SECONDS[1])
            if self._closing:
                return
            try:
                await self._spawn()
            except OSError as problem:
                log.warning("the watchdog cannot be started: %s", problem)
                self._process = None

    def _tell(self, line: bytes) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, line)  # shorter than PIPE_BUF: all of it or nothing
        except BlockingIOError:
            self._kill()  # it does not read any more; its successor is told everything
        except OSError:
            pass  # dead; likewise

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)
