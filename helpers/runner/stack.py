"""The local stack that notebooks start lives on between them, and ends with the run that started it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console

from helpers.errors import StackError


@contextlib.contextmanager
def stopped_afterwards(console: Console) -> Iterator[None]:
    """Stop the local stack after the block, unless it was running before."""
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
