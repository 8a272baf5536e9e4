"""The adapter for KServe, started as KServe would start it, and what can be checked of its manifest."""

from __future__ import annotations

import copy
import hashlib
import http.server
import json
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import numpy as np
import pytest
import yaml

from helpers import artifacts
from helpers.errors import ArtifactError
from helpers.serving.kserve_explain.__main__ import build
from helpers.serving.kserve_explain.single_file import SingleFile
from helpers.serving.storage import Location

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "manifests" / "kserve" / "cifar10.yaml"
ARTIFACT = Location("cifar10", "anchor_images")
SHAPE = (32, 32, 3)
PROGRAM = "helpers.serving.kserve_explain"

# Of ComponentExtensionSpec in KServe's API; whatever else a component has is a pod's.
OWN_FIELDS = {"minReplicas", "maxReplicas", "timeout", "containerConcurrency", "logger", "batcher"}
OWN_MODEL_FIELDS = {"modelFormat", "runtime", "runtimeVersion", "storageUri", "protocolVersion"}


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return yaml.safe_load(MANIFEST.read_text())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """What KServe's initializer leaves in /mnt/models."""
    if not artifacts.exists(ARTIFACT.dataset, ARTIFACT.name):
        pytest.skip(f"artifacts/{ARTIFACT} is not here")
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(ARTIFACT.folder / "single" / "explainer.dill", folder)
    return folder


class Predictor:
    """The InferenceService's predictor: which third of an image has most texture; 503 until told."""

    def __init__(self) -> None:
        self.ready = True
        self.paths: set[str] = set()
        predictor = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                predictor.paths.add(self.path)
                images = np.array(body["instances"], np.float32)
                parts = np.array_split(images, 3, axis=2)
                scores = np.exp(8 * np.stack([part.std(axis=(1, 2, 3)) for part in parts], 1))
                answer = {"predictions": (scores / scores.sum(1, keepdims=True)).tolist()}
                content = json.dumps(answer if predictor.ready else {"error": "loading"}).encode()
                self.send_response(200 if predictor.ready else 503)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def predictor() -> Iterator[Predictor]:
    one = Predictor()
    yield one
    one.server.shutdown()
    one.server.server_close()


def as_kserve_does(container: dict[str, Any], name: str, host: str) -> list[str]:
    """The arguments of a custom explainer: its own, and those that KServe adds behind them."""
    added = {"--model_name": name, "--predictor_host": host}
    arguments = list(container.get("args", []))
    for flag, value in added.items():
        if not any(word.partition("=")[0] == flag for word in arguments):
            arguments += [flag, value]
    return arguments


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE, np.float32).round(3)


def test_it_explains_what_kserve_sends(
    manifest, models: Path, predictor: Predictor, start_server
) -> None:
    (container,) = manifest["spec"]["explainer"]["containers"]
    assert container["command"] == ["python", "-m", PROGRAM]
    arguments = as_kserve_does(container, "cifar10", predictor.host)
    server = start_server(PROGRAM, *arguments, f"--storage_uri={models}", port_option="--http_port")
    request = {"instances": [image().tolist()], "parameters": {"seed": 3}}
    answer = httpx.post(f"{server.url}/v1/models/cifar10:explain", json=request, timeout=120)
    assert answer.status_code == 200
    explanation = answer.json()
    assert explanation["meta"]["name"] == "AnchorImage"
    assert explanation["meta"]["params"]["seed"] == 3
    assert predictor.paths == {"/v1/models/cifar10:predict"}

    # The same as from the explainer's folder, which Seldon's server loads.
    other = start_server(
        "helpers.serving.explain",
        "--model_name=cifar10",
        f"--predictor_host={predictor.host}",
        "--protocol=tensorflow.http",
        f"--storage_uri=s3://walkthrough/{ARTIFACT}",
        "AnchorImages",
        "--n_covered_ex=1",
        port_option="--http_port",
    )
    same = httpx.post(f"{other.url}/v1/models/cifar10:explain", json=request, timeout=120)
    assert same.content == answer.content

    for path, status, content in [
        ("/v1/models/cifar10", 200, {"name": "cifar10", "ready": True}),
        ("/v1/models", 200, {"models": ["cifar10"]}),
        ("/v1/models/other", 404, None),
    ]:
        told = httpx.get(server.url + path, timeout=10)
        assert told.status_code == status
        assert content is None or told.json() == content
    wrong = httpx.post(f"{server.url}/v1/models/other:explain", json=request, timeout=10)
    assert wrong.status_code == 404


def test_it_is_not_ready_before_its_predictor_is(
    models: Path, predictor: Predictor, start_server, wait_until
) -> None:
    predictor.ready = False

    # `start_server` waits for /ready, so the predictor is let go once it has been asked.
    def let_go() -> None:
        wait_until(lambda: predictor.paths, 60, "the first prediction")
        released.set()
        predictor.ready = True

    released = threading.Event()
    thread = threading.Thread(target=let_go)
    thread.start()
    server = start_server(
        PROGRAM,
        "--explainer_type=AnchorImages",
        *("--model_name", "cifar10", "--predictor_host", predictor.host),
        *("--workers", "1"),
        f"--storage_uri={models}",
        port_option="--http_port",
    )
    thread.join(60)
    assert released.is_set()
    assert "waits for its model" in server.said()
    answer = httpx.get(f"{server.url}/v1/models/cifar10", timeout=10)
    assert answer.json() == {"name": "cifar10", "ready": True}


def test_readiness_says_503_while_it_loads(models: Path) -> None:
    from starlette.testclient import TestClient

    from helpers.serving.kserve_explain.__main__ import kserve_app

    server, _ = build(
        [
            "--explainer_type=AnchorImages",
            f"--storage_uri={models}",
            *("--model_name", "cifar10", "--predictor_host", "127.0.0.1:9"),
        ]
    )
    with TestClient(kserve_app(server)) as client:
        answer = client.get("/v1/models/cifar10")
        assert answer.status_code == 503
        assert answer.json() == {"name": "cifar10", "ready": False}


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_no_record_knows_is_not_unpickled(models: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (models / "explainer.dill").write_bytes(pickle.dumps(Hostile(made)))
    checksum = hashlib.sha256((models / "explainer.dill").read_bytes()).hexdigest()
    with pytest.raises(ArtifactError, match=f"checksum {checksum[:16]}… *, which no artefact"):
        SingleFile(models)
    assert not made.exists()


def test_a_file_that_changes_after_the_check_is_not_loaded(models: Path, tmp_path: Path) -> None:
    file = SingleFile(models)
    made = tmp_path / "made"
    (models / "explainer.dill").write_bytes(pickle.dumps(Hostile(made)))
    assert type(file.load()).__name__ == "AnchorImage"
    assert not made.exists()


def test_an_empty_folder_is_refused_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="STORAGE_URI names the folder"):
        SingleFile(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--explainer_type=Lime"], "invalid choice: 'Lime'"),
        (["--explainer_type=AnchorImages", "--treshold=1"], "--treshold=1"),
        ([], "--explainer_type"),
    ],
)
def test_wrong_arguments_end_it(models: Path, capsys, arguments: list[str], told: str) -> None:
    kserve = ["--model_name", "m", "--predictor_host", "h", "--http_port", "8080"]
    with pytest.raises(SystemExit):
        build([*arguments, f"--storage_uri={models}", *kserve])
    assert told in capsys.readouterr().err


# The manifest: KServe's definition of the kind is not at hand, its parts are a pod's ---------------


def pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}


def test_the_explainers_pod_is_valid(manifest) -> None:
    spec = copy.deepcopy(manifest["spec"]["explainer"])
    explainer = {key: value for key, value in spec.items() if key not in OWN_FIELDS}
    kubernetes_validate.validate(pod(explainer), "1.34", strict=True)
    explainer["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod(explainer), "1.34", strict=True)


def test_the_predictors_container_is_valid(manifest) -> None:
    predictor = manifest["spec"]["predictor"]
    own = OWN_FIELDS | {"model"}
    container = {k: v for k, v in predictor["model"].items() if k not in OWN_MODEL_FIELDS}
    spec = {k: v for k, v in predictor.items() if k not in own}
    spec["containers"] = [{"name": "kserve-container", "image": "x", **container}]
    kubernetes_validate.validate(pod(spec), "1.34", strict=True)
    assert predictor["model"]["modelFormat"] == {"name": "tensorflow"}


def test_the_manifest_fits_the_adapter_and_the_artefacts(manifest) -> None:
    spec = manifest["spec"]
    name = manifest["metadata"]["name"]
    (container,) = spec["explainer"]["containers"]
    assert container["name"] == "kserve-container"  # KServe's name for it
    assert container["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{name}"
    (port,) = container["ports"]
    assert port["containerPort"] == 8080  # what KServe passes as --http_port
    for probe in ("startup", "readiness", "liveness"):
        assert container[f"{probe}Probe"]["httpGet"]["port"] == 8080
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert variables["STORAGE_URI"] == f"s3://walkthrough/{ARTIFACT}/single"
    assert spec["predictor"]["model"]["storageUri"] == "s3://walkthrough/cifar10/resnet32"
    assert artifacts.describe(*str(ARTIFACT).split("/")).files["single/explainer.dill"]
    security = container["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    for part in ("requests", "limits"):
        assert container["resources"][part].keys() == {"cpu", "memory"}
