"""ExplainModel: an explain server as a model of MLServer."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
from typing import Any

from mlserver import MLModel, ModelSettings
from mlserver.codecs import StringCodec
from mlserver.errors import MLServerError
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from helpers.errors import WalkthroughError
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain import cli
from helpers.serving.explain.app import ExplainServer, Reply
from helpers.serving.explain.production.pipeline import Asked
from helpers.serving.mlserver_explain import TAGS
from helpers.serving.payloads import V2

log = logging.getLogger(__name__)

OUTPUT = "explanation"
PARAMETERS = "explain_parameters"  # where MLServer's explainers look for them

_INFER = re.compile(r"(?P<host>https?://[!-~]+)/v2/models/(?P<model>[^/]+)/infer")
_MLSERVER_OWN = ("content_type", "headers", PARAMETERS)


class ExplainModel(MLModel):
    """Explains with a method of `helpers.serving.explain`.

    `parameters.extra` has `explainer_type`, `infer_uri`, and `arguments`, a list of the method's options as
    on the command line; `parameters.uri` names the artefact. It is ready once the artefact is loaded and the
    model has answered; a setting that cannot be, or an artefact that cannot be loaded, ends the process with
    one sentence.
    """

    _server: ExplainServer | None = None

    @property
    def ready(self) -> bool:
        """Whether it can explain: the model may not have answered yet."""
        return self._server is not None and self._server.service.not_ready() is None

    @ready.setter
    def ready(self, value: bool) -> None:
        """Nothing: MLServer's own state says only that loading has begun."""

    async def load(self) -> bool:
        """Begin to load; a model that does not answer yet would hold up MLServer's start and stop."""
        try:
            self._server = build(self.settings)
            await self._server.start()
        except WalkthroughError as problem:
            _give_up(f"{self.name}: {problem}")
        except (
            SystemExit
        ):  # argparse has said why; raised here, it would end in MLServer's tracebacks
            _give_up("")
        start = self._loaded().service.start
        threading.Thread(target=start, args=(_give_up,), name="loader", daemon=True).start()
        return True

    async def unload(self) -> bool:
        """Stop what runs beside the requests."""
        if self._server is not None:
            await self._server.close()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the explanation.

        Raises:
            MLServerError: 400 the request is refused, 502 or 503 the model fails.
        """
        reply = await self._explain(payload)
        method = (self.settings.parameters.extra or {})["explainer_type"]
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[StringCodec.encode_output(OUTPUT, [reply.content.decode()])],
            parameters=Parameters(
                headers={
                    **reply.headers,
                    "x-seldon-alibi-type": OUTPUT,
                    "x-seldon-alibi-method": method,
                }
            ),
        )

    @custom_handler(rest_path="/explain")
    async def explain(self, payload: InferenceRequest) -> Response:
        """Return the explanation alone, in no protocol's envelope."""
        reply = await self._explain(payload)
        return Response(reply.content, headers=dict(reply.headers), media_type="application/json")

    @custom_handler(rest_path="/metrics", rest_method="GET")
    async def metrics(self) -> Response:
        """Return what the explain server counts and times."""
        return Response(generate_latest(self._loaded().registry), media_type=CONTENT_TYPE_LATEST)

    def _loaded(self) -> ExplainServer:
        """MLServer opens the custom paths before it calls `load`."""
        if self._server is None:
            raise MLServerError(f"{self.name} is being loaded.", 503)
        return self._server

    async def _explain(self, payload: InferenceRequest) -> Reply:
        code, server = 200, self._loaded()
        try:
            return await server.answer(_body(payload), _never, _asked(payload, server))
        except RequestError as problem:
            code = problem.status
            raise MLServerError(problem.message, code) from problem
        except Exception as problem:
            code = 500
            log.exception("%s cannot explain", self.name)
            raise MLServerError("Internal error; the log has the details.", code) from problem
        finally:
            server.measures.answered(code)


def build(settings: ModelSettings) -> ExplainServer:
    """Return the explain server that a model's settings describe.

    Raises:
        ServingError: a setting is missing or wrong.
    """
    parameters = settings.parameters
    extra = (parameters.extra if parameters else None) or {}
    tag, infer_uri = extra.get("explainer_type"), extra.get("infer_uri", "")
    if tag not in TAGS:
        raise ServingError(f"extra.explainer_type is one of {', '.join(TAGS)}, not {tag!r:.60}.")
    model = _INFER.fullmatch(infer_uri)
    if model is None:
        raise ServingError(
            f"extra.infer_uri is http://<host>/v2/models/<model>/infer, not {infer_uri!r:.100}."
        )
    args = cli.parser().parse_args(
        [
            f"--model_name={model['model']}",
            f"--predictor_host={model['host']}",
            f"--storage_uri={(parameters.uri if parameters else '') or ''}",
            TAGS[tag],
            *extra.get("arguments", []),
        ]
    )
    args.protocol = V2  # the explain server itself speaks the two others only
    server = cli.build(args)
    if server.production.jobs is not None:
        raise ServingError("explanations that are polled for have no path in the v2 protocol.")
    return server


def _asked(payload: InferenceRequest, server: ExplainServer) -> Asked:
    """Return who asks, by the headers that MLServer puts into a request's parameters."""
    headers = (payload.parameters.headers if payload.parameters else None) or {}
    by = server.production.settings.audit_caller_header
    caller = headers.get(by.lower(), "") if by else ""
    request_id = headers.get("seldon-puid") or headers.get("x-request-id", "")
    return Asked(request_id[:200], caller[:200])


def _body(payload: InferenceRequest) -> dict[str, Any]:
    """Return the request as the explain server reads one."""
    parameters = payload.parameters.model_dump(exclude_none=True) if payload.parameters else {}
    unknown = sorted(parameters.keys() - set(_MLSERVER_OWN))
    if unknown:
        raise RequestError(
            400, f"parameters.{unknown[0][:60]}: a seed and options go into {PARAMETERS}."
        )
    given = parameters.get(PARAMETERS) or {}
    return {"inputs": [_tensor(one) for one in payload.inputs], "parameters": given}


def _tensor(given: RequestInput) -> dict[str, Any]:
    data = given.data.root
    if given.datatype == "BYTES":
        data = [one.decode(errors="replace") if isinstance(one, bytes) else one for one in data]
    return {"name": given.name, "shape": given.shape, "datatype": given.datatype, "data": data}


async def _never() -> None:
    """MLServer does not tell whether the client has gone."""
    await asyncio.Event().wait()


def _give_up(sentence: str) -> None:
    """End the process: without its explainer it has nothing to serve, and who started it sees why."""
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)
