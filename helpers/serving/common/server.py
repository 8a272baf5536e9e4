"""Runs an app: the port is bound before anything slow, and stopping takes a known time at most."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

log = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait to be accepted
STOP_SECONDS = 10.0
LEAVE_SECONDS = 1.0  # from the last answer to the end: nothing that is being loaded is waited for
KEEP_ALIVE_SECONDS = 75  # longer than our clients keep a connection: they close first, we never


def run(
    make_app: Callable[[], ASGIApp],
    *,
    name: str,
    port: int,
    host: str = "127.0.0.1",
    stop_seconds: float = STOP_SECONDS,
    backlog: int = BACKLOG,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests under way and return.

    A line `<name>: listening on http://<host>:<port>` goes to stderr once the port is bound. A port
    that cannot be had ends the process with one sentence and exit code 1; requests that outlast
    `stop_seconds` are cut off, and a process that still does not end 5 seconds later exits with 1.

    Args:
        make_app: builds the ASGI app; called once the port is bound, so it may take its time.
        name: for the log.
        port: 0 takes a free one.
        host: loopback unless told otherwise.
        stop_seconds: limit of a graceful stop.
        backlog: connections that may wait to be accepted.
    """
    configure_logging()
    try:
        listener = bind(host, port, backlog)
    except OSError as problem:
        sys.exit(f"{name}: {_why(problem, host, port)}")
    bound = listener.getsockname()[1]
    print(f"{name}: listening on http://{host}:{bound}", file=sys.stderr, flush=True)

    # Until uvicorn takes the signals over, and when it raises them again once it has stopped: a clean
    # stop is exit code 0, not 143, and none is lost while the app is being built.
    server: _Server | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        if server is None:
            sys.exit(0)
        server.handle_exit(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    config = uvicorn_config(make_app(), stop_seconds, backlog)
    server = _Server(config, stop_seconds + 5.0)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(f"{name}: could not start; the lines above say why.")
    _leave_within(LEAVE_SECONDS)


def uvicorn_config(
    app: ASGIApp, stop_seconds: float = STOP_SECONDS, backlog: int = BACKLOG
) -> uvicorn.Config:
    """Return how every server here runs its app: no access log, nothing said of itself, bounded stops."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        lifespan="on",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=backlog,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(stop_seconds)),
    )


def bind(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """Return a listening socket: clients queue from now on.

    Raises:
        OSError: the port is in use, not allowed, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def configure_logging(level: int = logging.INFO) -> None:
    """Send the process's log to stderr, one line a record, without uvicorn's and clients' chatter."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("uvicorn", "httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, hard_limit: float) -> None:
        super().__init__(config)
        self.hard_limit = hard_limit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            _leave_within(self.hard_limit, 1)
        super().handle_exit(sig, frame)


def _leave_within(seconds: float, code: int = 0) -> None:
    """End the process then at the latest, whatever its threads are busy with."""
    timer = threading.Timer(seconds, os._exit, args=(code,))
    timer.daemon = True
    timer.start()


def _why(problem: OSError, host: str, port: int) -> str:
    if problem.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what listens there or choose another port."
    if problem.errno == errno.EACCES:
        return f"port {port} of {host} needs more rights; choose one above 1023."
    return f"cannot listen on {host}:{port}: {problem.strerror or problem}."
