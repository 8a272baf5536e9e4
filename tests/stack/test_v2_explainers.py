"""Artefacts behind an explainer of the v2 protocol and one of the seldon protocol each, on a local stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from helpers import artifacts
from helpers.data import load_table, load_texts
from helpers.stack.local.client import LocalStack

pytestmark = pytest.mark.timeout(300)

CREDIT, TICKETS = "credit", "tickets"
# deployment -> its model, and the explainer's method and artefact
PLACES = {
    CREDIT: ("credit_risk/forest", "AnchorTabular", "credit_risk/anchor_tabular"),
    TICKETS: ("tickets/bag_of_words", "AnchorText", "tickets/anchor_text"),
}
OPTIONS = {"threshold": "0.9"}
NODE = "classifier"


def deployment(name: str, protocol: str) -> dict[str, Any]:
    """A SeldonDeployment `<name>-<protocol>` of a model with its explainer."""
    model, method, artefact = PLACES[name]
    explainer: dict[str, Any] = {"type": method, "modelUri": f"s3://walkthrough/{artefact}"}
    if protocol == "v2":
        explainer["containerSpec"] = {
            "name": NODE,  # the explainer's name in its paths
            "image": "walkthrough/serving:0.1.0",
            "command": ["python", "-m", "helpers.serving.mlserver_explain"],
            "args": [f"--{key}={value}" for key, value in OPTIONS.items()],
        }
    else:
        explainer["config"] = OPTIONS
    graph = {
        "name": NODE,
        "implementation": "SKLEARN_SERVER",
        "modelUri": f"s3://walkthrough/{model}",
        "parameters": [{"name": "method", "value": "predict_proba", "type": "STRING"}],
    }
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": f"{name}-{protocol}", "namespace": "walkthrough"},
        "spec": {
            "protocol": protocol,
            "predictors": [{"name": "default", "graph": graph, "explainer": explainer}],
        },
    }


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Both models in both protocols, ready."""
    for model, _, artefact in PLACES.values():
        for place in (model, artefact):
            if not artifacts.exists(*place.split("/")):
                pytest.skip(f"artifacts/{place} is not here")
    folder = tmp_path_factory.mktemp("v2")
    stack = LocalStack(folder=folder / "state")
    files: list[Path] = []
    for name in PLACES:
        for protocol in ("seldon", "v2"):
            files.append(folder / f"{name}-{protocol}.yaml")
            files[-1].write_text(yaml.safe_dump(deployment(name, protocol)))
    try:
        stack.apply(*files)
        stack.wait(timeout=180)
        yield stack
    finally:
        stack.down()


def explanation(stack: LocalStack, name: str, protocol: str, row: Any, seed: int) -> bytes:
    """The explanation of one row or text, from the explainer of one protocol."""
    parameters = {"seed": seed}
    if protocol == "seldon":
        path, body = "/api/v1.0/explain", {"data": {"ndarray": [row]}, "parameters": parameters}
    else:
        text = isinstance(row, str)
        tensor = {
            "name": "x",
            "datatype": "BYTES" if text else "FP64",
            "shape": [1, 1 if text else len(row)],
            "data": [row] if text else row,
        }
        path = f"/v2/models/{NODE}/infer"
        body = {"inputs": [tensor], "parameters": {"explain_parameters": parameters}}
    url = f"{stack.url(f'{name}-{protocol}')}-explainer/default{path}"
    answer = httpx.post(url, content=orjson.dumps(body), timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.headers["seldon-variant"] == "default"
    return (
        answer.content if protocol == "seldon" else answer.json()["outputs"][0]["data"][0].encode()
    )


@pytest.mark.parametrize("name", PLACES)
def test_the_same_explanation_over_both_protocols(explained: LocalStack, name: str) -> None:
    if name == CREDIT:
        rows: list[Any] = load_table("credit_risk").x_test[:2].tolist()
    else:
        rows = list(load_texts("tickets").x_test[:2])
    for seed in (0, 1):
        for row in rows:
            plain = explanation(explained, name, "seldon", row, seed)
            assert explanation(explained, name, "v2", row, seed) == plain
            meta = json.loads(plain)["meta"]
            assert (meta["params"]["seed"], meta["params"]["threshold"]) == (seed, 0.9)


def test_its_metrics_are_scraped_like_the_explain_servers(explained: LocalStack) -> None:
    explanation(explained, CREDIT, "v2", load_table("credit_risk").x_test[0].tolist(), 0)
    metrics = explained.metrics(f"{CREDIT}-v2-default-explainer")
    assert metrics.value("explain_server_seconds_count") >= 1
