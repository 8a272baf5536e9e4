"""Events that were answered: a broker delivers at least once, and nothing may be counted twice."""

from __future__ import annotations

from collections import OrderedDict

from helpers.serving.common.events import CloudEvent
from helpers.serving.detect.verdict import Verdict

EVENTS = 10_000
UNSENT = 1_000
BYTES = 32 * 2**20


class Remembered:
    """The latest events and what they were answered, within limits of number and of bytes.

    An event is known by its source and id, as CloudEvents has it. Lives in memory: after a restart an
    event delivered again is counted again.
    """

    def __init__(self, events: int = EVENTS, bytes: int = BYTES) -> None:
        self.events = events
        self.bytes = bytes
        self._replies: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._held = 0

    def get(self, event: CloudEvent) -> bytes | None:
        """Return the data that the event was answered with, empty for none; None if it is new."""
        return self._replies.get((event.source, event.id))

    def put(self, event: CloudEvent, reply: bytes) -> None:
        """Remember what an event was answered with; the oldest are forgotten."""
        self._replies[event.source, event.id] = reply
        self._held += len(reply)
        while len(self._replies) > self.events or (self._held > self.bytes and self._replies):
            self._held -= len(self._replies.popitem(last=False)[1])


class Unsent:
    """Verdicts on the latest events that could not be passed on: a detector with a window or a sum
    must not be asked twice about one event."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[tuple[str, str], Verdict] = OrderedDict()

    def put(self, event: CloudEvent | None, verdict: Verdict) -> None:
        """Keep the verdict until the event comes again; what is no event cannot be known again."""
        if event is None:
            return
        self._verdicts[event.source, event.id] = verdict
        if len(self._verdicts) > UNSENT:
            self._verdicts.popitem(last=False)

    def take(self, event: CloudEvent | None) -> Verdict | None:
        """Return the verdict on an event that has come again; None where it has to be judged."""
        return None if event is None else self._verdicts.pop((event.source, event.id), None)
