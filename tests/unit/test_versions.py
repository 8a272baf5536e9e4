"""Every image and port of manifests/ and kind/components/ is the one of kind/versions.env, and pinned."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.environment.lock import read_lock

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
COMPONENTS = ROOT / "kind" / "components"
FILES = sorted([*MANIFESTS.rglob("*.yaml"), *COMPONENTS.glob("*.yaml")])
VERSIONS = dict(
    line.split("=", 1)
    for line in (ROOT / "kind" / "versions.env").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
IMAGES = {name: image for name, image in VERSIONS.items() if name.startswith("IMAGE_")}
IMAGE_VARIABLES = ("PREDICTIVE_UNIT_IMAGE",)  # of a container: a label of its metrics


def values_of(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for inside in value.values():
            yield from values_of(inside, key)
    elif isinstance(value, list):
        for inside in value:
            yield from values_of(inside, key)


def images(file: Path) -> set[str]:
    found: set[str] = set()
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        found |= set(values_of(document, "image"))
        for variables in values_of(document, "env"):
            found |= {one["value"] for one in variables if one["name"] in IMAGE_VARIABLES}
        if isinstance(document, list):  # the steps of a kustomization's patch
            found |= {one["value"] for one in document if one["path"].endswith("/image")}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_images_are_of_the_versions(file: Path) -> None:
    assert images(file) <= set(IMAGES.values())


def test_no_version_of_an_image_is_left_over() -> None:
    used = set().union(*map(images, FILES))
    assert {name for name, image in IMAGES.items() if image not in used} == set()


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_pinned(name: str) -> None:
    """By a version or a date, in numbers, and a variant: never latest, 2 or stable."""
    image, _, digest = IMAGES[name].partition("@")
    tag = image.rpartition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+\.\d+(-sklearn)?|RELEASE\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", tag)
    assert re.fullmatch(r"(sha256:[0-9a-f]{64})?", digest)


def test_images_are_of_what_is_installed_here() -> None:
    """Pickles and SavedModels that were made here are loaded there."""
    lock = {
        name: str(requirement.specifier).removeprefix("==")
        for name, requirement in read_lock(ROOT / "requirements.txt").items()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert IMAGES["IMAGE_SERVING"] == f"walkthrough/serving:{project['version']}"
    for name in ("SKLEARN_SERVER", "ALIBI_EXPLAIN", "ALIBI_DETECT", "RCLONE"):
        assert IMAGES[f"IMAGE_{name}"].rpartition(":")[2] == lock["seldon-core"], name
    assert lock["seldon-core"] == VERSIONS["SELDON_VERSION"]
    assert IMAGES["IMAGE_MLSERVER"].rpartition(":")[2] == f"{lock['mlserver']}-sklearn"
    # TensorFlow Serving has no patch releases of its own for each of TensorFlow's.
    minor = lock["tensorflow"].rpartition(".")[0]
    assert IMAGES["IMAGE_TENSORFLOW_SERVING"] == f"tensorflow/serving:{minor}.0"


def test_kserve_serves_with_the_same_tensorflow() -> None:
    kserve = yaml.safe_load((MANIFESTS / "kserve" / "cifar10.yaml").read_text())
    version = kserve["spec"]["predictor"]["model"]["runtimeVersion"]
    assert IMAGES["IMAGE_TENSORFLOW_SERVING"].endswith(f":{version}")


def test_node_ports_are_those_of_the_versions() -> None:
    told = {
        name.removeprefix("NODE_PORT_"): int(port)
        for name, port in VERSIONS.items()
        if name.startswith("NODE_PORT_")
    }
    found = {}
    for file in COMPONENTS.glob("*.yaml"):
        for one in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            for port in values_of(one, "nodePort"):
                found[one["metadata"]["name"].removesuffix("-node-port")] = port
    broker = found.pop("broker-ingress")
    assert {name.upper(): port for name, port in found.items()} | {"BROKER": broker} == told


def test_node_ports_lead_from_the_addresses_that_comments_name() -> None:
    """A comment says where on this machine; it is kind/cluster.yaml that makes it so."""
    for file in COMPONENTS.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        ports = {
            VERSIONS[name.removeprefix("NODE_")]
            for name, port in VERSIONS.items()
            if name.startswith("NODE_PORT_") and f"nodePort: {port}\n" in text
        }
        assert set(re.findall(r"127\.0\.0\.1:(\d+)", text)) == ports, file.name


def test_schemas_are_of_the_clusters_kubernetes() -> None:
    conftest = (Path(__file__).parent / "conftest.py").read_text(encoding="utf-8")
    (told,) = re.findall(r'^KUBERNETES = "([\d.]+)"', conftest, re.M)
    assert VERSIONS["KUBERNETES_VERSION"].startswith(f"{told}.")
