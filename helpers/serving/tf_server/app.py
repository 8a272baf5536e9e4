"""The ASGI app: TensorFlow Serving's REST paths around one model."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving.common.app import JSON, create_app
from helpers.serving.common.body import BODY_LIMIT, read_body
from helpers.serving.common.errors import RequestError
from helpers.serving.common.metrics import expose, new_registry
from helpers.serving.tf_server.batching import MAX_ROWS, MAX_WAITING_ROWS, Batcher
from helpers.serving.tf_server.metrics import Metrics
from helpers.serving.tf_server.results import write_result
from helpers.serving.tf_server.specs import Model, ModelInputError, Signature
from helpers.serving.tf_server.tensors import PredictReader, PredictRequest

log = logging.getLogger(__name__)

MAX_UNBATCHED = 64  # calls that may wait for a signature whose first axis is not rows

_CALL = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:(classify|regress|predict)")
_STATUS = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?")
_METADATA = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?/metadata")


class ModelServer:
    """One model by name; `load` returns it and may take its time.

    Args:
        name: as in the paths.
        load: runs in a thread when the app starts.
        on_failure: called with the exception of `load`; the app keeps answering 503.
        max_rows: rows of one call of the model.
        max_waiting_rows: rows that may wait before requests are refused.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Model],
        *,
        on_failure: Callable[[Exception], None] = lambda problem: None,
        max_rows: int = MAX_ROWS,
        max_waiting_rows: int = MAX_WAITING_ROWS,
    ) -> None:
        self.name = name
        self._load = load
        self._on_failure = on_failure
        self._limits = {"max_rows": max_rows, "max_waiting_rows": max_waiting_rows}
        self._model: Model | None = None
        self._failure: str | None = None
        self._reader: PredictReader | None = None
        self._batchers: dict[str, Batcher] = {}
        self._unbatched = 0
        # One thread: TensorFlow uses every core for one call.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.registry = new_registry()
        self._metrics = Metrics(self.registry)
        self._metrics.waiting_rows.set_function(
            lambda: sum(batcher.waiting_rows for batcher in self._batchers.values())
        )

    def app(self, body_limit: int = BODY_LIMIT) -> Starlette:
        """Return the ASGI app; its start-up begins to load the model."""
        return create_app(
            "tf_server",
            [
                Route("/monitoring/prometheus/metrics", _scrape),
                Route("/v1/{rest:path}", self._answer, methods=["GET", "POST"]),
            ],
            not_ready=self.not_ready,
            registry=self.registry,
            body_limit=body_limit,
            lifespan=self._lifespan,
            described_in="helpers.serving.tf_server",
        )

    def not_ready(self) -> str | None:
        """Why the model cannot be served yet, or None."""
        if self._model is not None:
            return None
        if self._failure is not None:
            return f"The model {self.name} could not be loaded: {self._failure}"
        return f"The model {self.name} is not ready: it is being loaded."

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._prepare(), name="load model")
        try:
            yield
        finally:
            loading.cancel()
            for batcher in self._batchers.values():
                await batcher.aclose()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            model = await loop.run_in_executor(self._thread, self._load)
        except Exception as problem:
            self._failure = str(problem) or type(problem).__name__
            log.error("%s", self.not_ready())
            self._on_failure(problem)
            return
        self._reader = PredictReader(model.signatures)
        self._batchers = {
            name: Batcher(signature.run, self._thread, observe=self._metrics.called, **self._limits)
            for name, signature in model.signatures.items()
            if signature.batchable
        }
        self._model = model
        log.info("model %s version %d is ready", self.name, model.version)

    async def _answer(self, request: Request) -> Response:
        started = time.perf_counter()
        path, method = request.scope["path"], request.method
        kind = "other"
        code = 500
        try:
            if method == "POST" and (call := _CALL.fullmatch(path)):
                kind = call[3]
                response = await self._predict(request, *call.groups())
            elif method != "POST" and (asked := _METADATA.fullmatch(path)):
                kind = "metadata"
                response = self._metadata(*asked.groups())
            elif method != "POST" and (asked := _STATUS.fullmatch(path)):
                kind = "status"
                response = self._status(*asked.groups())
            else:
                raise RequestError(400, f"Malformed request: {method} {path[:200]}")
            code = response.status_code
            return response
        except RequestError as problem:
            code = problem.status
            raise
        finally:
            self._metrics.requests.labels(kind, str(code)).inc()
            if kind == "predict":
                self._metrics.request_seconds.observe(time.perf_counter() - started)

    async def _predict(
        self, request: Request, name: str, version: str | None, verb: str
    ) -> Response:
        model = self._served(name, version)
        if verb != "predict":
            raise RequestError(
                400,
                f"Expected {verb} signature method_name to be tensorflow/serving/{verb}; this "
                "server answers :predict only.",
            )
        body = await read_body(request)
        if not body.strip():
            raise RequestError(400, "JSON Parse error: The document is empty")
        assert self._reader is not None
        asked = self._reader.read(body)
        del body
        outputs = await self._compute(asked, model)
        return Response(write_result(outputs, asked.row_form), media_type="application/json")

    async def _compute(self, asked: PredictRequest, model: Model) -> Any:
        signature = asked.signature
        batcher = self._batchers.get(signature.name)
        sizes = {len(array) if array.ndim else None for array in asked.inputs.values()}
        try:
            if batcher is not None and len(sizes) == 1:
                return await batcher.submit(asked.inputs)
            return await self._compute_alone(signature, asked)
        except ModelInputError as problem:
            raise RequestError(400, f"The model refuses the input: {problem}") from problem

    async def _compute_alone(self, signature: Signature, asked: PredictRequest) -> Any:
        if self._unbatched >= MAX_UNBATCHED:
            raise RequestError(
                503,
                f"{MAX_UNBATCHED} requests wait already; try again.",
                headers={"retry-after": "1"},
            )
        self._unbatched += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, signature.run, asked.inputs)
        finally:
            self._unbatched -= 1

    def _status(self, name: str, version: str | None) -> Response:
        self._check_name(name, version, status=True)
        if self._model is None:
            state = {"state": "LOADING" if self._failure is None else "END"}
            problem = {"error_code": "UNAVAILABLE", "error_message": self.not_ready() or ""}
            entry = {"version": version or "0", **state, "status": problem}
            return JSON(
                {"error": self.not_ready(), "model_version_status": [entry]}, status_code=503
            )
        self._check_version(name, version, status=True)
        return JSON(
            {
                "model_version_status": [
                    {
                        "version": str(self._model.version),
                        "state": "AVAILABLE",
                        "status": {"error_code": "OK", "error_message": ""},
                    }
                ]
            }
        )

    def _metadata(self, name: str, version: str | None) -> Response:
        model = self._served(name, version)
        return JSON(
            {
                "model_spec": {
                    "name": self.name,
                    "signature_name": "",
                    "version": str(model.version),
                },
                "metadata": {"signature_def": {"signature_def": model.metadata}},
            }
        )

    def _served(self, name: str, version: str | None) -> Model:
        self._check_name(name, version)
        if self._model is None:
            raise RequestError(503, self.not_ready() or "", headers={"retry-after": "1"})
        self._check_version(name, version)
        return self._model

    def _check_name(self, name: str, version: str | None, status: bool = False) -> None:
        if name != self.name:
            raise _not_found(name, version, status)

    def _check_version(self, name: str, version: str | None, status: bool = False) -> None:
        if version is None:
            return
        if len(version) > 18:
            raise RequestError(400, f"Failed to convert version: {version[:40]} to numeric.")
        if self._model is None or int(version) != self._model.version:
            raise _not_found(name, version, status)


def _not_found(name: str, version: str | None, status: bool) -> RequestError:
    name = name[:80]
    if status:
        which = f"version {version[:40]}" if version else "any versions"
        return RequestError(404, f"Could not find {which} of model {name}")
    wanted = f"Specific({name}, {version[:40]})" if version else f"Latest({name})"
    return RequestError(404, f"Servable not found for request: {wanted}")


async def _scrape(request: Request) -> Response:
    return expose(request)
