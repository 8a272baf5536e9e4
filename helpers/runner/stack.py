"""What notebooks deploy lives on between them, and ends with the run that deployed it, on either backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console

from helpers.errors import StackError


def stopped_afterwards(
    console: Console, backend: str = "local"
) -> contextlib.AbstractContextManager[None]:
    """Remove after the block what is deployed in it, unless something was deployed before.

    Args:
        console: where it is said what is left as it is.
        backend: "local" or "kind".

    Raises:
        StackError: on entering, where there is no cluster.
    """
    return _emptied_afterwards(console) if backend == "kind" else _local(console)


@contextlib.contextmanager
def _emptied_afterwards(console: Console) -> Iterator[None]:
    from helpers.stack.kind.client import KindStack

    stack = KindStack()
    stack.check()  # one sentence now, and not a traceback in every notebook
    if not stack.is_empty:
        console.print(
            "There are deployments on the cluster already, and whatever the notebooks add to them stays: "
            "`make down BACKEND=kind` deletes it.",
            highlight=False,
        )
        yield
        return
    try:
        yield
    finally:
        try:
            stack.down()
        except StackError as problem:
            console.print(f"The cluster could not be cleaned up: {problem}", highlight=False)


@contextlib.contextmanager
def _local(console: Console) -> Iterator[None]:
    from helpers.stack.local.client import LocalStack

    stack = LocalStack()
    if stack.is_up:
        note = "The local stack is running already, and is left running."
        if stack.is_outdated:
            note += " It was started from older code: `make down` ends it."
        console.print(note, highlight=False)
        yield
        return
    try:
        yield
    finally:
        if stack.is_up:
            try:
                stack.down()
            except StackError as problem:
                console.print(f"The local stack could not be stopped: {problem}", highlight=False)
