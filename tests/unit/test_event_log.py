"""The event log of manifests/overlays/kind-logging: confined as the payload logger is, and apart from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from helpers.serving.payload_log import cli
from helpers.stack import documents

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"

Objects = dict[str, dict[str, Any]]


def objects(file: str) -> Objects:
    return {one.content["kind"]: one.content for one in documents.read([MANIFESTS / file])}


def pod(objects: Objects) -> dict[str, Any]:
    return objects["Deployment"]["spec"]["template"]


@pytest.fixture
def event_log() -> Objects:
    return objects("overlays/kind-logging/event-log.yaml")


@pytest.fixture
def logger() -> Objects:
    return objects("logging/payload-logger.yaml")


def test_it_is_confined_and_probed_as_the_payload_logger(
    event_log: Objects, logger: Objects
) -> None:
    (mine,), (other,) = (pod(one)["spec"]["containers"] for one in (event_log, logger))
    for name in (
        "image",
        "command",
        "ports",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "resources",
        "securityContext",
    ):
        assert mine[name] == other[name], name
    assert pod(event_log)["spec"]["automountServiceAccountToken"] is False
    assert pod(event_log)["spec"]["volumes"] == [{"name": "tmp", "emptyDir": {}}]


def test_it_keeps_events_only_and_needs_elasticsearch(event_log: Objects) -> None:
    (container,) = pod(event_log)["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "payload-log"}}]
    (told,) = container["env"]
    assert told["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    options = typer.main.get_command(cli.app).params
    assert told["name"] in {option.envvar for option in options}


def test_every_event_of_the_broker_reaches_it(event_log: Objects) -> None:
    trigger, service = event_log["Trigger"]["spec"], event_log["Service"]
    assert trigger.keys() == {"broker", "subscriber"}  # no filter
    assert trigger["broker"] == objects("eventing/broker.yaml")["Broker"]["metadata"]["name"]
    assert trigger["subscriber"]["ref"]["name"] == service["metadata"]["name"]
    labels = pod(event_log)["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    policies = documents.read([MANIFESTS / "overlays/walkthrough-production/network-policies.yaml"])
    (brokers,) = [
        one.content["spec"]
        for one in policies
        if one.content["metadata"]["name"] == "from-the-brokers"
    ]
    (rule,) = brokers["podSelector"]["matchExpressions"]
    assert labels[rule["key"]] in rule["values"]


def test_it_is_not_taken_for_the_payload_logger(event_log: Objects, logger: Objects) -> None:
    labels = pod(event_log)["metadata"]["labels"].items()
    monitor = objects("monitoring/monitors/payload-logger.yaml")["PodMonitor"]
    for selector in (
        monitor["spec"]["selector"]["matchLabels"],
        logger["Service"]["spec"]["selector"],
        logger["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert not selector.items() <= labels
