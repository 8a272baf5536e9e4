"""The OpenAPI documents name the paths that the servers have, all of them and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from helpers.serving.broker import cli as broker
from helpers.serving.common.app import create_app
from helpers.serving.common.errors import RequestError, plain_error, seldon_error
from helpers.serving.common.openapi import document
from helpers.serving.explain.app import JOBS_PATH
from helpers.serving.gateway.paths import explain_target, resolve
from helpers.serving.tf_server import app as tf_server
from helpers.stack.local import control

SERVERS = ("broker", "detect", "explain", "gateway", "payload_log", "tf_server")
METHODS = {"get", "post", "put", "delete"}


def described(server: str) -> dict[str, Any]:
    return document(f"helpers.serving.{server}", shape_error=plain_error, metrics_path="/metrics")


def documented(server: str) -> set[tuple[str, str]]:
    return pairs(described(server)["paths"])


def pairs(paths: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (method, re.sub(r"\{\w+\}", "{}", path))
        for path, operations in paths.items()
        for method in operations.keys() & METHODS
    }


def served(app: Starlette) -> set[tuple[str, str]]:
    return {
        (method.lower(), re.sub(r"\{\w+(:\w+)?\}", "{}", route.path))
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or {"GET"}) - {"HEAD"}
        if route.path != "/openapi.json"
    }


def test_those_of_the_broker(tmp_path: Path) -> None:
    assert documented("broker") == served(broker.make_app(tmp_path, "token", broker.Limits()))


def test_those_of_the_payload_log(tmp_path: Path) -> None:
    from helpers.serving.payload_log import cli as payload_log

    app = payload_log.make_app(tmp_path)
    assert documented("payload_log") == served(app)
    assert "/openapi.json" in {route.path for route in app.routes}


def test_those_of_the_local_stack() -> None:
    app = control.make_app(None, "token", [], CollectorRegistry(), lambda: None)  # type: ignore[arg-type]
    paths = document("helpers.stack.local", shape_error=plain_error, metrics_path="/metrics")[
        "paths"
    ]
    assert pairs(paths) == served(app)


def test_those_of_tf_server() -> None:
    patterns = {"post": (tf_server._CALL,), "get": (tf_server._STATUS, tf_server._METADATA)}
    for path, operations in described("tf_server")["paths"].items():
        if not path.startswith("/v1/"):
            continue
        asked = path.replace("{model}", "resnet32").replace("{version}", "1")
        for method in operations:
            assert any(pattern.fullmatch(asked) for pattern in patterns[method]), (method, path)


def test_those_of_the_gateway() -> None:
    known = {"namespace": "w", "deployment": "d", "predictor": "p", "model": "m"}
    seen = set()
    for path, operations in described("gateway")["paths"].items():
        asked = re.sub(r"\{(\w+)\}", lambda found: known[found[1]], path)
        for method in operations:
            if found := re.fullmatch(r"/seldon/w/d-explainer/p(/.*)", asked):
                explain_target(method.upper(), found[1])
            elif found := re.fullmatch(
                r"/(?:seldon/w/d|predictor/w/d/p)(/(?:v1|v2|api)/.*)", asked
            ):
                protocol = {"/v1": "tensorflow", "/v2": "v2", "/ap": "seldon"}[found[1][:3]]
                seen.add(resolve(protocol, method.upper(), found[1], "m").service)
    assert seen == {"predictions", "feedback", "status", "metadata"}
    with pytest.raises(RequestError):
        resolve("tensorflow", "GET", "/v1/nothing", "m")


def test_those_of_an_explainer() -> None:
    paths = {path for _, path in documented("explain")}
    assert f"{JOBS_PATH}/{{}}" in paths
    assert {"/api/v1.0/explain", "/v1/models/:explain", "/v1/models/{}:explain"} <= paths


@pytest.mark.parametrize("server", SERVERS)
def test_its_schemas_are_schemas_and_its_references_lead_somewhere(server: str) -> None:
    whole = described(server)
    for schema in whole["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for reference in references(whole):
        found = whole
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [one for value in node.values() for one in references(value)]
    if isinstance(node, list):
        return [one for value in node for one in references(value)]
    return []


def test_refusals_have_the_shape_of_the_protocol() -> None:
    package = "helpers.serving.detect"
    seldon = document(package, shape_error=seldon_error, metrics_path="/v1/metrics")
    assert seldon["components"]["schemas"]["Refusal"]["$ref"].endswith("/SeldonError")
    assert "/v1/metrics" in seldon["paths"]
    assert "/metrics" not in seldon["paths"]


def test_a_server_without_one_serves_none() -> None:
    assert all(path != "/openapi.json" for _, path in served(create_app("none", [])))
    routes = {
        route.path for route in create_app("x", [], described_in="helpers.serving.detect").routes
    }
    assert "/openapi.json" in routes
