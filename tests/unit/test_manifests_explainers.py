"""The manifests of explainers of tables and texts: the model's own plus an explainer that our server takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import artifacts
from helpers.errors import ArtifactError
from helpers.serving import storage
from helpers.serving.explain import cli
from helpers.serving.explain.methods import METHODS, method_class
from helpers.serving.storage import locate

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
FILES = {
    "credit-risk-anchor-tabular": "credit-risk",
    "credit-risk-kernel-shap": "credit-risk",
    "credit-risk-tree-shap": "credit-risk",
    "credit-network-integrated-gradients": "credit-network",
    "breast-cancer-ale": "breast-cancer",
    "tickets-anchor-text": "tickets",
}
PRODUCTION = ("production-kernel-shap", "production-anchor-tabular")  # with options of production
EACH = pytest.mark.parametrize("file", FILES)


def read(file: str) -> dict[str, Any]:
    (document,) = yaml.safe_load_all((MANIFESTS / file).read_text(encoding="utf-8"))
    return document


def predictor(deployment: dict[str, Any]) -> dict[str, Any]:
    (one,) = deployment["spec"]["predictors"]
    return one


def test_every_method_has_a_manifest():
    documents = [
        document
        for path in (MANIFESTS / "explainers").glob("*.yaml")
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if document["kind"] == "SeldonDeployment"
    ]
    assert {predictor(document)["explainer"]["type"] for document in documents} == set(METHODS)


@EACH
def test_it_is_the_plain_model_with_an_explainer(file: str):
    explained = read(f"explainers/{file}.yaml")
    explainer = predictor(explained).pop("explainer")
    assert explained == read(f"model/{FILES[file]}.yaml")
    assert explainer["containerSpec"]["name"] == f"{FILES[file]}-default-explainer"
    assert "args" not in explainer["containerSpec"]  # the operator would overwrite them
    assert explainer["containerSpec"]["command"] == ["python", "-m", "helpers.serving.explain"]
    host = {"name": "SERVING_HOST", "value": "0.0.0.0"}  # the operator passes no address
    assert host in explainer["containerSpec"]["env"]


@EACH
def test_our_server_takes_what_the_operator_makes_of_it(file: str):
    deployment = read(f"explainers/{file}.yaml")
    explainer = predictor(deployment)["explainer"]
    args = cli.parser().parse_args(
        [
            f"--model_name={predictor(deployment)['graph']['name']}",
            "--predictor_host=model:8000",
            f"--protocol={deployment['spec']['protocol']}.http",
            "--http_port=9000",
            f"--storage_uri={explainer['modelUri']}",
            explainer["type"],
            *[f"--{key}={value}" for key, value in sorted(explainer.get("config", {}).items())],
        ]
    )
    server = cli.build(args)
    told = json.loads(server.options.model_dump_json())
    for key, value in explainer.get("config", {}).items():
        assert told[key] == json.loads(value)
    assert server.service.location == locate(explainer["modelUri"])
    artifacts.verify(server.service.location.dataset, server.service.location.name)


@EACH
def test_it_loads_what_the_operator_has_downloaded(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The operator copies what modelUri names to one folder and passes that."""
    explainer = predictor(read(f"explainers/{file}.yaml"))["explainer"]
    source = locate(explainer["modelUri"])
    folder = tmp_path / "mnt" / "models"
    shutil.copytree(source.folder, folder)
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path))  # nothing else is there
    monkeypatch.setattr(storage, "DOWNLOADED", str(folder))
    monkeypatch.setattr(artifacts, "_taken", {})
    args = cli.parser().parse_args(
        [
            *("--model_name=model", "--predictor_host=model.walkthrough:8000"),
            *(f"--storage_uri={folder}", explainer["type"]),
        ]
    )
    service = cli.build(args).service
    assert service.location == source
    service.method.load(service.location)

    (folder / artifacts.RECORD).unlink()
    with pytest.raises(ArtifactError, match=r"artifact\.json is not readable: No such file"):
        cli.build(args)


@pytest.mark.parametrize("file", PRODUCTION)
def test_our_server_takes_the_options_of_production(
    file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    deployment = read(f"explainers/{file}.yaml")
    explainer = predictor(deployment).pop("explainer")
    assert deployment == read("model/credit-risk.yaml")
    for source in explainer["containerSpec"]["envFrom"]:
        (reference,) = source.values()
        name = reference["name"].removeprefix("explainer-")
        told = read(f"explainers/production-{name}.yaml")
        assert told["metadata"]["name"] == reference["name"]
        for key, value in told.get("stringData", told.get("data", {})).items():
            monkeypatch.setenv(key, value)
    config = explainer["config"]
    if "audit_file" in config:
        config["audit_file"] = config["audit_file"].replace("/tmp", str(tmp_path))
    args = cli.parser().parse_args(
        [
            "--predictor_host=model:8000",
            f"--storage_uri={explainer['modelUri']}",
            explainer["type"],
            *[f"--{key}={value}" for key, value in config.items()],
        ]
    )
    assert cli.build(args).service.location == locate(explainer["modelUri"])


@EACH
def test_the_explainer_is_of_the_model_that_is_served(file: str):
    one = predictor(read(f"explainers/{file}.yaml"))
    served, explained = locate(one["graph"]["modelUri"]), locate(one["explainer"]["modelUri"])
    assert served.dataset == explained.dataset
    white_box = not method_class(one["explainer"]["type"]).asks_model
    if white_box and one["explainer"]["type"] == "IntegratedGradients":
        assert served == explained  # the same artefact: the network cannot be another one
    if one["graph"]["implementation"] == "SKLEARN_SERVER":
        assert (served.folder / "model.joblib").is_file()
    else:
        assert (served.folder / "1" / "saved_model.pb").is_file()
        assert (served.folder / "model.h5").is_file()
