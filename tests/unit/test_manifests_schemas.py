"""Every document in manifests/ is valid, and an unknown field is an error, as for `kubectl apply --validate=strict`.

Core kinds are checked by kubernetes-validate. Custom kinds are checked against the schemas of their
CustomResourceDefinitions, which are looked for in $CRDS_DIR and in ../shared/crds.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from helpers.stack import documents

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
FILES = sorted(MANIFESTS.rglob("*.yaml"))
KUBERNETES = "1.34"  # of the cluster in kind/
CORE = {"v1", "apps/v1"}
KNATIVE = "eventing.knative.dev"

# Mappings whose keys are anybody's to choose. `config` is an explainer's options, `attributes` a trigger's filter,
# `headers` and `set` are of a VirtualService.
FREE = {
    "labels",
    "annotations",
    "matchLabels",
    "selector",
    "stringData",
    "data",
    "limits",
    "requests",
    "config",
    "attributes",
    "headers",
    "set",
}


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def manifest(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The documents of one file."""
    return contents(request.param)


EXAMPLES = pytest.mark.parametrize(
    "example",
    [
        "patterns/inliers-only/outlier-vae.yaml",
        "canary/kind/pin-virtualservice.yaml",
        "eventing/broker.yaml",
        "eventing/trigger-drift-ks.yaml",
        "explainers/cifar10-explained.yaml",
        "explainers/production-terms.yaml",
        "kserve/cifar10.yaml",
        "monitoring/rules/explanations.yaml",
        "storage/s3-credentials.yaml",
    ],
)


def contents(path: Path) -> list[dict[str, Any]]:
    return [copy.deepcopy(document.content) for document in read(path)]


@functools.cache
def read(path: Path) -> list[documents.Document]:
    return documents.read([path])


@functools.cache
def custom_kind(group: str, version: str, kind: str) -> jsonschema.Draft202012Validator:
    """The strict validator of a custom kind; the test is skipped where its definition is not at hand."""
    folder = Path(os.environ.get("CRDS_DIR") or ROOT.parent / "shared" / "crds")
    for path in sorted(folder.glob(f"{kind.lower()}*.yaml")):
        spec = yaml.load(path.read_bytes(), yaml.CSafeLoader)["spec"]
        if spec["group"] != group or spec["names"]["kind"] != kind:
            continue
        schemas = {one["name"]: one["schema"]["openAPIV3Schema"] for one in spec["versions"]}
        assert version in schemas, f"{path} has {', '.join(schemas)}, not {version}"
        schema = strict(schemas[version])
        if group == KNATIVE:
            # The definition of Trigger leaves its spec open; Knative's webhook, in Go, does not.
            schema["properties"]["spec"]["additionalProperties"] = False
        return jsonschema.Draft202012Validator(schema)
    pytest.skip(
        f"the CustomResourceDefinition of {kind} ({group}) is not in {folder}: set CRDS_DIR to a folder that has it"
    )


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a CRD's schema that refuses what the API server would prune.

    Schemas in anyOf, oneOf, allOf and not constrain values that are described beside them: they stay as they are.
    """
    strict_schema = dict(schema)
    if "properties" in schema:
        strict_schema["properties"] = {
            name: strict(inside) for name, inside in schema["properties"].items()
        }
    if "items" in schema:
        strict_schema["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        strict_schema["additionalProperties"] = strict(schema["additionalProperties"])
    elif schema.get("x-kubernetes-preserve-unknown-fields"):
        strict_schema["additionalProperties"] = True
    elif schema.get("type") == "object":
        strict_schema.setdefault("additionalProperties", False)
    if schema.get("nullable"):
        strict_schema = {"anyOf": [{"type": "null"}, strict_schema]}
    return strict_schema


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with a document; nothing where it is valid."""
    if missing := {"apiVersion", "kind", "metadata"} - document.keys():
        return [f"there is no {name}" for name in missing]
    if document["apiVersion"] in CORE:
        return core_problems(document)
    group, version = document["apiVersion"].split("/")
    # A CRD says nothing of metadata: the API server checks it for every kind alike.
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]}
    rest = {key: value for key, value in document.items() if key not in plain}
    found = custom_kind(group, version, document["kind"]).iter_errors(rest)
    return core_problems(plain) + [f"{error.json_path}: {error.message}" for error in found]


def core_problems(document: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [str(error)]
    return []


def test_there_is_an_example_of_every_kind():
    def kinds(paths: Iterable[Path]) -> set[str]:
        return {document["kind"] for path in paths for document in contents(path)}

    assert kinds(MANIFESTS / file for file in EXAMPLES.args[1]) == kinds(FILES)


def test_valid(manifest):
    for document in manifest:
        assert problems(document) == []


@EXAMPLES
def test_misspelt_fields_are_refused(example):
    for document in contents(MANIFESTS / example):
        for place, key in keys(document):
            changed = copy.deepcopy(document)
            mapping = at(changed, place)
            mapping[f"{key}x"] = mapping.pop(key)
            assert problems(changed), f"{document['kind']}: {[*place, key]} may be misspelt"


@EXAMPLES
def test_wrong_types_are_refused(example):
    for document in contents(MANIFESTS / example):
        for place, key in leaves(document):
            if not place or place[-1] == "attributes":  # what names the schema; anything goes
                continue
            changed = copy.deepcopy(document)
            mapping = at(changed, place)
            mapping[key] = [mapping[key]]
            assert problems(changed), f"{document['kind']}: {[*place, key]} may be a list"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model/cifar10.yaml", lambda one: one["spec"].update(predictor=[])),
        ("model/cifar10.yaml", lambda one: one.update(specs={})),
        ("model/cifar10.yaml", lambda one: one["spec"]["predictors"][0].update(replicas="one")),
        ("model/cifar10.yaml", lambda one: one["spec"]["predictors"][0]["graph"].pop("name")),
        ("eventing/broker.yaml", lambda one: one.update(spec={"delivery": {"retry": "often"}})),
        ("eventing/broker.yaml", lambda one: one.update(spec={"configs": {}})),
        ("eventing/trigger-drift-ks.yaml", lambda one: one["spec"].update(subscribers=[])),
        ("eventing/trigger-drift-ks.yaml", lambda one: one["metadata"].update(label={})),
        ("detectors/drift-ks.yaml", lambda one: one["spec"]["template"]["spec"].update(port=80)),
        ("detectors/drift-ks.yaml", lambda one: one["spec"].update(replicas="one")),
        ("detectors/drift-ks.yaml", lambda one: one["spec"].pop("selector")),
        ("storage/s3-credentials.yaml", lambda one: one["stringData"].update(PORT=9000)),
    ],
)
def test_mistakes_are_refused(file, change: Callable[[dict[str, Any]], object]):
    document = contents(MANIFESTS / file)[0]
    change(document)
    assert problems(document)


def test_what_a_definition_leaves_open_is_accepted():
    trigger = contents(MANIFESTS / "eventing" / "trigger-drift-ks.yaml")[0]
    trigger["spec"]["delivery"] = {"retry": 3, "a-field-of-tomorrow": True}
    assert problems(trigger) == []
    trigger["spec"]["delivery"] = {"retry": "often"}
    assert problems(trigger)


def test_without_definitions_the_test_is_skipped_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CRDS_DIR", str(tmp_path))
    monkeypatch.setitem(globals(), "custom_kind", custom_kind.__wrapped__)
    with pytest.raises(
        pytest.skip.Exception, match=rf"of Broker .* is not in {tmp_path}.*CRDS_DIR"
    ):
        problems(contents(MANIFESTS / "eventing" / "broker.yaml")[0])


def keys(
    value: Any, place: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every key whose spelling matters, with the place of its mapping."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if not place or place[-1] not in FREE:
                yield place, key
            yield from keys(inside, (*place, key))
    elif isinstance(value, list):
        for position, inside in enumerate(value):
            yield from keys(inside, (*place, position))


def leaves(
    value: Any, place: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every key with a plain value, with the place of its mapping."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if isinstance(inside, dict | list):
                yield from leaves(inside, (*place, key))
            else:
                yield place, key
    elif isinstance(value, list):
        for position, inside in enumerate(value):
            yield from leaves(inside, (*place, position))


def at(document: Any, place: tuple[str | int, ...]) -> Any:
    return functools.reduce(lambda inside, step: inside[step], place, document)
