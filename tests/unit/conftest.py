"""What unit tests share: objects checked as a cluster checks them, and overlays rendered by kubectl."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = "1.34"  # of the cluster in kind/
CORE = {"v1", "apps/v1", "batch/v1", "networking.k8s.io/v1", "policy/v1"}
KNATIVE = "eventing.knative.dev"

Object = dict[str, Any]


@pytest.fixture
def problems() -> Callable[[Object], list[str]]:
    """Return problems(object): what is wrong with it, as for `kubectl apply --validate=strict`.

    An unknown field is an error. Core kinds are checked by kubernetes-validate, custom kinds against the
    schemas of their CustomResourceDefinitions, which are looked for in $CRDS_DIR and in ../shared/crds;
    where the definition is not at hand, the test is skipped.
    """
    return _problems


@functools.cache
def custom_kind(
    folder: Path, group: str, version: str, kind: str
) -> jsonschema.Draft202012Validator | None:
    """The strict validator of a custom kind, None where its definition is not at hand."""
    for path in sorted(folder.glob(f"{kind.lower()}*.yaml")):
        spec = yaml.load(path.read_bytes(), yaml.CSafeLoader)["spec"]
        if spec["group"] != group or spec["names"]["kind"] != kind:
            continue
        schemas = {one["name"]: one["schema"]["openAPIV3Schema"] for one in spec["versions"]}
        assert version in schemas, f"{path} has {', '.join(schemas)}, not {version}"
        schema = _strict(schemas[version])
        if group == KNATIVE:
            # The definition of Trigger leaves its spec open; Knative's webhook, in Go, does not.
            schema["properties"]["spec"]["additionalProperties"] = False
        return jsonschema.Draft202012Validator(schema)
    return None


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a CRD's schema that refuses what the API server would prune.

    Schemas in anyOf, oneOf, allOf and not constrain values that are described beside them: they stay as they are.
    """
    strict_schema = dict(schema)
    if "properties" in schema:
        strict_schema["properties"] = {
            name: _strict(inside) for name, inside in schema["properties"].items()
        }
    if "items" in schema:
        strict_schema["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        strict_schema["additionalProperties"] = _strict(schema["additionalProperties"])
    elif schema.get("x-kubernetes-preserve-unknown-fields"):
        strict_schema["additionalProperties"] = True
    elif schema.get("type") == "object":
        strict_schema.setdefault("additionalProperties", False)
    if schema.get("nullable"):
        strict_schema = {"anyOf": [{"type": "null"}, strict_schema]}
    return strict_schema


def _problems(document: Object) -> list[str]:
    if missing := {"apiVersion", "kind", "metadata"} - document.keys():
        return [f"there is no {name}" for name in missing]
    if document["apiVersion"] in CORE:
        return _core_problems(document)
    group, version = document["apiVersion"].split("/")
    folder = Path(os.environ.get("CRDS_DIR") or ROOT.parent / "shared" / "crds")
    validator = custom_kind(folder, group, version, document["kind"])
    if validator is None:
        pytest.skip(
            f"the CustomResourceDefinition of {document['kind']} ({group}) is not in {folder}: set "
            "CRDS_DIR to a folder that has it"
        )
    # A CRD says nothing of metadata: the API server checks it for every kind alike.
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]}
    rest = {key: value for key, value in document.items() if key not in plain}
    found = validator.iter_errors(rest)
    return _core_problems(plain) + [f"{error.json_path}: {error.message}" for error in found]


def _core_problems(document: Object) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [str(error)]
    return []


@pytest.fixture(scope="session")
def kubectls() -> list[str]:
    """Every kubectl that there is: those of $KUBECTL, separated like those of $PATH, and that on it.

    Without any, the test is skipped.
    """
    named = [one for one in os.environ.get("KUBECTL", "").split(os.pathsep) if one]
    for program in named:
        assert shutil.which(program), f"$KUBECTL names {program}, and there is no such program"
    found = [shutil.which(one) for one in [*named, "kubectl"]]
    programs = {os.path.realpath(one): one for one in found if one is not None}
    if not programs:
        pytest.skip("there is no kubectl: install Debian's kubernetes-client, or set $KUBECTL")
    return list(programs.values())


@pytest.fixture(scope="session")
def render() -> Callable[[str, Path], list[Object]]:
    """Return render(kubectl, folder): what `kubectl kustomize` makes of it, in order of kinds and names."""
    return _render


@functools.cache
def _render(kubectl: str, folder: Path) -> list[Object]:
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    objects = [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one is not None]
    # Where two sort alike, versions of kubectl print them in different orders.
    return sorted(objects, key=lambda one: (one["kind"], one["metadata"]["name"]))
