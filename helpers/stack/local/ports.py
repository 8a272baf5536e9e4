"""Free ports on loopback, kept apart until the processes they were chosen for have bound them."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

from helpers.errors import StackError

HOST = "127.0.0.1"
# Below the ports that Linux (32768 up) and macOS (49152 up) give to outgoing connections: between
# the choice and the bind nobody gets one of these by accident.
PORTS = range(20000, 30000)
TRIES = 200


class Ports:
    """Hands out free ports, none twice before it is given back."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self) -> int:
        """Return a free port.

        Raises:
            StackError: there is none.
        """
        for candidate in [*random.sample(PORTS, TRIES), *[0] * TRIES]:
            if candidate in self._taken:
                continue
            port = _bindable(candidate)
            if port is not None and port not in self._taken:
                self._taken.add(port)
                return port
        raise StackError(
            f"No free port on {HOST} after {2 * TRIES} tries; stop what holds the ports from"
            f" {PORTS.start} up (`ss -ltnp` lists it)."
        )

    def give_back(self, ports: Iterable[int]) -> None:
        """Let ports be chosen again: their process is gone."""
        self._taken.difference_update(ports)


def _bindable(port: int) -> int | None:
    # Without SO_REUSEADDR: stricter than a server, so what binds here binds there.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return probe.getsockname()[1]
