"""Asynchronous explanations: queued, polled, kept for a while, bounded."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from helpers.metrics import Samples
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.production import jobs as module
from helpers.serving.explain.production.jobs import Jobs, JobStatus

pytestmark = pytest.mark.timeout(60)

LABELS = {"model_name": "m"}


class Kept(Jobs):
    """Jobs with their metrics."""

    def __init__(self, **limits: Any) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry, LABELS, **limits)

    def value(self, name: str, **labels: str) -> float:
        samples = Samples.parse(generate_latest(self.registry).decode())
        return samples.value(f"explain_server_{name}", **labels, **LABELS)

    async def ended(self, id: str) -> JobStatus:
        await until(lambda: self.status(id).state != "pending")
        return self.status(id)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be in time"
        await asyncio.sleep(0.002)


def run(scenario: Callable[[Kept], Awaitable[None]], **limits: Any) -> None:
    """Run a scenario; a task that is left over is a leak."""

    async def whole() -> None:
        kept = Kept(**limits)
        kept.start()
        try:
            await scenario(kept)
        finally:
            await kept.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left running: {left}"
        assert kept.value("jobs", state="pending") == kept.value("jobs", state="kept") == 0

    asyncio.run(whole())


def quick(value: bytes = b"{}") -> Callable[[], Awaitable[bytes]]:
    async def make() -> bytes:
        return value

    return make


class Held:
    """Makes an explanation once it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.began = 0
        self.cancelled = 0

    async def __call__(self) -> bytes:
        self.began += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b"{}"


def refused(call: Callable[[], Any]) -> RequestError:
    with pytest.raises(RequestError) as problem:
        call()
    return problem.value


def test_a_job_is_pending_then_done_and_kept() -> None:
    async def scenario(jobs: Kept) -> None:
        held = Held()
        id = jobs.submit(held)
        assert jobs.status(id).as_json() == {"id": id, "state": "pending", "position": 0}
        held.go.set()
        done = await jobs.ended(id)
        assert (done.state, done.result) == ("done", b"{}")
        shown = done.as_json()
        assert 590 <= shown.pop("expires_in_seconds") <= 600
        assert shown == {"id": id, "state": "done"}
        assert jobs.status(id).result == b"{}", "polled again it is still there"
        assert jobs.value("jobs_ended", result="done") == 1
        assert jobs.value("job_seconds_count") == 1

    run(scenario)


def test_jobs_are_made_in_order_one_at_a_time() -> None:
    async def scenario(jobs: Kept) -> None:
        held = [Held() for _ in range(3)]
        ids = [jobs.submit(one) for one in held]
        assert len(set(ids)) == 3
        await until(lambda: held[0].began == 1)
        assert [jobs.status(id).position for id in ids] == [0, 1, 2]
        held[2].go.set()
        held[0].go.set()
        await jobs.ended(ids[0])
        await until(lambda: held[1].began == 1)
        assert held[2].began == 0
        assert [jobs.status(id).position for id in ids] == [None, 0, 1]
        held[1].go.set()
        assert (await jobs.ended(ids[2])).state == "done"

    run(scenario)


def test_a_failure_is_kept_as_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    async def refuses() -> bytes:
        raise RequestError(502, "The model does not answer.")

    async def faulty() -> bytes:
        raise KeyError("secret detail")

    async def scenario(jobs: Kept) -> None:
        failed = await jobs.ended(jobs.submit(refuses))
        assert failed.state == "failed"
        error = {"code": 502, "message": "The model does not answer."}
        assert failed.as_json()["error"] == error
        fault = await jobs.ended(jobs.submit(faulty))
        assert (fault.code, fault.result) == (500, None)
        assert fault.error == "Internal error; the log of the explainer has the details."
        assert (await jobs.ended(jobs.submit(quick()))).state == "done", "others go on"
        assert jobs.value("jobs_ended", result="failed") == 2

    run(scenario)
    assert "secret detail" in caplog.text


def test_more_than_the_limit_is_429_until_results_expire() -> None:
    async def scenario(jobs: Kept) -> None:
        held = Held()
        first, second = jobs.submit(held), jobs.submit(quick())
        problem = refused(lambda: jobs.submit(quick()))
        assert problem.status == 429
        assert "2 explanations are pending and 0 results are kept" in problem.message
        held.go.set()
        await jobs.ended(second)
        problem = refused(lambda: jobs.submit(quick()))
        assert (problem.status, problem.headers) == (429, {"retry-after": "1"})
        await until(lambda: jobs.value("jobs", state="kept") == 0)
        assert refused(lambda: jobs.status(first)).status == 404
        jobs.submit(quick())
        assert jobs.value("jobs_ended", result="refused") == 2

    run(scenario, max_jobs=2, keep_seconds=1)


def test_results_go_in_time_though_nobody_asks() -> None:
    seen: list[weakref.ref[Any]] = []

    class Maker:
        async def __call__(self) -> bytes:
            return b"x" * 100_000

    async def scenario(jobs: Kept) -> None:
        maker = Maker()
        seen.append(weakref.ref(maker))
        id = jobs.submit(maker)
        del maker
        await jobs.ended(id)
        gc.collect()
        assert seen[0]() is None, "the job holds on to its inputs"
        assert jobs._held == 100_000
        await until(lambda: not jobs._ended)
        assert jobs._held == 0
        problem = refused(lambda: jobs.status(id))
        assert problem.status == 404
        assert "kept for 0.2 s" in problem.message
        assert "a restart forgets them" in problem.message

    run(scenario, keep_seconds=0.2)


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULT_BYTES", 1000)

    async def scenario(jobs: Kept) -> None:
        large = await jobs.ended(jobs.submit(quick(b"x" * 1001)))
        assert (large.state, large.code) == ("failed", 500)
        assert "1001 bytes, more than the 1000" in str(large.error)
        await jobs.ended(jobs.submit(quick(b"x" * 800)))
        over = await jobs.ended(jobs.submit(quick(b"x" * 800)))
        assert (over.state, over.code) == ("failed", 503)
        assert (await jobs.ended(jobs.submit(quick(b"x" * 700)))).state == "done"
        assert jobs._held == 1500
        assert refused(lambda: jobs.submit(quick())).status == 429

    run(scenario, max_bytes=1500)


def test_a_job_has_a_time_limit_and_does_not_hold_up_others() -> None:
    async def scenario(jobs: Kept) -> None:
        held = Held()
        late = await jobs.ended(jobs.submit(held))
        assert (late.state, late.code) == ("failed", 504)
        assert "not made within 0.1 s" in str(late.error)
        await until(lambda: held.cancelled == 1)

        async def stubborn() -> bytes:
            while not held.go.is_set():
                try:
                    await held.go.wait()
                except asyncio.CancelledError:
                    continue
            return b"{}"

        assert (await jobs.ended(jobs.submit(stubborn))).code == 504
        assert (await jobs.ended(jobs.submit(quick()))).state == "done"
        held.go.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run(scenario, job_seconds=0.1)


def test_a_job_may_be_given_up() -> None:
    async def scenario(jobs: Kept) -> None:
        first, second = Held(), Held()
        ids = [jobs.submit(first), jobs.submit(second)]
        await until(lambda: first.began == 1)
        jobs.cancel(ids[1])
        assert refused(lambda: jobs.status(ids[1])).status == 404
        jobs.cancel(ids[0])
        await until(lambda: first.cancelled == 1)
        await until(lambda: not jobs._pending)
        assert (second.began, jobs.value("jobs_ended", result="cancelled")) == (0, 2)
        done = jobs.submit(quick())
        await jobs.ended(done)
        jobs.cancel(done)
        assert refused(lambda: jobs.cancel(done)).status == 404
        at_once = jobs.submit(second)
        jobs.cancel(at_once)
        await until(lambda: not jobs._pending)
        assert jobs.value("jobs_ended", result="cancelled") == 3

    run(scenario)


def test_stopping_cancels_and_refuses() -> None:
    held = []

    async def whole() -> None:
        jobs = Kept()
        assert refused(lambda: jobs.submit(quick())).status == 503
        jobs.start()
        held.extend([Held(), Held()])
        for one in held:
            jobs.submit(one)
        await until(lambda: held[0].began == 1)
        began = time.monotonic()
        await jobs.close()
        assert time.monotonic() - began < 1
        assert (held[0].cancelled, held[1].began) == (1, 0)
        problem = refused(lambda: jobs.submit(quick()))
        assert (problem.status, "the server starts or stops" in problem.message) == (503, True)
        assert jobs.value("jobs_ended", result="cancelled") == 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


def test_many_threads_submit_and_poll() -> None:
    async def scenario(jobs: Kept) -> None:
        problems: list[BaseException] = []

        def client(number: int) -> None:
            try:
                mine = [jobs.submit(quick(b"%d" % number)) for _ in range(20)]
                end = time.monotonic() + 20
                while any(jobs.status(id).state == "pending" for id in mine):
                    assert time.monotonic() < end
                    time.sleep(0.001)
                assert {jobs.status(id).result for id in mine} == {b"%d" % number}
                for id in mine[::2]:
                    jobs.cancel(id)
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, 30)
        assert problems == []
        assert jobs.value("jobs_ended", result="done") == 160
        assert jobs.value("jobs", state="kept") == 80

    run(scenario, max_jobs=200)


@pytest.mark.parametrize("limit", ["max_jobs", "max_bytes", "keep_seconds", "job_seconds"])
def test_limits_that_cannot_be_are_sentences(limit: str) -> None:
    for value in (0, -1, float("nan")):
        with pytest.raises(ServingError, match=rf"{limit} of .* must be above 0"):
            Kept(**{limit: value})
