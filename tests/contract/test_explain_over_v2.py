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


Answer = Callable[[httpx.Request], httpx.Response]


def started(
    server: ExplainServer, case: Case, protocol: str, answer: Answer | None = None
) -> ExplainServer:
    if server.service.predictions is not None:
        transport = httpx.MockTransport(answer or model(case))
        client = ModelClient("m:1", protocol, "m", transport)
        server.service.predictions = ReusedPredictions(client, True)
    failures: list[str] = []
    server.service.start(failures.append)
    assert failures == []
    return server


def plain(method: str, case: Case, protocol: str, answer: Answer | None = None) -> ExplainServer:
    arguments = [
        *("--model_name=m", "--predictor_host=m:1", f"--protocol={protocol}"),
        f"--storage_uri=s3://walkthrough/{case.artefact}",
        method,
    ]
    return started(cli.build(cli.parser().parse_args(arguments)), case, protocol, answer)


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


def test_images_over_seldon_are_explained_as_over_tensorflow() -> None:
    from helpers.models.predictor import as_function
    from helpers.serving.seldon_model.tfserving_proxy import TfServingProxy
    from helpers.serving.tf_server.results import write_result

    case = Case("cifar10/anchor_images", None, lambda: None, {})
    proxy = TfServingProxy("s3://walkthrough/cifar10/resnet32")
    proxy.load()
    keras = as_function(artifacts.load("cifar10", "resnet32"))
    asked = []

    def served(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append("instances" if "instances" in body else "data")
        if "instances" in body:
            answers = {"probabilities": keras(np.array(body["instances"]))}
            return httpx.Response(200, content=write_result(answers, True))
        answers = proxy.predict(np.array(body["data"]["ndarray"]), [])
        return httpx.Response(200, json={"data": {"ndarray": answers.tolist()}})

    image = np.full((1, 32, 32, 3), 0.5)
    image[:, 8:24, 8:24] = np.random.default_rng(0).random((16, 16, 3))
    parameters = {"seed": 3, "coverage_samples": 200, "max_anchor_size": 2}
    bodies = {
        SELDON: {"data": {"ndarray": image.tolist()}, "parameters": parameters},
        TENSORFLOW: {"instances": image.tolist(), "parameters": parameters},
    }
    answers = []
    for protocol, body in bodies.items():
        server = plain("AnchorImages", case, protocol, served)
        answers.append(asyncio.run(server.explain(body, never)))
    assert answers[0] == answers[1]
    assert json.loads(answers[0])["meta"]["params"]["seed"] == 3
    assert asked.count("data") == asked.count("instances") > 1


def test_no_method_is_left_out() -> None:
    # AnchorImages over the v2 protocol is in test_mlserver_explain.py, with the program.
    assert {*CASES, "AnchorImages"} == set(TAGS.values())
