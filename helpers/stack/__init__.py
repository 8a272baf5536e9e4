"""Where manifests run: `connect("local")` for processes on this machine, `connect("kind")` for a cluster."""

from __future__ import annotations

from helpers.errors import StackError
from helpers.stack.interface import Applied, ServerStatus, Stack

BACKENDS = ("local", "kind")

__all__ = ["BACKENDS", "Applied", "ServerStatus", "Stack", "connect"]


def connect(backend: str = "local", *, dataset: str = "cifar10") -> Stack:
    """Return the stack of a backend; nothing is started before something is applied.

    Args:
        backend: "local" or "kind".
        dataset: whose artefacts are served. Manifests name those of CIFAR-10,
            `s3://walkthrough/cifar10/…`; with "digits" they are applied with `…/digits/…`, and the
            drift detector with the window that it was calibrated for.

    Raises:
        StackError: another backend, or one that cannot be had here.
    """
    if backend == "local":
        from helpers.stack.local.client import LocalStack

        return LocalStack(dataset)
    if backend == "kind":
        from helpers.stack.kind.client import KindStack

        return KindStack(dataset)
    raise StackError(f"BACKEND={backend!r} is not known; {' and '.join(BACKENDS)} are.")
