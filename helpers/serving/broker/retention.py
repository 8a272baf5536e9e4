"""Which events the disk must keep, which it may, and when one goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the disk.

    Attributes:
        events: events with deliveries or dead letters left; above it new ones get a 429.
        bytes: the same for the sum of their data.
        keep_events: the newest events stay this long for inspection, delivered or not.
        keep_bytes: the same for the sum of their data.
    """

    events: int = 500_000
    bytes: int = 4 * 2**30
    keep_events: int = 5_000
    keep_bytes: int = 128 * 2**20


@dataclass(slots=True)
class _Needed:
    by: int  # deliveries and dead letters
    bytes: int


class Retention:
    """Counts what still needs each event; all in memory, rebuilt from the disk at start.

    Args:
        limits: see Limits.
        forget: deletes the events with these seqs from the disk.
    """

    def __init__(self, limits: Limits, forget: Callable[[list[int]], None]) -> None:
        self.limits = limits
        self.forget = forget
        self._needed: dict[int, _Needed] = {}
        self._needed_bytes = 0
        self._recent: deque[tuple[int, int]] = deque()  # (seq, bytes), oldest first
        self._recent_bytes = 0
        self._late: dict[int, int] = {}  # seq -> bytes: no longer recent, still needed
        self._late_bytes = 0

    def needed(self) -> tuple[int, int]:
        """Events with deliveries or dead letters left, and the bytes of their data."""
        return len(self._needed), self._needed_bytes

    def stored(self) -> tuple[int, int]:
        """All events on disk, and the bytes of their data."""
        return len(self._recent) + len(self._late), self._recent_bytes + self._late_bytes

    def full(self) -> bool:
        """Whether no further event may be taken."""
        return len(self._needed) >= self.limits.events or self._needed_bytes >= self.limits.bytes

    def add(self, seq: int, size: int, needs: int) -> None:
        """A new event, that so many deliveries and dead letters need."""
        self._recent.append((seq, size))
        self._recent_bytes += size
        self.need(seq, size, needs)

    def need(self, seq: int, size: int, needs: int = 1) -> None:
        """This many more need the event."""
        if needs and seq in self._needed:
            self._needed[seq].by += needs
        elif needs:
            self._needed[seq] = _Needed(needs, size)
            self._needed_bytes += size

    def release(self, seq: int, needs: int = 1) -> None:
        """This many fewer need it; it goes if nothing does and it is not recent either."""
        entry = self._needed.get(seq)
        if entry is None:
            return
        entry.by -= needs
        if entry.by > 0:
            return
        del self._needed[seq]
        self._needed_bytes -= entry.bytes
        if seq in self._late:
            self._late_bytes -= self._late.pop(seq)
            self.forget([seq])

    def trim(self) -> None:
        """Let go of what is no longer recent and nothing needs."""
        gone = []
        while len(self._recent) > self.limits.keep_events or (
            self._recent_bytes > self.limits.keep_bytes and len(self._recent) > 1
        ):
            seq, size = self._recent.popleft()
            self._recent_bytes -= size
            if seq in self._needed:
                self._late[seq] = size
                self._late_bytes += size
            else:
                gone.append(seq)
        if gone:
            self.forget(gone)
