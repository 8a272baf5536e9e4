"""Explanations that were made before: in memory, in Redis, on disk, looked up in that order.

    cache = ExplanationCache(CacheSettings(redis_url="redis://redis:6379/0"), registry, labels)
    await cache.start()                                     # in the app's lifespan
    name = key(instances, method="KernelShap", parameters=options.model_dump(mode="json"),
               seed=seed, artefacts={"explainer": checksum, "model": version})
    answer = await cache.get_or_make(name, make)            # make: () -> Awaitable[Fresh]
    await cache.close()

`answer.source` says where the explanation comes from, for a response header. What the key does not hold must
not change the explanation: name the explained model's artefact or version beside the explainer's, or its
successor gets its explanations. A seed that is drawn anew for each request makes each request another key:
where none is given, take `seed_for(instances)`, which is the same on every replica.

What is kept outside of this process comes with its end of life and a digest, keyed where a secret is given:
a torn, moved or foreign value counts as an error and is made again. Without a secret, who can write to Redis or
to the folder can write explanations.

A level that fails or does not answer within its limit is left alone at once, and asked again in the background
until it answers: no client waits for that. Redis is first asked in the background too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import math
import sqlite3
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as once
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import redis.asyncio
from cachetools import TLRUCache
from diskcache import Cache, Disk
from diskcache.core import MODE_BINARY, MODE_RAW
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from helpers.serving.common.errors import RequestError, ServingError

log = logging.getLogger(__name__)

MEMORY, REDIS, DISK, MADE, SHARED = "memory", "redis", "disk", "made", "shared"

FIRST_PAUSE = 0.5  # seconds until a level that failed is tried again; they double up to
LONGEST_PAUSE = 30.0
PROBE_BYTES = 2**16  # more than diskcache keeps in its table
PROBE_SECONDS = 2.0  # a try in the background may take longer than a client's
PENDING_WRITES = 64  # writes to Redis and disk under way; the surplus is not kept
PENDING_BYTES = 64 * 2**20
CLOSE_SECONDS = 2.0
CONNECTIONS = 32
ENTRY_BYTES = 512  # of memory beside the value, roughly
PREFIX = "explain:1:"  # in Redis, which may hold other things
MAGIC = b"EXP1"
SEEDS = 2**32
LOOKUP_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)

_HEAD = struct.Struct(">4sd16s")  # magic, end of life in seconds since 1970, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """What is kept where; a level without size or address is off.

    Args:
        ttl_seconds: an explanation's life, from when it was made, whichever level holds it.
        memory_bytes: of values in memory; 0 turns it off.
        value_bytes: a larger explanation is not kept.
        redis_url: `redis://[user:password@]host[:port]/number`, `rediss://` with TLS, `unix://`.
        redis_seconds: what a client waits for Redis at most.
        disk_folder: of diskcache, on a local disk; processes of one machine may share it.
        disk_bytes: it is kept below this.
        disk_seconds: what a client waits for the disk at most.

    Raises:
        ServingError: a value that cannot be.
    """

    ttl_seconds: float = 3600.0
    memory_bytes: int = 64 * 2**20
    value_bytes: int = 8 * 2**20
    redis_url: str = ""
    redis_seconds: float = 0.1
    disk_folder: str = ""
    disk_bytes: int = 256 * 2**20
    disk_seconds: float = 0.5

    def __post_init__(self) -> None:
        for name in ("ttl_seconds", "value_bytes", "redis_seconds", "disk_bytes", "disk_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ServingError(f"The cache's {name} is {value}; it must be above 0.")
        if self.memory_bytes < 0:
            raise ServingError(f"The cache's memory_bytes is {self.memory_bytes}; 0 turns it off.")


@dataclass(frozen=True, slots=True)
class Fresh:
    """An explanation that was just made.

    Args:
        value: its JSON.
        keep: False for one that another request should not get, e.g. cut short by a deadline.
    """

    value: bytes
    keep: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """An explanation and where it comes from.

    Args:
        value: its JSON.
        source: `memory`, `redis`, `disk`, `made`, or `shared` with a request that came before.
    """

    value: bytes
    source: str


def key(
    inputs: Any,
    *,
    method: str,
    parameters: Mapping[str, Any],
    seed: int,
    artefacts: Mapping[str, str],
) -> str:
    """Return the name of an explanation: 64 hexadecimal digits, the same on every machine.

    Args:
        inputs: an array, or texts and numbers as JSON has them.
        method: the explanation method.
        parameters: all of them, defaults included, as JSON has them; also what changes the response,
            such as top-k, redaction and templates, where the response is what is kept.
        seed: of the random draws.
        artefacts: checksum or version of whatever else decides, by name: explainer and model.

    Raises:
        ServingError: a parameter or an input that JSON cannot hold.
    """
    digest = hashlib.sha256()
    described = {
        "method": method,
        "parameters": parameters,
        "seed": seed,
        "artefacts": artefacts,
        "software": _software(),
    }
    for part in (*_input_parts(inputs), _canonical(described)):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def input_hash(inputs: Any) -> str:
    """Return the sha256 of inputs, their type and shape included: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in _input_parts(inputs):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def seed_for(inputs: Any) -> int:
    """Return a seed for requests without one: the same for the same inputs, on every replica."""
    return int(input_hash(inputs)[:16], 16) % SEEDS


def _input_parts(inputs: Any) -> tuple[bytes, bytes]:
    if isinstance(inputs, np.ndarray) and inputs.dtype != object:
        form = f"{inputs.dtype.newbyteorder('<').str} {inputs.shape}"
        data = np.ascontiguousarray(inputs, inputs.dtype.newbyteorder("<")).tobytes()
        return form.encode(), data
    if isinstance(inputs, np.ndarray):
        return f"object {inputs.shape}".encode(), _canonical(inputs.tolist())
    return b"json", _canonical(inputs)


def _canonical(value: Any) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise ServingError(
            f"The cache's key cannot be made: {problem}; give inputs and parameters as JSON has them."
        ) from problem
    return text.encode("utf-8", "surrogatepass")


@once
def _software() -> list[str]:
    """The versions that make explanations: an upgrade must not answer with what went before."""
    found = []
    for name in ("monitored-models", "alibi", "shap", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name}=={metadata.version(name)}")
    return found


class ExplanationCache:
    """Looks explanations up, and makes each at most once at a time.

    All methods belong on one event loop.

    Args:
        settings: sizes, limits and addresses.
        registry: for its metrics.
        labels: of every metric, e.g. method and model_name.
        secret: keys the digests of what is kept outside of this process.

    Raises:
        ServingError: an address or a folder that cannot be used.
    """

    def __init__(
        self,
        settings: CacheSettings,
        registry: CollectorRegistry,
        labels: Mapping[str, str],
        secret: bytes = b"",
    ) -> None:
        self.settings = settings
        # blake2b takes keys of up to 64 bytes
        self._secret = hashlib.sha256(secret).digest() if secret else b""
        self._metrics = _Metrics(registry, labels)
        self._memory: TLRUCache[str, tuple[float, bytes]] = TLRUCache(
            settings.memory_bytes,
            ttu=lambda key, entry, now: entry[0],
            timer=time.time,
            getsizeof=lambda entry: len(entry[1]) + ENTRY_BYTES,
        )
        self.levels: list[Level] = []
        if settings.redis_url:
            self.levels.append(RedisLevel(settings))
        if settings.disk_folder:
            self.levels.append(DiskLevel(settings))
        if settings.memory_bytes:
            self._metrics.level(MEMORY)
        for level in self.levels:
            self._metrics.level(level.name)
            level.on_change = self._metrics.up[level.name].set
            level.on_error = self._metrics.errors[level.name].inc
        self._flights: dict[str, _Flight] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self._writing = 0
        self._closed = False

    async def start(self) -> None:
        """Begin to look for Redis and the disk; returns at once."""
        for level in self.levels:
            level.start()

    async def get_or_make(self, key: str, make: Callable[[], Awaitable[Fresh]]) -> Answer:
        """Return an explanation that is kept, or what `make` returns.

        Requests for the same key at the same time share one call of `make`; it is cancelled when the
        last of them is, so it must not depend on a single client. What it raises, all of them get.

        Raises:
            RequestError: 503, the server stops meanwhile.
        """
        value = self._from_memory(key)
        if value is not None:
            return Answer(value, MEMORY)
        if self._closed:
            raise RequestError(503, "The server stops; ask again.", headers={"retry-after": "2"})
        flight = self._flights.get(key)
        first = flight is None
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._find(key, make)))
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        else:
            self._metrics.shared.inc()
        flight.waiting += 1
        try:
            answer = await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if flight.task.cancelled() and not (task and task.cancelling()):
                raise RequestError(
                    503, "The server stops; ask again.", headers={"retry-after": "2"}
                ) from None
            raise
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight.task)  # who asks from now on must not get its cancelling
                flight.task.cancel()
        return answer if first or answer.source != MADE else Answer(answer.value, SHARED)

    async def close(self) -> None:
        """End what is being made, finish the writes within a limit, and close the levels."""
        self._closed = True
        flights = [flight.task for flight in self._flights.values()]
        for task in flights:
            task.cancel()
        if self._writes:
            await asyncio.wait(self._writes, timeout=CLOSE_SECONDS)
        for task in list(self._writes):
            task.cancel()
        await asyncio.gather(*flights, *self._writes, return_exceptions=True)
        for level in self.levels:
            await level.close()
        self._memory.clear()

    async def _find(self, key: str, make: Callable[[], Awaitable[Fresh]]) -> Answer:
        for place, level in enumerate(self.levels):
            packed = await self._ask(level, key)
            if packed is None:
                continue
            entry = self._unpack(key, packed)
            if entry is None:
                self._metrics.errors[level.name].inc()
                self._metrics.misses[level.name].inc()
                continue
            self._metrics.hits[level.name].inc()
            self._into_memory(key, entry)
            self._write(self.levels[:place], key, packed, entry[0])
            return Answer(entry[1], level.name)
        fresh = await make()
        if fresh.keep and len(fresh.value) <= self.settings.value_bytes:
            entry = (time.time() + self.settings.ttl_seconds, bytes(fresh.value))
            self._into_memory(key, entry)
            if self.levels:
                self._write(self.levels, key, self._pack(key, entry), entry[0])
        return Answer(fresh.value, MADE)

    async def _ask(self, level: Level, key: str) -> bytes | None:
        if level.problem is not None:
            return None
        began = time.perf_counter()
        packed = await level.get(key)
        self._metrics.seconds[level.name].observe(time.perf_counter() - began)
        if packed is None and level.problem is None:
            self._metrics.misses[level.name].inc()
        return packed

    def _from_memory(self, key: str) -> bytes | None:
        if not self.settings.memory_bytes:
            return None
        entry = self._memory.get(key)
        (self._metrics.misses if entry is None else self._metrics.hits)[MEMORY].inc()
        return None if entry is None else entry[1]

    def _into_memory(self, key: str, entry: tuple[float, bytes]) -> None:
        if len(entry[1]) + ENTRY_BYTES <= self.settings.memory_bytes:
            self._memory[key] = entry

    def _write(self, levels: list[Level], key: str, packed: bytes, until: float) -> None:
        """Keep a value in levels that answer, in the background."""
        for level in levels:
            if level.problem is not None:
                continue
            full = len(self._writes) >= PENDING_WRITES or self._writing >= PENDING_BYTES
            if full or self._closed:
                self._metrics.dropped.inc()
                continue
            task = asyncio.create_task(level.put(key, packed, until - time.time()))
            self._writing += len(packed)
            self._writes.add(task)
            task.add_done_callback(partial(self._written, len(packed)))

    def _written(self, size: int, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        self._writing -= size

    def _landed(self, key: str, task: asyncio.Task[Answer]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            task.exception()  # nobody may be left to see it

    def _forget(self, key: str, task: asyncio.Task[Answer]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]

    def _pack(self, key: str, entry: tuple[float, bytes]) -> bytes:
        return _HEAD.pack(MAGIC, entry[0], self._digest(key, *entry)) + entry[1]

    def _unpack(self, key: str, packed: bytes) -> tuple[float, bytes] | None:
        if len(packed) < _HEAD.size:
            return None
        magic, until, digest = _HEAD.unpack_from(packed)
        value = packed[_HEAD.size :]
        # The digest also holds the key and the end of life: a value moved to another name is none.
        genuine = hmac.compare_digest(digest, self._digest(key, until, value))
        if magic != MAGIC or not genuine or until <= time.time():
            return None
        return until, value

    def _digest(self, key: str, until: float, value: bytes) -> bytes:
        made = hashlib.blake2b(key.encode(), digest_size=16, key=self._secret)
        made.update(struct.pack(">d", until))
        made.update(value)
        return made.digest()


@dataclass(slots=True)
class _Flight:
    """An explanation that is being looked up or made, and how many requests wait for it."""

    task: asyncio.Task[Answer]
    waiting: int = 0


class Level(ABC):
    """A level outside of this process's memory: limits, and a breaker that opens at the first failure.

    Args:
        name: for the metrics and the log.
        seconds: what a client waits at most.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self.seconds = seconds
        self.problem: str | None = "it has not answered yet"  # None while it is used
        self.on_change: Callable[[float], None] = lambda up: None
        self.on_error: Callable[[], None] = lambda: None
        self._prober: asyncio.Task[None] | None = None
        self._said = ""

    @abstractmethod
    async def _get(self, key: str) -> bytes | None:
        """Return what is kept."""

    @abstractmethod
    async def _put(self, key: str, value: bytes, seconds: float) -> None:
        """Keep a value for so long."""

    @abstractmethod
    async def _probe(self) -> None:
        """Try whether it works."""

    @abstractmethod
    async def _close(self) -> None:
        """Let go of what it holds."""

    def start(self) -> None:
        """Try it, in the background."""
        self._prober = asyncio.create_task(self._until_it_answers(0.0))

    async def get(self, key: str) -> bytes | None:
        """Return what is kept; None where there is nothing, or the level is not to be used."""
        return await self._limited(lambda: self._get(key))

    async def put(self, key: str, value: bytes, seconds: float) -> None:
        """Keep a value."""
        if seconds > 0:
            await self._limited(lambda: self._put(key, value, seconds))

    async def close(self) -> None:
        """Stop trying, and close it within a limit."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        self.problem = "it is closed"
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._close()

    async def _limited(self, operation: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        if self.problem is not None:
            return None
        try:
            async with asyncio.timeout(self.seconds):
                return await operation()
        except Exception as problem:
            self.on_error()
            if not self._harmless(problem):
                self._opened(problem)
            return None

    def _harmless(self, problem: Exception) -> bool:
        """Whether the level may still be used after this."""
        return False

    def _opened(self, problem: Exception) -> None:
        if self.problem is not None:
            return
        self.problem = _why(problem, self.seconds)
        self.on_change(0.0)
        if self._said != self.problem:
            log.warning("the cache does without %s: %s", self.name, self.problem)
            self._said = self.problem
        self._prober = asyncio.create_task(self._until_it_answers(FIRST_PAUSE))

    async def _until_it_answers(self, pause: float) -> None:
        while True:
            if pause:
                await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._probe()
            except Exception as problem:
                self.problem = _why(problem, PROBE_SECONDS)
                if self._said != self.problem:
                    log.warning("the cache does without %s: %s", self.name, self.problem)
                    self._said = self.problem
                pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                continue
            self.problem = None
            self.on_change(1.0)
            if self._said:
                log.info("the cache uses %s again", self.name)
                self._said = ""
            return


class RedisLevel(Level):
    """Redis, or what speaks its protocol."""

    def __init__(self, settings: CacheSettings) -> None:
        super().__init__(REDIS, settings.redis_seconds)
        try:
            self._pool = redis.asyncio.BlockingConnectionPool.from_url(
                settings.redis_url,
                max_connections=CONNECTIONS,
                timeout=settings.redis_seconds,
                socket_connect_timeout=PROBE_SECONDS,
                socket_timeout=PROBE_SECONDS,
                # Once: a connection that waited in the pool may have been closed by a restart.
                retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
            )
        except ValueError as problem:
            # Not the address itself: it may hold a password.
            raise ServingError(f"The cache's redis_url is none: {problem}") from problem
        self._redis = redis.asyncio.Redis(connection_pool=self._pool)

    async def _get(self, key: str) -> bytes | None:
        return await self._redis.get(PREFIX + key)

    async def _put(self, key: str, value: bytes, seconds: float) -> None:
        await self._redis.set(PREFIX + key, value, px=max(1, int(seconds * 1000)))

    async def _probe(self) -> None:
        await self._redis.get(PREFIX)

    async def _close(self) -> None:
        await self._redis.aclose()
        await self._pool.aclose()

    def _harmless(self, problem: Exception) -> bool:
        return isinstance(problem, ResponseError)  # e.g. memory full: it can still be read


class DiskLevel(Level):
    """diskcache in a folder, in a thread of its own."""

    def __init__(self, settings: CacheSettings) -> None:
        super().__init__(DISK, settings.disk_seconds)
        folder = Path(settings.disk_folder)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._cache = Cache(
                str(folder),
                timeout=settings.disk_seconds / 2,
                disk=BytesOnly,
                size_limit=settings.disk_bytes,
                # Reads need no transaction with this one; least recently used would write at each.
                eviction_policy="least-recently-stored",
            )
        except (OSError, sqlite3.Error) as problem:
            raise ServingError(
                f"The cache's folder {folder} cannot be used: {problem}. Choose another, or remove "
                "what is in it."
            ) from problem
        self._cache.close()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache-disk")

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def _get(self, key: str) -> bytes | None:
        return await self._run(self._cache.get, key)

    async def _put(self, key: str, value: bytes, seconds: float) -> None:
        await self._run(self._cache.set, key, value, seconds)

    async def _probe(self) -> None:
        # Reads work on a full disk. A value of this size is a file of its own, so it needs room.
        await self._run(self._cache.set, "", bytes(PROBE_BYTES), 1.0)

    async def _close(self) -> None:
        try:
            await self._run(self._cache.close)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)


class BytesOnly(Disk):
    """diskcache's files without its pickles: text keys and bytes, both ways."""

    def put(self, key: Any) -> Any:
        if type(key) is not str:
            raise TypeError(f"a key of the cache is text, not {type(key).__name__}")
        return super().put(key)

    def get(self, key: Any, raw: Any) -> Any:
        if not raw:
            raise ValueError("the cache's folder holds a pickled key, which is not read")
        return super().get(key, raw)

    def store(self, value: Any, read: Any, key: Any = None) -> Any:
        if type(value) is not bytes or read:
            raise TypeError(f"a value of the cache is bytes, not {type(value).__name__}")
        return super().store(value, read, key)

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> Any:
        if mode not in (MODE_RAW, MODE_BINARY):
            raise ValueError("the cache's folder holds a value that is not bytes; it is not read")
        found = super().fetch(mode, filename, value, read)
        return found if isinstance(found, bytes) else b""


class _Metrics:
    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        def of(kind: Any, name: str, what: str, **options: Any) -> Any:
            whole = kind(
                f"explain_server_cache_{name}", what, [*labels, "level"], registry=registry,
                **options,
            )  # fmt: skip
            return lambda level: whole.labels(**labels, level=level)

        self._make = {
            "hits": of(Counter, "hits", "Explanations found in the cache, by level"),
            "misses": of(Counter, "misses", "Look-ups that found nothing, by level"),
            "errors": of(Counter, "errors", "Failures of a level, and values that were damaged"),
            "up": of(Gauge, "up", "Whether a level is used: 0 while it fails"),
            "seconds": of(
                Histogram, "lookup_seconds", "Time of a look-up, by level", buckets=LOOKUP_SECONDS
            ),
        }
        self.hits: dict[str, Any] = {}
        self.misses: dict[str, Any] = {}
        self.errors: dict[str, Any] = {}
        self.up: dict[str, Any] = {}
        self.seconds: dict[str, Any] = {}
        self.shared = Counter(
            "explain_server_cache_shared",
            "Requests that waited for the same explanation of another",
            list(labels),
            registry=registry,
        ).labels(**labels)
        self.dropped = Counter(
            "explain_server_cache_dropped_writes",
            "Explanations not written to Redis or disk because too many writes were under way",
            list(labels),
            registry=registry,
        ).labels(**labels)

    def level(self, name: str) -> None:
        for kind in ("hits", "misses"):
            getattr(self, kind)[name] = self._make[kind](name)
        if name != MEMORY:
            for kind in ("errors", "up", "seconds"):
                getattr(self, kind)[name] = self._make[kind](name)


def _why(problem: Exception, seconds: float) -> str:
    if isinstance(problem, TimeoutError):
        return f"no answer within {seconds:g} s"
    kind = "" if isinstance(problem, RedisError | OSError) else f"{type(problem).__name__}: "
    return f"{kind}{problem}"[:300]
