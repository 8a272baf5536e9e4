"""Explainers over v2: the artefact, the method and the options of the same file over seldon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

EXPLAINERS = Path(__file__).resolve().parents[2] / "manifests" / "explainers"
EACH = pytest.mark.parametrize(
    "path", sorted((EXPLAINERS / "v2").glob("*.yaml")), ids=lambda path: path.stem
)


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def predictor(deployment: dict[str, Any]) -> dict[str, Any]:
    (one,) = deployment["spec"]["predictors"]
    return one


@EACH
def test_it_replaces_the_same_file_over_seldon(path):
    v2, seldon = read(path), read(EXPLAINERS / path.name)
    assert (v2["spec"].pop("protocol"), seldon["spec"].pop("protocol")) == ("v2", "seldon")
    assert v2["metadata"] == seldon["metadata"]
    for key in ("name", "modelUri", "implementation"):
        assert predictor(v2)["graph"][key] == predictor(seldon)["graph"][key]
    explainers = [predictor(one)["explainer"] for one in (v2, seldon)]
    assert len({(one["type"], one["modelUri"]) for one in explainers}) == 1
    options = [f"--{key}={value}" for key, value in explainers[1].get("config", {}).items()]
    assert explainers[0]["containerSpec"].get("args", []) == options


@EACH
def test_the_explainer_is_called_like_the_model_in_its_path(path):
    one = predictor(read(path))
    assert one["explainer"]["containerSpec"]["name"] == one["graph"]["name"]


def test_there_are_some():
    assert len(list((EXPLAINERS / "v2").glob("*.yaml"))) == 5
