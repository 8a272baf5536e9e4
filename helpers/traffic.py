"""Many predictions at once, and feedback to order: the load of the notebooks.

traffic = send(client, x, concurrency=8)
traffic.percentiles((50, 90, 99))  # {50: 0.012, …} seconds
traffic.codes()  # {200: 1000}
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import orjson
from tqdm import tqdm

from helpers.client import Client
from helpers.client.protocols import numbers
from helpers.client.refusals import server_says
from helpers.errors import ClientError

NO_ANSWER = 0  # in the place of a status code


@dataclass(frozen=True, eq=False)
class Traffic:
    """What came of n requests, in the order in which they were sent.

    Args:
        seconds: (n,), from sending to the last byte of the answer; with a `rate`, from the moment it was due.
        status: int (n,), HTTP status; 0 where there was no answer.
        rows: (n,), instances in each request.
        probabilities: float64 (instances, classes), NaN where a request failed; None if the answers of
            different requests have different widths.
        request_ids: `Seldon-Puid` of each request; "" where there was no answer.
        problems: for each status that is not 200, what the first such answer said.
        duration: seconds for all.
    """

    seconds: np.ndarray
    status: np.ndarray
    rows: np.ndarray
    probabilities: np.ndarray | None
    request_ids: tuple[str, ...]
    problems: dict[int, str]
    duration: float

    @property
    def ok(self) -> np.ndarray:
        """Which requests succeeded, bool (n,)."""
        return self.status == 200

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each instance; -1 where its request failed."""
        if self.probabilities is None:
            raise ClientError("The answers have different widths; look at each alone.")
        failed = np.isnan(self.probabilities[:, 0])
        return np.where(failed, -1, np.nan_to_num(self.probabilities).argmax(axis=1))

    @property
    def rate(self) -> float:
        """Successful requests a second."""
        return float(self.ok.sum() / self.duration)

    def percentiles(self, wanted: Sequence[float] = (50, 90, 99)) -> dict[float, float]:
        """Return {percentile: seconds} of the successful requests."""
        values = np.percentile(self.seconds[self.ok], wanted)
        return {p: float(value) for p, value in zip(wanted, values, strict=True)}

    def codes(self) -> dict[int, int]:
        """Return how many requests had each status, the most frequent first."""
        return dict(Counter(self.status.tolist()).most_common())


@dataclass
class _Outcome:
    seconds: float = 0.0
    status: int = NO_ANSWER
    rows: Any = None
    request_id: str = ""
    problem: str = ""


@dataclass
class _Plan:
    client: Client
    requests: list[np.ndarray]
    concurrency: int
    rate: float | None
    headers: dict[str, str]
    bar: tqdm
    stopped: bool = False
    outcomes: list[_Outcome] = field(default_factory=list)


def send(
    client: Client,
    x: np.ndarray | Sequence[np.ndarray],
    *,
    concurrency: int = 8,
    batch: int = 1,
    rate: float | None = None,
    skip_logging: bool = False,
) -> Traffic:
    """Send predictions concurrently, in order, and note what comes of each; none is sent twice.

    Args:
        client: of the deployment.
        x: instances (n, …), `batch` of them in a request; or a list of arrays, each a request.
        concurrency: requests under way at once, at most.
        batch: instances in a request.
        rate: requests a second; as fast as the answers come otherwise. A request that had to wait for
            its turn counts that time too: that is what its sender would see.
        skip_logging: the requests go to no event broker.

    Raises:
        ClientError: nothing to send, or every single request failed.
    """
    if concurrency < 1 or batch < 1 or (rate is not None and rate <= 0):
        raise ClientError(
            f"concurrency {concurrency}, batch {batch} and rate {rate} must be positive."
        )
    requests = list(x) if isinstance(x, list | tuple) else list(_batches(np.asarray(x), batch))
    if not requests:
        raise ClientError("There is nothing to send: x is empty.")
    headers = {"content-type": "application/json"}
    if skip_logging:
        headers["seldon-skip-logging"] = "true"
    # A bar only where somebody watches: on a page it would be noise.
    with tqdm(total=len(requests), disable=not sys.stderr.isatty(), unit="request") as bar:
        plan = _Plan(client, requests, concurrency, rate, headers, bar)
        # In a thread of its own: a notebook's thread has an event loop already.
        with ThreadPoolExecutor(1, thread_name_prefix="traffic") as thread:
            running = thread.submit(asyncio.run, _run(plan))
            try:
                duration = running.result()
            finally:
                plan.stopped = True  # an interrupted notebook does not wait for the rest
    return _gathered(plan, duration)


def _batches(x: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    for start in range(0, len(x), batch):
        yield x[start : start + batch]


async def _run(plan: _Plan) -> float:
    plan.outcomes = [_Outcome() for _ in plan.requests]
    waiting = iter(enumerate(plan.requests))
    started = time.perf_counter()

    async def worker(session: aiohttp.ClientSession) -> None:
        for number, rows in waiting:  # shared: each takes the next one
            if plan.stopped:
                return
            due = started + number / plan.rate if plan.rate else None
            if due is not None and due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            await _one(plan, session, rows, plan.outcomes[number], due)
            plan.bar.update()

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=plan.concurrency),
        timeout=aiohttp.ClientTimeout(total=plan.client.timeout),
        headers=plan.headers,
        auto_decompress=False,
    ) as session:
        await asyncio.gather(
            *(worker(session) for _ in range(min(plan.concurrency, len(plan.requests))))
        )
        return time.perf_counter() - started


async def _one(
    plan: _Plan,
    session: aiohttp.ClientSession,
    rows: np.ndarray,
    outcome: _Outcome,
    due: float | None,
) -> None:
    protocol = plan.client.protocol
    body = plan.client.encode(rows)
    started = time.perf_counter() if due is None else due
    try:
        async with session.post(plan.client.url + protocol.predict_path, data=body) as answer:
            content = await answer.read()
            outcome.status = answer.status
            outcome.request_id = answer.headers.get("seldon-puid", "")
    except (aiohttp.ClientError, TimeoutError) as problem:
        outcome.problem = str(problem) or type(problem).__name__
        return
    finally:
        outcome.seconds = time.perf_counter() - started
    if outcome.status != 200:
        outcome.problem = server_says(content)
        return
    try:
        answered = numbers(protocol.rows(orjson.loads(content)))
        if len(answered) != len(rows):
            raise ValueError(f"{len(answered)} rows for {len(rows)} instances")
        outcome.rows = answered
    except (ValueError, KeyError, TypeError, IndexError) as problem:
        outcome.problem = f"not what the protocol says ({problem}): {server_says(content)[:100]!r}"


def _gathered(plan: _Plan, duration: float) -> Traffic:
    outcomes = plan.outcomes
    problems: dict[int, str] = {}
    for outcome in outcomes:
        if outcome.problem:
            problems.setdefault(outcome.status, outcome.problem)
    answered = [outcome for outcome in outcomes if outcome.rows is not None]
    if not answered:
        status, first = next(iter(problems.items()))
        what = f"answered with {status}" if status else "not answered"
        url = plan.client.url + plan.client.protocol.predict_path
        raise ClientError(
            f"All {len(outcomes)} requests to {url} failed; the first was {what}: {first} "
            "`client.predict(x[:1])` says more of one.",
            status or None,
        )
    sizes = [len(rows) for rows in plan.requests]
    return Traffic(
        seconds=np.array([outcome.seconds for outcome in outcomes]),
        status=np.array([outcome.status for outcome in outcomes]),
        rows=np.array(sizes),
        probabilities=_stacked(outcomes, sizes),
        request_ids=tuple(outcome.request_id for outcome in outcomes),
        problems=problems,
        duration=duration,
    )


def _stacked(outcomes: Iterable[_Outcome], sizes: Sequence[int]) -> np.ndarray | None:
    widths = {outcome.rows.shape[1:] for outcome in outcomes if outcome.rows is not None}
    if len(widths) != 1:
        return None
    shape = widths.pop()
    return np.concatenate(
        [
            np.full((size, *shape), np.nan) if outcome.rows is None else outcome.rows
            for outcome, size in zip(outcomes, sizes, strict=True)
        ]
    )


def feedback_for_accuracy(
    accuracy: float, count: int, *, classes: int = 10, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (truth, response), each (count,), that amount to an accuracy.

    Every class is the truth equally often and right equally often, up to one; wrong responses are
    drawn among the other classes, and the order is random.

    Args:
        accuracy: share of right responses, 0 to 1; met up to rounding.
        count: feedback to send.
        classes: how many there are.
        seed: of the draws.

    Raises:
        ClientError: no such accuracy, or fewer than one feedback or two classes.
    """
    if not 0 <= accuracy <= 1 or count < 1 or classes < 2:
        raise ClientError(
            f"accuracy {accuracy} must be from 0 to 1, count {count} at least 1 and classes {classes} "
            "at least 2."
        )
    generator = np.random.default_rng(seed)
    truth = np.arange(count) % classes
    # In this order every run of `classes` has each class once: the first ones are right for all alike.
    wrong = np.arange(count) >= round(accuracy * count)
    response = np.where(wrong, (truth + generator.integers(1, classes, count)) % classes, truth)
    order = generator.permutation(count)
    return truth[order], response[order]
