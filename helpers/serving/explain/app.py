"""The HTTP side of the explain server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving.common.app import JSON, create_app
from helpers.serving.common.body import read_json
from helpers.serving.common.errors import RequestError, plain_error, seldon_error
from helpers.serving.common.metrics import new_registry
from helpers.serving.explain.measures import Measures
from helpers.serving.explain.methods.base import Options
from helpers.serving.explain.production.attributions import Explanation
from helpers.serving.explain.production.deadline import (
    GRACE_SECONDS,
    Background,
    Deadline,
    InterruptedForClientError,
    TimeUpError,
)
from helpers.serving.explain.production.pipeline import (
    AUDIT_HEADER,
    SOURCE_HEADER,
    Asked,
    Made,
    Production,
    Wanted,
)
from helpers.serving.explain.production.settings import ProductionSettings
from helpers.serving.explain.service import ExplainService
from helpers.serving.payloads import SELDON

if TYPE_CHECKING:
    from helpers.serving.explain.production.stability import Stability

log = logging.getLogger(__name__)

WAITING = 32  # requests that may wait for their turn
SEEDS = 2**32  # NumPy's generator takes seeds below
JOBS_PATH = "/v1/explanations"
NOBODY = Asked()
CLIENT_GONE = 499  # nginx's code, for the metrics: nobody reads the answer

Gone = Callable[[], Coroutine[Any, Any, None]]


class CutShort(bytes):
    """An explanation that is the best found when its time was over; orjson reads plain bytes only."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request.

    Args:
        content: JSON.
        headers: to send with it.
    """

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class ExplainServer:
    """Answers explain requests.

    A request may have, beside its instances, `"parameters": {"seed": 7, "threshold": 0.9}`: a seed and
    options for this one explanation. The seed that was used, given or drawn, comes back as
    `meta.params.seed`: sent again it gives the same explanation, byte for byte.

    Args:
        service: explains.
        method: the method's name.
        options: from the configuration.
        model_name: as in the paths of the tensorflow protocol.
        protocol: of requests and of the model.
        settings: what production asks for; nothing by default.

    Raises:
        ServingError: a setting that cannot be.
    """

    def __init__(
        self,
        service: ExplainService,
        *,
        method: str,
        options: Options,
        model_name: str,
        protocol: str,
        settings: ProductionSettings | None = None,
    ) -> None:
        self.service = service
        self.options = options
        self.model_name = model_name
        self.protocol = protocol
        self.seed = seed_from_environment()
        self.registry = new_registry()
        self.measures = Measures(self.registry, method, model_name)
        self.production = Production(
            settings or ProductionSettings(),
            method=service.method,
            name=method,
            model_name=model_name,
            location=service.location,
            registry=self.registry,
        )
        service.on_loaded = self.production.loaded
        self.stability = _stability(self, method)
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="explainer")
        self.waiting = 0

    async def start(self) -> None:
        """Start what runs beside the requests; the explainer itself is `service.start`."""
        await self.production.start()
        if self.stability is not None:
            self.stability.start()

    async def close(self) -> None:
        """Stop everything, within limits."""
        self.service.stop()
        self.worker.shutdown(wait=False, cancel_futures=True)
        if self.stability is not None:
            await self.stability.close()
        await self.production.close()

    async def explain(self, body: Any, gone: Gone) -> bytes:
        """Return the explanation as JSON; see `answer`."""
        return (await self.answer(body, gone)).content

    async def answer(self, body: Any, gone: Gone, asked: Asked = NOBODY) -> Reply:
        """Return the explanation.

        Args:
            body: of the request.
            gone: waits until the client hangs up: an explanation that has to wait for its turn is not
                begun then.
            asked: who asks.
        """
        wanted = self._read(body, self.production.settings.deadline_seconds)
        work = asyncio.create_task(self._answer(wanted, asked))
        hung_up = asyncio.create_task(gone())
        try:
            await asyncio.wait((work, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise RequestError(CLIENT_GONE, "The client has gone.")
            return work.result()
        finally:
            hung_up.cancel()
            work.cancel()

    def submit(self, body: Any, asked: Asked) -> str:
        """Take a request to be explained later, and return its id.

        Its time is that of a job, from when it begins.

        Raises:
            RequestError: the request is refused, 429 where there are too many.
        """
        jobs = self.production.jobs
        assert jobs is not None
        wanted = self._read(body, self.production.settings.async_seconds)

        async def make() -> bytes:
            return (await self._answer(wanted, asked)).content

        return jobs.submit(make)

    async def _answer(self, wanted: Wanted, asked: Asked) -> Reply:
        """Return an explanation, made or kept, as the client gets it."""
        production = self.production
        try:
            reply, outcome, read = await self._in_time(wanted)
        except Exception as problem:
            code = problem.status if isinstance(problem, RequestError) else 500
            with contextlib.suppress(RequestError):  # the refusal itself says more
                await production.audit(wanted, asked, (), str(code))
            if production.redaction is None:
                raise
            raise production.refusal(problem, wanted.instances) from None
        receipt = await production.audit(wanted, asked, read, outcome)
        if receipt is None:
            return reply
        return Reply(reply.content, {**reply.headers, AUDIT_HEADER: receipt})

    async def _in_time(self, wanted: Wanted) -> tuple[Reply, str, list[Explanation]]:
        deadline = None if wanted.seconds is None else Deadline(wanted.seconds)
        limit = None if deadline is None else deadline.seconds + GRACE_SECONDS
        try:
            async with asyncio.timeout(limit):
                content, outcome = await self._kept_or_made(wanted, deadline)
        except TimeoutError:  # whatever it is in cannot be interrupted
            raise TimeUpError(wanted.seconds or 0.0) from None
        headers = {SOURCE_HEADER: outcome} if self.production.cache is not None else {}
        read: list[Explanation] = []
        if deadline is not None or self.production.finishes:
            content, read = await asyncio.get_running_loop().run_in_executor(
                self.production.finisher, self.production.finish, content, deadline
            )
        return Reply(content, headers), outcome, read

    async def _kept_or_made(self, wanted: Wanted, deadline: Deadline | None) -> tuple[bytes, str]:
        cache = self.production.cache
        if cache is None:
            return bytes((await self._make(wanted, deadline)).value), "made"
        key = self.production.key(wanted)
        while True:
            try:
                found = await cache.get_or_make(key, lambda: self._make(wanted, deadline))
            except TimeUpError:
                if deadline is None or time.monotonic() >= deadline.at:
                    raise
            else:
                cut = isinstance(found.value, CutShort) and found.source == "shared"
                if not cut or deadline is None or time.monotonic() >= deadline.at:
                    return bytes(found.value), found.source
            # It was shared with another request, which had less time.

    async def _make(self, wanted: Wanted, deadline: Deadline | None) -> Made:
        if self.waiting >= WAITING:
            raise RequestError(
                503, f"{WAITING} explanations are waiting already.", headers={"retry-after": "1"}
            )
        self.waiting += 1
        loop = asyncio.get_running_loop()
        asked = time.perf_counter()
        try:
            content = await loop.run_in_executor(
                self.worker, self._explain, wanted, deadline, asked
            )
        finally:
            self.waiting -= 1
        whole = not isinstance(content, CutShort)
        if self.stability is not None and whole:
            self._offer(bytes(content), wanted)
        return Made(content, keep=whole)

    def _explain(self, wanted: Wanted, deadline: Deadline | None, asked: float) -> bytes:
        self.measures.waited.observe(time.perf_counter() - asked)
        explained, usage, seconds = self.service.explain(
            wanted.instances, wanted.options, wanted.seed, *([deadline] if deadline else [])
        )
        self.measures.explained(explained, usage, seconds)
        if deadline is not None and deadline.stopped:
            explained.meta["deadline"] = deadline.told()
            self.measures.cut_short.inc()
            return CutShort(self.production.written(explained, wanted.instances))
        return self.production.written(explained, wanted.instances)

    def _offer(self, content: bytes, wanted: Wanted) -> None:
        """Let an explanation be made again with other seeds, when nobody waits."""
        from helpers.serving.explain.production.stability import GaveWay, Reading

        assert self.stability is not None
        production, clock = self.production, Background(self.stability.must_give_way)

        def explain(seed: int) -> Reading:
            explained, _, _ = self.service.explain(wanted.instances, wanted.options, seed, clock)
            return production.reading(production.written(explained, wanted.instances))

        async def again(seed: int) -> Reading:
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(self.worker, explain, seed)
            except InterruptedForClientError:
                raise GaveWay from None
            except Exception as problem:
                if production.redaction is None:
                    raise
                raise production.refusal(problem, wanted.instances) from None

        self.stability.offer(lambda: production.reading(content), wanted.seed, again)

    def _read(self, body: Any, limit: float | None) -> Wanted:
        """Return what a request wants.

        Args:
            body: of the request.
            limit: its time, unless it asks for less; None where it may not ask.
        """
        reason = self.service.not_ready()
        if reason is not None:
            raise RequestError(503, reason, headers={"retry-after": "2"})
        try:
            options, seed, seconds = self._parameters(body, limit)
            instances = self.service.method.read(body, self.protocol)
        except Exception as problem:
            if self.production.redaction is None:
                raise
            raise self.production.refusal(problem) from None
        if seed is None:
            seed = self.seed
        if seed is None:
            seed = self.production.seed(instances)
        if seed is None:
            seed = secrets.randbelow(SEEDS)
        return Wanted(instances, options, seed, limit if seconds is None else seconds)

    def _parameters(
        self, body: Any, limit: float | None
    ) -> tuple[Options, int | None, float | None]:
        given = body.get("parameters") if isinstance(body, dict) else None
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise RequestError(400, "`parameters` must be an object.")
        given = dict(given)
        seed = given.pop("seed", None)
        if seed is not None and (type(seed) is not int or not 0 <= seed < SEEDS):
            raise RequestError(
                400, f"parameters.seed must be a whole number from 0 to {SEEDS - 1}."
            )
        seconds = given.pop("deadline", None) if limit is not None else None
        if seconds is not None and (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not 0 < seconds <= limit
        ):
            raise RequestError(
                400, f"parameters.deadline is in seconds, above 0 and up to {limit:g}."
            )
        return merged(self.options, given), seed, seconds


def _stability(server: ExplainServer, method: str) -> Stability | None:
    settings = server.production.settings
    if not settings.stability_share:
        return None
    from helpers.serving.explain.production.stability import Stability, StabilitySettings

    return Stability(
        StabilitySettings(share=settings.stability_share, seeds=settings.stability_seeds),
        server.registry,
        {"method": method, "model_name": server.model_name},
        idle=lambda: not server.waiting,
    )


def merged(options: Options, given: dict[str, Any]) -> Options:
    """Return the options with those of a request in their place.

    Raises:
        RequestError: 400, an option is unknown, out of range, or not a request's to set.
    """
    if not given:
        return options
    for name in given:
        extra = getattr(type(options).model_fields.get(name), "json_schema_extra", None)
        if isinstance(extra, dict) and extra.get("config_only"):
            raise RequestError(400, f"parameters.{name} is set by the configuration only.")
    try:
        return type(options).model_validate({**options.model_dump(), **given})
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(400, f"parameters.{where[:60]}: {first['msg']}.") from problem


def seed_from_environment() -> int | None:
    """Return the seed that Seldon's EXPLAIN_RANDOM_SEED=True and EXPLAIN_RANDOM_SEED_VALUE set."""
    value = os.environ.get("EXPLAIN_RANDOM_SEED_VALUE", "")
    if os.environ.get("EXPLAIN_RANDOM_SEED") != "True" or not value.isdecimal():
        return None
    return int(value) % SEEDS


def make_app(server: ExplainServer, on_failure: Callable[[str], None] = log.error) -> Starlette:
    """Return the ASGI app of an explain server; it starts to load once the app has started."""

    async def explain(request: Request) -> Response:
        code = 200
        try:
            name = request.path_params.get("model", "")
            if name and name != server.model_name:
                raise RequestError(
                    404, f"Unknown model {name[:80]!r}; this explains {server.model_name}."
                )
            body = await read_json(request)
            asked = _who_asks(request, server.production.settings.audit_caller_header)
            if server.production.jobs is not None and _prefers_async(request):
                code = 202
                return _accepted(request, server.submit(body, asked))
            reply = await server.answer(body, lambda: _disconnected(request), asked)
            return Response(
                reply.content, headers=dict(reply.headers), media_type="application/json"
            )
        except RequestError as problem:
            code = problem.status
            raise
        except Exception:
            code = 500
            raise
        finally:
            server.measures.answered(code)

    async def poll(request: Request) -> Response:
        assert server.production.jobs is not None
        status = server.production.jobs.status(request.path_params["id"])
        if status.state == "failed":
            raise RequestError(status.code or 500, status.error or "It failed.")
        if status.result is not None:
            return Response(status.result, media_type="application/json")
        return JSON(status.as_json(), status_code=202, headers={"retry-after": "1"})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        starter = threading.Thread(
            target=server.service.start, args=(on_failure,), name="loader", daemon=True
        )
        await server.start()
        starter.start()
        try:
            yield
        finally:
            await server.close()

    paths = (
        "/api/v1.0/explain",
        "/api/v0.1/explain",
        "/v1/models/:explain",
        "/v1/models:explain",
        "/v1/models/{model}:explain",
        "/v1/models/{model}/:explain",
    )
    routes = [Route(path, explain, methods=["POST"]) for path in paths]
    if server.production.jobs is not None:
        routes.append(Route(f"{JOBS_PATH}/{{id}}", poll, methods=["GET"]))
    return create_app(
        f"{server.model_name}-explainer",
        routes,
        shape_error=seldon_error if server.protocol == SELDON else plain_error,
        not_ready=server.service.not_ready,
        registry=server.registry,
        lifespan=lifespan,
        described_in="helpers.serving.explain",
    )


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _who_asks(request: Request, caller_header: str) -> Asked:
    headers, client = request.headers, request.client
    return Asked(
        headers.get("seldon-puid") or headers.get("x-request-id", ""),
        headers.get(caller_header) or (client.host if client else ""),
    )


def _prefers_async(request: Request) -> bool:
    """Whether the client asks for an answer later, as RFC 7240 has it."""
    told = ",".join(request.headers.getlist("prefer")).lower()
    return "respond-async" in (part.partition(";")[0].strip() for part in told.split(","))


def _accepted(request: Request, id: str) -> Response:
    """Return where to look for the result: relative, since a gateway may have put a prefix in front."""
    up = "../" * (request.scope["path"].count("/") - 1) or "./"
    return JSON(
        {"id": id, "state": "pending"},
        status_code=202,
        headers={
            "location": f"{up}{JOBS_PATH.removeprefix('/')}/{id}",
            "preference-applied": "respond-async",
            "retry-after": "1",
        },
    )
