"""An explainer from its loading to its last explanation: what is ready, and one explanation at a time."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from helpers.errors import WalkthroughError
from helpers.seeds import numpy_state_kept
from helpers.serving.common.errors import RequestError
from helpers.serving.explain.methods.base import Explained, Method, Options
from helpers.serving.explain.production.attributions import ANCHORS
from helpers.serving.explain.production.deadline import STOPS, Clock, best_so_far, caused
from helpers.serving.explain.reuse import ReusedPredictions, Usage
from helpers.serving.storage import Location

log = logging.getLogger(__name__)

FIRST_WAIT = 0.2  # seconds between the first two tries to reach the model; they double up to
LONGEST_WAIT = 5.0


class ExplainService:
    """Loads a method's artefact, waits for the model, and explains.

    alibi draws from NumPy's global generator, so explanations are made one after the other: each
    starts from its own seed and none can disturb another. Whoever needs more of them at a time runs
    more processes.

    Args:
        name: the model's name, for the log.
        method: what explains.
        location: its artefact.
        predictions: asks the model; None for a method that does not.
        on_loaded: called once the artefact is loaded; what it raises ends the start.
    """

    def __init__(
        self,
        name: str,
        method: Method,
        location: Location,
        predictions: ReusedPredictions | None,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.method = method
        self.location = location
        self.predictions = predictions
        self.on_loaded = on_loaded
        self.state = f"The explainer {location} is being loaded."
        self._ready = threading.Event()
        self._stopped = threading.Event()
        self._turn = threading.Lock()

    def not_ready(self) -> str | None:
        """Return why nothing can be explained yet, or None."""
        return None if self._ready.is_set() else self.state

    def start(self, on_failure: Callable[[str], None]) -> None:
        """Load the artefact and wait for the model as long as it takes; runs in a thread of its own.

        `on_failure` gets the sentence that says why the explainer cannot be loaded.
        """
        started = time.perf_counter()
        try:
            if self.method.uses_tensorflow:
                import helpers.tf  # noqa: F401
            from helpers.serving.explain.lean_alibi import prepare_alibi

            prepare_alibi()
            self.method.load(self.location)
            self.on_loaded()
            loaded = time.perf_counter() - started
            self._connect()
        except Exception as problem:
            if not isinstance(problem, WalkthroughError):
                log.exception("%s cannot load its explainer", self.name)
            self.state = f"The explainer {self.location} cannot be loaded: {problem}"
            on_failure(self.state)
            return
        if not self._stopped.is_set():
            self._ready.set()
            log.info(
                "%s is ready after %.1f s, %.1f s of it to load the explainer",
                self.name,
                time.perf_counter() - started,
                loaded,
            )

    def _connect(self) -> None:
        if self.predictions is None:
            return
        wait = FIRST_WAIT
        while not self._stopped.is_set():
            try:
                with self._turn:
                    self.method.connect(self.predictions)
                return
            except Exception as problem:
                refused = _refused_by(problem)
                if refused is None:
                    raise
                waiting = f"The explainer waits for its model: {refused.message}"
                if waiting != self.state:
                    log.info("%s: %s", self.name, waiting)
                self.state = waiting
                self._stopped.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)

    def explain(
        self, instances: Any, options: Options, seed: int, deadline: Clock | None = None
    ) -> tuple[Explained, Usage, float]:
        """Return the explanation, what it asked of the model, and the seconds it took.

        Args:
            instances: what to explain.
            options: of the method.
            seed: of the random draws.
            deadline: when it must end; an anchor is the best so far then.

        Raises:
            RequestError: the instances are refused, the model fails, or the time is up.
        """
        anchors = deadline if type(self.method).__name__ in ANCHORS else None
        with self._turn, _seeded(seed), best_so_far(anchors), self._in_time(deadline):
            if deadline is not None:
                deadline.check()  # it may have waited too long for its turn
            if self.predictions is not None:
                self.predictions.begin()
            started = time.perf_counter()
            try:
                explained = self.method.explain(instances, options, seed)
            except Exception as problem:
                refused = None if deadline is None else caused(problem, STOPS)
                if refused is None or refused is problem:
                    raise
                raise refused from problem
            usage = Usage() if self.predictions is None else self.predictions.usage
            return explained, usage, time.perf_counter() - started

    @contextmanager
    def _in_time(self, deadline: Clock | None) -> Iterator[None]:
        if self.predictions is None or deadline is None:
            yield
            return
        self.predictions.in_time = deadline.check
        try:
            yield
        finally:
            self.predictions.in_time = None

    def stop(self) -> None:
        """Stop waiting for the model."""
        self._stopped.set()


def _refused_by(problem: BaseException | None) -> RequestError | None:
    """Return the RequestError that alibi has wrapped in an error of its own, if there is one."""
    while problem is not None and not isinstance(problem, RequestError):
        problem = problem.__cause__
    return problem


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators for the block, and put their states back."""
    python_state = random.getstate()
    random.seed(seed)
    try:
        with numpy_state_kept(seed):
            yield
    finally:
        random.setstate(python_state)
