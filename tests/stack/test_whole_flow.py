"""From one prediction through the broker to detectors, metrics, payload log and explanation."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from helpers.client import one_hot
from helpers.traffic import send

pytestmark = pytest.mark.timeout(240)

INDEX = "inference-log-seldon-walkthrough-cifar10-default"


def document(stack, request_id: str) -> dict:
    """What the payload log has gathered of a request, {} if nothing."""
    url = f"{stack.url('payload-logger')}/{INDEX}/_doc/{request_id}"
    answer = httpx.get(url, timeout=10)
    return answer.json()["_source"] if answer.status_code == 200 else {}


def test_one_request_is_gathered_in_the_payload_log(stack, client, images, eventually):
    before = stack.metrics("multiclass-metrics")
    prediction = client.predict(images[:1])
    client.feedback(
        truth=one_hot(prediction.labels), response=prediction, request_id=prediction.request_id
    )

    def gathered() -> dict:
        found = document(stack, prediction.request_id)
        return found if {"request", "response", "outlier", "feedback"} <= found.keys() else {}

    found = eventually(gathered, "request, response, outlier and feedback in the payload log")
    np.testing.assert_allclose(
        found["request"]["payload"]["instances"], images[:1], rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        found["response"]["payload"]["predictions"], prediction.probabilities, rtol=1e-5
    )

    events = stack.events(request_id=prediction.request_id)
    assert {event["attributes"]["type"].rpartition(".")[2] for event in events} == {
        "request",
        "response",
        "outlier",
        "feedback",
    }
    after = stack.metrics("multiclass-metrics")
    label = f"CLASS_{prediction.labels[0]}"
    counted = (after - before).by("seldon_metric_true_positive_total", "class")
    assert {name: count for name, count in counted.items() if count} == {label: 1}


def test_late_feedback_is_completed_by_its_request_id(stack, client, images, eventually):
    prediction = client.predict(images[1:2])
    eventually(lambda: "response" in document(stack, prediction.request_id), "the response logged")
    before = stack.metrics("multiclass-metrics")
    wrong = (prediction.labels + 1) % 10
    client.feedback(truth=one_hot(wrong), request_id=prediction.request_id)

    def counted() -> dict[str, float]:
        difference = stack.metrics("multiclass-metrics") - before
        found = difference.by("seldon_metric_false_negative_total", "class")
        return {name: count for name, count in found.items() if count}

    assert eventually(counted, "the feedback counted") == {f"CLASS_{wrong[0]}": 1}


def test_a_window_of_a_thousand_rows_is_judged_once(stack, client, images, eventually):
    before = len(stack.events(type="io.seldon.serving.inference.drift", limit=1000))
    traffic = send(client, images[:1000], batch=100, concurrency=2)
    assert traffic.codes() == {200: 10}
    # Rows of the tests before may be in the window: a thousand more fill exactly one.
    found = eventually(
        lambda: stack.events(type="io.seldon.serving.inference.drift", limit=1000, data=True)[
            : -before or None
        ],
        "a drift event",
    )
    assert len(found) == 1
    verdict = found[0]["data"]["data"]
    assert verdict["is_drift"] in (0, 1)
    metrics = stack.metrics("drift-ks")
    assert metrics.value("seldon_metric_drift_is_drift") == verdict["is_drift"]


def test_an_explanation_is_repeatable_and_leaves_no_events(stack, client, images, eventually):
    # Events arrive in order, so with this request's all earlier ones are there; only verdicts on
    # earlier requests may still come, under ids that are known.
    earlier = client.predict(images[:1])
    eventually(lambda: stack.events(request_id=earlier.request_id), "the events of a request")
    events = stack.events(limit=10_000)
    newest = max(event["seq"] for event in events)
    known = {event["attributes"]["requestid"] for event in events}
    first = client.explain(images[2], seed=3)
    again = client.explain(images[2], seed=3)
    assert first.data["precision"] == again.data["precision"]
    assert first.data["anchor"] == again.data["anchor"]
    assert first.precision >= 0.9
    explanations = stack.metrics("cifar10-default-explainer")
    assert explanations.value("explain_server_requests_total") >= 2
    # An event of this request would have been sent before that of the next one.
    marker = client.predict(images[:1])
    eventually(lambda: stack.events(request_id=marker.request_id), "the events of a request")
    between = [event for event in stack.events(limit=10_000) if event["seq"] > newest]
    ids = {event["attributes"]["requestid"] for event in between}
    assert ids - known == {marker.request_id}


def test_the_orchestrator_counts_what_it_answers(stack, client, images):
    before = stack.metrics("cifar10")
    send(client, images[:5], concurrency=2, skip_logging=True)
    answer = httpx.post(
        f"{stack.url('cifar10')}/v1/models/resnet32:predict", content=b"{", timeout=10
    )
    assert answer.status_code == 400
    assert "error" in answer.json()
    name = "seldon_api_executor_server_requests_seconds_count"
    counted = (stack.metrics("cifar10") - before).by(name, "code", service="predictions")
    assert counted["200"] == 5
    assert counted["400"] == 1


def test_every_server_uses_cpu_and_memory_and_says_so(stack):
    usage = stack.metrics("stack")
    memory = usage.by("container_memory_working_set_bytes", "pod")
    cpu = usage.by("container_cpu_usage_seconds_total", "pod")
    for server in stack.status():
        assert memory[server.name] > 5e6, server.name
        assert cpu[server.name] > 0, server.name


def test_prometheus_scrapes_every_server(stack, eventually):
    if stack.prometheus_url is None:
        pytest.skip(stack.prometheus_note)

    def up() -> dict[str, str]:
        answer = httpx.get(
            f"{stack.prometheus_url}/api/v1/query", params={"query": "up"}, timeout=10
        )
        found = answer.json()["data"]["result"]
        return {one["metric"]["pod"]: one["value"][1] for one in found}

    wanted = {server.name for server in stack.status()} - {"prometheus"} | {
        "gateway",
        "broker",
        "stack",
    }
    eventually(lambda: up() == dict.fromkeys(wanted, "1"), f"{sorted(wanted)} to be up")
