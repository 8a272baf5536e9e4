"""`python -m helpers.stack.local.daemon`: gateway, broker, supervisor and control API in one process.

It holds the lock of its state folder as long as it runs. Whoever finds the lock free may start another one,
which takes up what was applied.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop
from filelock import Timeout
from starlette.types import ASGIApp

from helpers import artifacts
from helpers.errors import WalkthroughError
from helpers.serving.broker import cli as broker_cli
from helpers.serving.broker.broker import Broker
from helpers.serving.broker.ingress import NearIngress
from helpers.serving.broker.retention import Limits
from helpers.serving.common.metrics import new_registry
from helpers.serving.common.server import bind, configure_logging, uvicorn_config
from helpers.serving.common.sqlite import SWITCH_SECONDS
from helpers.serving.common.tokens import make_token
from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.routes import Routes
from helpers.stack.interface import NAMESPACE
from helpers.stack.local import control, prometheus
from helpers.stack.local.cluster import Cluster
from helpers.stack.local.rules import RuleFiles
from helpers.stack.local.state import Listening, State, code_version
from helpers.stack.local.supervisor import Supervisor
from helpers.stack.local.usage import UsageCollector

log = logging.getLogger(__name__)

GATEWAY_PORT = 8003  # where it is free; of Seldon's own examples
GRACE_SECONDS = 5  # for requests under way when the stack goes down


class _Server(uvicorn.Server):
    """One of several in this process: signals are the daemon's."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        super().__init__(uvicorn_config(app, GRACE_SECONDS))
        self.listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_until_told(self) -> None:
        await self.serve(sockets=[self.listener])


async def serve(state: State) -> None:
    """Run the local stack until SIGTERM, SIGINT or `down`."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    listeners = {"gateway": _bind_gateway(), "broker": bind("127.0.0.1", 0)}
    listeners["control"] = bind("127.0.0.1", 0)
    at = {name: "{}:{}".format(*one.getsockname()[:2]) for name, one in listeners.items()}
    token = make_token(state.token_file)

    routes = Routes()
    broker = Broker(state.folder / "broker", new_registry(), Limits())
    cluster: Cluster | None = None

    def on_change() -> None:
        if cluster is not None:
            cluster.refresh()

    supervisor = Supervisor(state.folder, on_change=on_change)
    rules = RuleFiles(state.folder / "rules")
    cluster = Cluster(supervisor, routes, broker, at["gateway"], at["broker"], state.objects, rules)
    registry = new_registry()
    registry.register(UsageCollector(supervisor))
    servers = [
        _Server(
            Gateway(
                routes,
                spool=state.folder / "gateway",
                near=NearIngress(broker, at["broker"]),
            ),
            listeners["gateway"],
        ),
        _Server(broker_cli.app_of(broker, token), listeners["broker"]),
        _Server(
            control.make_app(cluster, token, _own_targets(at), registry, stopping.set),
            listeners["control"],
        ),
    ]
    await supervisor.start()
    running = [asyncio.create_task(server.run_until_told()) for server in servers]
    try:
        while not all(server.started for server in servers):
            if any(task.done() for task in running):
                raise RuntimeError("a server of the stack did not start; the lines above say why")
            await asyncio.sleep(0.01)
        await cluster.restore()
        if prometheus.find_prometheus():
            targets = f"http://{at['control']}/v1/targets"
            cluster.run_beside(
                prometheus.spec(
                    targets, state.token_file, state.folder / "prometheus", rules.folder
                )
            )
        _say(state, at)
        log.info("gateway on http://%s", at["gateway"])
        first = asyncio.create_task(stopping.wait())
        await asyncio.wait([first, *running], return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
    finally:
        state.info.unlink(missing_ok=True)
        log.info("stopping")
        servers[0].should_exit = True  # first what people ask, last what tells how it goes
        await asyncio.wait([running[0]])
        await supervisor.stop()
        await cluster.stop()
        for server in servers:
            server.should_exit = True
        await asyncio.wait(running)
    for task in running:
        task.result()


def _own_targets(at: dict[str, str]) -> list[prometheus.Target]:
    def labels(name: str) -> dict[str, str]:
        return {"namespace": NAMESPACE, "pod": name, "container": name}

    return [
        (at["gateway"], "/prometheus", labels("gateway")),
        (at["broker"], "/metrics", labels("broker")),
        (at["control"], "/metrics", labels("stack")),
    ]


def _bind_gateway() -> socket.socket:
    """The usual port where it is free: addresses in a reader's notes stay good."""
    try:
        return bind("127.0.0.1", GATEWAY_PORT)
    except OSError:
        return bind("127.0.0.1", 0)


def _say(state: State, at: dict[str, str]) -> None:
    """Tell where the stack listens, once it does."""
    told = Listening(
        pid=os.getpid(), **at, artifacts=str(artifacts.root().resolve()), code=code_version()
    )
    half = state.info.with_suffix(".new")
    half.write_text(told.model_dump_json(indent=2), encoding="utf-8")
    os.replace(half, state.info)


def main() -> None:
    """Run the daemon on $STACK_DIR or runs/stack; where one runs already, end at once."""
    configure_logging()
    os.umask(0o077)
    state = State(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        state.make()
        with state.lock.acquire():
            state.info.unlink(missing_ok=True)
            uvloop.run(serve(state))
    except Timeout:
        sys.exit(f"stack: one runs already on {state.folder}")
    except WalkthroughError as problem:
        sys.exit(f"stack: {problem}")


if __name__ == "__main__":
    main()
