"""The whole flow on the cluster of `make kind-up`: `make test ARGS='-m kind tests/kind --timeout=900'`.

None of it could be run where this repository is made (no image can be pulled there); a workflow runs it
on a hosted runner. Everything it applies it takes away again; whatever else is on the cluster it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from helpers import dashboards, data, verdicts
from helpers.client import Client, one_hot
from helpers.errors import DataError, ManifestError, StackError
from helpers.serving.common.events import REQUEST_TYPE, RESPONSE_TYPE
from helpers.serving.common.polling import wait_for
from helpers.stack.documents import ROOT
from helpers.stack.kind import objects
from helpers.stack.kind.client import KindStack
from helpers.stack.kind.events import EVENT_LOG
from helpers.traffic import send

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]

MANIFESTS = ROOT / "manifests"
WALKTHROUGH = [
    MANIFESTS / name
    for name in (
        "storage/s3-credentials.yaml",
        "eventing/broker.yaml",
        "logging/payload-logger.yaml",
        "eventing/trigger-payload-logger.yaml",
        "logging/cifar10-logged.yaml",
        "detectors/outlier-vae.yaml",
        "eventing/trigger-outlier-vae.yaml",
    )
]
MODEL = "cifar10-default-0-resnet32"
COUNT = "seldon_api_executor_server_requests_seconds_count"
INDEX = "inference-log-seldon-walkthrough-cifar10-default"
ARRIVES = 120.0  # seconds: the broker, the logger, and Elasticsearch's refresh


@pytest.fixture(scope="module")
def stack() -> Iterator[KindStack]:
    """The walkthrough on the cluster, ready; gone afterwards."""
    stack = KindStack()
    stack.check()
    if not stack.is_empty:
        pytest.fail("Something is deployed already: `make down BACKEND=kind` deletes it.")
    try:
        # All but the credentials: kind/up has applied them already.
        assert "created" in {one.action for one in stack.apply(*WALKTHROUGH)}
        stack.wait(timeout=800)
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="module")
def client(stack: KindStack) -> Iterator[Client]:
    """A client of the deployed model."""
    with Client(stack.url("cifar10")) as client:
        yield client


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Test images, or noise where there is no CIFAR-10; float32 (100, 32, 32, 3)."""
    try:
        return data.load("cifar10", fallback=False).x_test[:100]
    except DataError:
        return np.random.default_rng(0).random((100, 32, 32, 3)).astype(np.float32)


def eventually[T](check: Callable[[], T], what: str, seconds: float = ARRIVES) -> T:
    return wait_for(check, what, seconds=seconds, every=1.0, errors=(httpx.HTTPError,))


def types(stack: KindStack, request_id: str) -> set[str]:
    return {one["attributes"]["type"] for one in stack.events(request_id=request_id)}


def test_applying_again_changes_nothing(stack):
    assert {one.action for one in stack.apply(*WALKTHROUGH)} == {"unchanged"}
    stack.wait(timeout=60)


def test_every_server_is_ready(stack):
    found = {one.name: one for one in stack.status()}
    assert {name: one.state for name, one in found.items()} == dict.fromkeys(
        (MODEL, EVENT_LOG, "outlier-vae", "payload-logger"), "ready"
    )
    assert found[MODEL].owner == "SeldonDeployment/cifar10"
    assert stack.logs(MODEL, 5)


def test_predictions_and_what_the_orchestrator_counts(stack, client, images):
    before = stack.metrics("cifar10")
    traffic = send(client, images, concurrency=4)
    assert traffic.codes() == {200: len(images)}
    np.testing.assert_allclose(traffic.probabilities.sum(1), 1, atol=1e-4)
    counted = stack.metrics("cifar10") - before
    assert counted.value(COUNT, code=200, deployment_name="cifar10", service="predictions") == len(
        images
    )


def test_a_request_makes_events_a_verdict_and_a_document(stack, client, images):
    prediction = client.predict(images[:1])
    id = prediction.request_id
    wanted = {REQUEST_TYPE, RESPONSE_TYPE, verdicts.OUTLIER}
    eventually(lambda: wanted <= types(stack, id), "request, response and verdict")
    (verdict,) = verdicts.answers(stack, verdicts.OUTLIER, [id])
    assert verdict["data"]["is_outlier"][0] in (0, 1)
    with httpx.Client(base_url=stack.url("payload-logger"), trust_env=False) as log:

        def document() -> dict[str, Any]:
            found = log.get(f"/{INDEX}/_doc/{id}").json().get("_source", {})
            return found if {"request", "response", "outlier"} <= found.keys() else {}

        found = eventually(document, "request, response and verdict in the payload log")
    np.testing.assert_allclose(found["request"]["instance"], images[0], atol=1e-6)
    assert stack.metrics("outlier-vae").names()


def test_a_request_that_is_not_logged_makes_no_event(stack, client, images):
    silent = client.predict(images[:1], skip_logging=True)
    after = client.predict(images[:1])
    eventually(lambda: len(types(stack, after.request_id)) >= 2, "events of the later request")
    assert types(stack, silent.request_id) == set()


def test_feedback_makes_an_event(stack, client, images):
    prediction = client.predict(images[:1])
    client.feedback(truth=one_hot(3), response=prediction, request_id=prediction.request_id)
    eventually(
        lambda: any(one.endswith("feedback") for one in types(stack, prediction.request_id)),
        "the feedback",
    )


def test_usage_is_told_by_server(stack):
    if stack.prometheus_url is None:
        pytest.skip(stack.prometheus_note)
    found = stack.metrics("stack")
    for name in (MODEL, "outlier-vae", "payload-logger"):
        assert found.value("container_memory_working_set_bytes", container=name) > 1e6, name
        assert found.value("container_cpu_usage_seconds_total", container=name) > 0, name


def test_prometheus_has_what_the_dashboards_ask_for(stack, client, images):
    if stack.prometheus_url is None:
        pytest.skip(stack.prometheus_note)
    send(client, images[:20], concurrency=2)
    dashboards.settle(stack, seconds=180)
    for query in (f"sum({COUNT})", "sum(seldon_metric_outlier_is_outlier_total)"):
        answer = httpx.get(
            f"{stack.prometheus_url}/api/v1/query", params={"query": query}, timeout=10
        )
        assert answer.json()["data"]["result"], query


def test_a_folder_is_copied_out_of_a_container(stack, tmp_path):
    to = stack.copy("payload-logger", "/etc/default", tmp_path / "copied")
    assert any(path.is_file() for path in to.rglob("*"))
    with pytest.raises(StackError, match="cannot be copied"):
        stack.copy("payload-logger", "/no/such/folder", tmp_path / "none")


def test_a_changed_model_rolls_over_without_a_dropped_request(stack, client, images, tmp_path):
    content = yaml.safe_load((MANIFESTS / "logging/cifar10-logged.yaml").read_text())
    container = content["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]
    container["env"] = [{"name": "CHANGED", "value": "yes"}]
    path = tmp_path / "cifar10.yaml"
    path.write_text(yaml.safe_dump(content))
    before = {pod["metadata"]["name"] for pod in stack._servers().all_pods}
    assert [one.action for one in stack.apply(path)] == ["configured"]
    traffic = send(client, np.concatenate([images] * 5), concurrency=2, skip_logging=True)
    stack.wait("cifar10", timeout=600)
    new = {pod["metadata"]["name"] for pod in stack._servers().all_pods} - before
    assert any(name.startswith(MODEL) for name in new)
    assert set(traffic.codes()) == {200}
    assert stack.apply(MANIFESTS / "logging/cifar10-logged.yaml")[0].action == "configured"
    stack.wait("cifar10", timeout=600)


def test_a_wrong_manifest_is_refused_by_the_cluster_and_changes_nothing(stack, tmp_path):
    content = yaml.safe_load((MANIFESTS / "model/cifar10.yaml").read_text())
    content["spec"]["predictors"].append(content["spec"]["predictors"][0])  # twice the same name
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(content))
    with pytest.raises(ManifestError, match=r"wrong\.yaml"):
        stack.apply(MANIFESTS / "eventing/trigger-drift-ks.yaml", wrong)
    names = {one["metadata"]["name"] for _, one in objects.applied(stack._api)}
    assert "drift-ks" not in names
    content["spec"]["predictors"] = [dict(content["spec"]["predictors"][0], replica=2)]  # a typo
    wrong.write_text(yaml.safe_dump(content))
    with pytest.raises(ManifestError, match=r"wrong\.yaml.*replica"):
        stack.apply(wrong)


def test_a_manifest_that_never_gets_ready_says_why(stack, tmp_path):
    deployment = next(yaml.safe_load_all((MANIFESTS / "detectors/drift-ks.yaml").read_text()))
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = "walkthrough/there-is-none:1"
    path = tmp_path / "drift-ks.yaml"
    path.write_text(yaml.safe_dump(deployment))
    stack.apply(path)
    try:
        with pytest.raises(
            StackError, match=r"drift-ks: .*(ErrImagePull|ImagePullBackOff|not scheduled)"
        ):
            stack.wait("drift-ks", timeout=60)
    finally:
        assert [one.action for one in stack.delete(path)] == ["deleted"]


def test_an_explanation_through_the_ingress(stack, client, images):
    stack.apply(MANIFESTS / "explainers/cifar10-explained.yaml")
    try:
        stack.wait("cifar10", timeout=800)
        explanation = client.explain(images[0])
        assert 0 <= explanation.precision <= 1
    finally:
        stack.apply(MANIFESTS / "logging/cifar10-logged.yaml")
    stack.wait("cifar10", timeout=600)
    assert "cifar10-default-explainer" not in {
        one.name for one in stack.status() if one.state != "stopping"
    }


def test_down_takes_away_what_was_applied_and_nothing_else(stack):
    """The last test: the fixture's own `down` has nothing left to do."""
    stack.down()
    assert stack.is_empty
    assert [one.name for one in stack.status() if one.state != "stopping"] == [EVENT_LOG]
    stack.check()  # the namespace stays
    with pytest.raises(StackError, match="Nothing here is called 'cifar10'"):
        stack.url("cifar10")
