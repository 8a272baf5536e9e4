"""The stability index: how alike are explanations of the same input that differ in the seed only.

    stability = Stability(settings, registry, labels, idle=lambda: server.waiting == 0)
    stability.start()                                        # in the app's lifespan
    stability.offer(reading, seed, again)                    # after a response has been sent; returns at once
    await stability.close()

`again(seed)` explains the same instance with the same options and another seed, past the cache, the
audit trail and the metrics of requests, and returns its reading. It is called on the event loop, one at a
time, and only while `idle()` says that nobody waits. A client that comes while it runs must not wait for
its end: let every call of the model ask `stability.must_give_way()` while `again` runs, and raise GaveWay
where it says so; the sample is taken up again later. Without that a client waits for one explanation at most.

The index of one input is the mean similarity of all pairs among its first explanation and those of the k
other seeds, as Kalousis, Prados and Hilario define the stability of feature selection ("Stability of feature
selection algorithms: a study on high-dimensional spaces", Knowledge and Information Systems 12, 2007); Visani et
al. measure LIME in the same way ("Statistical stability indices for LIME", Journal of the Operational Research
Society 73, 2022). The similarity of two

- anchors is the Jaccard index of their features, |A ∩ B| / |A ∪ B|; of two empty anchors it is 1;
- attributions is Spearman's rank correlation of their absolute values, by which features are ranked, and beside
  it, as another index, the cosine of the vectors, which also sees signs and sizes. Where all of one are alike
  there is no ranking: 1 if those of the other are too, else 0. The cosine of a zero vector is 1 with a
  zero vector, else 0.

1 is a method that always says the same, as TreeShap does. It says nothing about whether that is right.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from scipy.stats import rankdata

from helpers.serving.common.errors import ServingError

log = logging.getLogger(__name__)

Reading = Mapping[str, float] | Collection[str]
"""An explanation as attributions by feature, or as the features (or conditions) of an anchor."""

Again = Callable[[int], Awaitable[Reading]]

SEEDS = 2**32
WAITING = 8  # samples that wait for an idle moment; the oldest goes first
TRIES = 5  # of a sample that had to give way
MAX_AGE = 600.0  # seconds a sample may wait
POLL_SECONDS = 0.2
CLOSE_SECONDS = 2.0
WINDOW = 100  # indices that the gauge is the mean of
INDICES = (
    -1.0,
    -0.5,
    0.0,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.99,
    1.0,
)  # prometheus-client has no _sum of negative ones
_CHANCE = random.SystemRandom().random  # the global generator is seeded for each explanation
JACCARD, SPEARMAN, COSINE = "jaccard", "spearman", "cosine"


class GaveWay(Exception):  # noqa: N818 (not an error: a client came)
    """What is made in the background stops, because a client waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilitySettings:
    """How often, and how thoroughly.

    Args:
        share: of the explanations that are made again, 0 to 1.
        seeds: other seeds for each of them, k.
        idle_seconds: nobody must have waited for so long.
        limit_seconds: of one explanation in the background.

    Raises:
        ServingError: a value that cannot be.
    """

    share: float = 0.05
    seeds: int = 3
    idle_seconds: float = 1.0
    limit_seconds: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ServingError(f"The stability index's share is {self.share}; it lies from 0 to 1.")
        if not 1 <= self.seeds <= 20:
            raise ServingError(
                f"The stability index's seeds are {self.seeds}; 1 to 20 are possible."
            )
        for name in ("idle_seconds", "limit_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ServingError(f"The stability index's {name} is {value}; it must be above 0.")


@dataclass(slots=True)
class _Sample:
    first: Reading | Callable[[], Reading]
    seeds: list[int]
    again: Again
    offered: float
    tries: int = 0
    readings: list[Reading] = field(default_factory=list)


class Stability:
    """Samples explanations and makes them again when nobody waits.

    Args:
        settings: how often and how thoroughly.
        registry: for its metrics.
        labels: of every metric.
        idle: whether no client waits or is being served; what is made in the background does not count.
        chance: random numbers in [0, 1), for the sampling.
    """

    def __init__(
        self,
        settings: StabilitySettings,
        registry: CollectorRegistry,
        labels: Mapping[str, str],
        *,
        idle: Callable[[], bool],
        chance: Callable[[], float] = _CHANCE,
    ) -> None:
        self.settings = settings
        self._idle = idle
        self._chance = chance
        self._waiting: deque[_Sample] = deque()
        self._come = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._latest: dict[str, deque[float]] = {}
        names = [*labels, "similarity"]
        histogram = Histogram(
            "explain_server_stability",
            "Mean similarity of explanations of one input under different seeds",
            names,
            buckets=INDICES,
            registry=registry,
        )
        gauge = Gauge(
            "explain_server_stability_index",
            f"Mean of the last {WINDOW} such similarities",
            names,
            registry=registry,
        )
        self._histogram = lambda kind: histogram.labels(**labels, similarity=kind)
        self._gauge = lambda kind: gauge.labels(**labels, similarity=kind)
        counter = Counter(
            "explain_server_stability_samples",
            "Explanations sampled for the stability index, by what became of them",
            [*labels, "result"],
            registry=registry,
        )
        self._counts = {
            result: counter.labels(**labels, result=result)
            for result in ("measured", "failed", "dropped")
        }

    def start(self) -> None:
        """Begin; called on the event loop."""
        self._task = asyncio.create_task(self._work())

    def offer(self, reading: Reading | Callable[[], Reading], seed: int, again: Again) -> bool:
        """Take an explanation, perhaps, to be made again later; called on the event loop.

        Args:
            reading: of the explanation that the client got, or what reads it, in a thread, later.
            seed: that it was made with.
            again: makes another; holds the inputs, until it has been measured.

        Returns:
            Whether it was taken.
        """
        if self._task is None or self._chance() >= self.settings.share:
            return False
        if len(self._waiting) >= WAITING:
            self._waiting.popleft()
            self._counts["dropped"].inc()
        seeds = other_seeds(seed, self.settings.seeds)
        self._waiting.append(_Sample(reading, seeds, again, time.monotonic()))
        self._come.set()
        return True

    def must_give_way(self) -> bool:
        """Whether what runs in the background must stop; may be called from any thread."""
        return not self._idle()

    async def close(self) -> None:
        """Stop within a limit; what has not been measured is forgotten."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=CLOSE_SECONDS)
        self._waiting.clear()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._come.clear()
                await self._come.wait()
            await self._until_idle()
            if not self._waiting:
                continue
            sample = self._waiting.popleft()
            if time.monotonic() - sample.offered > MAX_AGE or sample.tries >= TRIES:
                self._counts["dropped"].inc()
                continue
            sample.tries += 1
            try:
                async with asyncio.timeout(self.settings.limit_seconds):
                    complete = await self._go_on(sample)
                found = similarities(sample.readings) if complete else None
            except Exception as problem:
                log.info("the stability index goes without a sample: %s", str(problem)[:300])
                self._counts["failed"].inc()
                await asyncio.sleep(self.settings.idle_seconds)
                continue
            if found is None:
                self._waiting.appendleft(sample)
            else:
                self._measured(found)

    async def _until_idle(self) -> None:
        quiet_since = time.monotonic()
        step = min(POLL_SECONDS, self.settings.idle_seconds / 4)
        while time.monotonic() - quiet_since < self.settings.idle_seconds:
            await asyncio.sleep(step)
            if not self._idle():
                quiet_since = time.monotonic()

    async def _go_on(self, sample: _Sample) -> bool:
        """Make what is missing of a sample; False where a client came between."""
        if not sample.readings:
            first = sample.first
            sample.readings.append(await asyncio.to_thread(first) if callable(first) else first)
        while sample.seeds:
            if not self._idle():
                return False
            try:
                sample.readings.append(await sample.again(sample.seeds[0]))
            except Exception as problem:
                if not _gave_way(problem):
                    raise
                return False
            del sample.seeds[0]
        return True

    def _measured(self, found: Mapping[str, float]) -> None:
        for kind, value in found.items():
            self._histogram(kind).observe(value)
            latest = self._latest.setdefault(kind, deque(maxlen=WINDOW))
            latest.append(value)
            self._gauge(kind).set(math.fsum(latest) / len(latest))
        self._counts["measured"].inc()


def _gave_way(problem: BaseException | None) -> bool:
    """Whether it is, or was wrapped by alibi around, a GaveWay."""
    while problem is not None and not isinstance(problem, GaveWay):
        problem = problem.__cause__ or problem.__context__
    return problem is not None


def other_seeds(seed: int, count: int) -> list[int]:
    """Return so many seeds that are neither this one nor each other, always the same for the same."""
    drawn = random.Random(seed).sample(range(SEEDS - 1), count)
    return [other + (other >= seed) for other in drawn]


def similarities(readings: list[Reading]) -> dict[str, float]:
    """Return the mean similarity of all pairs, by kind: `jaccard`, or `spearman` and `cosine`.

    Args:
        readings: at least two explanations of one input, all attributions or all features.

    Raises:
        ValueError: fewer than two, or of both kinds.
    """
    if len(readings) < 2:
        raise ValueError("a stability index needs two explanations at least")
    mappings = [reading for reading in readings if isinstance(reading, Mapping)]
    if not mappings:
        sets = [frozenset(reading) for reading in readings]
        return {JACCARD: _mean(jaccard(a, b) for a, b in combinations(sets, 2))}
    if len(mappings) != len(readings):
        raise ValueError("explanations of one input are attributions or features, not both")
    names = sorted(set().union(*mappings))
    vectors = [
        np.array([mapping.get(name, 0.0) for name in names], np.float64) for mapping in mappings
    ]
    if not all(np.isfinite(vector).all() for vector in vectors):
        raise ValueError("an attribution is not a finite number")
    pairs = list(combinations(vectors, 2))
    return {
        SPEARMAN: _mean(spearman(a, b) for a, b in pairs),
        COSINE: _mean(cosine(a, b) for a, b in pairs),
    }


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Return |a ∩ b| / |a ∪ b|; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of the absolute values; ties have their mean rank."""
    ranks = [rankdata(np.abs(vector)) for vector in (a, b)]
    flat = [bool(np.ptp(rank) == 0) if rank.size else True for rank in ranks]
    if any(flat):
        return float(all(flat))
    return float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two vectors."""
    sizes = [float(np.abs(vector).max(initial=0.0)) for vector in (a, b)]
    if not all(sizes):
        return float(not any(sizes))
    a, b = a / sizes[0], b / sizes[1]  # squares of the smallest numbers would be 0
    return float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))


def _mean(values: object) -> float:
    values = list(values)  # type: ignore[call-overload]
    return math.fsum(values) / len(values)
