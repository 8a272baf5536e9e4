"""The cache of explanations: its key, its levels, and what becomes of it when a level fails."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest

from helpers.metrics import Samples
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.production.cache import (
    CacheSettings,
    ExplanationCache,
    Fresh,
    input_hash,
    key,
    seed_for,
)
from tests.redis_server import RedisServer, needs_redis

pytestmark = pytest.mark.timeout(60)

LABELS = {"method": "KernelShap", "model_name": "m"}
NAME = "a" * 64


# The key


def some_key(**other: Any) -> str:
    given = {
        "inputs": np.zeros((2, 3), np.float32),
        "method": "KernelShap",
        "parameters": {"nsamples": 100, "link": "logit"},
        "seed": 7,
        "artefacts": {"explainer": "abc", "model": "1"},
    }
    given |= other
    return key(given.pop("inputs"), **given)


def test_the_key_is_the_same_for_the_same() -> None:
    assert some_key() == some_key(parameters={"link": "logit", "nsamples": 100})
    assert some_key() == some_key(inputs=np.zeros((2, 6), ">f4")[:, ::2])
    assert len(some_key()) == 64


@pytest.mark.parametrize(
    "other",
    [
        {"inputs": np.zeros((2, 3), np.float64)},
        {"inputs": np.zeros((2, 3), np.int32)},
        {"inputs": np.zeros((3, 2), np.float32)},
        {"inputs": np.array([[0, 0, 0], [0, 0, 1e-30]], np.float32)},
        {"inputs": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]},
        {"inputs": ["some text"]},
        {"inputs": np.array(["some text"], object)},
        {"method": "TreeShap"},
        {"parameters": {"nsamples": 101, "link": "logit"}},
        {"parameters": {"nsamples": 100}},
        {"seed": 8},
        {"artefacts": {"explainer": "abd", "model": "1"}},
        {"artefacts": {"explainer": "abc", "model": "2"}},
    ],
    ids=str,
)
def test_the_key_differs_in_everything_that_decides(other: dict[str, Any]) -> None:
    assert some_key(**other) != some_key()


def test_parts_of_the_key_do_not_run_together() -> None:
    assert input_hash(["ab", "c"]) != input_hash(["a", "bc"])
    assert input_hash(np.array(["1"], object)) != input_hash(np.array([1], object))


def test_a_key_of_what_json_cannot_hold_is_a_sentence() -> None:
    with pytest.raises(ServingError, match=r"key cannot be made.*as JSON has them"):
        some_key(parameters={"p": float("nan")})


def test_the_seed_of_inputs_is_that_of_every_replica() -> None:
    inputs = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert seed_for(inputs) == seed_for(inputs.copy()) == 2_055_782_396
    assert seed_for(inputs) != seed_for(inputs + 1)


# A cache under test


class Subject:
    """A cache with its metrics and an explainer that counts its calls."""

    def __init__(self, secret: bytes = b"", **settings: Any) -> None:
        self.registry = CollectorRegistry()
        # Limits that a busy machine keeps, where a test has none of its own.
        given = {"redis_seconds": 5.0, "disk_seconds": 5.0} | settings
        self.cache = ExplanationCache(CacheSettings(**given), self.registry, LABELS, secret)
        self.made = 0

    async def make(self) -> Fresh:
        self.made += 1
        return Fresh(b'{"made": %d}' % self.made)

    async def ask(self, name: str = NAME, make: Callable[[], Awaitable[Fresh]] | None = None):
        answer = await self.cache.get_or_make(name, make or self.make)
        return answer.source, answer.value

    def value(self, metric: str, **labels: str) -> float:
        samples = Samples.parse(generate_latest(self.registry).decode())
        return samples.value(f"explain_server_cache_{metric}", **labels)

    async def up(self, level: str, up: bool = True) -> None:
        await until(lambda: self.value("up", level=level) == up)

    async def written(self) -> None:
        await until(lambda: not self.cache._writes)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be in time"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def cache(**settings: Any) -> AsyncIterator[Subject]:
    tested = Subject(**settings)
    await tested.cache.start()
    try:
        for level in tested.cache.levels:
            if level.name == "disk":
                await tested.up("disk")
        yield tested
    finally:
        await tested.cache.close()


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    """Run a scenario; a task that is left over is a leak."""

    async def watched() -> Any:
        result = await scenario()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left running: {left}"
        return result

    return asyncio.run(watched())


# Memory


def test_memory_answers_the_second_time() -> None:
    async def scenario() -> None:
        async with cache() as tested:
            assert await tested.ask() == ("made", b'{"made": 1}')
            assert await tested.ask() == ("memory", b'{"made": 1}')
            assert await tested.ask("b" * 64) == ("made", b'{"made": 2}')
            assert tested.value("hits", level="memory", **LABELS) == 1
            assert tested.value("misses", level="memory", **LABELS) == 2

    run(scenario)


def test_memory_forgets_what_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)

    async def scenario() -> None:
        nonlocal now
        async with cache(ttl_seconds=60) as tested:
            await tested.ask()
            now += 59
            assert (await tested.ask())[0] == "memory"
            now += 2
            assert await tested.ask() == ("made", b'{"made": 2}')

    run(scenario)


def test_memory_stays_within_its_bytes_and_keeps_what_is_used() -> None:
    async def scenario() -> None:
        async with cache(memory_bytes=100_000, value_bytes=30_000) as tested:

            async def large() -> Fresh:
                return Fresh(b"x" * 20_000)

            await tested.ask("first", large)
            for number in range(20):
                await tested.ask(f"{number}", large)
                assert (await tested.ask("first", large))[0] == "memory"
            assert tested.cache._memory.currsize <= 100_000
            assert len(tested.cache._memory) == 4

            async def too_large() -> Fresh:
                return Fresh(b"x" * 30_001)

            assert (await tested.ask("huge", too_large))[0] == "made"
            assert (await tested.ask("huge", too_large))[0] == "made"

    run(scenario)


def test_what_is_not_to_be_kept_is_not() -> None:
    async def cut_short() -> Fresh:
        return Fresh(b"{}", keep=False)

    async def scenario() -> None:
        async with cache() as tested:
            assert (await tested.ask(make=cut_short))[0] == "made"
            assert (await tested.ask())[0] == "made"

    run(scenario)


def test_a_cache_without_levels_makes_everything() -> None:
    async def scenario() -> None:
        async with cache(memory_bytes=0) as tested:
            assert [await tested.ask(), await tested.ask()] == [
                ("made", b'{"made": 1}'),
                ("made", b'{"made": 2}'),
            ]

    run(scenario)


# One at a time


def test_the_same_explanation_is_made_once_at_a_time() -> None:
    async def scenario() -> None:
        async with cache() as tested:
            go = asyncio.Event()

            async def slow() -> Fresh:
                await go.wait()
                return await tested.make()

            asked = [asyncio.create_task(tested.ask(make=slow)) for _ in range(50)]
            await until(lambda: tested.value("shared") == 49)
            go.set()
            answers = await asyncio.gather(*asked)
            assert tested.made == 1
            assert {value for _, value in answers} == {b'{"made": 1}'}
            assert sorted(source for source, _ in answers) == ["made"] + ["shared"] * 49

    run(scenario)


def test_a_failure_is_told_to_all_and_not_kept() -> None:
    async def scenario() -> None:
        async with cache() as tested:
            go = asyncio.Event()

            async def fails() -> Fresh:
                await go.wait()
                raise RequestError(502, "The model does not answer.")

            asked = [asyncio.create_task(tested.ask(make=fails)) for _ in range(3)]
            await until(lambda: tested.value("shared") == 2)
            go.set()
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(answer, RequestError)
                assert answer.status == 502
            assert await tested.ask() == ("made", b'{"made": 1}')

    run(scenario)


def test_who_leaves_does_not_end_what_others_wait_for() -> None:
    async def scenario() -> None:
        async with cache() as tested:
            go, cancelled = asyncio.Event(), 0

            async def slow() -> Fresh:
                nonlocal cancelled
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    cancelled += 1
                    raise
                return await tested.make()

            first, second = (asyncio.create_task(tested.ask(make=slow)) for _ in range(2))
            await until(lambda: tested.value("shared") == 1)
            first.cancel()
            await asyncio.wait([first])
            assert cancelled == 0
            go.set()
            assert await second == ("shared", b'{"made": 1}')

            go.clear()
            last = asyncio.create_task(tested.ask("other", slow))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            last.cancel()
            # Asked again before the cancelled one has ended: made anew, not cancelled with it.
            again = asyncio.create_task(tested.ask("other"))
            await asyncio.wait([last])
            assert await again == ("made", b'{"made": 2}')
            assert cancelled == 1

    run(scenario)


def test_stopping_ends_what_is_being_made_with_a_sentence() -> None:
    async def scenario() -> None:
        tested = Subject()
        await tested.cache.start()

        async def endless() -> Fresh:
            await asyncio.Event().wait()
            raise AssertionError

        asked = asyncio.create_task(tested.ask(make=endless))
        await until(lambda: bool(tested.cache._flights))
        await tested.cache.close()
        with pytest.raises(RequestError, match="The server stops") as refused:
            await asked
        assert refused.value.status == 503
        with pytest.raises(RequestError, match="The server stops"):
            await tested.ask()

    run(scenario)


# Disk


def test_the_disk_outlives_the_process_and_fills_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cache(disk_folder=str(tmp_path / "disk")) as tested:
            await tested.ask()
        async with cache(disk_folder=str(tmp_path / "disk")) as tested:
            assert await tested.ask() == ("disk", b'{"made": 1}')
            assert await tested.ask() == ("memory", b'{"made": 1}')
            assert tested.made == 0
            assert tested.value("hits", level="disk") == 1
            assert tested.value("lookup_seconds_count", level="disk") == 1
        assert (tmp_path / "disk").stat().st_mode & 0o077 == 0

    run(scenario)


def test_coming_back_from_disk_does_not_make_younger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    settings = {"disk_folder": str(tmp_path), "ttl_seconds": 60}

    async def scenario() -> None:
        nonlocal now
        async with cache(**settings) as tested:
            await tested.ask()
        now += 50
        async with cache(**settings) as tested:
            assert (await tested.ask())[0] == "disk"
            now += 15
            assert (await tested.ask())[0] == "made"

    run(scenario)


def test_the_disk_stays_below_its_size(tmp_path: Path) -> None:
    limit = 2_000_000

    async def scenario() -> None:
        async with cache(disk_folder=str(tmp_path), disk_bytes=limit) as tested:

            async def large() -> Fresh:
                return Fresh(b"x" * 100_000)

            for number in range(60):
                await tested.ask(f"{number:064d}", large)
                await tested.written()
            assert (await tested.ask("0" * 62 + "59"))[0] == "memory"
        held = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert 500_000 < held < limit + 300_000

    run(scenario)


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return self.path.touch, ()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Trap(trap)))
    assert trap.exists(), "the trap works"
    trap.unlink()
    with diskcache.Cache(str(tmp_path / "disk")) as planted:
        planted.set(NAME, Trap(trap))

    async def scenario() -> None:
        async with cache(disk_folder=str(tmp_path / "disk")) as tested:
            assert await tested.ask() == ("made", b'{"made": 1}')
            assert tested.value("errors", level="disk") == 1

    run(scenario)
    assert not trap.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept[:-1],
        lambda kept: kept[:-3] + b"2" + kept[-2:],
        lambda kept: kept[:10],
        lambda kept: b"",
        lambda kept: kept[:4] + kept[4:5] + bytes([kept[5] ^ 1]) + kept[6:],
    ],
    ids=["cut", "changed", "short", "empty", "life"],
)
def test_a_damaged_value_is_made_again(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    async def scenario() -> None:
        async with cache(disk_folder=str(tmp_path)) as tested:
            await tested.ask()
        with diskcache.Cache(str(tmp_path)) as disk:
            disk.set(NAME, change(disk[NAME]))
        async with cache(disk_folder=str(tmp_path)) as tested:
            assert (await tested.ask())[0] == "made"
            assert tested.value("errors", level="disk") == 1

    run(scenario)


def test_a_value_under_another_name_or_secret_is_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = {"disk_folder": str(tmp_path), "secret": b"one"}
        async with cache(**settings) as tested:
            await tested.ask()
        with diskcache.Cache(str(tmp_path)) as disk:
            disk["b" * 64] = disk[NAME]
        async with cache(**settings) as tested:
            assert (await tested.ask("b" * 64))[0] == "made"
            assert (await tested.ask())[0] == "disk"
        async with cache(**settings | {"secret": b"two"}) as tested:
            assert (await tested.ask())[0] == "made"

    run(scenario)


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match=r"folder .*/file/x cannot be used.*Choose another"):
        Subject(disk_folder=str(tmp_path / "file" / "x"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cache.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ServingError, match=r"broken cannot be used.*remove what is in it"):
        Subject(disk_folder=str(tmp_path / "broken"))


FULL_DISK = """
import asyncio, resource, sys
from prometheus_client import CollectorRegistry
from helpers.serving.explain.production.cache import CacheSettings, ExplanationCache, Fresh

async def main(folder):
    registry = CollectorRegistry()
    cache = ExplanationCache(CacheSettings(memory_bytes=0, disk_folder=folder), registry, {"model": "m"})

    def up():
        return registry.get_sample_value("explain_server_cache_up", {"model": "m", "level": "disk"})

    async def until(wanted):
        async with asyncio.timeout(20):
            while up() != wanted:
                await asyncio.sleep(0.01)

    async def made():
        return Fresh(b"v" * 2000)

    await cache.start()
    await until(1)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    await cache.get_or_make("0" * 64, made)
    await until(0)
    for number in range(1, 31):  # long enough for several tries
        await cache.get_or_make(f"{number:064d}", made)
        await asyncio.sleep(0.1)
        assert up() == 0, number
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await until(1)
    await cache.close()

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_is_out_of_use_until_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,  # by pipes: the limit is one of files
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the cache does without") <= 2


def test_a_disk_that_hangs_slows_one_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cache(disk_folder=str(tmp_path), disk_seconds=0.1, memory_bytes=0) as tested:
            (disk,) = tested.cache.levels
            await tested.ask()
            await tested.written()
            release = asyncio.Event()
            loop = asyncio.get_running_loop()

            def hang(*_: Any) -> None:
                asyncio.run_coroutine_threadsafe(release.wait(), loop).result(20)

            real, disk._cache.get = disk._cache.get, hang
            began = time.monotonic()
            assert (await tested.ask())[0] == "made"
            assert 0.09 < time.monotonic() - began < 2
            began = time.monotonic()
            for _ in range(100):
                assert (await tested.ask())[0] == "made"
            assert time.monotonic() - began < 5, "10 s if each waited"
            disk._cache.get = real
            release.set()
            await tested.up("disk")
            assert (await tested.ask())[0] == "disk"

    run(scenario)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ttl_seconds": 0}, "ttl_seconds is 0; it must be above 0"),
        ({"redis_seconds": float("inf")}, "redis_seconds is inf"),
        ({"memory_bytes": -1}, "memory_bytes is -1"),
        ({"redis_url": "http://user:secret@somewhere"}, "redis_url is none"),
        ({"redis_url": "redis://user:secret@host:port/0"}, "redis_url is none"),
    ],
)
def test_settings_that_cannot_be_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServingError, match=sentence) as refused:
        Subject(**settings)
    assert "secret" not in str(refused.value)


# Redis


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@needs_redis
def test_redis_is_shared_and_fills_memory(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        url = redis_server.url
        async with cache(redis_url=url) as one, cache(redis_url=url) as other:
            await one.up("redis")
            await other.up("redis")
            assert (await one.ask())[0] == "made"
            await one.written()
            assert await other.ask() == ("redis", b'{"made": 1}')
            assert await other.ask() == ("memory", b'{"made": 1}')
            assert (other.made, other.value("hits", level="redis")) == (0, 1)
            assert one.value("misses", level="redis") == 1
        kept = redis.Redis(port=redis_server.port)
        (name,) = kept.keys()
        assert name == b"explain:1:" + NAME.encode()
        assert 3500 < kept.ttl(name) <= 3600

    run(scenario)


@needs_redis
def test_the_order_is_memory_redis_disk_and_hits_fill_what_is_above(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = {"redis_url": redis_server.url, "disk_folder": str(tmp_path / "disk")}
    plain = redis.Redis(port=redis_server.port)

    async def scenario() -> None:
        async with cache(**settings) as tested:
            await tested.up("redis")
            await tested.ask()
            await tested.written()
            assert plain.dbsize() == 1
        plain.flushall()
        async with cache(**settings) as tested:
            await tested.up("redis")
            assert (await tested.ask())[0] == "disk"
            await tested.written()
            assert plain.dbsize() == 1
            assert (await tested.ask())[0] == "memory"
        async with cache(**settings) as tested:
            await tested.up("redis")
            assert (await tested.ask())[0] == "redis"
            assert tested.value("hits", level="disk") == 0
            assert tested.value("misses", level="disk") == 0

    run(scenario)


@needs_redis
def test_redis_may_go_and_come_back(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with cache(redis_url=redis_server.url, memory_bytes=0) as tested:
            await tested.up("redis")
            await tested.ask()
            await tested.written()
            assert (await tested.ask())[0] == "redis"
            redis_server.stop()
            assert (await tested.ask())[0] == "made"
            await tested.up("redis", False)
            redis_server.start()
            await tested.up("redis")
            assert (await tested.ask())[0] == "made"
            await tested.written()
            assert (await tested.ask())[0] == "redis"

            # A restart between two requests: the connections of the pool are dead, Redis is not.
            redis_server.stop()
            redis_server.start()
            assert (await tested.ask())[0] == "made"
            assert tested.value("up", level="redis") == 1

    run(scenario)


@needs_redis
def test_a_full_redis_is_still_read(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with cache(redis_url=redis_server.url, memory_bytes=0) as tested:
            await tested.up("redis")
            await tested.ask()
            await tested.written()
            plain = redis.Redis(port=redis_server.port)
            plain.config_set("maxmemory-policy", "noeviction")
            plain.config_set("maxmemory", 1)
            assert (await tested.ask("b" * 64))[0] == "made"
            await tested.written()
            assert tested.value("errors", level="redis") == 1
            assert tested.value("up", level="redis") == 1
            assert (await tested.ask())[0] == "redis"

    run(scenario)


@needs_redis
def test_a_wrong_password_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(tmp_path, "--requirepass", "right")

    async def scenario() -> None:
        url = f"redis://:wrong-password@127.0.0.1:{server.port}/0"
        async with cache(redis_url=url) as tested:
            await until(lambda: "the cache does without redis" in caplog.text)
            assert (await tested.ask())[0] == "made"

    try:
        run(scenario)
    finally:
        server.stop()
    assert "wrong-password" not in caplog.text


class Proxy:
    """Stands before Redis, and can answer late, never, or with nonsense.

    Args:
        port: of Redis; None takes connections and never answers.
    """

    def __init__(self, port: int | None) -> None:
        self.target = port
        self.delay = 0.0
        self.nonsense = False
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.tasks: set[asyncio.Task[Any]] = set()
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        try:
            if self.target is None:
                await asyncio.Event().wait()
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self.target)
            back = asyncio.create_task(self._copy(from_redis, writer, True))
            self.tasks.add(back)
            back.add_done_callback(self.tasks.discard)
            try:
                await self._copy(reader, to_redis, False)
            finally:
                back.cancel()
                to_redis.close()
        except OSError:
            pass
        finally:
            writer.close()

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if answers and self.delay:
                    await asyncio.sleep(self.delay)
                if answers and self.nonsense:
                    data = b"HTTP/1.1 400 no\r\n\r\n"
                target.write(data)
                await target.drain()


async def seconds(tested: Subject, requests: int) -> float:
    """Return the seconds of so many requests, one after the other."""
    began = time.monotonic()
    for _ in range(requests):
        assert (await tested.ask())[0] == "made"
    return time.monotonic() - began


def test_a_dead_redis_slows_nothing() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

    async def scenario() -> None:
        async with cache(redis_url=f"redis://127.0.0.1:{port}/0", memory_bytes=0) as tested:
            assert await seconds(tested, 200) < 2, "they do not wait for it"
            assert tested.value("up", level="redis") == 0

    run(scenario)


def test_a_redis_that_never_answers_slows_nothing() -> None:
    async def scenario() -> None:
        async with (
            Proxy(None) as hanging,
            cache(redis_url=hanging.url, memory_bytes=0) as tested,
        ):
            assert await seconds(tested, 200) < 2, "they do not wait for it"

    run(scenario)


@needs_redis
def test_a_redis_that_stops_answering_costs_one_limit(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with (
            Proxy(redis_server.port) as proxy,
            cache(redis_url=proxy.url, memory_bytes=0, redis_seconds=0.1) as tested,
        ):
            await tested.up("redis")
            proxy.delay = 3600
            assert 0.09 < await seconds(tested, 1) < 1
            assert await seconds(tested, 200) < 2, "nobody waits for it a second time"
            assert tested.value("up", level="redis") == 0

    run(scenario)


@needs_redis
def test_a_late_answer_is_not_taken_for_another_key(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with (
            Proxy(redis_server.port) as proxy,
            cache(redis_url=proxy.url, memory_bytes=0, redis_seconds=0.2) as tested,
        ):
            await tested.up("redis")
            names = [f"{number:064d}" for number in range(8)]
            values = {}
            for name in names:
                values[name] = (await tested.ask(name))[1]
            await tested.written()
            for round in range(3):
                await tested.up("redis")
                proxy.delay = 0.4
                late = await asyncio.gather(*(tested.ask(name) for name in names))
                assert {source for source, _ in late} == {"made"}
                proxy.delay = 0.0
                await tested.up("redis")
                for name in names:
                    source, value = await tested.ask(name)
                    assert (source, value) == ("redis", values[name]), f"round {round}"

    run(scenario)


@needs_redis
def test_nonsense_from_redis_is_a_miss(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with (
            Proxy(redis_server.port) as proxy,
            cache(redis_url=proxy.url, memory_bytes=0) as tested,
        ):
            await tested.up("redis")
            proxy.nonsense = True
            assert (await tested.ask())[0] == "made"
            assert tested.value("up", level="redis") == 0
            proxy.nonsense = False
            await tested.up("redis")

    run(scenario)


@needs_redis
def test_too_many_writes_are_dropped_not_queued(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with (
            Proxy(redis_server.port) as proxy,
            cache(redis_url=proxy.url, memory_bytes=0, redis_seconds=5) as tested,
        ):
            await tested.up("redis")
            (level,) = tested.cache.levels
            hold = asyncio.Event()

            async def held(*_: Any) -> None:
                await hold.wait()

            level._put = held  # type: ignore[method-assign]
            await asyncio.gather(*(tested.ask(f"{number:064d}") for number in range(100)))
            assert len(tested.cache._writes) == 64
            assert tested.value("dropped_writes") == 36
            hold.set()
            await tested.written()
            assert tested.cache._writing == 0

    run(scenario)
