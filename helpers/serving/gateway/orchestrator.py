"""One request to a deployment: which predictor, its events, its model, its shadow.

Seldon runs one executor for each predictor; this does the work of all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

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
    UpstreamError,
    UpstreamTimeoutError,
)
from helpers.serving.gateway.events import EventSender
from helpers.serving.gateway.intake import Intake
from helpers.serving.gateway.metrics import Metrics
from helpers.serving.gateway.paths import Target, predict_path, ready_path
from helpers.serving.gateway.routes import Deployment, Predictor, Routes
from helpers.serving.gateway.split import Splitter

log = logging.getLogger(__name__)

SOURCE = "http://:8000/"  # the executor's own address, as it writes it
MAX_COPIES = 64  # copies on their way to shadows
READY_SECONDS = 2.0
JSON_TYPE = (b"content-type", b"application/json")

# (deployment, headers) -> the name of the predictor that must serve, or None to split the traffic
Pin = Callable[[Deployment, Intake], str | None]


class Orchestrator:
    """Serves deployments from the present routes.

    Args:
        routes: looked at again when a model server is gone: it may have moved.
        upstream: calls model servers.
        events: takes payload events.
        metrics: counts.
        splitter: chooses predictors.
        pin: may choose a predictor before the splitter does.
    """

    def __init__(
        self,
        routes: Routes,
        upstream: Upstream,
        events: EventSender,
        metrics: Metrics,
        splitter: Splitter,
        pin: Pin | None = None,
    ) -> None:
        self._routes = routes
        self._upstream = upstream
        self._events = events
        self._metrics = metrics
        self._splitter = splitter
        self._pin = pin
        self._copies: set[asyncio.Task[None]] = set()

    def choose(self, deployment: Deployment, intake: Intake) -> Predictor:
        """Return the predictor that serves this request."""
        if self._pin is not None:
            name = self._pin(deployment, intake)
            if name is not None:
                pinned = deployment.predictor(name)
                if pinned is None:
                    raise RequestError(
                        404, f"The deployment {deployment.name} has no predictor {name[:80]}."
                    )
                return pinned
        return self._splitter.choose(deployment)

    async def serve(
        self,
        deployment: Deployment,
        predictor: Predictor,
        target: Target,
        intake: Intake,
        body: bytes,
        *,
        copied: bool = True,
    ) -> Answer:
        """Return the model's answer to a request of any kind; `copied` to the shadow, if there is one.

        Raises:
            RequestError: 400 feedback that is not JSON; 502, 503, 504 the model does not answer.
        """
        if target.service == "predictions":
            if copied and deployment.shadow is not None:
                self._copy(deployment, deployment.shadow, intake, body)
            return await self._predict(deployment, predictor, target, intake, body)
        if target.service == "feedback":
            return await self._feedback(deployment, predictor, target, intake, body)
        answer = await self._call(deployment, predictor, target, intake, b"")
        if target.graph and answer.status == 200:
            return _graph_metadata(predictor, answer)
        return answer

    async def explain(
        self,
        deployment: Deployment,
        predictor: Predictor,
        path: str,
        method: str,
        intake: Intake,
        body: bytes,
    ) -> Answer:
        """Return the explainer's answer; there is no orchestrator in front of it, so no events."""
        assert predictor.explainer is not None
        try:
            return await self._upstream.send(
                method,
                predictor.explainer,
                path,
                intake.forwarded,
                body,
                predictor.explainer_timeout_seconds,
            )
        except UpstreamError as problem:
            raise _unanswered(problem, f"The explainer of {deployment.name}") from problem

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

    async def _predict(
        self,
        deployment: Deployment,
        predictor: Predictor,
        target: Target,
        intake: Intake,
        body: bytes,
    ) -> Answer:
        logger = None if intake.skip_logging else predictor.logger
        if logger is not None and logger.mode != "response":
            self._events.put(
                logger.url,
                _event(REQUEST_TYPE, deployment, predictor, intake.puid, body, intake.content_type),
            )
        answer = await self._call(deployment, predictor, target, intake, body)
        if logger is not None and logger.mode != "request" and answer.status == 200:
            content_type = answer.header(b"content-type").decode("latin-1") or "application/json"
            self._events.put(
                logger.url,
                _event(
                    RESPONSE_TYPE, deployment, predictor, intake.puid, answer.body, content_type
                ),
            )
        return answer

    async def _feedback(
        self,
        deployment: Deployment,
        predictor: Predictor,
        target: Target,
        intake: Intake,
        body: bytes,
    ) -> Answer:
        if not isinstance(parse_json(body), dict):
            raise RequestError(400, "Feedback is a JSON object, e.g. with `response` and `truth`.")
        logger = None if intake.skip_logging else predictor.logger
        if logger is not None and logger.mode != "request":  # as the executor has it
            self._events.put(
                logger.url,
                _event(
                    FEEDBACK_TYPE, deployment, predictor, intake.puid, body, intake.content_type
                ),
            )
        if deployment.protocol == "seldon" and predictor.takes_feedback:
            return await self._call(deployment, predictor, target, intake, body)
        return Answer(200, [(b"content-type", intake.content_type.encode("latin-1"))], body)

    async def _call(
        self,
        deployment: Deployment,
        predictor: Predictor,
        target: Target,
        intake: Intake,
        body: bytes,
    ) -> Answer:
        started = time.perf_counter()
        try:
            answer = await self._send(predictor, target, intake, body)
        except UpstreamError as problem:
            moved = self._moved(deployment, predictor)
            repeatable = not problem.started or target.service != "feedback"
            if moved is None or not repeatable:
                raise _unanswered(problem, f"The model {predictor.model}") from problem
            try:
                answer = await self._send(moved, target, intake, body)
            except UpstreamError as again:
                raise _unanswered(again, f"The model {predictor.model}") from again
        self._metrics.called(
            deployment,
            predictor,
            target.service,
            target.method,
            answer.status,
            time.perf_counter() - started,
        )
        return answer

    async def _send(
        self, predictor: Predictor, target: Target, intake: Intake, body: bytes
    ) -> Answer:
        return await self._upstream.send(
            target.method,
            predictor.url,
            target.path,
            intake.forwarded,
            body,
            predictor.timeout_seconds,
        )

    def _moved(self, deployment: Deployment, predictor: Predictor) -> Predictor | None:
        """Return the predictor as it is routed now, if its server is another one than before."""
        present = self._routes.table.deployment(*deployment.key)
        found = present.predictor(predictor.name) if present is not None else None
        same_model = found is not None and found.model == predictor.model
        return found if same_model and found.url != predictor.url else None

    def _copy(self, deployment: Deployment, shadow: Predictor, intake: Intake, body: bytes) -> None:
        if len(self._copies) >= MAX_COPIES:
            self._metrics.shadow_dropped.labels(deployment.name).inc()
            return
        task = asyncio.create_task(self._shadowed(deployment, shadow, intake, body), name="shadow")
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _shadowed(
        self, deployment: Deployment, shadow: Predictor, intake: Intake, body: bytes
    ) -> None:
        target = Target("predictions", "POST", predict_path(deployment.protocol, shadow.model))
        started = time.perf_counter()
        try:
            code = (await self._predict(deployment, shadow, target, intake, body)).status
        except RequestError as problem:
            code = problem.status
        self._metrics.served(
            deployment, shadow, target.service, "POST", code, time.perf_counter() - started
        )

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


def _event(
    type: str,
    deployment: Deployment,
    predictor: Predictor,
    puid: str,
    data: bytes,
    content_type: str,
) -> CloudEvent:
    return CloudEvent(
        type=type,
        source=SOURCE,
        data=data,
        time=now(),
        datacontenttype=content_type,
        extensions={
            "requestid": puid,
            "modelid": predictor.model,
            "inferenceservicename": deployment.name,
            "namespace": deployment.namespace,
            "endpoint": predictor.name,
            "protocol": deployment.protocol,
        },
    )


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
