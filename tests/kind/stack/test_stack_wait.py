"""Waiting on a cluster: for what, and what is said when it does not come."""

from __future__ import annotations

import copy
import threading
import time

import httpx
import pytest

from helpers.errors import StackError
from helpers.stack import documents
from helpers.stack.kind import objects, readiness, waiting
from helpers.stack.kind.client import WAIT_SECONDS
from helpers.stack.kind.kinds import DEPLOYMENT, SELDON_DEPLOYMENT, TRIGGER
from tests.fakes.cluster import controllers

LOGGER = "logging/payload-logger.yaml"


def refusal(stack, *names: str, timeout: float = 0.5) -> str:
    with pytest.raises(StackError) as problem:
        stack.wait(*names, timeout=timeout)
    return str(problem.value)


def test_ready_means_the_model_its_explainer_and_the_way_to_them(stack, cluster, manifest):
    stack.apply(manifest("explainers/cifar10-explained.yaml"))
    stack.wait("cifar10", timeout=60)
    assert {one.name: one.state for one in stack.status()} == {
        "cifar10-default-0-resnet32": "ready",
        "cifar10-default-explainer": "ready",
    }
    cluster.controllers.routes.clear()
    cluster.controllers.paused.add("seldon")
    assert "the ingress has no route yet" in refusal(stack, "cifar10")


def test_pulling_an_image(stack, cluster, manifest):
    cluster.controllers.behaviours["payload-logger"] = controllers.PULLS
    stack.apply(manifest(LOGGER))
    told = refusal(stack)
    assert told.startswith(
        "Not ready after 0.5 s: payload-logger: 0 of 1 replicas are available for "
    )
    assert "container payload-logger: ImagePullBackOff (Back-off pulling image)" in told
    assert told.endswith("`python -m helpers.stack logs payload-logger --backend kind` shows more.")


def test_killed_for_its_memory(stack, cluster, manifest):
    cluster.controllers.behaviours["payload-logger"] = controllers.CRASHES
    cluster.logs["payload-logger", "payload-logger", False] = "starts\nloads 3 GiB\n"
    stack.apply(manifest(LOGGER))
    told = refusal(stack)
    assert "CrashLoopBackOff (back-off 40s restarting failed container)" in told
    assert "ended with OOMKilled, exit code 137, 4 restarts" in told
    assert "last line: loads 3 GiB" in told


def test_no_room_on_any_node(stack, cluster, manifest):
    cluster.controllers.behaviours["payload-logger"] = controllers.UNSCHEDULED
    stack.apply(manifest(LOGGER))
    assert "not scheduled: 0/2 nodes are available: 2 Insufficient memory" in refusal(stack)


def test_the_last_warnings_of_the_pod_are_told(stack, cluster, manifest):
    cluster.controllers.behaviours["payload-logger"] = controllers.LOADS
    stack.apply(manifest(LOGGER))
    refusal(stack)
    (pod,) = cluster.store.of("Pod")
    common = {"involvedObject": {"name": pod["metadata"]["name"]}, "metadata": {}}
    cluster.events += [
        {**common, "type": "Normal", "reason": "Pulled", "lastTimestamp": "2026-11-22T09:00:00Z"},
        {**common, "type": "Warning", "reason": "Unhealthy", "message": "Startup probe failed",
         "count": 7, "lastTimestamp": "2026-11-22T08:00:00Z"},
    ]  # fmt: skip
    told = refusal(stack)
    assert "Running, not ready: payload-logger" in told
    assert "; events: Unhealthy: Startup probe failed (×7)" in told
    assert "Pulled" not in told


def test_the_explainer_of_a_model_that_is_ready(stack, cluster, manifest):
    cluster.controllers.behaviours["cifar10-default-explainer"] = controllers.LOADS
    stack.apply(manifest("explainers/cifar10-explained.yaml"))
    told = refusal(stack, "cifar10")
    assert "SeldonDeployment/cifar10: state Creating; DeploymentsReady: Minimum" in told
    assert "cifar10-default-explainer: 0 of 1 replicas are available" in told
    stack.wait("cifar10-default-0-resnet32", timeout=60)  # that one is


def test_an_operator_that_is_not_there(stack, cluster, manifest):
    cluster.controllers.paused.add("seldon")
    stack.apply(manifest("explainers/cifar10-explained.yaml"))
    told = refusal(stack)
    assert "SeldonDeployment/cifar10: state unknown for " in told
    assert "0 of 1 predictors have a Deployment" in told
    assert "the explainer cifar10-default-explainer has no Deployment yet" in told


def test_a_trigger_without_its_broker(stack, cluster, manifest):
    stack.apply(manifest("eventing/trigger-outlier-vae.yaml"))
    told = refusal(stack)
    assert (
        'Trigger/outlier-vae: not ready: BrokerDoesNotExist Broker "default" does not exist for'
        in told
    )
    stack.apply(manifest("eventing/broker.yaml"))
    stack.wait(timeout=60)


def test_the_event_logs_trigger_is_waited_for_with_its_broker(stack, cluster, manifest):
    stack.apply(manifest("eventing/broker.yaml"))
    stack.wait(timeout=60)
    (trigger,) = [
        one.content
        for one in documents.read([manifest("overlays/kind-logging/event-log.yaml")])
        if one.content["kind"] == "Trigger"
    ]
    cluster.controllers.paused.add("knative")
    cluster.change(cluster.store.apply, copy.deepcopy(trigger), "kind-up")
    for names in ((), ("default",)):
        assert "Trigger/event-log: Knative has not looked at it yet" in refusal(stack, *names)
    stack.apply(manifest(LOGGER))
    stack.wait("payload-logger", timeout=60)
    cluster.change(cluster.store.edit, "Trigger", "event-log", ("spec", "broker"), "other", "x")
    stack.wait(timeout=60)
    stack.down()
    assert cluster.store.get("Trigger", "event-log")  # kind/up's, which stays


def test_knative_that_is_not_running(stack, cluster, manifest):
    cluster.controllers.paused.add("knative")
    stack.apply(manifest("eventing/broker.yaml"))
    assert "Broker/default: Knative has not looked at it yet" in refusal(stack)


def test_a_name_that_nothing_has(stack, manifest):
    stack.apply(manifest("eventing/broker.yaml"))
    assert refusal(stack, "cifar11") == "Nothing here is called 'cifar11'; there is default."


def test_waiting_for_one_of_them(stack, cluster, manifest):
    cluster.controllers.behaviours["outlier-vae"] = controllers.LOADS
    stack.apply(manifest(LOGGER), manifest("detectors/outlier-vae.yaml"))
    stack.wait("payload-logger", timeout=60)
    assert "outlier-vae" in refusal(stack, "payload-logger", "outlier-vae")


def test_what_was_there_before_is_waited_for_too(stack, cluster, manifest):
    cluster.controllers.behaviours["payload-logger"] = controllers.LOADS
    for one in documents.read([manifest(LOGGER)]):
        cluster.change(cluster.store.apply, objects.prepare(one).content, "kubectl")
    stack.wait(timeout=60)  # nothing was applied here
    stack.apply(manifest(LOGGER))
    assert "payload-logger: 0 of 1 replicas" in refusal(stack)


def test_a_wait_outlasts_what_takes_its_time(stack, cluster, manifest):
    cluster.controllers.behaviours["payload-logger"] = controllers.PULLS
    stack.apply(manifest(LOGGER))
    timer = threading.Timer(0.4, cluster.controllers.behaviours.clear)
    timer.start()
    started = time.monotonic()
    stack.wait(timeout=60)
    assert time.monotonic() - started >= 0.3
    timer.join()


def test_an_api_server_that_is_away_for_a_while(stack, cluster, manifest):
    stack.apply(manifest(LOGGER))
    cluster.broken = 500, "etcdserver: leader changed"
    timer = threading.Timer(0.5, lambda: setattr(cluster, "broken", None))
    timer.start()
    stack.wait(timeout=60)
    timer.join()


def test_an_api_server_that_stays_away(stack, cluster, manifest, monkeypatch):
    monkeypatch.setattr(waiting, "AWAY_SECONDS", 0.3)
    stack.apply(manifest(LOGGER))
    cluster.broken = 500, "etcdserver: no leader"
    assert "cannot do it now" in refusal(stack, timeout=0.1)
    with pytest.raises(StackError, match=r"cannot do it now \(.*, 500\): etcdserver: no leader"):
        stack.wait(timeout=60)


@pytest.mark.parametrize(
    ("status", "headers", "body", "routed"),
    [
        (200, {}, b"", True),
        (405, {}, b"", True),
        (404, {}, b"", False),
        (404, {}, b"404 page not found", True),
        (404, {"x-envoy-upstream-service-time": "1"}, b"", True),
        (503, {}, b"no healthy upstream", False),
        (503, {"x-envoy-upstream-service-time": "1"}, b"", True),
    ],
)
def test_who_answered_the_gateway_or_a_server(status, headers, body, routed):
    assert waiting._was_routed(httpx.Response(status, headers=headers, content=body)) is routed


def test_the_limit_is_one_for_pulling_images():
    assert WAIT_SECONDS == 600


def test_a_change_counts_once_its_pods_are_new(stack, cluster, manifest, changed):
    stack.apply(manifest(LOGGER))
    stack.wait(timeout=60)

    def slower(deployment, _service):
        deployment["spec"]["template"]["spec"]["containers"][0]["args"].append("--slower")

    cluster.controllers.paused.add("deployments")
    stack.apply(changed(LOGGER, slower))
    assert "payload-logger: the change is not seen yet" in refusal(stack, timeout=0.3)
    cluster.controllers.behaviours["payload-logger"] = controllers.LOADS
    cluster.controllers.paused.clear()
    # The old pod serves on, and is no reason to go on.
    assert "1 of the old replicas are still there" in refusal(stack, timeout=1.5)
    cluster.controllers.behaviours.clear()
    stack.wait(timeout=60)


def test_available_counts_a_moment_after_a_change(stack, cluster, manifest, monkeypatch):
    """Seldon's operator does not say which generation its status is of."""
    stack.apply(manifest("model/cifar10.yaml"))
    stack.wait(timeout=60)
    monkeypatch.setattr(readiness, "SETTLING_SECONDS", 3.0)
    cluster.controllers.paused.add("seldon")
    stack.apply(manifest("logging/cifar10-logged.yaml"))
    assert "SeldonDeployment/cifar10: changed a moment ago" in refusal(stack, timeout=1.5)


# What each object lacks, without a cluster


def seldon(**status) -> dict:
    return {
        "metadata": {"name": "m", "uid": "u", "generation": 3, "creationTimestamp": "2026-11-22T00:00:00Z"},
        "spec": {"predictors": [{"name": "default"}]},
        "status": status,
    }  # fmt: skip


def deployment(**status) -> dict:
    full = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    return {
        "metadata": {"name": "m-default-0-x", "generation": 2,
                     "ownerReferences": [{"uid": "u", "controller": True}]},
        "spec": {"replicas": 2},
        "status": {**full, **status},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, None),
        ({"observedGeneration": 1}, "the change is not seen yet"),
        ({"updatedReplicas": 1}, "1 of 2 replicas are of the new version"),
        ({"replicas": 3}, "1 of the old replicas are still there"),
        ({"availableReplicas": 1}, "1 of 2 replicas are available"),
        (
            {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]},
            "exceeded quota",
        ),
        (
            {
                "conditions": [
                    {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
                     "message": "has timed out progressing."}
                ]
            },
            "has timed out progressing.",
        ),
    ],
)  # fmt: skip
def test_a_deployment(status, reason):
    found = readiness.lacks(DEPLOYMENT, deployment(**status), [])
    assert [one.reason for one in found] == ([reason] if reason else [])


def test_a_failed_seldon_deployment_says_why():
    status = {"state": "Failed", "description": "no such image"}
    (lack,) = readiness.lacks(SELDON_DEPLOYMENT, seldon(**status), [deployment()])
    assert (lack.what, lack.reason) == ("SeldonDeployment/m", "state Failed: no such image")


def test_an_operator_that_says_its_generation_is_believed():
    behind = seldon(state="Available", observedGeneration=2)
    (lack,) = readiness.lacks(SELDON_DEPLOYMENT, behind, [deployment()])
    assert lack.reason == "the operator has not seen the change yet"
    assert not readiness.lacks(
        SELDON_DEPLOYMENT, seldon(state="Available", observedGeneration=3), [deployment()]
    )


def test_deployments_of_others_do_not_count():
    other = copy.deepcopy(deployment())
    other["metadata"]["ownerReferences"][0]["uid"] = "another"
    (lack,) = readiness.lacks(SELDON_DEPLOYMENT, seldon(state="Available"), [other])
    assert lack.reason == "0 of 1 predictors have a Deployment"


def test_a_trigger_of_an_older_generation():
    trigger = {
        "metadata": {"name": "t", "generation": 2},
        "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    (lack,) = readiness.lacks(TRIGGER, trigger, [])
    assert lack.reason == "Knative has not seen the change yet"
