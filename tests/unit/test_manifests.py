"""What the manifests promise to whoever copies them, and that they fit together and to our servers."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from helpers import artifacts
from helpers.errors import ManifestError
from helpers.serving.detect import cli as detect
from helpers.serving.explain import cli as explain
from helpers.serving.explain.app import seed_from_environment
from helpers.serving.explain.methods import method_class
from helpers.serving.payload_log import cli as payload_log
from helpers.serving.storage import locate
from helpers.stack import documents
from helpers.stack.local import resources
from helpers.train import pipeline

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
# What is copied and applied as it is; overlays are in test_kustomize.py.
FILES = {
    str(path.relative_to(MANIFESTS)): path
    for path in sorted(MANIFESTS.rglob("*.yaml"))
    if path.name not in documents.KUSTOMIZATIONS and "overlays" not in path.parts
}

NAMESPACE = "walkthrough"
BROKER = "http://broker-ingress.knative-eventing.svc.cluster.local/walkthrough/default"
TF_SERVING = "http://0.0.0.0:2001"  # in the pod of Seldon's proxy
OBJECT_STORE = "http://minio.minio-system.svc.cluster.local:9000"  # kind/ brings it
OURS = "walkthrough/serving"

Object = dict[str, Any]


@functools.cache
def read(file: str) -> list[documents.Document]:
    return documents.read([FILES[file]])


def objects(file: str) -> list[Object]:
    return [copy.deepcopy(document.content) for document in read(file)]


def only(file: str, kind: str) -> Object:
    (found,) = [one for one in objects(file) if one["kind"] == kind]
    return found


def every(kind: str) -> list[Object]:
    return [one for file in FILES for one in objects(file) if one["kind"] == kind]


def named(kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in every(kind)}


def files_with(kind: str) -> list[str]:
    return [file for file in FILES if any(one["kind"] == kind for one in objects(file))]


def containers(file: str) -> Iterator[Object]:
    """Every container that a file describes, each with its pod's security context in `pod`."""
    for one in objects(file):
        if one["kind"] == "Deployment":
            pods = [one["spec"]["template"]["spec"]]
        elif one["kind"] == "SeldonDeployment":
            predictors = one["spec"]["predictors"]
            pods = [pod["spec"] for each in predictors for pod in each.get("componentSpecs", [])]
            explainers = [each["explainer"] for each in predictors if "explainer" in each]
            pods += [{"containers": [explainer["containerSpec"]]} for explainer in explainers]
        elif one["kind"] == "InferenceService":
            pods = [one["spec"]["explainer"]]
        else:
            continue
        for pod in pods:
            for container in pod["containers"]:
                yield {**container, "pod": pod}


def environment(container: Object) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


def text_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inside in value.values():
            yield from text_of(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from text_of(inside)


# Of kinds that only a cluster has.
CLUSTER_ONLY = ("canary/kind/", "kserve/", "monitoring/monitors/")

FILE = pytest.mark.parametrize("file", FILES)
DEPLOYMENT = pytest.mark.parametrize("file", files_with("Deployment"))
WORKLOAD = pytest.mark.parametrize(
    "file", files_with("Deployment") + files_with("SeldonDeployment")
)


@FILE
def test_first_line_says_how_to_apply(file):
    first = FILES[file].read_text().partition("\n")[0]
    assert re.fullmatch(rf"# \S.*: kubectl apply -f manifests/{re.escape(file)}", first)


@FILE
def test_one_component_in_a_file(file):
    kinds = sorted(one["kind"] for one in objects(file))
    assert len(kinds) == 1 or kinds in (["Deployment", "Service"], ["Secret", "ServiceAccount"])
    assert len({one["metadata"]["name"] for one in objects(file)}) == 1


@FILE
def test_namespace_and_labels(file):
    for one in objects(file):
        metadata = one["metadata"]
        assert metadata["namespace"] == NAMESPACE
        labels = {key.removeprefix("app.kubernetes.io/") for key in metadata["labels"]}
        assert labels == {"name", "component", "part-of"}
        assert metadata["labels"]["app.kubernetes.io/name"] == metadata["name"]
        assert metadata["labels"]["app.kubernetes.io/part-of"] == NAMESPACE


def refusal(document: documents.Document) -> str:
    """Why the local stack does not take a document; nothing where it does."""
    try:
        resources.parse(document)
    except ManifestError as problem:
        return str(problem)
    return ""


@FILE
def test_the_local_stack_understands_every_field(file):
    refused = [told for document in read(file) if (told := refusal(document))]
    assert bool(refused) == file.startswith(CLUSTER_ONLY)
    for told in refused:
        assert "not supported by the local stack" in told


@WORKLOAD
def test_containers_are_confined(file):
    for container in containers(file):
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}


@DEPLOYMENT
def test_the_root_file_system_is_read_only(file):
    for container in containers(file):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        volumes = {volume["name"] for volume in container["pod"]["volumes"] if "emptyDir" in volume}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == volumes
        assert "/tmp" in mounts
        written = [
            environment(container).get("NUMBA_CACHE_DIR", "/tmp"),
            *[word.partition("=")[2] for word in container["args"] if word.startswith("--state=")],
        ]
        for folder in written:
            assert any(Path(folder).is_relative_to(mount) for mount in mounts), folder


@WORKLOAD
def test_requests_and_limits(file):
    for container in containers(file):
        for part in ("requests", "limits"):
            assert container["resources"][part].keys() == {"cpu", "memory"}
        for resource in ("cpu", "memory"):
            asked, limit = (
                amount(container["resources"][part][resource]) for part in ("requests", "limits")
            )
            assert 0 < asked <= limit


def amount(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(m|Mi|Gi|)", text).groups()
    return float(number) * {"m": 0.001, "": 1, "Mi": 2**20, "Gi": 2**30}[unit]


@WORKLOAD
def test_probes_ask_what_the_server_answers(file):
    for container in containers(file):
        probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
        # The operator adds an explainer's port, by this name.
        ports = {port["name"] for port in container.get("ports", [{"name": "http"}])}
        for probe in probes.values():
            (handler,) = probe.keys() & {"httpGet", "tcpSocket"}
            assert probe[handler]["port"] in ports
        paths = {name: probe.get("httpGet", {}).get("path") for name, probe in probes.items()}
        if "helpers.serving.mlserver_explain" in container.get("command", []):
            ready = f"/v2/models/{container['name']}/ready"
            assert paths == {"startup": ready, "readiness": ready, "liveness": "/v2/health/live"}
        elif container["image"].startswith(f"{OURS}:"):
            assert paths == {"startup": "/live", "readiness": "/ready", "liveness": "/live"}
        elif container["image"].startswith("tensorflow/"):
            # `tfserving` stands behind Seldon's proxy, and serves the graph's node like the others.
            assert paths["readiness"] == f"/v1/models/{container['name']}".replace(
                "tfserving", "resnet32"
            )
        else:
            assert set(paths.values()) == {None}


@DEPLOYMENT
def test_a_service_leads_to_its_deployment(file):
    deployment, service = only(file, "Deployment"), only(file, "Service")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in containers_of(template)["ports"]}
    (port,) = service["spec"]["ports"]
    assert port["port"] == 80
    listens = {
        word.partition("=")[2]
        for word in containers_of(template)["args"]
        if re.match(r"--(http_)?port=", word)
    }
    assert listens == {str(ports[port["targetPort"]])}


def containers_of(template: Object) -> Object:
    (container,) = template["spec"]["containers"]
    return container


def test_deployments_are_selected_apart():
    by_selector = {}
    for deployment in every("Deployment"):
        selector = tuple(deployment["spec"]["selector"]["matchLabels"].items())
        by_selector.setdefault(selector, set()).add(deployment["metadata"]["name"])
    assert all(len(names) == 1 for names in by_selector.values())


@pytest.mark.parametrize("file", ["detectors/drift-ks.yaml", "logging/payload-logger.yaml"])
def test_there_is_never_a_second_one_of_what_keeps_state(file):
    spec = only(file, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_secrets_that_are_referred_to_are_defined():
    referred = set()
    for one in [one for file in FILES for one in objects(file)]:
        referred |= set(values_of(one, "envSecretRefName"))
        referred |= {reference["name"] for reference in values_of(one, "secretRef")}
    for account in every("ServiceAccount"):
        referred |= {reference["name"] for reference in account["secrets"]}
    assert referred == named("Secret")


def test_kserve_uses_an_account_with_the_keys_of_the_same_store():
    secret, account = objects("kserve/s3-service-account.yaml")
    served = only("kserve/cifar10.yaml", "InferenceService")["spec"]
    for part in ("predictor", "explainer"):
        assert served[part]["serviceAccountName"] == account["metadata"]["name"]
    rclone = only("storage/s3-credentials.yaml", "Secret")["stringData"]
    keys = {name.removeprefix("RCLONE_CONFIG_S3_"): value for name, value in rclone.items()}
    assert secret["stringData"] == {
        "AWS_ACCESS_KEY_ID": keys["ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": keys["SECRET_ACCESS_KEY"],
    }
    endpoint = secret["metadata"]["annotations"]["serving.kserve.io/s3-endpoint"]
    assert f"http://{endpoint}" == keys["ENDPOINT"] == OBJECT_STORE


def test_config_maps_that_are_referred_to_are_defined_or_optional():
    references = [
        reference
        for one in [one for file in FILES for one in objects(file)]
        for reference in values_of(one, "configMapRef")
    ]
    needed = {one["name"] for one in references if not one.get("optional")}
    assert needed == named("ConfigMap")
    # The overlay kind-logging makes it, and without it the logger keeps its log itself.
    assert {one["name"] for one in references if one.get("optional")} == {"payload-log"}


def values_of(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for inside in value.values():
            yield from values_of(inside, key)
    elif isinstance(value, list):
        for inside in value:
            yield from values_of(inside, key)


@FILE
def test_addresses_in_the_cluster_exist(file):
    ports = {
        one["metadata"]["name"]: {port["port"] for port in one["spec"]["ports"]}
        for one in every("Service")
    }
    for one in objects(file):
        for text in text_of(one):
            for address in re.findall(r"https?://\S+", text):
                if address in (BROKER, OBJECT_STORE, TF_SERVING):
                    continue
                name, port = re.fullmatch(rf"http://([a-z-]+)\.{NAMESPACE}:(\d+)", address).groups()
                assert int(port) in ports[name]


def test_the_broker_of_the_addresses_is_defined():
    assert named("Broker") == {BROKER.rpartition("/")[2]}


@pytest.mark.parametrize("file", files_with("Trigger"))
def test_triggers_join_what_is_defined(file):
    trigger = only(file, "Trigger")
    spec = trigger["spec"]
    assert spec["broker"] in named("Broker")
    reference = spec["subscriber"]["ref"]
    assert (reference["apiVersion"], reference["kind"]) == ("v1", "Service")
    assert reference["name"] in named("Service")
    assert trigger["metadata"]["name"] == reference["name"]
    wanted = spec.get("filter", {}).get("attributes", {})
    assert all(isinstance(value, str) for value in wanted.values())
    assert wanted.keys() <= {"type", "inferenceservicename"}
    if "inferenceservicename" in wanted:
        assert wanted["inferenceservicename"] in named("SeldonDeployment")


@pytest.mark.parametrize(
    ("file", "event"),
    [
        ("eventing/trigger-payload-logger", None),
        ("eventing/trigger-outlier-vae", "io.seldon.serving.inference.request"),
        ("eventing/trigger-drift-ks", "io.seldon.serving.inference.request"),
        ("patterns/inliers-only/trigger-drift-ks", "io.seldon.serving.inference.inlier"),
        ("eventing/trigger-multiclass-metrics", "io.seldon.serving.feedback"),
    ],
)
def test_event_types_of_triggers(file, event):
    spec = only(f"{file}.yaml", "Trigger")["spec"]
    assert spec.get("filter", {}).get("attributes", {}).get("type") == event


def test_one_drift_trigger_replaces_the_other():
    plain, inliers = (
        only(f"{folder}/trigger-drift-ks.yaml", "Trigger")
        for folder in ("eventing", "patterns/inliers-only")
    )
    attributes = plain["spec"]["filter"]["attributes"]
    attributes["type"] = inliers["spec"]["filter"]["attributes"]["type"]
    assert plain == inliers


def test_logged_is_the_plain_model_with_a_logger():
    logged = only("logging/cifar10-logged.yaml", "SeldonDeployment")
    logger = logged["spec"]["predictors"][0]["graph"].pop("logger")
    assert logger == {"mode": "all", "url": BROKER}
    assert logged == only("model/cifar10.yaml", "SeldonDeployment")


def test_explained_is_the_logged_model_with_an_explainer():
    explained = only("explainers/cifar10-explained.yaml", "SeldonDeployment")
    explainer = explained["spec"]["predictors"][0].pop("explainer")
    assert (explainer["type"], explainer["config"]) == ("AnchorImages", {"n_covered_ex": "1"})
    assert explained == only("logging/cifar10-logged.yaml", "SeldonDeployment")


def test_what_forwarding_changes_in_the_outlier_detector():
    plain, forwarding = (
        only(f"{folder}/outlier-vae.yaml", "Deployment")
        for folder in ("detectors", "patterns/inliers-only")
    )
    before, after = (
        copy.deepcopy(containers_of(one["spec"]["template"])) for one in (plain, forwarding)
    )
    for one in (plain, forwarding):
        one["spec"]["template"]["spec"]["containers"] = []
    assert plain == forwarding
    assert only("detectors/outlier-vae.yaml", "Service") == only(
        "patterns/inliers-only/outlier-vae.yaml", "Service"
    )

    told, told_after = environment(before), environment(after)
    assert told_after.pop("FORWARD_INLIERS_URL") == BROKER
    assert told == told_after
    for one in (before, after):
        one.pop("env")
    assert before == after


@DEPLOYMENT
def test_labels_of_metrics_name_the_model_that_is_watched(file):
    (container,) = containers(file)
    told = environment(container)
    if file == "logging/payload-logger.yaml":
        assert told == {}
        return
    model = only("model/cifar10.yaml", "SeldonDeployment")
    predictor = model["spec"]["predictors"][0]
    assert told["SELDON_DEPLOYMENT_ID"] == model["metadata"]["name"]
    assert told["SELDON_DEPLOYMENT_NAMESPACE"] == model["metadata"]["namespace"]
    assert told["PREDICTOR_ID"] == predictor["name"]
    assert told["PREDICTIVE_UNIT_ID"] == predictor["graph"]["name"]
    assert told["PREDICTIVE_UNIT_IMAGE"] == container["image"]
    assert told["TF_USE_LEGACY_KERAS"] == "1"


@pytest.mark.parametrize(
    "file", [file for file in files_with("Deployment") if file != "logging/payload-logger.yaml"]
)
def test_our_detect_server_takes_the_arguments(file, monkeypatch):
    (container,) = containers(file)
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value)
    args = detect.parser().parse_args(container["args"])
    assert container["command"] == ["python", "-m", "helpers.serving.detect"]
    name = only(file, "Service")["metadata"]["name"]
    assert args.model_name == name
    assert args.event_source == f"io.seldon.serving.{name}"
    assert args.reply_url == ""
    server = detect.build(args)
    if args.kind == detect.METRICS:
        assert args.protocol == "seldonfeedback.http"
        return
    assert (
        args.protocol
        == only("model/cifar10.yaml", "SeldonDeployment")["spec"]["protocol"] + ".http"
    )
    assert (args.event_type.rpartition(".")[2], args.kind) in {
        ("outlier", detect.OUTLIER),
        ("drift", detect.DRIFT),
    }
    assert (locate(args.storage_uri).folder / "artifact.json").is_file()
    forwards = "FORWARD_INLIERS_URL" in environment(container)
    assert (server.forwarder is not None) == forwards


def test_the_window_of_the_drift_detector():
    (container,) = containers("detectors/drift-ks.yaml")
    assert detect.parser().parse_args(container["args"]).drift_batch_size == 1000


def test_our_explain_server_takes_what_the_operator_makes_of_the_explainer(monkeypatch):
    deployment = only("explainers/cifar10-explained.yaml", "SeldonDeployment")
    predictor = deployment["spec"]["predictors"][0]
    explainer = predictor["explainer"]
    assert "args" not in explainer["containerSpec"]  # the operator would overwrite them
    assert explainer["containerSpec"]["command"] == ["python", "-m", "helpers.serving.explain"]
    assert environment(explainer["containerSpec"])["SERVING_HOST"] == "0.0.0.0"
    arguments = [
        f"--model_name={predictor['graph']['name']}",
        "--predictor_host=cifar10-default.walkthrough:8000",
        f"--protocol={deployment['spec']['protocol']}.http",
        "--http_port=9000",
        f"--storage_uri={explainer['modelUri']}",
        explainer["type"],
        "--tf_data_type=float32",
        *[f"--{key}={value}" for key, value in sorted(explainer["config"].items())],
    ]
    args = explain.parser().parse_args(arguments)
    assert explain.read_options(method_class(args.method).options, args).n_covered_ex == 1
    for name, value in environment(explainer["containerSpec"]).items():
        monkeypatch.setenv(name, value)
    assert seed_from_environment() == 0


def test_the_payload_log_takes_the_arguments(monkeypatch):
    (container,) = containers("logging/payload-logger.yaml")
    assert container["command"] == ["python", "-m", "helpers.serving.payload_log"]
    context = get_command(payload_log.app).make_context("payload_log", list(container["args"]))
    assert context.params["host"] == "127.0.0.1"
    monkeypatch.setenv("SERVING_HOST", "0.0.0.0")  # as our image sets it
    context = get_command(payload_log.app).make_context("payload_log", list(container["args"]))
    assert context.params["host"] == "0.0.0.0"
    assert context.params["state"] == Path("/var/lib/payload-log")


def test_every_artefact_of_a_manifest_is_committed():
    uris = {
        text.partition("=")[2] if text.startswith("--") else text
        for file in FILES
        for one in objects(file)
        for text in text_of(one)
        if re.match(r"(--storage_uri=)?s3:", text)
    }
    found = {
        # The single file that KServe downloads lies in the artefact's folder.
        locate(uri.removesuffix("/single")).folder.relative_to(artifacts.root()).as_posix()
        for uri in uris
    }
    assert found == {f"cifar10/{name}" for name in pipeline.NAMES} | {
        f"{dataset}/{name}" for dataset, names in pipeline.OTHER_NAMES.items() for name in names
    }
    for name in found:
        assert (artifacts.root() / name / "artifact.json").is_file()


def test_the_table_of_the_readme_is_complete():
    lines = (MANIFESTS / "README.md").read_text().splitlines()
    rows = [line for line in lines if re.match(r"\| `(?!overlays/)", line)]
    cells = [line.strip("|").split("|") for line in rows]
    told = {row[0].strip(" `"): re.findall(r"`([^`]+)`", row[2]) for row in cells}
    assert len(told) == len(cells)
    assert told == {file: [container["image"] for container in containers(file)] for file in FILES}
