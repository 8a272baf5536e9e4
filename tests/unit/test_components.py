"""What kind/components puts into the cluster: confined, of one piece, and where manifests/ and the charts expect it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ROOT / "kind" / "components"
FILES = sorted(path.name for path in COMPONENTS.glob("*.yaml"))

Object = dict[str, Any]
FILE = pytest.mark.parametrize("file", FILES)


def objects(file: str) -> list[Object]:
    return list(yaml.safe_load_all((COMPONENTS / file).read_text(encoding="utf-8")))


def only(file: str, kind: str, name: str) -> Object:
    (found,) = [
        one for one in objects(file) if (one["kind"], one["metadata"]["name"]) == (kind, name)
    ]
    return found


def pods() -> Iterator[tuple[str, Object]]:
    """Every pod that is described, with the namespace that it is in."""
    for file in FILES:
        for one in objects(file):
            if "template" in one.get("spec", {}):
                yield one["metadata"]["namespace"], one["spec"]["template"]["spec"]


def containers() -> Iterator[Object]:
    for _, pod in pods():
        yield from [*pod.get("initContainers", []), *pod["containers"]]


def manifest(file: str) -> Object:
    return yaml.safe_load((ROOT / "manifests" / file).read_text(encoding="utf-8"))


@FILE
def test_the_first_line_says_how_to_apply(file: str) -> None:
    first = (COMPONENTS / file).read_text(encoding="utf-8").partition("\n")[0]
    assert re.fullmatch(
        rf"# \S.*: kubectl (apply|replace --force) -f kind/components/{re.escape(file)}", first
    )


def test_pods_are_what_restricted_namespaces_take() -> None:
    """The standard `restricted` of Kubernetes, which refuses a pod only when it is made."""
    restricted = {
        one["metadata"]["name"]
        for one in objects("namespaces.yaml")
        if one["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        == "restricted"
    }
    assert {namespace for namespace, _ in pods()} == restricted
    for _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(one.keys() == {"name", "emptyDir"} for one in pod.get("volumes", []))
        assert pod["automountServiceAccountToken"] is False
    for container in containers():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_servers_have_probes_and_every_container_limits() -> None:
    for container in containers():
        for part in ("requests", "limits"):
            assert container["resources"][part].keys() == {"cpu", "memory"}
        if "ports" in container:
            ports = {port["name"] for port in container["ports"]}
            for name in ("startup", "readiness", "liveness"):
                probe = container[f"{name}Probe"]
                (handler,) = probe.keys() & {"httpGet", "tcpSocket"}
                assert probe[handler]["port"] in ports


def test_services_lead_to_what_stands_beside_them() -> None:
    for file in ("minio.yaml", "elasticsearch.yaml"):
        (server,) = [one for one in objects(file) if one["kind"] == "StatefulSet"]
        labels = server["spec"]["template"]["metadata"]["labels"]
        (container,) = server["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        services = [one for one in objects(file) if one["kind"] == "Service"]
        assert server["spec"]["serviceName"] in {one["metadata"]["name"] for one in services}
        for service in services:
            assert service["spec"]["selector"].items() <= labels.items()
            (port,) = service["spec"]["ports"]
            assert port["port"] == ports[port["targetPort"]]
        # What it keeps is on a volume that outlives the pod.
        claims = {claim["metadata"]["name"] for claim in server["spec"]["volumeClaimTemplates"]}
        assert claims == {"data"}
        assert "data" in {mount["name"] for mount in container["volumeMounts"]}


def test_the_object_store_is_that_of_the_manifests() -> None:
    rclone = manifest("storage/s3-credentials.yaml")["stringData"]
    keys = only("minio.yaml", "Secret", "minio")["stringData"]
    assert keys == {
        "MINIO_ROOT_USER": rclone["RCLONE_CONFIG_S3_ACCESS_KEY_ID"],
        "MINIO_ROOT_PASSWORD": rclone["RCLONE_CONFIG_S3_SECRET_ACCESS_KEY"],
    }
    service = only("minio.yaml", "Service", "minio")
    (port,) = service["spec"]["ports"]
    address = f"http://minio.{service['metadata']['namespace']}.svc.cluster.local:{port['port']}"
    assert rclone["RCLONE_CONFIG_S3_ENDPOINT"] == address


def test_the_bucket_is_filled_as_models_are_downloaded() -> None:
    job = only("minio-fill.yaml", "Job", "minio-fill")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    rclone = manifest("storage/s3-credentials.yaml")["stringData"]
    secret = only("minio.yaml", "Secret", "minio")
    told = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        if source:
            assert source["name"] == secret["metadata"]["name"]
        told[variable["name"]] = (
            secret["stringData"][source["key"]] if source else variable["value"]
        )
    assert told == rclone
    bucket = manifest("model/cifar10.yaml")["spec"]["predictors"][0]["graph"]["modelUri"]
    assert container["args"][-1] == f"s3:{bucket.split('/')[2]}"


def test_the_job_copies_the_artefacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = only("minio-fill.yaml", "Job", "minio-fill")
    (init,) = job["spec"]["template"]["spec"]["initContainers"]
    assert init["command"] == ["python", "-c"]
    (source,) = init["args"]
    mounts = {mount["mountPath"] for mount in init["volumeMounts"]}
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert '"/artifacts"' in source
    assert "/artifacts" in mounts
    assert "/artifacts" in container["args"]

    kept = tmp_path / "kept" / "cifar10" / "resnet32" / "1"
    kept.mkdir(parents=True)
    (kept / "saved_model.pb").write_bytes(b"model")
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path / "kept"))
    exec(source.replace("/artifacts", str(tmp_path / "copied")), {})
    copied = tmp_path / "copied" / "cifar10" / "resnet32" / "1" / "saved_model.pb"
    assert copied.read_bytes() == b"model"


def test_the_gateway_is_the_one_that_seldon_and_the_pins_attach_to() -> None:
    gateway = only("istio.yaml", "Gateway", "seldon-gateway")["metadata"]
    name = f"{gateway['namespace']}/{gateway['name']}"
    values = yaml.safe_load((ROOT / "kind" / "values" / "seldon-core-operator.yaml").read_text())
    assert values["istio"]["gateway"] == name
    assert manifest("canary/kind/pin-virtualservice.yaml")["spec"]["gateways"] == [name]


def test_the_gateways_port_is_open_on_its_pods() -> None:
    gateway = only("istio.yaml", "Gateway", "seldon-gateway")["spec"]
    service = only("istio.yaml", "Service", "ingress-node-port")["spec"]
    assert service["selector"] == gateway["selector"]
    assert [port["port"] for port in service["ports"]] == [
        server["port"]["number"] for server in gateway["servers"]
    ]


@FILE
def test_namespaces_exist(file: str) -> None:
    known = {one["metadata"]["name"] for one in objects("namespaces.yaml")}
    for one in objects(file):
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] in known
