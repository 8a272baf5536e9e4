"""One request to a deployment: which predictor, its events, its model, its shadow.

Seldon runs one executor for each predictor; this does the work of all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace

import orjson

from helpers.serving.common.body import parse_json
from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import (
    FEEDBACK_TYPE,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    CloudEvent,
    now,
)
from helpers.serving.gateway.client import (
    Answer,
    Upstream,
    UpstreamBrokenError,
    UpstreamDownError,
    UpstreamError,
    UpstreamTimeoutError,
)
from helpers.serving.gateway.events import EventSender
from helpers.serving.gateway.intake import Intake
from helpers.serving.gateway.metrics import Metrics
from helpers.serving.gateway.paths import Target, predict_path, ready_path
from helpers.serving.gateway.routes import Deployment, Predictor, Routes
from helpers.serving.gateway.split import Splitter
from helpers.serving.gateway.variant import Variant, pinned

log = logging.getLogger(__name__)

SOURCE = "http://:8000/"  # the executor's own address, as it writes it
MAX_COPIES = 64  # copies on their way to shadows
MAX_COPY_BYTES = 64 * 2**20  # of their bodies together
READY_SECONDS = 2.0
JSON_TYPE = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Request:
    """A request on its way to one predictor's model; `target` says what it asks for."""

    deployment: Deployment
    variant: Variant
    target: Target
    intake: Intake
    body: bytes = b""

    @property
    def predictor(self) -> Predictor:
        """Whose model is asked."""
        return self.variant.predictor


class Orchestrator:
    """Serves deployments from the present routes.

    Args:
        routes: looked at again when a model server is gone: it may have moved.
        upstream: calls model servers.
        events: takes payload events.
        metrics: counts.
        splitter: chooses predictors.
    """

    def __init__(
        self,
        routes: Routes,
        upstream: Upstream,
        events: EventSender,
        metrics: Metrics,
        splitter: Splitter,
    ) -> None:
        self._routes = routes
        self._upstream = upstream
        self._events = events
        self._metrics = metrics
        self._splitter = splitter
        self._copies: dict[asyncio.Task[None], int] = {}  # -> bytes of the body

    def choose(
        self, deployment: Deployment, intake: Intake, only: Predictor | None = None
    ) -> Variant:
        """Return what serves a request: the predictor it is pinned to, `only`, or one by the split.

        Raises:
            RequestError: 400, it is pinned to a predictor that is not there or that is not `only`.
        """
        variant = pinned(deployment, intake, only)
        if variant is not None:
            return variant
        return Variant(only if only is not None else self._splitter.choose(deployment))

    async def serve(self, request: Request, *, copied: bool = True) -> Answer:
        """Return the model's answer to a request of any kind.

        Args:
            request: goes to its predictor, whatever the traffic split says.
            copied: whether the deployment's shadow, if there is one, gets a prediction as well.

        Raises:
            RequestError: 400 feedback that is not JSON; 502, 503, 504 the model does not answer.
        """
        if request.target.service == "predictions":
            if copied and request.deployment.shadow is not None:
                self._copy(request, request.deployment.shadow)
            return await self._predict(request)
        if request.target.service == "feedback":
            return await self._feedback(request)
        answer = await self._call(request)
        if request.target.graph and answer.status == 200:
            return _graph_metadata(request.predictor, answer)
        return answer

    async def explain(self, request: Request) -> Answer:
        """Return the explainer's answer; there is no orchestrator in front of it, so no events.

        Raises:
            RequestError: 502, 503, 504 the explainer does not answer.
        """
        predictor = request.predictor
        assert predictor.explainer is not None
        try:
            return await self._send(
                request, predictor.explainer, predictor.explainer_timeout_seconds
            )
        except UpstreamError as problem:
            raise _unanswered(problem, f"The explainer of {request.deployment.name}") from problem

    async def not_ready(self, deployment: Deployment, only: Predictor | None = None) -> str | None:
        """Why the deployment, or `only` one predictor, cannot serve; None once its models answer."""
        asked = (
            [only]
            if only is not None
            else [
                predictor
                for predictor in deployment.serving
                if predictor.traffic or len(deployment.serving) == 1
            ]
        )
        problems = await asyncio.gather(
            *[self._model_not_ready(deployment, predictor) for predictor in asked]
        )
        return next(filter(None, problems), None)

    async def aclose(self) -> None:
        """Stop copying to shadows."""
        for task in self._copies:
            task.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    async def _predict(self, request: Request) -> Answer:
        intake = request.intake
        self._log(request, REQUEST_TYPE, "request", request.body, intake.content_type)
        answer = await self._message(request)
        if answer.status == 200:
            content_type = answer.header(b"content-type").decode("latin-1") or "application/json"
            self._log(request, RESPONSE_TYPE, "response", answer.body, content_type)
        return answer

    async def _feedback(self, request: Request) -> Answer:
        body, content_type = request.body, request.intake.content_type
        if not isinstance(parse_json(body), dict):
            raise RequestError(400, "Feedback is a JSON object, e.g. with `response` and `truth`.")
        self._log(request, FEEDBACK_TYPE, "response", body, content_type)  # as the executor has it
        if request.deployment.protocol == "seldon" and request.predictor.takes_feedback:
            return await self._message(request)
        return Answer(200, [(b"content-type", content_type.encode("latin-1"))], body)

    async def _message(self, request: Request) -> Answer:
        """Return the model's answer, with the variant's tags where its protocol has a place for them."""
        answer = await self._call(request)
        return request.variant.tagged(answer, request.deployment, request.target)

    def _log(self, request: Request, type: str, mode: str, data: bytes, content_type: str) -> None:
        """Send a payload event where the predictor's logger has this mode."""
        logger = request.predictor.logger
        if logger is None or request.intake.skip_logging or logger.mode not in ("all", mode):
            return
        extensions = {
            "requestid": request.intake.puid,
            "modelid": request.predictor.model,
            "inferenceservicename": request.deployment.name,
            "namespace": request.deployment.namespace,
            "endpoint": request.predictor.name,
            "protocol": request.deployment.protocol,
            **request.variant.extensions,
        }
        event = CloudEvent(
            type=type,
            source=SOURCE,
            data=data,
            time=now(),
            datacontenttype=content_type,
            extensions=extensions,
        )
        self._events.put(logger.url, event)

    async def _call(self, request: Request) -> Answer:
        """Return the model's answer, also where it has moved meanwhile."""
        predictor = request.predictor
        started = time.perf_counter()
        try:
            try:
                answer = await self._send(request, predictor.url, predictor.timeout_seconds)
            except UpstreamError as problem:
                moved = self._moved(request)
                if moved is None or (problem.started and not _repeatable(request)):
                    raise
                answer = await self._send(request, moved.url, moved.timeout_seconds)
        except UpstreamError as problem:
            raise _unanswered(problem, f"The model {predictor.model}") from problem
        seconds = time.perf_counter() - started
        self._metrics.called(request.deployment, predictor, request.target, answer.status, seconds)
        return answer

    async def _send(self, request: Request, base: str, seconds: float) -> Answer:
        """Send a request; once more where the connection breaks, which may just have been too old."""
        sent = (request.target.path, request.intake.forwarded, request.body, seconds)
        try:
            return await self._upstream.send(request.target.method, base, *sent)
        except UpstreamDownError as problem:
            if not problem.started or not _repeatable(request):
                raise
            return await self._upstream.send(request.target.method, base, *sent)

    def _moved(self, request: Request) -> Predictor | None:
        """Return the predictor as it is routed now, if its server is another one than before."""
        present = self._routes.table.deployment(*request.deployment.key)
        before = request.predictor
        found = present.predictor(before.name) if present is not None else None
        same_model = found is not None and found.model == before.model
        return found if same_model and found.url != before.url else None

    def _copy(self, request: Request, shadow: Predictor) -> None:
        size = len(request.body)
        if len(self._copies) >= MAX_COPIES or sum(self._copies.values()) + size > MAX_COPY_BYTES:
            self._metrics.shadow_dropped.labels(request.deployment.name).inc()
            return
        path = predict_path(request.deployment.protocol, shadow.model)
        copy = replace(request, variant=Variant(shadow), target=replace(request.target, path=path))
        task = asyncio.create_task(self._shadowed(copy), name="shadow")
        self._copies[task] = size
        task.add_done_callback(self._copies.pop)

    async def _shadowed(self, copy: Request) -> None:
        started = time.perf_counter()
        try:
            code = (await self._predict(copy)).status
        except RequestError as problem:
            code = problem.status
        finally:
            self._events.release(copy.intake.puid)
        seconds = time.perf_counter() - started
        self._metrics.served(copy.deployment, copy.predictor, copy.target, code, seconds)

    async def _model_not_ready(self, deployment: Deployment, predictor: Predictor) -> str | None:
        path = ready_path(deployment.protocol, predictor.model)
        try:
            answer = await self._upstream.send(
                "GET", predictor.url, path, [JSON_TYPE], b"", READY_SECONDS
            )
        except UpstreamError as problem:
            return f"predictor {predictor.name}: {problem}"
        if answer.status != 200:
            return f"predictor {predictor.name}: its model answers {answer.status}"
        return None


def _repeatable(request: Request) -> bool:
    """Whether a model may get a request twice: predictions change nothing, feedback is counted."""
    return request.target.service != "feedback"


def _unanswered(problem: UpstreamError, who: str) -> RequestError:
    if isinstance(problem, UpstreamTimeoutError):
        return RequestError(504, f"{who} gave {problem}.")
    if isinstance(problem, UpstreamBrokenError):
        return RequestError(502, f"{who} cannot be understood: {problem}.")
    return RequestError(503, f"{who} cannot be reached: {problem}.", headers={"retry-after": "1"})


def _graph_metadata(predictor: Predictor, answer: Answer) -> Answer:
    """Make the model's metadata into the graph's: there is one node."""
    try:
        model = orjson.loads(answer.body)
        inputs, outputs = model.get("inputs", []), model.get("outputs", [])
    except (orjson.JSONDecodeError, AttributeError) as problem:
        raise RequestError(502, "The model's metadata are not a JSON object.") from problem
    whole = {
        "name": predictor.name,
        "models": {predictor.model: model},
        "graphinputs": inputs,
        "graphoutputs": outputs,
    }
    return Answer(200, [JSON_TYPE], orjson.dumps(whole))
