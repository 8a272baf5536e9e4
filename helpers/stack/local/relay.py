"""A Service: an address that stays while the process behind it is replaced.

Bytes are passed on as they come, so it is for HTTP servers and for nothing in particular. A connection
that is under way keeps its process; a new one goes to the process that serves now.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
CHUNK = 256 * 1024  # bytes

Target = Callable[[], tuple[str, int] | None]


class Relay:
    """Listens on a free port of 127.0.0.1 from the moment it is made.

    Args:
        target: where a new connection goes; None closes it at once, as where nothing listens.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        host, port = self._listener.getsockname()
        self.address = f"{host}:{port}"
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def start(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=CHUNK)

    async def stop(self) -> None:
        """Close the port and every connection."""
        self._stopped = True
        if self._server is None:
            self._listener.close()
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopped:  # accepted just before
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._pass_on(reader, writer)
        except asyncio.CancelledError:
            pass  # by `stop`, which waits for this task; asyncio would log the end of a cancelled one
        finally:
            self._connections.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        ended = False
        try:
            target = self._target()
            if target is None:
                ended = True
                return
            async with asyncio.timeout(CONNECT_SECONDS):
                back, there = await asyncio.open_connection(*target, limit=CHUNK)
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, there))
                both.create_task(_copy(back, writer))
            ended = True
        # Refused, reset, timed out: either side sees its end closed. uvloop has a RuntimeError for a
        # write into a connection that the other side has just reset.
        except* (OSError, RuntimeError) as problem:
            log.debug("a connection ended: %r", problem.exceptions)
            ended = True
        finally:
            for end in (writer, there):
                if end is not None and ended:
                    end.close()
                elif end is not None:  # do not wait for somebody who does not read
                    end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        with suppress(OSError):
            writer.write_eof()
