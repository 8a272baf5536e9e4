"""From manifests to servers, routes and triggers; addresses, variables and programs on the way."""

from __future__ import annotations

import base64
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.errors import ManifestError
from helpers.stack.documents import Document, read
from helpers.stack.local import plan as planning
from helpers.stack.local.addresses import Addresses, ServiceAddress
from helpers.stack.local.plan import Plan
from helpers.stack.local.process import fill, placeholders
from helpers.stack.local.programs import split_image, with_port
from helpers.stack.local.resources import parse
from helpers.stack.local.seldon import NOWHERE
from helpers.stack.local.spec import ServerSpec, literal

BROKER_URL = "http://broker-ingress.knative-eventing.svc.cluster.local/walkthrough/default"
SERVICES = {
    ("walkthrough", "payload-logger"): ServiceAddress(80, "127.0.0.1:4001"),
    ("walkthrough", "odd"): ServiceAddress(9200, "127.0.0.1:4002"),
    ("other", "payload-logger"): ServiceAddress(80, "127.0.0.1:4003"),
    ("walkthrough", "gone"): ServiceAddress(80, "127.0.0.1:4004", applied=False),
}
ADDRESSES = Addresses("127.0.0.1:8003", "127.0.0.1:4000", SERVICES)


@pytest.fixture(autouse=True)
def artefacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of artefacts with the ones that the manifests here name."""
    folder = tmp_path / "artifacts"
    for name in ("resnet32", "anchor_images", "income"):
        (folder / "cifar10" / name).mkdir(parents=True)
    monkeypatch.setenv("ARTIFACTS_DIR", str(folder))
    return folder


def model(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "cifar10", "namespace": "walkthrough"},
        "spec": {"protocol": "tensorflow", "predictors": [predictor()], **spec},
    }


def predictor(name: str = "default", **more: Any) -> dict[str, Any]:
    graph = {
        "name": "resnet32",
        "implementation": "TENSORFLOW_SERVER",
        "modelUri": "s3://walkthrough/cifar10/resnet32",
    }
    return {"name": name, **more, "graph": graph | more.get("graph", {})}


def detector(name: str = "drift-ks", pod: Any = None, **container: Any) -> dict[str, Any]:
    one = {
        "name": name,
        "image": "seldonio/alibi-detect-server:1.19.0",
        "ports": [{"name": "http", "containerPort": 8080}],
        **container,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "walkthrough"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [one], **(pod or {})},
            },
        },
    }


def service(name: str = "drift-ks", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "walkthrough"},
        "spec": {
            "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": "http"}],
            **spec,
        },
    }


def trigger(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Trigger",
        "metadata": {"name": "to-log", "namespace": "walkthrough"},
        "spec": {
            "broker": "default",
            "subscriber": {"ref": {"kind": "Service", "name": "payload-logger"}},
            **spec,
        },
    }


def secret(kind: str = "Secret", **values: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "keys", "namespace": "walkthrough"},
        "stringData" if kind == "Secret" else "data": values,
    }


def anchors(**config: str) -> dict[str, Any]:
    uri = "s3://walkthrough/cifar10/anchor_images"
    return {"type": "AnchorImages", "modelUri": uri, "config": config}


BROKER = {
    "apiVersion": "eventing.knative.dev/v1",
    "kind": "Broker",
    "metadata": {"name": "default", "namespace": "walkthrough"},
}


def make(*contents: dict[str, Any], strict: bool = True) -> Plan:
    objects = [parse(Document("some.yaml", one)) for one in contents]
    by_key = {one.key: one for one in objects}
    origins = dict.fromkeys(by_key, "some.yaml") if strict else {}
    return planning.make(by_key, ADDRESSES, origins)


def refusal(*contents: dict[str, Any]) -> str:
    with pytest.raises(ManifestError) as caught:
        make(*contents)
    told = str(caught.value)
    assert told.startswith("some.yaml, ")
    assert "\n" not in told
    return told


def spec_of(*contents: dict[str, Any]) -> ServerSpec:
    plan = make(*contents)
    (spec,) = [*plan.servers.values(), *(s for m in plan.models.values() for s in m.servers)]
    return spec


def running(spec: ServerSpec) -> tuple[list[str], dict[str, str]]:
    """Command and environment as the process gets them."""
    values = {"folder": "/F", "port": "1", "grpc_port": "2", "metrics_port": "3"}
    return (
        [fill(word, values) for word in spec.command],
        {name: fill(value, values) for name, value in spec.environment.items()},
    )


# Addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BROKER_URL, "http://127.0.0.1:4000/walkthrough/default"),
        ("http://broker-ingress.knative-eventing:80/a/b", "http://127.0.0.1:4000/a/b"),
        ("http://payload-logger", "http://127.0.0.1:4001"),
        ("http://payload-logger/", "http://127.0.0.1:4001/"),
        ("http://payload-logger.walkthrough", "http://127.0.0.1:4001"),
        ("http://payload-logger.walkthrough.svc", "http://127.0.0.1:4001"),
        ("http://payload-logger.walkthrough.svc.cluster.local", "http://127.0.0.1:4001"),
        ("http://payload-logger.walkthrough.svc.cluster.local.:80/x", "http://127.0.0.1:4001/x"),
        ("HTTP://Payload-Logger.Walkthrough/A", "http://127.0.0.1:4001/A"),
        ("http://payload-logger.other/a?b=c#d", "http://127.0.0.1:4003/a?b=c#d"),
        ("http://odd:9200/index", "http://127.0.0.1:4002/index"),
        ("http://user:pa55@payload-logger:80/x", "http://user:pa55@127.0.0.1:4001/x"),
        (
            "--url=http://payload-logger,http://odd:9200",
            "--url=http://127.0.0.1:4001,http://127.0.0.1:4002",
        ),
        ('{"u": "http://payload-logger", "v": 1}', '{"u": "http://127.0.0.1:4001", "v": 1}'),
        # Not ours
        ("http://example.com/payload-logger", None),
        ("https://example.com", None),
        ("http://example.com:8080", None),
        ("http://payload-logger.walkthrough.example.com", None),
        ("http://payload-logger.walkthrough.svc.cluster.local.example.com/", None),
        ("http://payload-logger.walkthrough.svc.cluster.local@example.com/", None),
        ("http://payload-logger:80@example.com/", None),
        ("http://my_payload-logger", None),
        ("http://payload-logger_2", None),
        ("http://10-0-0-1.walkthrough.pod.cluster.local", None),
        ("http://127.0.0.1:80", None),
        ("http://localhost:8080", None),
        ("http://[::1]:80/", None),
        ("ftp://payload-logger", None),
        ("xhttp://payload-logger", None),
        ("payload-logger.walkthrough:80", None),
        ("http://", None),
        ("", None),
    ],
)
def test_addresses(text: str, expected: str | None) -> None:
    wanted = text if expected is None else expected
    assert ADDRESSES.resolve(text, "walkthrough", "here") == wanted
    assert ADDRESSES.resolve(text, "walkthrough") == wanted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "http://minio",
            "here: there is no Service minio in the namespace walkthrough; apply its ma",
        ),
        ("http://minio.walkthrough:9000", "there is no Service minio in the namespace walkthrough"),
        ("http://minio.far.svc.cluster.local", "no Service minio in the namespace far"),
        (
            "http://minio",
            "Applied: payload-logger.walkthrough, odd.walkthrough, payload-logger.other.",
        ),
        ("http://payload-logger:8080", "the Service payload-logger has the port 80, not 8080"),
        ("http://odd", "the Service odd has the port 9200, not 80"),
        ("http://payload-logger:99999999", "has the port 80, not 99999999"),
        ("https://payload-logger.walkthrough/", "reached over http:// here, not https://"),
        ("http://gone.walkthrough", "there is no Service gone in the namespace walkthrough"),
    ],
)
def test_addresses_that_lead_nowhere(text: str, told: str) -> None:
    with pytest.raises(ManifestError) as caught:
        ADDRESSES.resolve(text, "walkthrough", "here")
    assert told in str(caught.value)
    assert "127.0.0.1" in ADDRESSES.resolve("http://gone", "walkthrough")
    assert ADDRESSES.resolve("http://minio", "walkthrough") == "http://minio"


def test_a_long_text_of_almost_addresses_takes_no_time() -> None:
    text = "http://" * 20_000 + "a" * 100_000 + "@"
    assert ADDRESSES.resolve(text, "walkthrough") == text


# Programs


def test_the_port_is_told_wherever_the_flag_stands() -> None:
    for given in (["--http_port=8080", "X"], ["--http_port", "8080", "X"], ["X"]):
        told = with_port(given, "--http_port")
        assert fill(" ".join(told), {"port": "1"}).replace(" 1", "=1").count("--http_port=1") == 1
        assert "8080" not in " ".join(told)
    assert with_port(["--port=1", "--port=2"], "--port") == ["--port={port}", "--port={port}"]
    assert with_port(["--port=1", "--host", "0.0.0.0"], "--port")[-1] == "127.0.0.1"
    assert with_port(["--host=::"], "--port")[-1] == "--host=127.0.0.1"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("tensorflow/serving:2.18.0", ("tensorflow/serving", "2.18.0")),
        ("host:5000/a/b", ("host:5000/a/b", "")),
        ("host:5000/a/b:1@sha256:00", ("host:5000/a/b", "1")),
        ("", ("", "")),
    ],
)
def test_images_are_repository_and_version(image: str, expected: tuple[str, str]) -> None:
    assert split_image(image) == expected


@pytest.mark.parametrize(
    ("container", "told"),
    [
        (
            {"image": "nginx:1"},
            "containers[0].image: the local stack has no program for nginx:1; it",
        ),
        (
            {"image": None},
            "no program for no image; it has them for seldonio/alibi-detect-server and",
        ),
        ({"image": "evil/alibi-detect-server"}, "no program for evil/alibi-detect-server"),
        (
            {"command": ["sh"]},
            "containers[0].command: the image seldonio/alibi-detect-server has its",
        ),
        (
            {"image": "walkthrough/serving:1"},
            "one of helpers.serving.detect, helpers.serving.payload",
        ),
        (
            {"image": "walkthrough/serving:1", "command": ["sh", "-m", "helpers.serving.detect"]},
            "runs [python, -m, MODULE]",
        ),
        (
            {"image": "walkthrough/serving:1", "command": ["python", "-m", "http.server"]},
            "runs [python, -m, MODULE]",
        ),
    ],
)
def test_images_and_commands_without_a_program(container: dict[str, Any], told: str) -> None:
    assert told in refusal(detector(**container))


def test_a_deployment_is_a_process() -> None:
    given = detector(
        args=["--model_name=x", "--http_port=8080", "--to=http://payload-logger", "DriftDetector"],
        env=[{"name": "A", "value": "b"}, {"name": "HERE", "value": BROKER_URL}],
        pod={"terminationGracePeriodSeconds": 7},
    )
    given["spec"]["strategy"] = {"type": "Recreate"}
    spec = spec_of(given)
    command, environment = running(spec)
    assert command == [
        *(sys.executable, "-m", "helpers.serving.detect", "--model_name=x", "--http_port=1"),
        *("--to=http://127.0.0.1:4001", "DriftDetector"),
    ]
    assert environment == {
        "A": "b",
        "HERE": "http://127.0.0.1:4000/walkthrough/default",
        "SERVING_HOST": "127.0.0.1",
    }
    assert (spec.name, spec.owner) == ("drift-ks", "Deployment/drift-ks")
    assert (spec.recreate, spec.stop_seconds, spec.metrics_path) == (True, 7, "/v1/metrics")


def test_no_replicas_no_process() -> None:
    given = detector()
    given["spec"]["replicas"] = 0
    assert make(given, service()).servers == {}


def test_paths_of_volumes_are_in_the_folder_of_the_server() -> None:
    spec = spec_of(
        detector(
            args=[
                "--data=/var/lib/log/a=b",
                "--sub=/var/lib/log/deep/x",
                "/var/lib/logs",
                "--o=/tmp",
            ],
            env=[{"name": "D", "value": "/tmp/cache"}, {"name": "E", "value": "see /tmp"}],
            volumeMounts=[
                {"name": "log", "mountPath": "/var/lib/log/"},
                {"name": "deep", "mountPath": "/var/lib/log/deep"},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
            pod={"volumes": [{"name": one, "emptyDir": {}} for one in ("log", "deep", "tmp")]},
        )
    )
    command, environment = running(spec)
    assert command[-4:] == ["--data=/F/log/a=b", "--sub=/F/deep/x", "/var/lib/logs", "--o=/F/tmp"]
    assert (environment["D"], environment["E"]) == ("/F/tmp/cache", "see /tmp")


# Text with braces


TEXTS = [
    "{port}",
    "{folder}/x",
    "a {grpc_port} {metrics_port} b",
    "{brace}",
    "{brace}port}",
    "{{port}}",
    '{"port": {"a": "{port}"}, "b": [{}]}',
    "{ port }",
    "{PORT}",
    "{",
    "{port",
    "${folder}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_braces_in_a_manifest_are_text(text: str) -> None:
    parameter = {"name": "method", "value": text}
    container = {"name": "resnet32", "env": [{"name": "A", "value": text}]}
    seldon = predictor(
        graph={"implementation": "SKLEARN_SERVER", "parameters": [parameter]},
        componentSpecs=[{"spec": {"containers": [container]}}],
        explainer={
            "type": "AnchorImages",
            "modelUri": "s3://walkthrough/cifar10/anchor_images",
            "containerSpec": {"env": [{"name": "A", "value": text}]},
        },
    )
    plan = make(
        detector(args=[text, f"--x={text}"], env=[{"name": "A", "value": text}]),
        model(protocol="seldon", predictors=[seldon]),
    )
    command, environment = running(plan.servers["Deployment", "walkthrough", "drift-ks"])
    assert command[3:] == ["--http_port=1", text, f"--x={text}"]
    assert environment["A"] == text
    served, explainer = plan.models["SeldonDeployment", "walkthrough", "cifar10"].servers
    told = json.loads(running(served)[1]["PREDICTIVE_UNIT_PARAMETERS"])
    assert {"name": "method", "value": text, "type": "STRING"} in told
    assert running(served)[1]["A"] == text
    assert running(explainer)[1]["A"] == text
    assert placeholders(plan.servers["Deployment", "walkthrough", "drift-ks"]) == ["port"]


@pytest.mark.parametrize("text", TEXTS)
def test_literal_text_survives_what_stands_for_the_placeholders(text: str) -> None:
    values = {"folder": "/a/{port}/{brace}", "port": "1", "grpc_port": "2", "metrics_port": "3"}
    assert fill(literal(text), values) == text
    assert fill("{folder}", values) == "/a/{port}/{brace}"


# Variables


def test_variables_come_from_secrets_configmaps_and_fields() -> None:
    config = secret("ConfigMap", level="info", host="http://minio.elsewhere:9000")
    given = detector(
        envFrom=[
            {"configMapRef": {"name": "keys"}, "prefix": "CFG_"},
            {"secretRef": {"name": "keys"}},
            {"secretRef": {"name": "not-there", "optional": True}},
        ],
        env=[
            {"name": "user", "value": "mine"},
            {"name": "P", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
            {
                "name": "NONE",
                "valueFrom": {"secretKeyRef": {"name": "keys", "key": "no", "optional": True}},
            },
            {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
    )
    spec = spec_of(given, config, secret(user="theirs", password="hunter2", at="http://minio"))
    assert running(spec)[1] == {
        "CFG_level": "info",
        "CFG_host": "http://minio.elsewhere:9000",
        "user": "mine",
        "password": "hunter2",
        "at": "http://minio",  # leads nowhere here, and need not
        "P": "hunter2",
        "ME": "drift-ks",
        "NS": "walkthrough",
        "SERVING_HOST": "127.0.0.1",
    }
    assert not any("hunter2" in word for word in spec.command)
    assert "hunter2" not in spec.fingerprint


@pytest.mark.parametrize(
    ("container", "told"),
    [
        (
            {"envFrom": [{"secretRef": {"name": "nope"}}]},
            "containers[0].envFrom[0]: there is no Secret nope in the namespace walkthrough; apply",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}}]},
            "containers[0].env[0]: there is no ConfigMap n in the namespace walkthrough",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]},
            "containers[0].env[0]: the Secret keys has no key 'k'",
        ),
        (
            {"env": [{"name": "A", "value": "http://nope"}]},
            "containers[0].env: A: there is no Service nope",
        ),
        (
            {"args": ["--http_port=9000"]},
            "containers[0].args: --http_port is 9000, but the container's ports are 8080",
        ),
        (
            {"args": ["--http_port", "9000", "X"]},
            "containers[0].args: --http_port is 9000, but the",
        ),
        (
            {"args": ["--to=http://payload-logger:81"]},
            "containers[0].args: the Service payload-logger has the port 80, not 81",
        ),
        (
            {"envFrom": [{"secretRef": {"name": "keys"}}], "args": ["--password=$(password)"]},
            "containers[0].args: $(password) is not replaced here",
        ),
        (
            {"env": [{"name": "A", "value": "x"}, {"name": "B", "value": "$(A)"}]},
            "containers[0].env: B: $(A) is not replaced here",
        ),
    ],
)
def test_variables_that_cannot_be_had(container: dict[str, Any], told: str) -> None:
    message = refusal(detector(**container), secret(password="hunter2"))
    assert "some.yaml, Deployment: spec.template.spec." in message
    assert told in message
    assert "hunter2" not in message


def test_a_reference_to_no_variable_is_text_as_in_a_cluster() -> None:
    spec = spec_of(detector(args=["$(NONE)", "$$(A)"], env=[{"name": "A", "value": "x"}]))
    assert running(spec)[0][-2:] == ["$(NONE)", "$$(A)"]


def test_what_was_deleted_since_is_missed_by_new_objects_only() -> None:
    given = detector(
        envFrom=[{"secretRef": {"name": "nope"}}],
        env=[
            {"name": "A", "value": "http://nope"},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "k"}}},
        ],
    )
    plan = make(given, trigger(), strict=False)
    (spec,) = plan.servers.values()
    assert spec.environment == {"A": "http://nope", "SERVING_HOST": "127.0.0.1"}
    assert "no Secret nope" in refusal(given)


@pytest.mark.parametrize("name", ["SERVING_HOST", "MLSERVER_HOST", "MLSERVER_HTTP_PORT"])
def test_a_manifest_cannot_move_a_server_off_the_loopback(name: str) -> None:
    env = [{"name": name, "value": "0.0.0.0"}]
    container = {"name": "resnet32", "env": env}
    graph = {"implementation": "SKLEARN_SERVER"}
    for one in (
        detector(env=env),
        model(
            protocol="v2",
            predictors=[
                predictor(graph=graph, componentSpecs=[{"spec": {"containers": [container]}}])
            ],
        ),
    ):
        environment = running(spec_of(one))[1]
        if name == "SERVING_HOST" or one["kind"] == "SeldonDeployment":
            assert environment[name] != "0.0.0.0"
        assert environment["SERVING_HOST"] == "127.0.0.1"


# Services


def test_a_service_leads_to_the_process_that_it_selects() -> None:
    assert make(detector(), service()).services == {("walkthrough", "drift-ks"): "drift-ks"}
    assert make(service()).services == {("walkthrough", "drift-ks"): None}
    elsewhere = detector()
    elsewhere["metadata"]["namespace"] = "other"
    assert make(elsewhere, service()).services == {("walkthrough", "drift-ks"): None}


@pytest.mark.parametrize(
    "port", [{"port": 80, "targetPort": "https"}, {"port": 80}, {"port": 1, "targetPort": 81}]
)
def test_a_service_to_a_port_that_the_container_does_not_have(port: dict[str, Any]) -> None:
    told = refusal(detector(), service(ports=[port]))
    assert "Service: spec.ports[0].targetPort: the container of drift-ks has no port" in told


def test_a_service_of_two_processes() -> None:
    second = detector("second")
    second["spec"]["template"]["metadata"]["labels"]["app2"] = "x"
    first = detector()
    first["spec"]["template"]["metadata"]["labels"]["app2"] = "x"
    told = refusal(first, second, service(selector={"app2": "x"}))
    assert "Service: spec.selector: it picks drift-ks and second" in told


# Triggers


def test_a_trigger_leads_to_a_service_or_an_address() -> None:
    def subscriber(**given: Any) -> str:
        plan = make(BROKER, trigger(subscriber=given))
        return plan.triggers["walkthrough", "to-log"].subscriber

    ref = {"kind": "Service", "name": "payload-logger"}
    assert subscriber(ref=ref) == "http://127.0.0.1:4001"
    assert subscriber(ref=ref, uri="/a?b") == "http://127.0.0.1:4001/a?b"
    assert subscriber(ref=ref | {"namespace": "other"}) == "http://127.0.0.1:4003"
    assert subscriber(uri="http://odd:9200/x") == "http://127.0.0.1:4002/x"
    assert subscriber(uri="https://example.com/x") == "https://example.com/x"
    assert make(trigger(), strict=False).triggers["walkthrough", "to-log"].subscriber


def test_filter_and_delivery_reach_the_broker() -> None:
    delivery = {
        "retry": 2,
        "backoffPolicy": "linear",
        "backoffDelay": "PT0.5S",
        "timeout": "PT5S",
        "deadLetterSink": {"ref": {"kind": "Service", "name": "odd"}},
    }
    plan = make(BROKER, trigger(filter={"attributes": {"type": "a"}}, delivery=delivery))
    one = plan.triggers["walkthrough", "to-log"]
    assert (one.broker, one.filter) == ("default", {"type": "a"})
    assert one.delivery.retry == 2
    assert one.delivery.backoff_delay.total_seconds() == 0.5
    assert one.delivery.timeout.total_seconds() == 5
    assert one.delivery.dead_letter_sink == "http://127.0.0.1:4002"
    assert plan.brokers == {("walkthrough", "default")}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"broker": "other"},
            "spec.broker: there is no Broker other in the namespace walkthrough; a",
        ),
        (
            {"subscriber": {"ref": {"kind": "Service", "name": "nope"}}},
            "spec.subscriber.ref: there is no Service nope in the namespace walkthrough; apply",
        ),
        ({"subscriber": {"ref": {"kind": "Service", "name": "gone"}}}, "there is no Service gone"),
        ({"subscriber": {"uri": "http://nope/x"}}, "spec.subscriber.uri: there is no Service nope"),
        (
            {"delivery": {"deadLetterSink": {"ref": {"kind": "Service", "name": "nope"}}}},
            "spec.delivery.deadLetterSink.ref: there is no Service nope",
        ),
        ({"delivery": {"backoffDelay": "soon"}}, "spec.delivery.backoffDelay: input should be"),
        ({"delivery": {"timeout": "PT0S"}}, "spec.delivery.timeout: must be more than PT0S"),
        ({"delivery": {"retry": -1}}, "spec.delivery.retry: input should be greater"),
        (
            {"filter": {"attributes": {"Type": "x"}}},
            "spec.filter.attributes: 'Type' is no attribute",
        ),
    ],
)
def test_triggers_that_cannot_be(spec: dict[str, Any], told: str) -> None:
    message = refusal(BROKER, trigger(**spec))
    assert message.startswith("some.yaml, Trigger: spec.")
    assert told in message


# SeldonDeployments


def test_a_model_is_a_server_and_a_route() -> None:
    plan = make(
        model(
            annotations={"seldon.io/rest-timeout": "1500", "walkthrough/max-in-flight": "9"},
            predictors=[
                predictor(
                    annotations={"version": "v7"},
                    graph={"logger": {"url": BROKER_URL, "mode": "response"}},
                    componentSpecs=[
                        {"spec": {"containers": [{"name": "resnet32", "image": "tf/serving:2"}]}}
                    ],
                )
            ],
        )
    )
    (made,) = plan.models.values()
    (spec,) = made.servers
    assert spec.name == "cifar10-default-0-resnet32"
    assert spec.image == "tf/serving:2"
    assert spec.environment["PREDICTIVE_UNIT_IMAGE"] == "tf/serving:2"
    route = made.route({"cifar10-default-0-resnet32": ("127.0.0.1", 5000)}.get)
    (only,) = route.predictors
    assert (route.namespace, route.name, route.protocol) == ("walkthrough", "cifar10", "tensorflow")
    assert only.url == "http://127.0.0.1:5000"
    assert (only.model, only.image, only.image_version, only.version) == (
        "resnet32",
        "tf/serving",
        "2",
        "v7",
    )
    assert only.logger is not None
    assert only.logger.url == "http://127.0.0.1:4000/walkthrough/default"
    assert only.logger.mode == "response"
    assert (only.timeout_seconds, only.takes_feedback, only.explainer) == (1.5, False, None)
    assert only.max_in_flight == 9
    assert made.route(lambda name: None).predictors[0].url == NOWHERE


def test_an_explainer_gets_what_the_operator_passes() -> None:
    explainer = {
        "type": "AnchorImages",
        "modelUri": "s3://walkthrough/cifar10/anchor_images",
        "config": {"threshold": "0.9", "n_covered_ex": "1"},
    }
    (made,) = make(model(predictors=[predictor(explainer=explainer)])).models.values()
    _, spec = made.servers
    assert spec.name == "cifar10-default-explainer"
    assert running(spec)[0][1:] == [
        *("-m", "helpers.serving.explain", "--model_name=resnet32"),
        "--predictor_host=127.0.0.1:8003/predictor/walkthrough/cifar10/default",
        *("--protocol=tensorflow.http", "--http_port=1"),
        "--storage_uri=s3://walkthrough/cifar10/anchor_images",
        *("AnchorImages", "--tf_data_type=float32", "--n_covered_ex=1", "--threshold=0.9"),
    ]
    route = made.route({"cifar10-default-explainer": ("127.0.0.1", 5001)}.get)
    assert route.predictors[0].explainer == "http://127.0.0.1:5001"


V2_COMMAND = ["python", "-m", "helpers.serving.mlserver_explain"]
V2_CONTAINER = {"name": "images", "image": "walkthrough/serving:0.1.0", "command": V2_COMMAND}


def over_v2(container: dict[str, Any], **config: str) -> dict[str, Any]:
    explainer = anchors(**config) | {"containerSpec": container}
    served = predictor(graph={"implementation": "SKLEARN_SERVER"}, explainer=explainer)
    return model(protocol="v2", predictors=[served])


def test_a_v2_explainer_gets_the_operators_variables_and_its_own_arguments() -> None:
    arguments = ["--threshold=0.9", "--n_covered_ex=1"]
    (made,) = make(over_v2(V2_CONTAINER | {"args": arguments})).models.values()
    _, spec = made.servers
    command, environment = running(spec)
    assert spec.name == "cifar10-default-explainer"
    assert command[1:] == [*V2_COMMAND[1:], *arguments]
    assert json.loads(environment.pop("MLSERVER_MODEL_EXTRA")) == {
        "explainer_type": "anchor_image",
        "infer_uri": "http://127.0.0.1:8003/predictor/walkthrough/cifar10/default"
        "/v2/models/resnet32/infer",
    }
    assert {name: value for name, value in environment.items() if "MLSERVER" in name} == {
        "MLSERVER_HTTP_PORT": "1",
        "MLSERVER_GRPC_PORT": "2",
        "MLSERVER_METRICS_PORT": "3",
        "MLSERVER_METRICS_DIR": "/F/metrics",
        "MLSERVER_ENVIRONMENTS_DIR": "/F/environments",
        "MLSERVER_MODEL_NAME": "images",
        "MLSERVER_MODEL_URI": "s3://walkthrough/cifar10/anchor_images",
    }
    assert environment["SERVING_HOST"] == "127.0.0.1"
    assert spec.ready_path == "/v2/models/images/ready"


def test_a_v2_explainer_without_a_container_is_called_like_its_server() -> None:
    (made,) = make(over_v2({})).models.values()
    _, spec = made.servers
    assert running(spec)[0][1:] == V2_COMMAND[1:]
    assert spec.environment["MLSERVER_MODEL_NAME"] == "cifar10-default-explainer"
    assert spec.image == "seldonio/mlserver:1.6.1-alibi-explain"


@pytest.mark.parametrize(
    ("container", "config", "told"),
    [
        ({}, {"threshold": "0.9"}, "explainer.config: the operator passes none"),
        (V2_CONTAINER | {"env": [{"name": "A", "value": "b"}]}, {}, "env: the operator drops it"),
        ({"args": ["--threshold=0.9"]}, {}, "args: they are for the command [python, -m, "),
        (V2_CONTAINER | {"args": ["--threshold", "1"]}, {}, "an option is written --name=value"),
        (V2_CONTAINER | {"args": ["--treshold=1"]}, {}, "args.treshold: AnchorImages has no such"),
        (V2_CONTAINER | {"args": ["--threshold=2"]}, {}, "args.threshold: "),
        (V2_CONTAINER | {"args": ["--storage_uri=/etc"]}, {}, "/etc is outside"),
        (
            V2_CONTAINER | {"command": ["python", "-m", "helpers.serving.explain"]},
            {},
            "containerSpec.command: an explainer of this protocol has its image's own command, or "
            "[python, -m, helpers.serving.mlserver_explain]",
        ),
        (V2_CONTAINER | {"image": "seldonio/mlserver:1.6.1"}, {}, "containerSpec.command: "),
    ],
)
def test_v2_explainers_that_cannot_be(
    container: dict[str, Any], config: dict[str, str], told: str
) -> None:
    assert told in refusal(over_v2(container, **config))


def test_an_explainers_config_has_the_options_of_production() -> None:
    served = predictor(explainer=anchors(threshold="0.9", deadline_seconds="5"))
    (made,) = make(model(predictors=[served])).models.values()
    assert running(made.servers[1])[0][-2:] == ["--deadline_seconds=5", "--threshold=0.9"]
    wrong = predictor(explainer=anchors(deadline_seconds="0"))
    assert "explainer.config: --deadline_seconds=0: " in refusal(model(predictors=[wrong]))
    alone = predictor(explainer=anchors(previous_signing_key="env:OLD_KEY"))
    assert "--previous_signing_key needs --signing_key" in refusal(model(predictors=[alone]))


def test_what_an_explainer_writes_below_tmp_is_in_its_own_folder() -> None:
    config = {"audit_file": "/tmp/audit/{port}.sqlite", "cache_disk_folder": "/var/cache"}
    config |= {"model_version": "1", "cache_redis_url": "redis://h/tmp/0"}
    (made,) = make(model(predictors=[predictor(explainer=anchors(**config))])).models.values()
    arguments = made.servers[1].command
    assert "--audit_file={folder}/tmp/audit/{brace}port}.sqlite" in arguments
    assert {"--cache_disk_folder=/var/cache", "--cache_redis_url=redis://h/tmp/0"} < set(arguments)


def test_our_image_as_explainer_of_the_other_protocols() -> None:
    command = ["python", "-m", "helpers.serving.explain"]
    container = {"image": "walkthrough/serving:0.1.0", "command": command}
    (made,) = make(
        model(predictors=[predictor(explainer=anchors() | {"containerSpec": container})])
    ).models.values()
    assert running(made.servers[1])[0][1:3] == command[1:]
    for change, told in (
        ({"args": ["--threshold=1"]}, "args: the operator overwrites them"),
        ({"command": V2_COMMAND}, "containerSpec.command: "),
    ):
        explainer = anchors() | {"containerSpec": container | change}
        assert told in refusal(model(predictors=[predictor(explainer=explainer)]))


def test_predictors_share_the_traffic() -> None:
    (made,) = make(
        model(
            predictors=[
                predictor("main", traffic=90),
                predictor("canary", traffic=10),
                predictor("shadow", shadow=True),
            ]
        )
    ).models.values()
    assert [one.name for one in made.servers] == [
        f"cifar10-{name}-0-resnet32" for name in ("main", "canary", "shadow")
    ]
    route = made.route(lambda name: None)
    assert [one.traffic for one in route.serving] == [90, 10]
    assert route.shadow is not None


GRAPH = "some.yaml, SeldonDeployment: spec.predictors[0].graph"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        *(
            ({"predictors": [predictor(graph={"modelUri": uri})]}, f"{GRAPH}.modelUri: {told}")
            for uri, told in [
                ("s3://walkthrough/cifar10/../../etc", "'s3://walkthrough/cifar10/../../etc' does"),
                ("s3://walkthrough/../resnet32", "'..' cannot name an artefact"),
                ("s3://walkthrough/cifar10/..", "'..' cannot name an artefact"),
                (
                    "s3://elsewhere/cifar10/resnet32",
                    "'s3://elsewhere/cifar10/resnet32' is in the bu",
                ),
                (
                    "gs://walkthrough/cifar10/resnet32",
                    "'gs://walkthrough/cifar10/resnet32' is no s",
                ),
                ("file:///etc/passwd", "'file:///etc/passwd' is no storage URI"),
                ("/etc/passwd", "/etc/passwd is outside"),
                ("", "'' is no storage URI"),
                (
                    "s3://walkthrough/cifar10",
                    "'s3://walkthrough/cifar10' does not name an artefact",
                ),
                ("s3://walkthrough/cifar10/nope", "there is no artefact cifar10/nope; train it"),
            ]
        ),
        (
            {"predictors": [predictor(graph={"envSecretRefName": "nope"})]},
            f"{GRAPH}.envSecretRefName: there is no Secret nope in the namespace walkthrough",
        ),
        (
            {"predictors": [predictor(graph={"logger": {"url": "http://nope/x"}})]},
            f"{GRAPH}.logger.url: there is no Service nope",
        ),
        (
            {"predictors": [predictor(graph={"logger": {"url": "default-broker"}})]},
            f"{GRAPH}.logger.url: it is an http:// address, not 'default-broker'",
        ),
        (
            {"predictors": [predictor(graph={"logger": {"url": "https://example.com"}})]},
            f"{GRAPH}.logger.url: it is an http:// address",
        ),
        (
            {
                "protocol": "seldon",
                "predictors": [
                    predictor(componentSpecs=[{"spec": {"containers": [{"name": "resnet32"}]}}])
                ],
            },
            "TENSORFLOW_SERVER is in the container 'tfserving', not 'resnet32'",
        ),
        (
            {"protocol": "v2"},
            f"{GRAPH}.implementation: TENSORFLOW_SERVER does not speak the v2 protocol here; TENSOR",
        ),
        (
            {
                "protocol": "v2",
                "predictors": [
                    predictor(
                        graph={
                            "implementation": "SKLEARN_SERVER",
                            "parameters": [{"name": "nope", "value": "x"}],
                        }
                    )
                ],
            },
            f"{GRAPH}: The parameter 'nope' of resnet32 is unknown",
        ),
        (
            {"predictors": [predictor(explainer={"type": "Lime"})]},
            "spec.predictors[0].explainer.type: there is no explainer Lime here; ",
        ),
        (
            {"predictors": [predictor(explainer=anchors(n_covered_exs="1"))]},
            "spec.predictors[0].explainer.config.n_covered_exs: AnchorImages has no such option; it",
        ),
        (
            {"predictors": [predictor(explainer=anchors(threshold="high"))]},
            "spec.predictors[0].explainer.config.threshold: Input should be",
        ),
        (
            {"predictors": [predictor(explainer={"type": "AnchorImages", "modelUri": "/etc"})]},
            "spec.predictors[0].explainer.modelUri: /etc is outside",
        ),
        (
            {"predictors": [predictor("a", traffic=50), predictor("b", traffic=49)]},
            "SeldonDeployment: spec.predictors: the traffic of the predictors adds up to 99, not 100",
        ),
        (
            {"predictors": [predictor("a", traffic=90)]},
            "the traffic of the predictors adds up to 90, not 100",
        ),
        (
            {
                "predictors": [
                    predictor("a", traffic=100),
                    predictor("b", shadow=True),
                    predictor("c", shadow=True),
                ]
            },
            "at most one predictor may be a shadow",
        ),
        ({"predictors": [predictor(shadow=True)]}, "the only predictor cannot be a shadow"),
        (
            {"predictors": [predictor("a", traffic=50), predictor("a", traffic=50)]},
            "two predictors have the same name",
        ),
        *(
            (
                {"annotations": {"seldon.io/rest-timeout": text}},
                "seldon.io/rest-timeout is in millis",
            )
            for text in ("0", "-1", "1s", "1.5", "²", "9" * 5000, "")
        ),
        (
            {"annotations": {"walkthrough/max-in-flight": "many"}},
            "walkthrough/max-in-flight is a whole number",
        ),
        (
            {
                "predictors": [
                    predictor(
                        componentSpecs=[
                            {"spec": {"containers": [{"name": "resnet32", "args": ["--x"]}]}}
                        ]
                    )
                ]
            },
            "spec.predictors[0].componentSpecs: command and args are the operator's",
        ),
    ],
)
def test_models_that_cannot_be(spec: dict[str, Any], told: str) -> None:
    assert told in refusal(model(**spec))


def test_an_artefact_that_leads_out_by_a_link(artefacts: Path, tmp_path: Path) -> None:
    (artefacts / "cifar10" / "linked").symlink_to(tmp_path)
    told = refusal(
        model(predictors=[predictor(graph={"modelUri": "s3://walkthrough/cifar10/linked"})])
    )
    assert "leads out of" in told


# Names


@pytest.mark.parametrize("name", ["gateway", "broker", "stack", "prometheus"])
def test_names_of_the_stack_itself_are_taken(name: str) -> None:
    assert f"Deployment: metadata.name: {name} is the name of a server" in refusal(detector(name))


def test_two_servers_of_one_name() -> None:
    same = detector("cifar10-default-0-resnet32")
    told = refusal(same, model())
    assert "cifar10-default-0-resnet32" in told
    elsewhere = copy.deepcopy(detector())
    elsewhere["metadata"]["namespace"] = "other"
    assert "in walkthrough" in refusal(detector(), elsewhere)


# All manifests of the repository together


def test_the_manifests_of_the_repository_make_a_plan(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARTIFACTS_DIR")
    files = [
        "storage/s3-credentials.yaml",
        "explainers/cifar10-explained.yaml",
        "eventing/broker.yaml",
        "logging/payload-logger.yaml",
        "detectors/outlier-vae.yaml",
        "detectors/drift-ks.yaml",
        "metrics/multiclass-metrics.yaml",
    ]
    found = read([root / "manifests" / file for file in files])
    objects = {one.key: one for one in map(parse, found)}
    names = [key[2] for key in objects if key[0] == "Service"]
    addresses = Addresses(
        "127.0.0.1:1",
        "127.0.0.1:2",
        {
            ("walkthrough", name): ServiceAddress(80, f"127.0.0.1:{n}")
            for n, name in enumerate(names, 3)
        },
    )
    plan = planning.make(objects, addresses, dict.fromkeys(objects, "some.yaml"))
    assert {one.name for one in plan.servers.values()} == set(names)
    servers = [*plan.servers.values(), *(s for m in plan.models.values() for s in m.servers)]
    told = json.dumps([[*one.command, *one.environment.values()] for one in servers])
    assert "broker-ingress" not in told
    assert "http://payload-logger" not in told
    keys = yaml.safe_load((root / "manifests/storage/s3-credentials.yaml").read_text())
    decoded = [base64.b64decode(value).decode() for value in keys.get("data", {}).values()]
    values = [*decoded, *keys.get("stringData", {}).values()]
    secrets = [value for value in values if len(value) > 8 and value != "walkthrough"]
    assert secrets
    commands = json.dumps([one.command for one in servers])
    assert not [one for one in secrets if one in commands]


def test_a_savedmodel_over_the_seldon_protocol(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARTIFACTS_DIR")
    files = ("storage/s3-credentials.yaml", "explainers/seldon/cifar10-anchor-images.yaml")
    found = read([root / "manifests" / file for file in files])
    plan = make(*(one.content for one in found))
    (deployed,) = plan.models.values()
    served, explainer = deployed.servers
    assert served.name == "cifar10-seldon-default-0-resnet32"
    assert served.image == "tensorflow/serving:2.18.0"
    assert "helpers.serving.seldon_model.tfserving_proxy.TfServingProxy" in served.command
    given = json.loads(served.environment["PREDICTIVE_UNIT_PARAMETERS"])
    assert {one["name"]: one["value"] for one in given} == {
        "model_uri": "s3://walkthrough/cifar10/resnet32",
        "rest_endpoint": "http://0.0.0.0:2001",
    }
    assert "--protocol=seldon.http" in explainer.command
    assert "AnchorImages" in explainer.command
