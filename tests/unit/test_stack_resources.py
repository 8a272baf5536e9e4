"""What the local stack understands of each kind, and how it refuses the rest."""

from __future__ import annotations

import base64
import textwrap
import traceback
from typing import Any

import pytest
import yaml

from helpers.errors import ManifestError
from helpers.stack.documents import Document
from helpers.stack.local.resources import KINDS, Deployment, Object, Secret, parse

MODEL = """
apiVersion: machinelearning.seldon.io/v1
kind: SeldonDeployment
metadata: {name: cifar10, namespace: walkthrough}
spec:
  protocol: tensorflow
  predictors:
    - name: default
      graph:
        name: resnet32
        implementation: TENSORFLOW_SERVER
        modelUri: s3://walkthrough/cifar10/resnet32
"""
DETECTOR = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: drift-ks, namespace: walkthrough}
spec:
  selector: {matchLabels: {app: drift-ks}}
  template:
    metadata: {labels: {app: drift-ks}}
    spec:
      containers:
        - name: drift-ks
          image: seldonio/alibi-detect-server:1.19.0
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: drift-ks, namespace: walkthrough}
spec:
  selector: {app: drift-ks}
  ports: [{port: 80, targetPort: http}]
"""
TRIGGER = """
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: drift-ks, namespace: walkthrough}
spec:
  broker: default
  subscriber: {ref: {apiVersion: v1, kind: Service, name: drift-ks}}
"""
SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: s3-credentials, namespace: walkthrough}
"""

PREDICTOR = "spec.predictors.0"
GRAPH = f"{PREDICTOR}.graph"
POD = "spec.template.spec"
CONTAINER = f"{POD}.containers.0"
MISSING = object()


def changed(text: str, place: str, value: Any) -> dict[str, Any]:
    """The manifest with another value at a place, `spec.predictors.0.name`."""
    content = yaml.safe_load(text)
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    inner = content
    for part in path:
        inner = inner[part] if isinstance(part, int) else inner.setdefault(part, {})
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return content


def refusal(content: dict[str, Any]) -> str:
    with pytest.raises(ManifestError) as caught:
        parse(Document("some.yaml, document 2", content))
    told = str(caught.value)
    assert told.startswith("some.yaml, document 2")
    assert "\n" not in told
    assert "ydantic" not in told
    assert len(told) < 700
    return told


@pytest.mark.parametrize("text", [MODEL, DETECTOR, SERVICE, TRIGGER, SECRET])
def test_the_manifests_that_the_others_are_made_of_are_taken(text: str) -> None:
    one = parse(Document("some.yaml", yaml.safe_load(text)))
    assert (one.kind, one.namespace, one.name) == one.key
    assert str(one) == f"{one.kind}/{one.name}"


def test_a_namespace_that_is_not_there_is_default() -> None:
    content = yaml.safe_load(SERVICE)
    del content["metadata"]["namespace"]
    assert parse(Document("some.yaml", content)).key == ("Service", "default", "drift-ks")


@pytest.mark.parametrize(
    ("text", "place", "value", "told"),
    [
        # Kinds and versions
        (MODEL, "kind", "Ingress", "the kind Ingress is not supported by the local stack; Seldon"),
        (DETECTOR, "apiVersion", "extensions/v1beta1", "apiVersion: should be 'apps/v1', not"),
        # Fields
        (
            MODEL,
            f"{GRAPH}.modelURI",
            "x",
            "spec.predictors[0].graph.modelURI: the local stack does",
        ),
        (MODEL, f"{GRAPH}.modelURI", "x", "here it knows name, implementation, modelUri"),
        (MODEL, f"{GRAPH}.model_uri", "x", "spec.predictors[0].graph.model_uri: the local stack"),
        (MODEL, f"{GRAPH}.modelUri", MISSING, "spec.predictors[0].graph.modelUri: is missing"),
        (MODEL, f"{PREDICTOR}.explainer", {"typ": "x"}, "here it knows type, modelUri, config"),
        (DETECTOR, f"{POD}.initContainers", [], "spec.template.spec.initContainers: the local"),
        (DETECTOR, "spec.selector.matchExpressions", [], "here it knows matchLabels"),
        (
            DETECTOR,
            f"{CONTAINER}.lifecycle",
            {},
            "containers[0].lifecycle: the local stack does not",
        ),
        (SERVICE, "status", {}, "status: the local stack does not support this field"),
        # Types
        (MODEL, "spec.predictors", {"name": "x"}, "spec.predictors: must be a list"),
        (MODEL, "spec.predictors", [], "spec.predictors: is empty"),
        (MODEL, GRAPH, "resnet32", "spec.predictors[0].graph: must be a mapping, not 'resnet32'"),
        (MODEL, GRAPH, None, "spec.predictors[0].graph: must be a mapping, not empty"),
        (MODEL, f"{PREDICTOR}.traffic", "100", "traffic: should be a valid integer, not '100'"),
        (
            MODEL,
            f"{PREDICTOR}.traffic",
            101,
            "traffic: should be less than or equal to 100, not 101",
        ),
        (MODEL, f"{PREDICTOR}.shadow", "yes", "shadow: should be a valid boolean, not 'yes'"),
        (DETECTOR, f"{CONTAINER}.args", "--x", "containers[0].args: must be a list, not '--x'"),
        (
            DETECTOR,
            f"{CONTAINER}.args",
            [1000],
            "args[0]: must be text; write it in quotes, not 1000",
        ),
        (
            DETECTOR,
            f"{CONTAINER}.env",
            [{"name": "A", "value": 1}],
            "env[0].value: must be text; wri",
        ),
        (DETECTOR, f"{CONTAINER}.env", [{"name": "A", "value": True}], "must be text; write it in"),
        (DETECTOR, f"{CONTAINER}.env", [{"name": "A=B"}], "env[0].name: string should match"),
        (
            SERVICE,
            "spec.ports",
            [{"port": 80, "targetPort": 1.5}],
            "a port has a number or a name, n",
        ),
        (SERVICE, "spec.ports", [{"port": 0}], "port: should be greater than or equal to 1, not 0"),
        (SECRET, "data", "text", "data: must be a mapping"),
        # Names
        (
            MODEL,
            "metadata.name",
            "My_Model",
            "metadata.name: a name is of a-z, 0-9 and '-', begins",
        ),
        (MODEL, "metadata.name", "x" * 64, "has at most 63 characters, not 'xxxx"),
        (
            MODEL,
            "metadata.name",
            "cifar10\n",
            "metadata.name: a name is of a-z, 0-9 and '-', begins",
        ),
        (MODEL, "metadata.namespace", "../x", "metadata.namespace: a name is of a-z"),
        (MODEL, f"{GRAPH}.name", "res/net", "graph.name: a name is of a-z"),
        (SECRET, "stringData", {"a=b": "x"}, "stringData.a=b: a key is of letters, digits"),
        # What one machine does not do
        (
            MODEL,
            f"{GRAPH}.children",
            [{"name": "x"}],
            "children: the local stack takes none of these, n",
        ),
        (
            MODEL,
            f"{GRAPH}.implementation",
            "XGBOOST_SERVER",
            "should be 'TENSORFLOW_SERVER' or 'SKLEARN",
        ),
        (MODEL, f"{GRAPH}.type", "ROUTER", "graph.type: should be 'MODEL', not 'ROUTER'"),
        (MODEL, f"{PREDICTOR}.replicas", 2, "replicas: should be less than or equal to 1, not 2"),
        (MODEL, "spec.transport", "grpc", "spec.transport: should be 'rest', not 'grpc'"),
        (MODEL, "spec.protocol", "kfserving", "'tensorflow' or 'v2', not 'kfserving'"),
        (DETECTOR, "spec.replicas", 2, "spec.replicas: should be less than or equal to 1, not 2"),
        (SERVICE, "spec.type", "NodePort", "spec.type: should be 'ClusterIP', not 'NodePort'"),
        (SERVICE, "spec.ports", [{"port": 80}, {"port": 81}], "takes 1 of these, not 2"),
        (SERVICE, "spec.selector", {}, "spec.selector: is empty"),
        # What belongs together
        (DETECTOR, "spec.selector.matchLabels", {"app": "x"}, "selector.matchLabels are not among"),
        (
            DETECTOR,
            f"{CONTAINER}.volumeMounts",
            [{"name": "tmp", "mountPath": "/tmp"}],
            "volumeMounts names 'tmp', which is not among the volumes",
        ),
        (
            MODEL,
            f"{PREDICTOR}.componentSpecs",
            [{"spec": {"containers": [{"name": "other"}]}}],
            "a container 'other', but the graph's only node is 'resnet32'",
        ),
        (
            MODEL,
            f"{PREDICTOR}.componentSpecs",
            [{"spec": {"containers": [{"name": "resnet32"}, {"name": "resnet32"}]}}],
            "componentSpecs[0].spec.containers: the local stack takes 1 of these, not 2",
        ),
        (
            DETECTOR,
            f"{CONTAINER}.env",
            [
                {
                    "name": "A",
                    "value": "x",
                    "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
                }
            ],
            "env[0]: give value or valueFrom, not both",
        ),
        (
            DETECTOR,
            f"{CONTAINER}.env",
            [{"name": "A", "valueFrom": {}}],
            "give one of secretKeyRef",
        ),
        (
            DETECTOR,
            f"{CONTAINER}.envFrom",
            [{"prefix": "A"}],
            "give one of secretRef and configMap",
        ),
        (
            TRIGGER,
            "spec.subscriber",
            {"uri": "payload-logger"},
            "give a ref, or a whole address as",
        ),
        (TRIGGER, "spec.subscriber.uri", "events", "uri is a path that starts with /"),
        (
            TRIGGER,
            "spec.filters",
            [],
            "spec.filters: the local stack does not support this field; here",
        ),
        (SECRET, "data", {"key": "no base64"}, "data.key is not text in base64"),
        (SECRET, "data", {"key": base64.b64encode(b"a\0b").decode()}, "data.key holds a zero byte"),
    ],
)
def test_what_is_refused_with_which_sentence(text: str, place: str, value: Any, told: str) -> None:
    assert told in refusal(changed(text, place, value))


def test_several_containers_are_refused() -> None:
    one = yaml.safe_load(DETECTOR)["spec"]["template"]["spec"]["containers"][0]
    told = refusal(changed(DETECTOR, f"{POD}.containers", [one, one]))
    assert "spec.template.spec.containers: the local stack takes 1 of these, not 2" in told


def test_several_mistakes_are_counted_and_the_first_ones_told() -> None:
    content = changed(MODEL, f"{GRAPH}.children", [{}])
    content["spec"] |= {"a": 1, "b": 2, "c": 3, "d": 4}
    told = refusal(content)
    assert "and 4 more" in told
    assert "spec.a" in told


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("stringData", {"password": 31337123}),
        ("stringData", {"password": ["hunter2"]}),
        ("stringData", ["hunter2"]),
        ("stringData", "hunter2"),
        ("data", {"password": "hunter2!"}),
        ("data", {"password": 31337123}),
        ("data", "hunter2"),
        ("data.password", base64.b64encode(b"hunter2\xff").decode()),
    ],
)
def test_what_a_secret_holds_is_in_no_error(place: str, value: Any) -> None:
    content = changed(SECRET, place, value)
    told = refusal(content)
    assert place.partition(".")[0] in told
    with pytest.raises(ManifestError) as caught:
        parse(Document("some.yaml", content))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told
    assert "31337123" not in told
    assert base64.b64encode(b"hunter2")[:8].decode() not in told


def test_data_of_a_secret_is_decoded_and_string_data_wins() -> None:
    content = yaml.safe_load(SECRET) | {
        "data": {"a": base64.b64encode("ä".encode()).decode(), "b": "eA=="},
        "stringData": {"b": "y"},
    }
    one = parse(Document("some.yaml", content))
    assert isinstance(one, Secret)
    assert one.values == {"a": "ä", "b": "y"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (DETECTOR, f"{CONTAINER}.resources"),
        (DETECTOR, f"{CONTAINER}.livenessProbe"),
        (DETECTOR, f"{CONTAINER}.securityContext"),
        (MODEL, f"{PREDICTOR}.svcOrchSpec"),
    ],
)
def test_what_has_no_effect_on_one_machine_is_taken(text: str, place: str) -> None:
    parse(Document("some.yaml", changed(text, place, {"anything": [1]})))


def test_equal_manifests_are_equal_objects_and_others_are_not() -> None:
    def made(text: str) -> Object:
        return parse(Document("some.yaml", yaml.safe_load(text)))

    assert made(DETECTOR) == made(textwrap.dedent(DETECTOR).replace("1.19.0", "1.19.0  # pinned"))
    assert made(DETECTOR) != made(DETECTOR.replace("1.19.0", "1.18.0"))
    assert isinstance(made(DETECTOR), Deployment)
    assert set(KINDS) >= {"SeldonDeployment", "Deployment", "Service", "Trigger", "Broker"}
