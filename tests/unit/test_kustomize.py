"""Overlays, rendered by real kubectls: valid, the plain files but for what they are to change, and of one piece."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.serving.payload_log import cli as payload_log
from helpers.stack import documents
from helpers.stack.local import resources

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
FOLDERS = {
    str(path.parent.relative_to(MANIFESTS)): path.parent
    for path in sorted(MANIFESTS.rglob("kustomization.yaml"))
}
# What kustomize 2.0.3 of kubectl 1.20 knows and current ones still do, of all that is needed here.
FIELDS = {
    "apiVersion",
    "kind",
    "bases",
    "resources",
    "patchesJson6902",
    "patchesStrategicMerge",
    "configMapGenerator",
    "generatorOptions",
}

Object = dict[str, Any]
Key = tuple[str, str]
Render = Callable[[str, Path], list[Object]]

FOLDER = pytest.mark.parametrize("folder", FOLDERS)
VARIANT = pytest.mark.parametrize("variant", ["small", "production"])


def kustomization(folder: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDERS[folder] / "kustomization.yaml").read_text(encoding="utf-8"))


def key(one: Object) -> Key:
    return one["kind"], one["metadata"]["name"]


def plain(folder: str) -> dict[Key, Object]:
    """The objects of the files that a kustomization and those below it name, as they stand there."""
    told = kustomization(folder)
    found: dict[Key, Object] = {}
    for base in told.get("bases", []):
        below = (FOLDERS[folder] / base).resolve().relative_to(MANIFESTS)
        found |= plain(str(below))
    files = [FOLDERS[folder] / name for name in told.get("resources", [])]
    if files:
        found |= {key(one.content): one.content for one in documents.read(files)}
    return found


@pytest.fixture
def rendered(kubectls: list[str], render: Render) -> Callable[[str], dict[Key, Object]]:
    """Return rendered(folder): its objects as the first kubectl renders them."""

    def rendered(folder: str) -> dict[Key, Object]:
        return {key(one): copy.deepcopy(one) for one in render(kubectls[0], FOLDERS[folder])}

    return rendered


@FOLDER
def test_every_kubectl_renders_the_same_valid_objects(
    folder: str, kubectls: list[str], render: Render, problems: Callable[[Object], list[str]]
) -> None:
    first = render(kubectls[0], FOLDERS[folder])
    assert len({key(one) for one in first}) == len(first) > 0
    for one in first:
        assert problems(one) == [], key(one)
    for kubectl in kubectls[1:]:
        assert render(kubectl, FOLDERS[folder]) == first, kubectl


@FOLDER
def test_what_no_overlay_touches_is_the_plain_file(
    folder: str, rendered: Callable[[str], dict[Key, Object]]
) -> None:
    files, made = plain(folder), rendered(folder)
    generated = {one for one in made if one not in files}
    assert files.keys() <= made.keys()
    assert {kind for kind, _ in generated} <= {"ConfigMap"}
    changed = {one for one in files if made[one] != files[one]}
    assert changed == set(patched(folder))


def patched(folder: str) -> Iterator[Key]:
    """The objects that the patches of a kustomization name."""
    told = kustomization(folder)
    for patch in told.get("patchesJson6902", []):
        yield patch["target"]["kind"], patch["target"]["name"]
    for name in told.get("patchesStrategicMerge", []):
        for one in documents.read([FOLDERS[folder] / name]):
            yield key(one.content)


@FOLDER
def test_kustomizations_are_for_old_kubectls_too(folder: str) -> None:
    told = kustomization(folder)
    assert told.keys() <= FIELDS
    assert (told["apiVersion"], told["kind"]) == (
        "kustomize.config.k8s.io/v1beta1",
        "Kustomization",
    )
    # kustomize 2.0.3 takes files there and folders here, and no file from outside the folder.
    for name in told.get("resources", []):
        assert (FOLDERS[folder] / name).is_file()
        assert ".." not in Path(name).parts
    for name in told.get("bases", []):
        assert (FOLDERS[folder] / name / "kustomization.yaml").is_file()


@FOLDER
def test_the_first_line_says_how_to_apply(folder: str) -> None:
    first = (FOLDERS[folder] / "kustomization.yaml").read_text().partition("\n")[0]
    assert re.fullmatch(rf"# \S.*: kubectl apply -k manifests/{re.escape(folder)}", first)


def test_nothing_of_a_folder_is_forgotten() -> None:
    for folder in ("eventing", "detectors", "metrics", "storage"):
        files = {path.name for path in FOLDERS[folder].glob("*.yaml")} - {"kustomization.yaml"}
        assert set(kustomization(folder)["resources"]) == files
    told = kustomization("monitoring")
    here = FOLDERS["monitoring"]
    assert set(told["resources"]) == {
        str(path.relative_to(here))
        for name in ("monitors", "rules")
        for path in here.glob(f"{name}/*")
    }
    assert sorted(file for one in told["configMapGenerator"] for file in one["files"]) == sorted(
        str(path.relative_to(here)) for path in here.glob("dashboards/*")
    )


def test_dashboards_are_config_maps_that_grafana_finds(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    maps = {
        name: one for (kind, name), one in rendered("monitoring").items() if kind == "ConfigMap"
    }
    dashboards = sorted(FOLDERS["monitoring"].glob("dashboards/*.json"))
    assert maps.keys() == {f"dashboard-{path.stem}" for path in dashboards}
    for path in dashboards:
        one = maps[f"dashboard-{path.stem}"]
        assert one["metadata"]["namespace"] == "monitoring"
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["data"] == {path.name: path.read_text(encoding="utf-8")}
        # kubectl keeps it a second time, escaped, in an annotation, and all of them may have 256 KiB.
        assert len(json.dumps(one)) < 200_000


def test_the_cluster_gets_all_that_the_manifests_need(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    kind = rendered("overlays/kind")
    assert ("Namespace", "walkthrough") in kind
    assert ("Secret", "s3-credentials") in kind
    (logger,) = [
        one.content
        for one in documents.read([MANIFESTS / "logging" / "payload-logger.yaml"])
        if one.content["kind"] == "Deployment"
    ]
    (container,) = logger["spec"]["template"]["spec"]["containers"]
    (source,) = container["envFrom"]
    assert source["configMapRef"]["optional"] is True
    told = kind["ConfigMap", source["configMapRef"]["name"]]
    assert told["metadata"]["namespace"] == logger["metadata"]["namespace"]
    # It goes where kind/components puts it, under the name that the logger reads.
    ((name, url), _) = sorted(told["data"].items())
    assert told["data"]["PAYLOAD_LOG_KEEP_DAYS"] == "30"
    assert name in Path(payload_log.__file__).read_text(encoding="utf-8")
    services = [
        one.content
        for one in documents.read([ROOT / "kind" / "components" / "elasticsearch.yaml"])
        if one.content["kind"] == "Service"
    ]
    assert url in {
        f"http://{one['metadata']['name']}.{one['metadata']['namespace']}:{one['spec']['ports'][0]['port']}"
        for one in services
    }


def test_the_walkthrough_is_complete(rendered: Callable[[str], dict[Key, Object]]) -> None:
    made = rendered("overlays/walkthrough")
    triggers = {name for kind, name in made if kind == "Trigger"}
    assert triggers == {"drift-ks", "multiclass-metrics", "outlier-vae", "payload-logger"}
    for name in triggers:
        subscriber = made["Trigger", name]["spec"]["subscriber"]["ref"]
        assert ("Service", subscriber["name"]) in made
        assert ("Deployment", subscriber["name"]) in made
        assert ("Broker", made["Trigger", name]["spec"]["broker"]) in made
    (predictor,) = made["SeldonDeployment", "cifar10"]["spec"]["predictors"]
    assert predictor["graph"]["logger"]["mode"] == "all"
    assert predictor["explainer"]["type"] == "AnchorImages"
    assert ("Secret", predictor["graph"]["envSecretRefName"]) in made


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """The places at which two values differ; list items by their position."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() | after.keys():
            yield from differences(before.get(name), after.get(name), f"{place}.{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from differences(one, other, f"{place}[]")
    elif before != after:
        yield place


CONTAINER = ".spec.template.spec.containers[]"
PREDICTOR = ".spec.predictors[]"
CHANGES = {
    "small": {
        f"{CONTAINER}.resources.requests.cpu",
        f"{CONTAINER}.resources.requests.memory",
        f"{PREDICTOR}.svcOrchSpec",
        f"{PREDICTOR}.componentSpecs[].spec.containers[].resources.requests.cpu",
        f"{PREDICTOR}.componentSpecs[].spec.containers[].resources.requests.memory",
        f"{PREDICTOR}.explainer.containerSpec.resources.requests.cpu",
        f"{PREDICTOR}.explainer.containerSpec.resources.requests.memory",
    },
    "production": {
        ".spec.replicas",
        ".spec.template.spec.topologySpreadConstraints",
        f"{PREDICTOR}.replicas",
        f"{PREDICTOR}.svcOrchSpec",
        f"{PREDICTOR}.componentSpecs[].pdbSpec",
        f"{PREDICTOR}.componentSpecs[].spec.topologySpreadConstraints",
        f"{PREDICTOR}.explainer.replicas",
    },
}


@VARIANT
def test_what_a_variant_changes(variant: str, rendered: Callable[[str], dict[Key, Object]]) -> None:
    base, made = (rendered(f"overlays/walkthrough{end}") for end in ("", f"-{variant}"))
    changed = {place for one in base for place in differences(base[one], made[one])}
    assert changed == CHANGES[variant]


def test_seldons_own_explainer_image_starts_as_it_is(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    changed = "SeldonDeployment", "cifar10"
    ours, seldons = (
        rendered(folder)[changed] for folder in ("explainers", "overlays/seldon-explainer")
    )
    container = f"{PREDICTOR}.explainer.containerSpec"
    assert set(differences(ours, seldons)) == {
        f"{container}.{name}" for name in ("image", "command", "env")
    } | {
        f"{container}.{name}Probe.{handler}"
        for name in ("startup", "readiness", "liveness")
        for handler in ("httpGet", "tcpSocket")
    }
    before, after = (
        one["spec"]["predictors"][0]["explainer"]["containerSpec"] for one in (ours, seldons)
    )
    assert after["image"].startswith("seldonio/alibiexplainer:")
    assert "command" not in after
    assert [one for one in before["env"] if one not in after["env"]] == [
        {"name": "SERVING_HOST", "value": "0.0.0.0"}
    ]
    for name in ("startup", "readiness", "liveness"):
        assert after[f"{name}Probe"]["tcpSocket"] == {"port": "http"}


def test_seldons_own_detect_image_sends_its_events_itself(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    """Its answer is no event: Knative takes it for a failure, and must not try again."""
    made = rendered("overlays/seldon-detectors")
    ours = rendered("overlays/walkthrough")
    broker = "http://broker-ingress.knative-eventing.svc.cluster.local/walkthrough/default"
    for name in ("drift-ks", "multiclass-metrics", "outlier-vae"):
        assert made["Trigger", name]["spec"]["delivery"] == {"retry": 0}
        before, after = (
            objects["Deployment", name]["spec"]["template"]["spec"]["containers"][0]
            for objects in (ours, made)
        )
        assert after["image"].startswith("seldonio/alibi-detect-server:")
        assert "command" not in after
        assert [one for one in after["args"] if one not in before["args"]] == [
            f"--reply_url={broker}"
        ]
        assert [one for one in after["args"] if one in before["args"]] == before["args"]
        told_before, told = (
            {variable["name"]: variable["value"] for variable in one["env"]}
            for one in (before, after)
        )
        assert told.pop("PREDICTIVE_UNIT_IMAGE") == after["image"]
        assert told_before.pop("PREDICTIVE_UNIT_IMAGE") == before["image"]
        downloads = name != "multiclass-metrics"
        assert (told.pop("DRIFT_ARTIFACTS_DIR", None) == "/tmp") == downloads
        assert ("envFrom" in after) == downloads
        assert told == told_before
        assert after["resources"]["limits"]["memory"] == "2Gi"  # TensorFlow, whatever it serves
        for probe in ("startup", "readiness", "liveness"):
            assert "httpGet" not in after[f"{probe}Probe"]
            assert after[f"{probe}Probe"]["tcpSocket"] == {"port": "http"}


UNITS = {"": 1.0, "m": 0.001, "Mi": 2.0**20, "Gi": 2.0**30}
ORCHESTRATOR = {"cpu": "500m", "memory": "512Mi"}  # the operator's default


def amount(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(m|Mi|Gi|)", text).groups()
    return float(number) * UNITS[unit]


def requests(objects: dict[Key, Object]) -> tuple[float, float]:
    """CPUs and bytes that all pods together ask for."""
    asked: list[tuple[int, dict[str, str]]] = []
    for (kind, _), one in objects.items():
        if kind == "Deployment":
            containers = one["spec"]["template"]["spec"]["containers"]
            asked += [
                (one["spec"]["replicas"], each["resources"]["requests"]) for each in containers
            ]
        elif kind == "SeldonDeployment":
            for predictor in one["spec"]["predictors"]:
                orchestrator = predictor.get("svcOrchSpec", {}).get("resources", {})
                pod = [orchestrator.get("requests", ORCHESTRATOR)]
                pod += [
                    container["resources"]["requests"]
                    for spec in predictor["componentSpecs"]
                    for container in spec["spec"]["containers"]
                ]
                asked += [(predictor["replicas"], each) for each in pod]
                explainer = predictor["explainer"]
                asked.append(
                    (
                        explainer.get("replicas", 1),
                        explainer["containerSpec"]["resources"]["requests"],
                    )
                )
    cpu, memory = (
        sum(replicas * amount(each[name]) for replicas, each in asked) for name in ("cpu", "memory")
    )
    return cpu, memory


def table() -> dict[str, list[str]]:
    """The README's table of overlays: folder -> the other cells."""
    rows = re.findall(
        r"^\| `overlays/([a-z-]+)` \|(.*)\|$", (MANIFESTS / "README.md").read_text(), re.M
    )
    assert len(dict(rows)) == len(rows)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_the_readme_lists_every_overlay() -> None:
    overlays = [name.removeprefix("overlays/") for name in FOLDERS if name.startswith("overlays/")]
    assert sorted(table()) == sorted(overlays)
    told = (MANIFESTS / "README.md").read_text()
    for folder in FOLDERS:
        if not folder.startswith("overlays/"):
            assert f"`{folder}/`" in told


@pytest.mark.parametrize("variant", ["", "-small", "-production"])
def test_the_readme_says_what_a_variant_asks_for(
    variant: str, rendered: Callable[[str], dict[Key, Object]]
) -> None:
    cpu, memory = requests(rendered(f"overlays/walkthrough{variant}"))
    assert table()[f"walkthrough{variant}"][-1] == f"{cpu:.1f} CPUs, {memory / 2**30:.1f} GiB"


def test_small_fits_beside_the_rest_of_a_cluster_on_8_gb(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    cpu, memory = requests(rendered("overlays/walkthrough-small"))
    assert cpu < 0.5
    assert memory < 3.2 * 2**30


# Production


def pods(objects: dict[Key, Object]) -> Iterator[tuple[str, int, dict[str, str]]]:
    """Of every Deployment its name, replicas and labels of pods."""
    for (kind, name), one in objects.items():
        if kind == "Deployment":
            yield name, one["spec"]["replicas"], one["spec"]["template"]["metadata"]["labels"]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_what_keeps_state_stays_alone_and_the_others_have_a_budget(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    made = rendered("overlays/walkthrough-production")
    budgets = [one["spec"] for (kind, _), one in made.items() if kind == "PodDisruptionBudget"]
    alone = set()
    for name, replicas, labels in pods(made):
        of_it = [one for one in budgets if selects(one["selector"], labels)]
        if replicas == 1:
            alone.add(name)
        # Two budgets for one pod, and it can never be evicted; one for a single pod, nearly the same.
        assert len(of_it) == (replicas > 1)
        assert all(one["maxUnavailable"] < replicas for one in of_it)
        constraints = made["Deployment", name]["spec"]["template"]["spec"].get(
            "topologySpreadConstraints", []
        )
        assert len(constraints) == (replicas > 1)
        assert all(selects(one["labelSelector"], labels) for one in constraints)
    assert alone == {"drift-ks", "payload-logger"}


def test_a_spread_names_the_operators_pods(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    deployment = rendered("overlays/walkthrough-production")["SeldonDeployment", "cifar10"]
    (predictor,) = deployment["spec"]["predictors"]
    (spec,) = predictor["componentSpecs"]
    (constraint,) = spec["spec"]["topologySpreadConstraints"]
    name = f"{deployment['metadata']['name']}-{predictor['name']}"
    assert constraint["labelSelector"] == {"matchLabels": {"seldon-app": name}}
    assert spec["pdbSpec"]["maxUnavailable"] < predictor["replicas"]


def ways_in(objects: dict[Key, Object]) -> dict[str, Object]:
    return {name: one["spec"] for (kind, name), one in objects.items() if kind == "NetworkPolicy"}


def test_policies_let_in_who_has_to_come_in(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    made = rendered("overlays/walkthrough-production")
    policies = ways_in(made)
    assert all(one["policyTypes"] == ["Ingress"] for one in policies.values())
    assert policies["within-the-namespace"]["podSelector"] == {}
    assert policies["within-the-namespace"]["ingress"] == [{"from": [{"podSelector": {}}]}]
    ports = {
        name: {port["port"] for rule in one["ingress"] for port in rule.get("ports", [])}
        for name, one in policies.items()
    }
    # Knative's brokers: to the pods behind every subscriber, and to nothing else.
    subscribers = {
        one["spec"]["subscriber"]["ref"]["name"]
        for (kind, _), one in made.items()
        if kind == "Trigger"
    }
    brokers = policies["from-the-brokers"]["podSelector"]
    assert {name for name, _, labels in pods(made) if selects(brokers, labels)} == subscribers
    for name in subscribers:
        (port,) = made["Service", name]["spec"]["ports"]
        (container,) = made["Deployment", name]["spec"]["template"]["spec"]["containers"]
        listens = {one["name"]: one["containerPort"] for one in container["ports"]}
        assert ports["from-the-brokers"] == {listens[port["targetPort"]]}
    # Orchestrator and explainer, on the operator's ports.
    assert ports["from-the-gateway"] == {8000, 9000}
    gateway = yaml.safe_load_all((ROOT / "kind" / "components" / "istio.yaml").read_text())
    (source,) = policies["from-the-gateway"]["ingress"][0]["from"]
    assert source["podSelector"]["matchLabels"] == next(gateway)["spec"]["selector"]
    # Every port that a monitor leads to: test_monitors.py has which those are.
    assert ports["from-prometheus"] == {8000, 6000, 8082, 9000, 8080}


def test_policies_name_namespaces_of_the_cluster(
    rendered: Callable[[str], dict[Key, Object]],
) -> None:
    known = {
        one.content["metadata"]["name"]
        for one in documents.read([ROOT / "kind" / "components" / "namespaces.yaml"])
    }
    named = set()
    for policy in ways_in(rendered("overlays/walkthrough-production")).values():
        for rule in policy["ingress"]:
            for source in rule["from"]:
                labels = source.get("namespaceSelector", {}).get("matchLabels", {})
                named |= set(labels.values())
    assert named == {"istio-system", "knative-eventing", "monitoring"}
    assert named <= known


@FOLDER
def test_a_folder_of_manifests_can_be_applied_without_kustomize(folder: str) -> None:
    """As notebooks do, on both backends; an overlay says what to do instead."""
    if kustomization(folder).get("bases"):
        with pytest.raises(documents.ManifestError, match="kubectl kustomize"):
            documents.read([FOLDERS[folder]])
    elif kustomization(folder).get("resources") and folder != "monitoring":
        read = {key(one.content) for one in documents.read([FOLDERS[folder]])}
        assert plain(folder).keys() <= read


@pytest.mark.parametrize("variant", ["", "-small"])
def test_the_local_stack_takes_what_is_rendered(
    variant: str, rendered: Callable[[str], dict[Key, Object]], tmp_path: Path
) -> None:
    file = tmp_path / "overlay.yaml"
    made = rendered(f"overlays/walkthrough{variant}")
    file.write_text(yaml.safe_dump_all(made.values()), encoding="utf-8")
    parsed = [resources.parse(document) for document in documents.read([file])]
    assert {(one.kind, one.name) for one in parsed} == made.keys()
