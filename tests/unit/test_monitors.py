"""The pod monitors, as a real Prometheus understands them: which ports of which pods, and with which labels."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from helpers.stack.local.programs import split_image
from helpers.stack.local.prometheus import JOB
from tests.monitoring.exposition import exposed_labels, metric_names

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
MONITORS = sorted((MANIFESTS / "monitoring" / "monitors").glob("*.yaml"))
EXECUTOR = "seldonio/seldon-core-executor:1.19.0"
SELDONS_EXPLAINER = "seldonio/alibiexplainer:1.19.0"
# What the operator of Prometheus gives every target of a pod monitor.
TARGET_LABELS = {"namespace", "container", "pod", "endpoint", "job", "instance"}

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="the program `prometheus` is not installed"
)

Object = dict[str, Any]
Ports = dict[str, int]


def objects(*files: str) -> Iterator[Object]:
    for file in files:
        yield from yaml.safe_load_all((MANIFESTS / file).read_text(encoding="utf-8"))


def monitors() -> dict[str, Object]:
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in MONITORS]
    return {one["metadata"]["name"]: one["spec"] for one in found}


# The pods of a cluster, and what Prometheus' service discovery says of them


def pods() -> Iterator[tuple[str, dict[str, str], list[tuple[str, str, Ports]]]]:
    """Each pod's name, labels, and containers with their images and ports.

    Those of a SeldonDeployment are as Seldon's operator 1.19 makes them: the orchestrator beside the model,
    a port `metrics` for every container of a graph (MLServer's ports it writes itself, without that one), and
    an explainer's port `http`.
    """
    for one in objects(
        "detectors/drift-ks.yaml", "metrics/multiclass-metrics.yaml", "logging/payload-logger.yaml"
    ):
        if one["kind"] == "Deployment":
            template = one["spec"]["template"]
            (container,) = template["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            described = (container["name"], container["image"], ports)
            yield one["metadata"]["name"], template["metadata"]["labels"], [described]
    for one in objects(
        "explainers/cifar10-explained.yaml",
        "explainers/production-kernel-shap.yaml",
        "explainers/v2/breast-cancer-ale.yaml",
    ):
        for predictor in one["spec"]["predictors"]:
            name = f"{one['metadata']['name']}-{predictor['name']}"
            yield name, _seldon(name), [*_graph(predictor)]
            explainer = predictor["explainer"]["containerSpec"]
            if name == "cifar10-default":  # as manifests/overlays/seldon-explainer has it
                explainer["image"] = SELDONS_EXPLAINER
            described = (explainer["name"], explainer["image"], {"http": 9000})
            yield f"{name}-explainer", _seldon(f"{name}-explainer"), [described]


def _seldon(app: str) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "seldon-core", "seldon-app": app}


def _graph(predictor: Object) -> Iterator[tuple[str, str, Ports]]:
    for spec in predictor["componentSpecs"]:
        for container in spec["spec"]["containers"]:
            mlserver = split_image(container["image"])[0] == "seldonio/mlserver"
            ports = {"grpc": 9500} if mlserver else {"metrics": 6000}
            yield container["name"], container["image"], {"http": 9000, **ports}
    yield "seldon-container-engine", EXECUTOR, {"http": 8000, "metrics": 8000, "grpc": 5001}


def discovered() -> list[Object]:
    """Every port of every pod, as Prometheus' discovery of pods has it."""
    found = []
    for number, (pod, labels, containers) in enumerate(pods(), start=1):
        for container, image, ports in containers:
            for name, port in ports.items():
                meta = {
                    "namespace": "walkthrough",
                    "pod_name": f"{pod}-5d4f8b7c9d-x{number:04}",
                    "pod_container_name": container,
                    "pod_container_image": image,
                    "pod_container_port_name": name,
                    "pod_container_port_number": str(port),
                    **{f"pod_label_{_safe(key)}": value for key, value in labels.items()},
                }
                found.append(
                    {
                        "targets": [f"127.9.0.{number}:{port}"],
                        "labels": {f"__meta_kubernetes_{key}": value for key, value in meta.items()}
                        | {"owner": pod},
                    }
                )
    return found


def _safe(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def scrape_config(name: str, spec: Object, file: Path) -> Object:
    """What the operator of Prometheus makes of a monitor with one endpoint."""
    (endpoint,) = spec["podMetricsEndpoints"]
    wanted = [
        (f"label_{_safe(key)}", re.escape(value))
        for key, value in spec["selector"].get("matchLabels", {}).items()
    ]
    for expression in spec["selector"].get("matchExpressions", []):
        assert expression["operator"] == "In"
        wanted.append((f"label_{_safe(expression['key'])}", "|".join(expression["values"])))
    wanted.append(("container_port_name", endpoint["port"]))
    relabel: list[Object] = [
        {"action": "keep", "source_labels": [f"__meta_kubernetes_pod_{label}"], "regex": regex}
        for label, regex in wanted
    ]
    copied = {"namespace": "namespace", "container": "pod_container_name", "pod": "pod_name"}
    relabel += [
        {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label}
        for label, source in copied.items()
    ]
    relabel.append({"target_label": "job", "replacement": f"walkthrough/{name}"})
    relabel.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    relabel += [
        {names.get(key, key): value for key, value in one.items()}
        for one in endpoint["relabelings"]
    ]
    return {
        "job_name": f"podMonitor/walkthrough/{name}/0",
        "metrics_path": endpoint["path"],
        "scrape_interval": "1h",  # there is nobody to ask
        "file_sd_configs": [{"files": [str(file)]}],
        "relabel_configs": relabel,
    }


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """Monitor -> the targets that a real Prometheus scrapes for it."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "pods.json").write_text(json.dumps(discovered()))
    jobs = [scrape_config(name, spec, folder / "pods.json") for name, spec in monitors().items()]
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
            "--scrape.discovery-reload-interval=1s",
        ],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("wb"),
    )
    try:
        active: list[Object] = []
        until = time.monotonic() + 60
        while {one["scrapePool"].split("/")[2] for one in active} != monitors().keys():
            log = (folder / "log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < until, f"not every monitor has a target: {active}\n{log}"
            time.sleep(0.1)
            try:
                reply = httpx.get(f"http://{address}/api/v1/targets", timeout=5)
            except httpx.TransportError:
                continue
            active = reply.json()["data"]["activeTargets"] if reply.is_success else []
    finally:
        process.kill()
        process.wait()
    found: dict[str, list[Object]] = {}
    for one in active:
        found.setdefault(one["scrapePool"].split("/")[2], []).append(one)
    return found


# What is scraped: the owner and container, and the port and path
SCRAPED = {
    "seldon": {
        ("cifar10-default", "seldon-container-engine", "8000/prometheus"),
        ("credit-risk-default", "seldon-container-engine", "8000/prometheus"),
        ("credit-risk-default", "forest", "6000/prometheus"),
        ("breast-cancer-default", "seldon-container-engine", "8000/prometheus"),
    },
    "mlserver": {("breast-cancer-default", "logistic", "8082/metrics")},
    "explainers": {
        ("credit-risk-default-explainer", "credit-risk-default-explainer", "9000/metrics"),
        ("breast-cancer-default-explainer", "breast-cancer-default-explainer", "9000/metrics"),
    },
    "detectors": {
        ("drift-ks", "drift-ks", "8080/v1/metrics"),
        ("multiclass-metrics", "multiclass-metrics", "8080/v1/metrics"),
    },
    "payload-logger": {("payload-logger", "payload-logger", "8080/metrics")},
}


@needs_prometheus
def test_what_serves_metrics_is_scraped_and_nothing_else(targets: dict[str, list[Object]]) -> None:
    found = {
        name: {
            (
                one["labels"]["owner"],
                one["labels"]["container"],
                re.fullmatch(r"http://[\d.]+:(.*)", one["scrapeUrl"])[1],
            )
            for one in scraped
        }
        for name, scraped in targets.items()
    }
    assert found == SCRAPED


@needs_prometheus
def test_targets_have_the_labels_that_queries_count_on(targets: dict[str, list[Object]]) -> None:
    for scraped in targets.values():
        for one in scraped:
            labels = one["labels"]
            assert labels.keys() == TARGET_LABELS | {"owner"}
            assert labels["job"] == JOB  # as on the local stack
            assert labels["namespace"] == "walkthrough"
            assert labels["pod"].startswith(labels["owner"])


@needs_prometheus
def test_production_lets_prometheus_in(targets: dict[str, list[Object]]) -> None:
    policies = objects("overlays/walkthrough-production/network-policies.yaml")
    (policy,) = [one["spec"] for one in policies if one["metadata"]["name"] == "from-prometheus"]
    assert policy["podSelector"] == {}
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    urls = [one["scrapeUrl"] for scraped in targets.values() for one in scraped]
    assert {int(re.search(r":(\d+)/", url)[1]) for url in urls} == opened


def test_there_is_a_case_of_every_monitor() -> None:
    assert monitors().keys() == SCRAPED.keys()
    for name, path in zip(monitors(), MONITORS, strict=True):
        assert path.stem == name


def test_scrapes_end_before_the_next() -> None:
    for spec in monitors().values():
        for endpoint in spec["podMetricsEndpoints"]:
            interval, limit = (
                float(endpoint[key].removesuffix("s")) for key in ("interval", "scrapeTimeout")
            )
            assert limit < interval <= 15


# The labels that queries use


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the dashboards and the rules, with where it stands."""
    for path in sorted((MANIFESTS / "monitoring" / "dashboards").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for one in content["panels"]:
            for target in one.get("targets", []):
                yield f"{path.name}: {one['title']}", target["expr"]
        for variable in content["templating"]["list"]:
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", ""))
            if asked:
                yield f"{path.name}: ${variable['name']}", f"sum by ({asked[2]}) ({asked[1]})"
    for name, rule in rules():
        yield name, rule["expr"]


def rules() -> Iterator[tuple[str, Object]]:
    for path in sorted((MANIFESTS / "monitoring" / "rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["groups"]:
            for rule in group["rules"]:
                yield f"{path.name}: {rule.get('alert') or rule['record']}", rule


def used_labels(expr: str) -> set[str]:
    """The labels that a query matches, groups or joins by."""
    matcher = r'(\w+)\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"'
    lists = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", expr)
    found = set(re.findall(matcher, expr))
    found |= {name.strip() for inside in lists for name in inside.split(",") if name.strip()}
    return found - {"__name__"}


def test_used_labels_finds_them_all() -> None:
    found = used_labels('sum by (a, b) (x{c="1", d=~"e=f"}) / on(g) group_left() y{__name__=~"z"}')
    assert found == {"a", "b", "c", "d", "g"}


def test_queries_use_labels_that_servers_and_monitors_give() -> None:
    given = exposed_labels()
    # A recorded series has the labels that its query kept.
    for _, rule in rules():
        if "record" in rule:
            given[rule["record"]] = used_labels(rule["expr"])
    # Prometheus' own series of an alert has those of its query and of its rule.
    alerts = [rule for _, rule in rules() if "alert" in rule]
    given["ALERTS"] = {"alertname", "alertstate"}.union(
        *(used_labels(rule["expr"]) | rule["labels"].keys() for rule in alerts),
        *(given[name] for rule in alerts for name in metric_names(rule["expr"]) if ":" in name),
    )
    told = list(queries())
    assert len(told) > 50
    for place, expr in told:
        names = metric_names(expr)
        assert names <= given.keys(), (
            f"{place}: {sorted(names - given.keys())} is exposed by nobody"
        )
        labels = set().union(TARGET_LABELS, *(given[name] for name in names))
        unknown = used_labels(expr) - labels
        assert not unknown, f"{place}: nobody gives {sorted(names)} the labels {sorted(unknown)}"


def test_no_server_has_a_label_of_its_target() -> None:
    """Prometheus would call it exported_…, and queries mean the target's."""
    on_cluster = {
        name: labels
        for name, labels in exposed_labels().items()
        if not name.startswith(("container_", "kube_"))  # scraped from elsewhere
    }
    clashes = {name: labels & TARGET_LABELS for name, labels in on_cluster.items()}
    assert not any(clashes.values()), {name for name, labels in clashes.items() if labels}
