"""The command line of the stack, for people at a shell."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from helpers import stack
from helpers.errors import StackError, WalkthroughError
from helpers.stack.interface import ServerStatus, Stack

PIPE_WIDTH = 240  # characters
FOLLOW_SECONDS = 0.5  # between two looks at a log

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Backend = Annotated[str, typer.Option(help="local or kind.")]
Dataset = Annotated[str, typer.Option(help="Whose artefacts are served: cifar10 or digits.")]
Paths = Annotated[list[Path], typer.Argument(help="Manifest files, or folders of them.")]


Timeout = Annotated[
    float | None, typer.Option(min=1, help="Seconds to wait at most; 180, or 600 on a cluster.")
]


@app.callback()
def about(
    context: typer.Context,
    backend: Annotated[str, typer.Option(help="local or kind, for every command.")] = "",
) -> None:
    """Run the manifests of this repository: on this machine without a cluster, or on that of `make kind-up`."""
    if backend:
        commands = [one.callback.__name__ for one in app.registered_commands if one.callback]
        context.default_map = {name: {"backend": backend} for name in commands}


@app.command()
def up(backend: Backend = "local") -> None:
    """Start the local stack; `apply` does it too. A cluster is started by `make kind-up`."""
    cluster = stack.connect(backend)
    if not hasattr(cluster, "up"):
        raise StackError("A cluster is not started here: `make kind-up` does that.")
    listening = cluster.up()
    print(f"gateway http://{listening.gateway}\nbroker  http://{listening.broker}")


@app.command()
def apply(
    paths: Paths,
    backend: Backend = "local",
    dataset: Dataset = "cifar10",
    wait: Annotated[bool, typer.Option(help="Return once everything is ready.")] = True,
    timeout: Timeout = None,
) -> None:
    """Apply manifests."""
    cluster = stack.connect(backend, dataset=dataset)
    for one in cluster.apply(*paths):
        print(one)
    if wait:
        _wait(cluster, (), timeout)


@app.command()
def delete(paths: Paths, backend: Backend = "local") -> None:
    """Delete the objects of manifests."""
    for one in stack.connect(backend).delete(*paths):
        print(one)


@app.command()
def wait(
    names: Annotated[list[str] | None, typer.Argument(help="Of servers or objects; all.")] = None,
    backend: Backend = "local",
    timeout: Timeout = None,
) -> None:
    """Return once everything that was applied is ready."""
    _wait(stack.connect(backend), names or (), timeout)


def _wait(cluster: Stack, names: Sequence[str], timeout: float | None) -> None:
    """With the limit of the backend where none was given."""
    cluster.wait(*names, **({} if timeout is None else {"timeout": timeout}))


@app.command()
def status(backend: Backend = "local") -> None:
    """Show every server: state, restarts, last line of its log."""
    servers = stack.connect(backend).status()
    if not servers:
        print("Nothing runs.")
        return
    # Only the last column gives way: a long line must not squeeze out the others.
    table = Table(box=None, pad_edge=False, expand=True)
    for heading in ("server", "state", "for", "restarts", "address", "pid"):
        table.add_column(heading, no_wrap=True)
    table.add_column("last line", no_wrap=True, overflow="ellipsis", ratio=1)
    for one in servers:
        table.add_row(*_row(one))
    # A pipe has no width: what goes into a file is not cut at 80 characters.
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def _row(one: ServerStatus) -> tuple[str, ...]:
    colour = {"ready": "green", "restarting": "red"}.get(one.state, "yellow")
    return (
        one.name,
        f"[{colour}]{one.state}[/]",
        f"{one.seconds:.0f} s",
        str(one.restarts),
        one.address or "-",
        str(one.pid or "-"),
        escape("".join(filter(str.isprintable, one.last_line))),
    )


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="A server, or the object that owns it.")],
    backend: Backend = "local",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until Ctrl-C.")] = False,
) -> None:
    """Show the log of a server."""
    cluster = stack.connect(backend)
    shown = cluster.logs(name, lines).splitlines()
    print("\n".join(shown))
    while follow:
        time.sleep(FOLLOW_SECONDS)
        now = cluster.logs(name, 1000).splitlines()
        last = shown[-1] if shown else None
        new = now[len(now) - now[::-1].index(last) :] if last in now else now
        if new:
            print("\n".join(new), flush=True)
            shown = now


@app.command()
def down(backend: Backend = "local") -> None:
    """Stop everything and remove its state; on a cluster, delete what was made there."""
    stack.connect(backend).down()


def main() -> None:
    """Run the command; a failure is one sentence and exit code 1."""
    try:
        app()
    except WalkthroughError as problem:
        sys.exit(f"stack: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
