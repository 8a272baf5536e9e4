"""The paths that an orchestrator has for each protocol, and what they are on the model server."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from helpers.serving.common.errors import RequestError

Service = Literal["predictions", "feedback", "status", "metadata", "explain"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a path asks for.

    Args:
        service: the executor's name for it, a label of the metrics; explanations pass it by.
        method: GET or POST, for the client's request and for the model server's.
        path: on the model server.
        graph: whether the answer is to be made into the metadata of the whole graph.
    """

    service: Service
    method: str
    path: str
    graph: bool = False


_FEEDBACK = re.compile(r"/api/v(?:0\.1|1\.0)/feedback")
_NAME = r"([^/:]+)"
_TF_PREDICT = re.compile(rf"/v1/models(?:/{_NAME})?/?:predict")
_TF_MODEL = re.compile(rf"/v1/models/{_NAME}(/metadata)?")
_V2_INFER = re.compile(rf"/v2/models(?:/{_NAME})?/infer")
_V2_MODEL = re.compile(rf"/v2/models/{_NAME}(/ready)?")
_V2_HEALTH = re.compile(r"/v2/health/(ready|live)")
_SELDON_PREDICT = re.compile(r"/api/v(?:0\.1|1\.0)/predictions")
_SELDON_MODEL = re.compile(rf"/api/v(?:0\.1|1\.0)/(status|metadata)/{_NAME}")
_SELDON_HEALTH = re.compile(r"/api/v(?:0\.1|1\.0)/health/(status|ping)")
_SELDON_GRAPH = re.compile(r"/api/v(?:0\.1|1\.0)/metadata")

_SEGMENT = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9_.:-]*")  # never `..`, never empty


def resolve(protocol: str, method: str, path: str, model: str) -> Target:
    """Return what `path`, the part behind the deployment's prefix, asks for.

    Args:
        protocol: the deployment's.
        method: the client's HTTP method.
        path: begins with a slash.
        model: the predictor's model; a path that names another is refused.

    Raises:
        RequestError: 404 no such path or model in this protocol, 405 wrong method.
    """
    target = _feedback(path) or _RESOLVERS[protocol](path, model)
    if target is None:
        raise RequestError(
            404,
            f"The {protocol} protocol has no path {path[:200]}{_other_protocol(protocol, path)}",
        )
    if method != target.method:
        raise RequestError(
            405,
            f"{path[:200]} takes {target.method}, not {method}.",
            headers={"allow": target.method},
        )
    return target


def predict_path(protocol: str, model: str) -> str:
    """Return the path on the model server that takes predictions."""
    if protocol == "tensorflow":
        return f"/v1/models/{model}:predict"
    if protocol == "v2":
        return f"/v2/models/{model}/infer"
    return "/predict"


def ready_path(protocol: str, model: str) -> str:
    """Return the path on the model server that answers 200 once the model serves."""
    if protocol == "tensorflow":
        return f"/v1/models/{model}"
    if protocol == "v2":
        return f"/v2/models/{model}/ready"
    return "/health/status"


def explain_target(method: str, path: str) -> Target:
    """Return what is asked of an explainer: the same path there, if it is harmless.

    Raises:
        RequestError: 404 the path has segments like `..` or other tricks, 405 wrong method.
    """
    segments = path.split("/")[1:]
    if not segments or not all(map(_SEGMENT.fullmatch, segments)):
        raise RequestError(404, f"An explainer has no path {path[:200]}.")
    if method not in ("GET", "POST"):
        raise RequestError(
            405,
            f"An explainer takes POST and GET, not {method}.",
            headers={"allow": "GET, POST"},
        )
    return Target("explain", method, path)


def _feedback(path: str) -> Target | None:
    return Target("feedback", "POST", "/send-feedback") if _FEEDBACK.fullmatch(path) else None


def _tensorflow(path: str, model: str) -> Target | None:
    if found := _TF_PREDICT.fullmatch(path):
        _check_model(found[1], model)
        return Target("predictions", "POST", predict_path("tensorflow", model))
    if found := _TF_MODEL.fullmatch(path):
        _check_model(found[1], model)
        if found[2]:
            return Target("metadata", "GET", f"/v1/models/{model}/metadata")
        return Target("status", "GET", f"/v1/models/{model}")
    return None


def _v2(path: str, model: str) -> Target | None:
    if found := _V2_INFER.fullmatch(path):
        _check_model(found[1], model)
        return Target("predictions", "POST", predict_path("v2", model))
    if found := _V2_MODEL.fullmatch(path):
        _check_model(found[1], model)
        if found[2]:
            return Target("status", "GET", f"/v2/models/{model}/ready")
        return Target("metadata", "GET", f"/v2/models/{model}")
    if found := _V2_HEALTH.fullmatch(path):
        return Target("status", "GET", path)
    return None


def _seldon(path: str, model: str) -> Target | None:
    if _SELDON_PREDICT.fullmatch(path):
        return Target("predictions", "POST", predict_path("seldon", model))
    if found := _SELDON_MODEL.fullmatch(path):
        _check_model(found[2], model)
        if found[1] == "status":
            return Target("status", "GET", "/health/status")
        return Target("metadata", "GET", "/metadata")
    if found := _SELDON_HEALTH.fullmatch(path):
        return Target("status", "GET", f"/health/{found[1]}")
    if _SELDON_GRAPH.fullmatch(path):
        return Target("metadata", "GET", "/metadata", graph=True)
    return None


_RESOLVERS: dict[str, Callable[[str, str], Target | None]] = {
    "tensorflow": _tensorflow,
    "v2": _v2,
    "seldon": _seldon,
}


def _check_model(asked: str | None, model: str) -> None:
    if asked is not None and asked != model:
        raise RequestError(404, f"Failed to find model {asked[:80]}; the model here is {model}.")


def _other_protocol(protocol: str, path: str) -> str:
    for other, prefix in (("tensorflow", "/v1/"), ("v2", "/v2/"), ("seldon", "/api/")):
        if other != protocol and path.startswith(prefix):
            return f": that is the {other} protocol."
    return "."
