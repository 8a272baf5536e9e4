"""The HTTP side of the explain server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving.common.app import create_app
from helpers.serving.common.body import read_json
from helpers.serving.common.errors import RequestError, plain_error, seldon_error
from helpers.serving.common.metrics import new_registry
from helpers.serving.explain.measures import Measures
from helpers.serving.explain.methods.base import Explained, Options
from helpers.serving.explain.service import ExplainService
from helpers.serving.payloads import SELDON, write_json

log = logging.getLogger(__name__)

WAITING = 32  # requests that may wait for their turn
SEEDS = 2**32  # NumPy's generator takes seeds below
CLIENT_GONE = 499  # nginx's code, for the metrics: nobody reads the answer


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
    """

    def __init__(
        self,
        service: ExplainService,
        *,
        method: str,
        options: Options,
        model_name: str,
        protocol: str,
    ) -> None:
        self.service = service
        self.options = options
        self.model_name = model_name
        self.protocol = protocol
        self.seed = seed_from_environment()
        self.registry = new_registry()
        self.measures = Measures(self.registry, method, model_name)
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="explainer")
        self.waiting = 0

    async def explain(self, body: Any, gone: Callable[[], Coroutine[Any, Any, None]]) -> bytes:
        """Return the explanation as JSON.

        Args:
            body: of the request.
            gone: waits until the client hangs up: an explanation that has to wait for its turn is not
                begun then.
        """
        reason = self.service.not_ready()
        if reason is not None:
            raise RequestError(503, reason, headers={"retry-after": "2"})
        options, seed = self._parameters(body)
        instances = self.service.method.read(body, self.protocol)
        if self.waiting >= WAITING:
            raise RequestError(
                503, f"{WAITING} explanations are waiting already.", headers={"retry-after": "1"}
            )
        self.waiting += 1
        loop = asyncio.get_running_loop()
        asked = time.perf_counter()
        job = loop.run_in_executor(self.worker, self._explain, instances, options, seed, asked)
        hung_up = asyncio.create_task(gone())
        try:
            await asyncio.wait((job, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                raise RequestError(CLIENT_GONE, "The client has gone.")
            return job.result()
        finally:
            hung_up.cancel()
            job.cancel()
            self.waiting -= 1

    def _explain(self, instances: Any, options: Options, seed: int, asked: float) -> bytes:
        self.measures.waited.observe(time.perf_counter() - asked)
        explained, usage, seconds = self.service.explain(instances, options, seed)
        self.measures.explained(explained, usage, seconds)
        return _as_json(explained)

    def _parameters(self, body: Any) -> tuple[Options, int]:
        given = body.get("parameters") if isinstance(body, dict) else None
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise RequestError(400, "`parameters` must be an object.")
        given = dict(given)
        seed = given.pop("seed", None)
        if seed is None:
            seed = secrets.randbelow(SEEDS) if self.seed is None else self.seed
        if type(seed) is not int or not 0 <= seed < SEEDS:
            raise RequestError(
                400, f"parameters.seed must be a whole number from 0 to {SEEDS - 1}."
            )
        return merged(self.options, given), seed


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
            explanation = await server.explain(body, lambda: _disconnected(request))
            return Response(explanation, media_type="application/json")
        except RequestError as problem:
            code = problem.status
            raise
        except Exception:
            code = 500
            raise
        finally:
            server.measures.answered(code)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        starter = threading.Thread(
            target=server.service.start, args=(on_failure,), name="loader", daemon=True
        )
        starter.start()
        try:
            yield
        finally:
            server.service.stop()
            server.worker.shutdown(wait=False, cancel_futures=True)

    paths = (
        "/api/v1.0/explain",
        "/api/v0.1/explain",
        "/v1/models/:explain",
        "/v1/models:explain",
        "/v1/models/{model}:explain",
        "/v1/models/{model}/:explain",
    )
    return create_app(
        f"{server.model_name}-explainer",
        [Route(path, explain, methods=["POST"]) for path in paths],
        shape_error=seldon_error if server.protocol == SELDON else plain_error,
        not_ready=server.service.not_ready,
        registry=server.registry,
        lifespan=lifespan,
    )


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _as_json(explained: Explained) -> bytes:
    """Return what alibi's `Explanation.to_json` holds."""
    return write_json({"meta": explained.meta, "data": explained.data})
