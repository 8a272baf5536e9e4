"""Every method over the v2 protocol: the same explanation, byte for byte, as over the two others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import InferenceRequest

from helpers import artifacts
from helpers.data import load_table, load_texts
from helpers.models.tabular import encoding_of
from helpers.serving.explain import cli
from helpers.serving.explain.app import ExplainServer
from helpers.serving.explain.model_client import ModelClient
from helpers.serving.explain.reuse import ReusedPredictions
from helpers.serving.mlserver_explain import RUNTIME, TAGS, runtime
from helpers.serving.payloads import SELDON, TENSORFLOW, V2

pytestmark = pytest.mark.timeout(180)

QUICK = {"max_anchor_size": 1, "coverage_samples": 500}


@dataclass(frozen=True)
class Case:
    """A method, its artefact, the model that it asks, and two instances."""

    artefact: str
    model: str | None
    instances: Callable[[], Any]
    quick: dict[str, Any]


CASES = {
    # First: alibi tries to import its language models once TensorFlow is there, which is one method's only.
    "AnchorText": Case(
        "tickets/anchor_text",
        "tickets/bag_of_words",
        lambda: load_texts("tickets").x_test[:2],
        QUICK,
    ),
    "AnchorTabular": Case(
        "credit_risk/anchor_tabular",
        "credit_risk/forest",
        lambda: load_table("credit_risk").x_test[:2],
        QUICK,
    ),
    "KernelShap": Case(
        "credit_risk/kernel_shap",
        "credit_risk/forest",
        lambda: load_table("credit_risk").x_test[:2],
        {},
    ),
    "TreeShap": Case(
        "credit_risk/tree_shap", None, lambda: load_table("credit_risk").x_test[:2], {}
    ),
    "IntegratedGradients": Case(
        "credit_risk/network",
        None,
        lambda: (
            encoding_of(load_table("credit_risk"))
            .encode(load_table("credit_risk").x_test[:2])
            .astype(float)
        ),
        {},
    ),
    "ALE": Case(
        "breast_cancer/ale",
        "breast_cancer/logistic",
        lambda: load_table("breast_cancer").x_test[:2],
        {},
    ),
}


def model(case: Case) -> Callable[[httpx.Request], httpx.Response]:
    """The deployed model, in all three protocols."""
    estimator = artifacts.load(*case.model.split("/")) if case.model else None

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if "inputs" in body:
            (tensor,) = body["inputs"]
            rows = tensor["data"]
            if tensor["datatype"] != "BYTES":
                rows = np.reshape(rows, tensor["shape"])
            answers = estimator.predict_proba(rows)
            output = {"datatype": "FP64", "shape": answers.shape, "data": answers.ravel().tolist()}
            return httpx.Response(200, json={"outputs": [output]})
        rows = body["instances"] if "instances" in body else body["data"]["ndarray"]
        answers = estimator.predict_proba(rows).tolist()
        told = {"predictions": answers} if "instances" in body else {"data": {"ndarray": answers}}
        return httpx.Response(200, json=told)

    return answer


def started(server: ExplainServer, case: Case, protocol: str) -> ExplainServer:
    if server.service.predictions is not None:
        client = ModelClient("m:1", protocol, "m", httpx.MockTransport(model(case)))
        server.service.predictions = ReusedPredictions(client, True)
    failures: list[str] = []
    server.service.start(failures.append)
    assert failures == []
    return server


def plain(method: str, case: Case, protocol: str) -> ExplainServer:
    arguments = [
        *("--model_name=m", "--predictor_host=m:1", f"--protocol={protocol}"),
        f"--storage_uri=s3://walkthrough/{case.artefact}",
        method,
    ]
    return started(cli.build(cli.parser().parse_args(arguments)), case, protocol)


def over_v2(method: str, case: Case) -> ExplainServer:
    tag = next(tag for tag, name in TAGS.items() if name == method)
    extra = {"explainer_type": tag, "infer_uri": "http://m:1/v2/models/m/infer"}
    settings = ModelSettings(
        name="e",
        implementation=RUNTIME,
        parameters=ModelParameters(uri=f"s3://walkthrough/{case.artefact}", extra=extra),
    )
    return started(runtime.build(settings), case, V2)


def tensor(rows: Any) -> dict[str, Any]:
    if isinstance(rows, np.ndarray):
        shape = {"datatype": "FP64", "shape": list(rows.shape)}
        return {"name": "x", **shape, "data": rows.ravel().tolist()}
    return {"name": "x", "datatype": "BYTES", "shape": [len(rows), 1], "data": list(rows)}


async def never() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("method", CASES)
def test_the_same_explanations_over_every_protocol(method: str) -> None:
    case = CASES[method]
    instances = case.instances()
    servers = {protocol: plain(method, case, protocol) for protocol in (SELDON, TENSORFLOW)}
    servers[V2] = over_v2(method, case)

    async def explained(rows: Any, seed: int) -> list[bytes]:
        parameters = {"seed": seed, **case.quick}
        listed = rows.tolist() if isinstance(rows, np.ndarray) else list(rows)
        request = InferenceRequest.model_validate(
            {"inputs": [tensor(rows)], "parameters": {"explain_parameters": parameters}}
        )
        bodies = {
            SELDON: {"data": {"ndarray": listed}, "parameters": parameters},
            TENSORFLOW: {"instances": listed, "parameters": parameters},
            V2: runtime._body(request),
        }
        return [await servers[one].explain(bodies[one], never) for one in bodies]

    for rows, seed in ((instances[:1], 0), (instances, 7)):
        answers = asyncio.run(explained(rows, seed))
        assert len(set(answers)) == 1
        assert json.loads(answers[0])["meta"]["params"]["seed"] == seed


def test_no_method_is_left_out() -> None:
    # AnchorImages is in test_mlserver_explain.py, with the program.
    assert {*CASES, "AnchorImages"} == set(TAGS.values())
