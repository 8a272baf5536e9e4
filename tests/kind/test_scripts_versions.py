"""What stands once in kind/versions.env and kind/lib, and is said again elsewhere, is said alike."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PARTS = ["core", "eventing", "monitoring", "logging"]


@pytest.fixture(scope="module")
def readme() -> str:
    return (Path(__file__).resolve().parents[2] / "kind/README.md").read_text(encoding="utf-8")


@pytest.fixture
def load(root: Path):
    """Return load(path): the YAML of a file of the repository."""
    return lambda path: yaml.safe_load((root / path).read_text(encoding="utf-8"))


def table(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading, without its head."""
    lines = text[text.index(f"## {heading}\n") :].splitlines()
    rows = [line for line in lines[: end_of_table(lines)] if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def end_of_table(lines: list[str]) -> int:
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    return next(
        (number for number in range(first, len(lines)) if not lines[number].startswith("|")),
        len(lines),
    )


def test_versions_env_is_plain(root: Path) -> None:
    lines = (root / "kind/versions.env").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"|#.*|[A-Z_]+=[\w.:/@-]+", line)] == []
    names = [line.split("=")[0] for line in lines if "=" in line and not line.startswith("#")]
    assert len(names) == len(set(names))


def test_cluster_yaml_has_ports_and_image_of_the_versions(load, versions: dict[str, str]) -> None:
    cluster = load("kind/cluster.yaml")
    assert cluster["name"] == versions["CLUSTER_NAME"]
    assert [node["role"] for node in cluster["nodes"]] == ["control-plane", "worker"]
    assert {node["image"] for node in cluster["nodes"]} == {versions["KIND_NODE_IMAGE"]}
    mapped = {
        (str(port["hostPort"]), str(port["containerPort"]))
        for node in cluster["nodes"]
        for port in node.get("extraPortMappings", [])
    }
    names = [name.removeprefix("PORT_") for name in versions if name.startswith("PORT_")]
    assert len(names) == 5
    assert mapped == {(versions[f"PORT_{name}"], versions[f"NODE_PORT_{name}"]) for name in names}


def test_the_cluster_listens_on_loopback_only(load) -> None:
    ports = [
        port
        for node in load("kind/cluster.yaml")["nodes"]
        for port in node.get("extraPortMappings", [])
    ]
    assert {port["listenAddress"] for port in ports} == {"127.0.0.1"}


def test_the_node_image_is_the_kubernetes_version(versions: dict[str, str]) -> None:
    assert versions["KIND_NODE_IMAGE"].startswith(
        f"kindest/node:v{versions['KUBERNETES_VERSION']}@sha256:"
    )


def test_seldons_values_name_images_of_the_versions(load, versions: dict[str, str]) -> None:
    values: dict[str, Any] = load("kind/values/seldon-core-operator.yaml")
    served = values["predictor_servers"]["TENSORFLOW_SERVER"]["protocols"]["tensorflow"]
    assert (
        f"{served['image']}:{served['defaultImageVersion']}" == versions["IMAGE_TENSORFLOW_SERVING"]
    )
    assert values["storageInitializer"]["image"] == versions["IMAGE_RCLONE"]


def test_seldon_attaches_its_routes_to_our_gateway(load, root: Path) -> None:
    documents = yaml.safe_load_all(
        (root / "kind/components/istio.yaml").read_text(encoding="utf-8")
    )
    gateway = next(document for document in documents if document["kind"] == "Gateway")["metadata"]
    named = f"{gateway['namespace']}/{gateway['name']}"
    assert load("kind/values/seldon-core-operator.yaml")["istio"] == {
        "enabled": True,
        "gateway": named,
    }


def test_prometheus_takes_monitors_and_rules_of_others(load) -> None:
    spec = load("kind/values/kube-prometheus-stack.yaml")["prometheus"]["prometheusSpec"]
    assert [
        spec[f"{kind}SelectorNilUsesHelmValues"]
        for kind in ("podMonitor", "serviceMonitor", "rule")
    ] == [False] * 3


def test_grafanas_sidecar_looks_for_the_label_of_the_dashboards(load) -> None:
    dashboards = load("kind/values/kube-prometheus-stack.yaml")["grafana"]["sidecar"]["dashboards"]
    labels = load("manifests/monitoring/kustomization.yaml")["generatorOptions"]["labels"]
    assert labels[dashboards["label"]] == dashboards["labelValue"]


def test_every_chart_of_up_has_values_and_no_values_are_left_over(root: Path) -> None:
    charts = re.findall(
        r'(?m)^ *helm_release \S+ "\$\w+" (\S+) ', (root / "kind/up").read_text(encoding="utf-8")
    )
    assert sorted(charts) == sorted(path.stem for path in (root / "kind/values").iterdir())


def test_every_component_is_installed(root: Path) -> None:
    scripts = "".join(
        path.read_text(encoding="utf-8")
        for path in [root / "kind/up", *(root / "kind/lib").iterdir()]
    )
    missing = [
        path.name
        for path in (root / "kind/components").iterdir()
        if f"components/{path.name}" not in scripts
    ]
    assert missing == []


# ---- kind/README.md


def test_the_readmes_versions_are_those_of_versions_env(
    readme: str, versions: dict[str, str]
) -> None:
    said = {row[1].strip("`").removesuffix(" or later") for row in table(readme, "Versions")}
    other = (
        "CLUSTER_NAME",
        "PORT_",
        "NODE_PORT_",
        "ISTIO_REPO",
        "SELDON_REPO",
        "MONITORING_REPO",
        "KNATIVE_EVENTING_URL",
    )
    assert said == {value for name, value in versions.items() if not name.startswith(other)}
    assert versions["KNATIVE_EVENTING_URL"].endswith(
        f"knative-v{versions['KNATIVE_EVENTING_VERSION']}"
    )


def test_the_readmes_ports_are_those_of_versions_env(readme: str, versions: dict[str, str]) -> None:
    said = {
        port
        for row in table(readme, "Where everything is")
        for port in re.findall(r"127\.0\.0\.1:(\d+)", row[1])
    }
    assert said == {port for name, port in versions.items() if name.startswith("PORT_")}


def test_the_readmes_logins_are_those_of_values_and_components(
    readme: str, load, root: Path
) -> None:
    logins = {
        row[0]: re.findall(r"`([^`]+)`", row[2]) for row in table(readme, "Where everything is")
    }
    grafana = load("kind/values/kube-prometheus-stack.yaml")["grafana"]
    assert logins["Grafana"] == [grafana["adminUser"], grafana["adminPassword"]]
    documents = yaml.safe_load_all(
        (root / "kind/components/minio.yaml").read_text(encoding="utf-8")
    )
    secret = next(document for document in documents if document["kind"] == "Secret")["stringData"]
    assert logins["MinIO"] == [secret["MINIO_ROOT_USER"], secret["MINIO_ROOT_PASSWORD"]]


def test_the_readmes_parts_are_those_of_the_script(readme: str, root: Path) -> None:
    script = '. kind/lib/common.sh; . kind/lib/parts.sh; for part in $ALL_PARTS; do echo "$part|$(needs_of "$part")'
    script += '|$(memory_of "$part")|$(disk_of "$part")|$(notebooks_of "$part")"; done'
    done = subprocess.run(
        ["bash", "-euc", script], cwd=root, capture_output=True, text=True, check=True
    )
    rows = table(readme, "What it needs")
    said = [
        f"{row[0].strip('`')}|{' '.join(re.findall(r'`(.+?)`', row[2]))}|{row[3]}|{row[4]}|{row[5]}"
        for row in rows
    ]
    assert said == done.stdout.splitlines()
    notebooks = {number for row in rows for number in row[5].split(", ")}
    assert notebooks == {path.name[:2] for path in (root / "notebooks").glob("*.ipynb")}
    memory, disk = (sum(int(row[column]) for row in rows) for column in (3, 4))
    assert f"All of it: {memory} GB of memory and {disk} GB of disk" in readme


def test_the_readmes_limits_are_those_of_the_script(readme: str, root: Path) -> None:
    limits = set(re.findall(r"\$\{TIMEOUT_(\w+):-", (root / "kind/up").read_text(encoding="utf-8")))
    (row,) = [row for row in table(readme, "What it does") if "TIMEOUT_" in row[0]]
    assert set(re.findall(r"`([A-Z]+)`", row[1])) | {"IMAGE"} == limits


def test_the_readmes_steps_are_those_of_the_script(readme: str, root: Path) -> None:
    begun = re.findall(r"(?m)^ *begin (\w+) ", (root / "kind/up").read_text(encoding="utf-8"))
    assert re.findall(r"(?m)^\d+\. \*\*(\w+)\*\*:", readme) == begun


def test_every_file_that_the_readme_names_is_there(readme: str, root: Path) -> None:
    named = re.findall(
        r"`((?:manifests|values|components|tests|artifacts|\.github)/[\w./-]*)`", readme
    )
    named += [f"kind/{name}" for name in ("cluster.yaml", "versions.env", "Dockerfile")]
    there = [name for name in named if (root / name).exists() or (root / "kind" / name).exists()]
    assert there == named


# ---- .github/workflows/kind.yml


def test_the_workflow_asks_for_parts_and_notebooks_that_there_are(load, root: Path) -> None:
    environment = load(".github/workflows/kind.yml")["jobs"]["kind"]["env"]
    parts, only = (
        re.findall(r"'([^']+)'", environment[name])[0].split(",") for name in ("PARTS", "ONLY")
    )
    assert set(parts) <= set(PARTS)
    assert all(list((root / "notebooks").glob(f"{number}_*.ipynb")) for number in only)


def test_the_workflow_installs_the_versions_of_versions_env(
    root: Path, versions: dict[str, str]
) -> None:
    text = (root / ".github/workflows/kind.yml").read_text(encoding="utf-8")
    assert ". kind/versions.env" in text
    used = set(re.findall(r"\$([A-Z_]+_VERSION)", text))
    assert used == {"KIND_MIN_VERSION", "KUBERNETES_VERSION"}
    assert used <= versions.keys()


# ---- The scripts themselves


def test_shell_scripts_are_clean(root: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed; .ci/run installs it")
    scripts = [
        root / "kind/up",
        root / "kind/down",
        *(root / "kind/image").glob("*.sh"),
        root / "tests/kind/fake.sh",
    ]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=root, capture_output=True, text=True)
    assert done.stdout == ""
