"""When an explanation must end, and an anchor search that ends with the best anchor it knows.

Time is looked at between the explainer's calls of its prediction function, and between the draws of an anchor
search. An anchor search has candidates with known precision and coverage at any time; the other methods have
nothing before they are done, and are given up.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from helpers.serving.common.errors import RequestError

GRACE_SECONDS = 1.0  # for the last call of the model, and to write the answer


class TimeUpError(RequestError):
    """The time of an explanation is over, and there is nothing to answer yet."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            504,
            f"No explanation within {seconds:g} s, and none so far. Give it more time by "
            "parameters.deadline, up to the explainer's --deadline_seconds, or ask for less: fewer "
            "instances or samples, a lower threshold, a larger tau; or ask for it with `Prefer: "
            "respond-async` where the explainer takes that.",
        )


class InterruptedForClientError(Exception):
    """What was explained in the background stops, because a client waits."""


STOPS = (TimeUpError, InterruptedForClientError)


class Clock(Protocol):
    """Says by an error of STOPS that an explanation must end."""

    stopped: bool
    paused: bool

    def check(self) -> None:
        """Raise the error when it is time."""


@dataclass(slots=True)
class Background:
    """Lets an explanation that nobody waits for give way.

    Args:
        must_stop: whether somebody waits for something else.
        stopped, paused: stay False: there is no best answer so far of it.
    """

    must_stop: Callable[[], bool]
    stopped: bool = False
    paused: bool = False

    def check(self) -> None:
        """Raise InterruptedForClientError when somebody waits."""
        if self.must_stop():
            raise InterruptedForClientError


@dataclass(slots=True)
class Deadline:
    """The end of one explanation.

    Args:
        seconds: its time in all.
        at: its end, of time.monotonic; from now by default.
        stopped: whether the answer is the best so far, not the final one.
        paused: while the best so far is put together.
    """

    seconds: float
    at: float = 0.0
    stopped: bool = False
    paused: bool = False

    def __post_init__(self) -> None:
        self.at = self.at or time.monotonic() + self.seconds

    def told(self) -> dict[str, Any]:
        """Return what the response says of it."""
        return {"seconds": self.seconds, "complete": not self.stopped}

    def check(self) -> None:
        """Raise TimeUpError when it is over."""
        if time.monotonic() >= self.at and not self.paused:
            raise TimeUpError(self.seconds)


@contextmanager
def best_so_far(deadline: Clock | None) -> Iterator[None]:
    """Let alibi's anchor searches inside the block end at a deadline. Not for two threads at a time."""
    if deadline is None:
        yield
        return
    from alibi.explainers.anchors.anchor_base import AnchorBaseBeam

    search, draw = AnchorBaseBeam.anchor_beam, AnchorBaseBeam.draw_samples

    def draw_in_time(self: Any, *arguments: Any, **named: Any) -> Any:
        deadline.check()
        return draw(self, *arguments, **named)

    def search_in_time(self: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        try:
            return search(self, *arguments, **named)
        except Exception as problem:
            if caused(problem, (TimeUpError,)) is None:
                raise
            told = inspect.signature(search).bind(self, *arguments, **named)
            told.apply_defaults()
            found = _best(self, told.arguments)
            if found is None:
                raise
            anchor, holds = found
            deadline.stopped = deadline.paused = True  # a few examples may still be drawn
            try:
                return self.get_anchor_metadata(anchor, holds, told.arguments["batch_size"])
            finally:
                deadline.paused = False

    AnchorBaseBeam.anchor_beam, AnchorBaseBeam.draw_samples = search_in_time, draw_in_time
    try:
        yield
    finally:
        AnchorBaseBeam.anchor_beam, AnchorBaseBeam.draw_samples = search, draw


def caused(
    problem: BaseException | None, kinds: tuple[type[BaseException], ...]
) -> BaseException | None:
    """Return the error of some kinds that another, of alibi's own, was made of."""
    while problem is not None and not isinstance(problem, kinds):
        problem = problem.__cause__ or problem.__context__
    return problem


def _best(search: Any, told: dict[str, Any]) -> tuple[tuple, bool] | None:
    """Return the best anchor that a search knows and whether it holds; None where it knows none.

    Of those that reach the threshold it is the one of most coverage, as in alibi; otherwise the one
    whose precision is certain to be highest.
    """
    state = getattr(search, "state", None)
    if not state:
        return None
    drawn, order = state["t_nsamples"], state["t_order"]
    anchors = [
        anchor
        for anchor in drawn
        if order.get(anchor) and all(drawn.get(part) for part in _parts(order[anchor]))
    ]
    if not anchors:
        return None
    samples = np.array([drawn[anchor] for anchor in anchors])
    means = np.array([state["t_positives"][anchor] for anchor in anchors]) / samples
    lows = search.dlow_bernoulli(means, np.log(1.0 / told["delta"]) / samples)
    wanted = told["desired_confidence"]
    holds = (means >= wanted) & (lows > wanted - told["epsilon_stop"])
    if holds.any():
        coverages = np.array([state["t_coverage"][anchor] for anchor in anchors])
        return anchors[int(np.argmax(np.where(holds, coverages, -1.0)))], True
    return anchors[int(np.argmax(lows))], False


def _parts(order: Any) -> list[tuple]:
    """Return the smaller anchors that one was made of, and itself."""
    return [tuple(sorted(order[: size + 1])) for size in range(len(order))]
