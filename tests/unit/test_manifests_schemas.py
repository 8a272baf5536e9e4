"""Every object in manifests/ and kind/components/ is valid, and an unknown field is an error (see conftest.py).

What kustomize makes of the overlays is in test_kustomize.py.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.stack import documents

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"


def plain_files() -> list[Path]:
    """Every file of whole objects: no kustomization, and no patch that one of them names."""
    found = set(MANIFESTS.rglob("*.yaml"))
    for path in MANIFESTS.rglob("kustomization.yaml"):
        kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
        patches = kustomization.get("patchesStrategicMerge", [])
        patches += [one["path"] for one in kustomization.get("patchesJson6902", [])]
        found -= {path, *(path.parent / name for name in patches)}
    return sorted(found | set((ROOT / "kind" / "components").glob("*.yaml")))


FILES = plain_files()
Problems = Callable[[dict[str, Any]], list[str]]

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


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def manifest(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The documents of one file."""
    return contents(request.param)


EXAMPLES = pytest.mark.parametrize(
    "example",
    [
        "kind/components/elasticsearch.yaml",
        "kind/components/istio.yaml",
        "kind/components/minio-fill.yaml",
        "manifests/canary/kind/pin-virtualservice.yaml",
        "manifests/eventing/broker.yaml",
        "manifests/eventing/trigger-drift-ks.yaml",
        "manifests/explainers/cifar10-explained.yaml",
        "manifests/explainers/production-terms.yaml",
        "manifests/kserve/cifar10.yaml",
        "manifests/kserve/s3-service-account.yaml",
        "manifests/monitoring/monitors/mlserver.yaml",
        "manifests/monitoring/rules/explanations.yaml",
        "manifests/overlays/kind-core/namespace.yaml",
        "manifests/overlays/walkthrough-production/disruption-budgets.yaml",
        "manifests/overlays/walkthrough-production/network-policies.yaml",
        "manifests/patterns/inliers-only/outlier-vae.yaml",
        "manifests/storage/s3-credentials.yaml",
    ],
)


def contents(path: Path) -> list[dict[str, Any]]:
    return [copy.deepcopy(document.content) for document in read(path)]


@functools.cache
def read(path: Path) -> list[documents.Document]:
    return documents.read([path])


def test_there_is_an_example_of_every_kind():
    def kinds(paths: Iterable[Path]) -> set[str]:
        return {document["kind"] for path in paths for document in contents(path)}

    assert kinds(ROOT / file for file in EXAMPLES.args[1]) == kinds(FILES)


def test_valid(manifest, problems: Problems):
    for document in manifest:
        assert problems(document) == []


@EXAMPLES
def test_misspelt_fields_are_refused(example, problems: Problems):
    for document in contents(ROOT / example):
        for place, key in keys(document):
            changed = copy.deepcopy(document)
            mapping = at(changed, place)
            mapping[f"{key}x"] = mapping.pop(key)
            assert problems(changed), f"{document['kind']}: {[*place, key]} may be misspelt"


@EXAMPLES
def test_wrong_types_are_refused(example, problems: Problems):
    for document in contents(ROOT / example):
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
def test_mistakes_are_refused(file, change: Callable[[dict[str, Any]], object], problems: Problems):
    document = contents(MANIFESTS / file)[0]
    change(document)
    assert problems(document)


def test_what_a_definition_leaves_open_is_accepted(problems: Problems):
    trigger = contents(MANIFESTS / "eventing" / "trigger-drift-ks.yaml")[0]
    trigger["spec"]["delivery"] = {"retry": 3, "a-field-of-tomorrow": True}
    assert problems(trigger) == []
    trigger["spec"]["delivery"] = {"retry": "often"}
    assert problems(trigger)


def test_without_definitions_the_test_is_skipped_and_says_so(
    tmp_path, monkeypatch, problems: Problems
):
    monkeypatch.setenv("CRDS_DIR", str(tmp_path))
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
