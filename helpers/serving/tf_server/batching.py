"""Requests that wait at the same time are computed in one call of the model.

While the model computes, requests gather; when it is free, all that wait go in together, so an idle
server adds no delay. Under load the next call waits a moment, until about half of the clients seen
lately are back: otherwise it would run with the first one alone while the rest queue behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from helpers.serving.common.errors import RequestError
from helpers.serving.tf_server.specs import Arrays, Run

MAX_ROWS = 32  # rows of one call: beyond, a CPU gains nothing and its caches overflow
MAX_WAITING_ROWS = 2048  # more are refused: they would wait longer than their clients
WINDOW = 0.004  # seconds, the longest wait for company


@dataclass(slots=True)
class _Waiting:
    inputs: Arrays
    rows: int
    done: asyncio.Future[dict[str, np.ndarray]]

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(array.shape[1:] for array in self.inputs.values())


class Batcher:
    """A queue before one function of arrays whose first axis is rows.

    Args:
        run: the function; called in `executor`, never twice at once.
        executor: where it runs.
        max_rows: rows of one call; a larger request is cut into several calls.
        max_waiting_rows: rows that may wait before further requests are refused.
        window: seconds that a call waits for company at most, and only under load.
        observe: called with rows and seconds after every call.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        *,
        max_rows: int = MAX_ROWS,
        max_waiting_rows: int = MAX_WAITING_ROWS,
        window: float = WINDOW,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self._run = run
        self._executor = executor
        self._max_rows = max_rows
        self._max_waiting_rows = max_waiting_rows
        self._window = window
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._running = 0  # requests in the present call
        self._peak = 0  # most requests under way at once since the last call began
        self._lately = 0  # the same over the last few calls, fading by half
        self._worker: asyncio.Task[None] | None = None
        self.waiting_rows = 0

    async def submit(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Return the outputs for `inputs`, whose arrays all have the same number of rows.

        Raises:
            RequestError: 503, too much waits already.
            ModelInputError: the model refuses these inputs.
        """
        rows = len(next(iter(inputs.values())))
        if self._queue and self.waiting_rows + rows > self._max_waiting_rows:
            raise RequestError(
                503,
                f"The batching queue is full: {self.waiting_rows} rows wait; try again.",
                headers={"retry-after": "1"},
            )
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name="batcher")
        waiting = _Waiting(inputs, rows, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self.waiting_rows += rows
        self._peak = max(self._peak, len(self._queue) + self._running)
        self._arrived.set()
        return await waiting.done

    async def aclose(self) -> None:
        """Stop; what waits is refused."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for waiting in self._take_all():
            if not waiting.done.done():
                waiting.done.set_exception(RequestError(503, "The server is stopping."))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            await self._wait_for_company()
            batch = self._take()
            if not batch:
                continue
            self._running = len(batch)
            try:
                outcomes = await loop.run_in_executor(self._executor, self._compute, batch)
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.done.cancel()
                raise
            except Exception as problem:  # the executor is shut down, or no memory is left
                outcomes = [problem] * len(batch)
            finally:
                self._running = 0
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if waiting.done.done():
                    continue
                if isinstance(outcome, Exception):
                    waiting.done.set_exception(outcome)
                else:
                    waiting.done.set_result(outcome)

    async def _wait_for_company(self) -> None:
        self._lately = max(self._peak, self._lately // 2)
        self._peak = len(self._queue)
        target = (self._lately + 1) // 2
        if self._enough(target):
            return
        try:
            async with asyncio.timeout(self._window):
                while not self._enough(target):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass

    def _enough(self, target: int) -> bool:
        return len(self._queue) >= target or self.waiting_rows >= self._max_rows

    def _take(self) -> list[_Waiting]:
        """Remove and return the requests of the next call: the same inner shape, at most max_rows."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if batch and (
                rows + first.rows > self._max_rows or first.shapes() != batch[0].shapes()
            ):
                break
            self._queue.popleft()
            self.waiting_rows -= first.rows
            if not first.done.done():  # else its client has gone
                batch.append(first)
                rows += first.rows
        return batch

    def _take_all(self) -> list[_Waiting]:
        everything = list(self._queue)
        self._queue.clear()
        self.waiting_rows = 0
        return everything

    def _compute(self, batch: list[_Waiting]) -> list[dict[str, np.ndarray] | Exception]:
        """Runs in the executor: one outcome a request, in order."""
        if len(batch) == 1:
            return [self._attempt(batch[0].inputs)]
        joined = {
            name: np.concatenate([waiting.inputs[name] for waiting in batch])
            for name in batch[0].inputs
        }
        outputs = self._attempt(joined)
        rows = sum(waiting.rows for waiting in batch)
        # One bad request must not spoil the others; and not every output has a row for each row in.
        if isinstance(outputs, Exception) or not _by_row(outputs, rows):
            return [self._attempt(waiting.inputs) for waiting in batch]
        outcomes: list[dict[str, np.ndarray] | Exception] = []
        start = 0
        for waiting in batch:
            stop = start + waiting.rows
            outcomes.append({name: array[start:stop] for name, array in outputs.items()})
            start = stop
        return outcomes

    def _attempt(self, inputs: Arrays) -> dict[str, np.ndarray] | Exception:
        try:
            return self._in_pieces(inputs)
        except Exception as problem:
            return problem

    def _in_pieces(self, inputs: Arrays) -> dict[str, np.ndarray]:
        rows = len(next(iter(inputs.values())))
        if rows <= self._max_rows:
            return self._timed(inputs, rows)
        pieces = []
        for start in range(0, rows, self._max_rows):
            piece = {name: array[start : start + self._max_rows] for name, array in inputs.items()}
            size = min(self._max_rows, rows - start)
            pieces.append(self._timed(piece, size))
            if not _by_row(pieces[-1], size):
                return self._timed(inputs, rows)
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _timed(self, inputs: Arrays, rows: int) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        outputs = self._run(inputs)
        self._observe(rows, time.perf_counter() - started)
        return outputs


def _by_row(outputs: Arrays, rows: int) -> bool:
    return all(array.ndim > 0 and len(array) == rows for array in outputs.values())
