"""One artefact behind an explainer of the v2 protocol and one of the seldon protocol, on a local stack."""

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
from helpers.data import load_table
from helpers.stack.local.client import LocalStack

pytestmark = pytest.mark.timeout(300)

MODEL, EXPLAINER = "forest", "anchor_tabular"
OPTIONS = {"threshold": "0.9"}


def deployment(protocol: str) -> dict[str, Any]:
    """A SeldonDeployment `credit-<protocol>` of the forest, with AnchorTabular."""
    explainer: dict[str, Any] = {
        "type": "AnchorTabular",
        "modelUri": f"s3://walkthrough/credit_risk/{EXPLAINER}",
    }
    if protocol == "v2":
        explainer["containerSpec"] = {
            "name": MODEL,  # the explainer's name in its paths
            "image": "walkthrough/serving:0.1.0",
            "command": ["python", "-m", "helpers.serving.mlserver_explain"],
            "args": [f"--{key}={value}" for key, value in OPTIONS.items()],
        }
    else:
        explainer["config"] = OPTIONS
    graph = {
        "name": MODEL,
        "implementation": "SKLEARN_SERVER",
        "modelUri": f"s3://walkthrough/credit_risk/{MODEL}",
        "parameters": [{"name": "method", "value": "predict_proba", "type": "STRING"}],
    }
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": f"credit-{protocol}", "namespace": "walkthrough"},
        "spec": {
            "protocol": protocol,
            "predictors": [{"name": "default", "graph": graph, "explainer": explainer}],
        },
    }


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Both deployments, ready."""
    for name in (MODEL, EXPLAINER):
        if not artifacts.exists("credit_risk", name):
            pytest.skip(f"artifacts/credit_risk/{name} is not here")
    folder = tmp_path_factory.mktemp("v2")
    stack = LocalStack(folder=folder / "state")
    files: list[Path] = []
    for protocol in ("seldon", "v2"):
        files.append(folder / f"{protocol}.yaml")
        files[-1].write_text(yaml.safe_dump(deployment(protocol)))
    try:
        stack.apply(*files)
        stack.wait(timeout=180)
        yield stack
    finally:
        stack.down()


def test_the_same_explanation_over_both_protocols(explained: LocalStack) -> None:
    rows = load_table("credit_risk").x_test[:2]
    for seed in (0, 1):
        for row in rows:
            parameters = {"seed": seed}
            plain = httpx.post(
                f"{explained.url('credit-seldon')}-explainer/default/api/v1.0/explain",
                content=orjson.dumps(
                    {"data": {"ndarray": [row.tolist()]}, "parameters": parameters}
                ),
                timeout=120,
            )
            assert plain.status_code == 200, plain.text
            tensor = {"name": "x", "datatype": "FP64", "shape": [1, len(row)], "data": row.tolist()}
            over_v2 = httpx.post(
                f"{explained.url('credit-v2')}-explainer/default/v2/models/{MODEL}/infer",
                json={"inputs": [tensor], "parameters": {"explain_parameters": parameters}},
                timeout=120,
            )
            assert over_v2.status_code == 200, over_v2.text
            text = over_v2.json()["outputs"][0]["data"][0]
            assert text.encode() == plain.content
            assert json.loads(text)["meta"]["params"]["seed"] == seed
            assert over_v2.headers["seldon-variant"] == "default"


def test_its_metrics_are_scraped_like_the_explain_servers(explained: LocalStack) -> None:
    for protocol in ("seldon", "v2"):
        metrics = explained.metrics(f"credit-{protocol}-default-explainer")
        assert metrics.value("explain_server_seconds_count") >= 1
