"""Explanations that are asked for now and fetched later, because an anchor can outlive an HTTP timeout.

    jobs = Jobs(registry, labels)
    jobs.start()                                          # in the app's lifespan
    id = jobs.submit(make)                                # make: () -> Awaitable[bytes]; answer 202 with the id
    status = jobs.status(id)                              # answer status.as_json(); status.result has the bytes
    await jobs.close()

`submit` and `status` raise RequestErrors: 429 where there are too many, 404 where there is no such job. Jobs
live in this process's memory: a restart forgets them, and another replica does not know them. A service
of several replicas needs the poll to reach the one that took the job (sticky sessions), or one replica.

`make` runs on the event loop, one job at a time, in the order they came; it is cancelled at the time limit and at
shutdown. An explanation that is made in a thread goes on there after its cancelling: give it the same
deadline as a parameter. An id cannot be guessed: who has it may read the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from helpers.serving.common.errors import RequestError, ServingError

log = logging.getLogger(__name__)

RESULT_BYTES = 8 * 2**20
CLOSE_SECONDS = 2.0
SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

State = Literal["pending", "done", "failed"]
Make = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands.

    Args:
        id: from `submit`.
        state: `pending`, `done` or `failed`.
        position: jobs before it, 0 once it is being made; None where it has ended.
        result: of a job that is done.
        code: the HTTP status of one that failed.
        error: a sentence, of one that failed.
        expires_in: seconds until it is forgotten; None while it is pending.
    """

    id: str
    state: State
    position: int | None = None
    result: bytes | None = None
    code: int | None = None
    error: str | None = None
    expires_in: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what a poll answers, without the result."""
        shown: dict[str, Any] = {"id": self.id, "state": self.state}
        if self.position is not None:
            shown["position"] = self.position
        if self.error is not None:
            shown["error"] = {"code": self.code, "message": self.error}
        if self.expires_in is not None:
            shown["expires_in_seconds"] = math.floor(self.expires_in)
        return shown


@dataclass(slots=True)
class _Job:
    id: str
    make: Make | None
    submitted: float = field(default_factory=time.monotonic)
    state: State = "pending"
    result: bytes | None = None
    code: int | None = None
    error: str | None = None
    until: float = math.inf


class Jobs:
    """A bounded queue of explanations and their results, kept for a while.

    `submit`, `status` and `cancel` may be called from any thread.

    Args:
        registry: for its metrics.
        labels: of every metric.
        max_jobs: that are pending or kept; more are refused with 429.
        max_bytes: of results that are kept; a job is refused while they are reached.
        keep_seconds: a result's life after its job has ended.
        job_seconds: a job's limit; from when it begins, not from when it was submitted.

    Raises:
        ServingError: a limit that cannot be.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        labels: Mapping[str, str],
        *,
        max_jobs: int = 64,
        max_bytes: int = 128 * 2**20,
        keep_seconds: float = 600.0,
        job_seconds: float = 900.0,
    ) -> None:
        for name, value in (
            ("max_jobs", max_jobs),
            ("max_bytes", max_bytes),
            ("keep_seconds", keep_seconds),
            ("job_seconds", job_seconds),
        ):
            if not (math.isfinite(value) and value > 0):
                raise ServingError(
                    f"{name} of asynchronous explanations is {value}; it must be above 0."
                )
        self.max_jobs = max_jobs
        self.max_bytes = max_bytes
        self.keep_seconds = keep_seconds
        self.job_seconds = job_seconds
        self._pending: OrderedDict[str, _Job] = OrderedDict()  # the first is being made
        self._ended: OrderedDict[str, _Job] = OrderedDict()  # the first is forgotten first
        self._held = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._current: _Job | None = None
        self._running: asyncio.Task[bytes] | None = None
        self._closed = False
        gauge = Gauge(
            "explain_server_jobs",
            "Asynchronous explanations that are pending, and that are kept for their clients",
            [*labels, "state"],
            registry=registry,
        )
        self._shown = {state: gauge.labels(**labels, state=state) for state in ("pending", "kept")}
        ended = Counter(
            "explain_server_jobs_ended",
            "Asynchronous explanations by how they ended: done, failed, cancelled, or refused at once",
            [*labels, "result"],
            registry=registry,
        )
        self._counts = {
            result: ended.labels(**labels, result=result)
            for result in ("done", "failed", "cancelled", "refused")
        }
        self._seconds = Histogram(
            "explain_server_job_seconds",
            "Time of an asynchronous explanation from its submission to its end",
            list(labels),
            buckets=SECONDS,
            registry=registry,
        ).labels(**labels)

    def start(self) -> None:
        """Begin to work; called on the event loop that jobs run on."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._sweep())]

    def submit(self, make: Make) -> str:
        """Queue a job and return its id.

        Raises:
            RequestError: 429, there are as many as may be; 503, the server stops.
        """
        with self._lock:
            if self._closed or self._loop is None:
                raise RequestError(
                    503, "No explanation is taken just now: the server starts or stops."
                )
            self._forget_old()
            known = len(self._pending) + len(self._ended)
            if known >= self.max_jobs or self._held >= self.max_bytes:
                self._counts["refused"].inc()
                wait = self._next_free()
                raise RequestError(
                    429,
                    f"{len(self._pending)} explanations are pending and {len(self._ended)} results are "
                    f"kept, {self._held} bytes: no more are taken. Results are kept for "
                    f"{self.keep_seconds:g} s; submit it again later.",
                    headers={"retry-after": str(wait)},
                )
            job = _Job(secrets.token_urlsafe(18), make)
            self._pending[job.id] = job
            self._show()
            self._loop.call_soon_threadsafe(self._wake.set)
        return job.id

    def status(self, id: str) -> JobStatus:
        """Return how a job stands.

        Raises:
            RequestError: 404, there is none of that id, or not any more.
        """
        with self._lock:
            self._forget_old()
            job = self._ended.get(id)
            if job is not None:
                left = job.until - time.monotonic()
                return JobStatus(id, job.state, None, job.result, job.code, job.error, left)
            if id in self._pending:
                position = list(self._pending).index(id)
                return JobStatus(id, "pending", position)
        raise self._unknown(id)

    def cancel(self, id: str) -> None:
        """Give a job up, or forget its result.

        Raises:
            RequestError: 404, there is none of that id.
        """
        with self._lock:
            self._forget_old()
            if id in self._ended:
                self._drop(id)
                return
            job = self._pending.get(id)
            if job is None:
                raise self._unknown(id)
            if job is self._current and self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel_running, job)
                return
            del self._pending[id]
            self._counts["cancelled"].inc()
            self._show()

    async def close(self) -> None:
        """Cancel what is pending, forget all results, and return within a limit."""
        with self._lock:
            self._closed = True
            self._counts["cancelled"].inc(len(self._pending))
        tasks = [*self._tasks, *([self._running] if self._running else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        with self._lock:
            self._pending.clear()
            self._ended.clear()
            self._held = 0
            self._show()

    def _cancel_running(self, job: _Job) -> None:
        if self._current is job and self._running is not None:
            self._running.cancel()

    async def _work(self) -> None:
        while True:
            with self._lock:
                job = self._current = next(iter(self._pending.values()), None)
                if job is None:
                    self._wake.clear()
            if job is None:
                await self._wake.wait()
            else:
                await self._do(job)

    async def _do(self, job: _Job) -> None:
        assert job.make is not None
        self._running = asyncio.create_task(_awaited(job.make))
        job.make = None  # it may hold the inputs
        try:
            # Not wait_for: what does not heed its cancelling would hold up all the others.
            await asyncio.wait([self._running], timeout=self.job_seconds)
            if not self._running.done():
                job.code = 504
                job.error = (
                    f"The explanation was not made within {self.job_seconds:g} s. Ask for less: a "
                    "smaller batch, fewer samples, a lower threshold."
                )
                self._end(job, "failed")
            else:
                self._settle(job, self._running)
        finally:
            self._running.cancel()
            self._running.add_done_callback(_seen)
            self._running = None

    def _settle(self, job: _Job, task: asyncio.Task[bytes]) -> None:
        if task.cancelled():
            self._end(job, "cancelled")
            return
        problem = task.exception()
        if problem is None:
            result = task.result()
            if len(result) > RESULT_BYTES:
                job.code = 500
                job.error = (
                    f"The explanation has {len(result)} bytes, more than the {RESULT_BYTES} that are kept; "
                    "ask for a smaller batch."
                )
            elif self._held + len(result) > self.max_bytes:
                job.code = 503
                job.error = (
                    f"The results that are kept have {self._held} bytes, and this one would exceed "
                    f"{self.max_bytes}; submit it again later."
                )
            else:
                job.result = result
        elif isinstance(problem, RequestError):
            job.code, job.error = problem.status, problem.message
        else:
            log.error("fault in an asynchronous explanation", exc_info=problem)
            job.code, job.error = 500, "Internal error; the log of the explainer has the details."
        self._end(job, "failed" if job.error else "done")

    def _end(self, job: _Job, result: str) -> None:
        with self._lock:
            self._pending.pop(job.id, None)
            self._counts[result].inc()
            if result != "cancelled":
                self._seconds.observe(time.monotonic() - job.submitted)
                job.state = "done" if result == "done" else "failed"
                job.until = time.monotonic() + self.keep_seconds
                self._ended[job.id] = job
                self._held += len(job.result or b"")
            self._show()

    async def _sweep(self) -> None:
        """Forget results when their time is over, whether or not anybody asks."""
        while True:
            await asyncio.sleep(min(max(self.keep_seconds / 10, 0.01), 5.0))
            with self._lock:
                self._forget_old()

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._ended:
            id, job = next(iter(self._ended.items()))
            if job.until > now:
                return
            self._drop(id)

    def _drop(self, id: str) -> None:
        job = self._ended.pop(id)
        self._held -= len(job.result or b"")
        self._show()

    def _next_free(self) -> int:
        oldest = next(iter(self._ended.values()), None)
        wait = 5.0 if oldest is None else oldest.until - time.monotonic()
        return max(1, math.ceil(wait))

    def _show(self) -> None:
        self._shown["pending"].set(len(self._pending))
        self._shown["kept"].set(len(self._ended))

    def _unknown(self, id: str) -> RequestError:
        return RequestError(
            404,
            f"There is no explanation {id[:60]!r} here. Results are kept for {self.keep_seconds:g} s "
            "in the memory of the explainer that took them: a restart forgets them, and another "
            "replica does not have them. Submit it again.",
        )


async def _awaited(make: Make) -> bytes:
    return await make()


def _seen(task: asyncio.Task[bytes]) -> None:
    """Look at a result that nobody waits for any more, so that asyncio does not warn of it."""
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
