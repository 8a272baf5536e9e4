"""The stability index: its definition, and that it is measured when nobody waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from scipy.stats import spearmanr

from helpers.metrics import Samples
from helpers.serving.common.errors import ServingError
from helpers.serving.explain.production import stability as module
from helpers.serving.explain.production.stability import (
    GaveWay,
    Reading,
    Stability,
    StabilitySettings,
    cosine,
    other_seeds,
    similarities,
    spearman,
)

pytestmark = pytest.mark.timeout(60)

LABELS = {"method": "AnchorTabular", "model_name": "credit"}


# What it is


def test_anchors_by_their_features() -> None:
    readings = [{"income", "age"}, {"income"}, {"income", "region"}]
    assert similarities(readings) == {"jaccard": pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)}
    assert similarities([set(), set()]) == {"jaccard": 1}
    assert similarities([set(), {"age"}]) == {"jaccard": 0}
    assert similarities([["age", "age"], ("age",)]) == {"jaccard": 1}


def test_attributions_by_rank_and_by_angle() -> None:
    rng = np.random.default_rng(0)
    names = [f"f{number}" for number in range(8)]
    vectors = rng.normal(size=(3, 8))
    readings = [dict(zip(names, vector, strict=True)) for vector in vectors]
    pairs = [(0, 1), (0, 2), (1, 2)]
    ranks = [spearmanr(abs(vectors[a]), abs(vectors[b])).statistic for a, b in pairs]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    angles = [unit[a] @ unit[b] for a, b in pairs]
    assert similarities(readings) == {
        "spearman": pytest.approx(np.mean(ranks)),
        "cosine": pytest.approx(np.mean(angles)),
    }


def test_the_order_of_the_features_and_one_that_is_left_out_do_not_matter() -> None:
    one, other = {"a": 1.0, "b": -2.0, "c": 0.0}, {"b": -2.0, "a": 1.0}
    assert similarities([one, other]) == {"spearman": 1, "cosine": pytest.approx(1)}


def test_a_sign_is_seen_by_the_angle_only() -> None:
    a = np.array([3.0, 2.0, 1.0])
    assert spearman(a, -a) == pytest.approx(1)
    assert cosine(a, -a) == pytest.approx(-1)


def test_vectors_without_ranking_or_direction() -> None:
    zeros, alike, ranked = np.zeros(3), np.ones(3), np.arange(3.0)
    assert [spearman(zeros, zeros), spearman(zeros, alike), spearman(alike, ranked)] == [1, 1, 0]
    assert [cosine(zeros, zeros), cosine(zeros, ranked)] == [1, 0]
    assert cosine(np.full(3, 1e-200), np.full(3, 1e200)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("readings", "sentence"),
    [
        ([{"a"}], "needs two"),
        ([{"a"}, {"a": 1.0}], "not both"),
        ([{"a": 1.0}, {"a": float("nan")}], "not a finite number"),
    ],
)
def test_what_has_no_index(readings: list[Reading], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        similarities(readings)


def test_other_seeds_are_others_and_repeat() -> None:
    for seed in (0, 7, 2**32 - 1):
        seeds = other_seeds(seed, 20)
        assert seeds == other_seeds(seed, 20)
        assert len({seed, *seeds}) == 21
        assert all(0 <= other < 2**32 for other in seeds)


# When it is measured


class Server:
    """A server with clients that come and go, and its stability index."""

    def __init__(self, **settings: Any) -> None:
        self.clients = 0
        self.registry = CollectorRegistry()
        given = {"share": 1.0, "seeds": 3, "idle_seconds": 0.05} | settings
        self.stability = Stability(
            StabilitySettings(**given), self.registry, LABELS, idle=lambda: self.clients == 0
        )
        self.asked: list[int] = []

    async def again(self, seed: int) -> Reading:
        assert self.clients == 0, "a client waits"
        self.asked.append(seed)
        return {"income", "age"} if len(self.asked) % 2 else {"income"}

    def value(self, name: str, **labels: str) -> float:
        samples = Samples.parse(generate_latest(self.registry).decode())
        return samples.value(f"explain_server_stability{name}", **labels, **LABELS)

    async def counted(self, result: str, count: int = 1) -> None:
        await until(lambda: self.value("_samples", result=result) == count)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be in time"
        await asyncio.sleep(0.005)


def run(scenario: Callable[[Server], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        server = Server(**settings)
        server.stability.start()
        try:
            await scenario(server)
        finally:
            await server.stability.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


def test_an_explanation_is_made_again_with_other_seeds() -> None:
    async def scenario(server: Server) -> None:
        assert server.stability.offer({"income"}, 7, server.again)
        await server.counted("measured")
        assert server.asked == other_seeds(7, 3)
        expected = similarities([{"income"}, {"income", "age"}, {"income"}, {"income", "age"}])
        assert server.value("_index", similarity="jaccard") == pytest.approx(expected["jaccard"])
        assert server.value("_count", similarity="jaccard") == 1

    run(scenario)


def test_the_first_explanation_is_read_only_when_it_is_taken_and_nobody_waits() -> None:
    async def scenario(server: Server) -> None:
        loop_thread, threads = threading.get_ident(), []

        def read() -> Reading:
            threads.append(threading.get_ident())
            return {"income"}

        server.clients = 1
        server.stability.offer(read, 7, server.again)
        await asyncio.sleep(0.1)
        assert threads == []
        server.clients = 0
        await server.counted("measured")
        assert len(threads) == 1
        assert threads[0] != loop_thread

    run(scenario)


def test_nothing_is_made_while_clients_wait() -> None:
    async def scenario(server: Server) -> None:
        server.clients = 1
        server.stability.offer({"income"}, 7, server.again)
        for _ in range(30):
            await asyncio.sleep(0.01)
            assert server.asked == []
        server.clients = 0
        await server.counted("measured")

    run(scenario)


def test_what_runs_gives_way_to_a_client_and_goes_on_later() -> None:
    async def scenario(server: Server) -> None:
        began, calls = asyncio.Event(), 0

        async def slow(seed: int) -> Reading:
            nonlocal calls
            calls += 1
            if calls == 2:
                began.set()
                try:
                    while True:  # asks the model
                        await asyncio.sleep(0.002)
                        if server.stability.must_give_way():
                            raise GaveWay
                except GaveWay as problem:
                    raise RuntimeError("as alibi wraps it") from problem
            return await server.again(seed)

        server.stability.offer({"income"}, 7, slow)
        await began.wait()
        server.clients = 1
        await until(lambda: len(server.stability._waiting) == 1)
        assert len(server.asked) == 1
        server.clients = 0
        await server.counted("measured")
        assert server.asked == other_seeds(7, 3), "what was made before is kept"

    run(scenario)


def test_a_sample_that_always_gives_way_is_dropped() -> None:
    async def scenario(server: Server) -> None:
        async def gives_way(seed: int) -> Reading:
            server.asked.append(seed)
            raise GaveWay

        server.stability.offer({"income"}, 7, gives_way)
        await server.counted("dropped")
        assert len(server.asked) == module.TRIES

    run(scenario, idle_seconds=0.01)


def test_a_failure_costs_one_sample() -> None:
    async def scenario(server: Server) -> None:
        async def fails(seed: int) -> Reading:
            raise ValueError("the model is gone")

        async def hangs(seed: int) -> Reading:
            await asyncio.Event().wait()
            raise AssertionError

        server.stability.offer({"income"}, 7, fails)
        server.stability.offer({"income"}, 7, hangs)
        server.stability.offer({"income": 1.0}, 7, server.again)  # answers with another kind
        await server.counted("failed", 2)
        server.stability.offer({"income"}, 7, server.again)
        await server.counted("measured")

    run(scenario, limit_seconds=0.1)


def test_only_so_many_wait_and_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(server: Server) -> None:
        server.clients = 1
        for seed in range(20):
            server.stability.offer({"income"}, seed, server.again)
        assert len(server.stability._waiting) == module.WAITING
        await server.counted("dropped", 20 - module.WAITING)
        monkeypatch.setattr(module, "MAX_AGE", -1)
        server.clients = 0
        await server.counted("dropped", 20)
        assert server.asked == []

    run(scenario)


def test_a_share_is_sampled() -> None:
    async def scenario(server: Server) -> None:
        server.clients = 1
        taken = sum(server.stability.offer({"a"}, seed, server.again) for seed in range(4000))
        assert 300 < taken < 500
        none = Server(share=0.0)
        none.stability.start()
        assert not any(none.stability.offer({"a"}, seed, none.again) for seed in range(100))
        await none.stability.close()

    run(scenario, share=0.1)


def test_sampling_does_not_touch_the_seeded_generators() -> None:
    async def scenario(server: Server) -> None:
        np.random.seed(3)
        before = np.random.get_state()[1].tolist()
        import random

        state = random.getstate()
        server.stability.offer({"income": 1.0, "age": 2.0}, 7, server.attributions)
        await server.counted("measured")
        assert random.getstate() == state
        assert np.random.get_state()[1].tolist() == before

    async def attributions(self: Server, seed: int) -> Reading:
        return {"income": 1.0, "age": 2.0}

    Server.attributions = attributions
    run(scenario)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"share": 1.5}, r"share is 1\.5; it lies from 0 to 1"),
        ({"share": float("nan")}, "share is nan"),
        ({"seeds": 0}, "seeds are 0; 1 to 20"),
        ({"idle_seconds": 0}, "idle_seconds is 0; it must be above 0"),
        ({"limit_seconds": float("inf")}, "limit_seconds is inf"),
    ],
)
def test_settings_that_cannot_be_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServingError, match=sentence):
        StabilitySettings(**settings)
