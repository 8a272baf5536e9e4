"""The servers as containers: what they answer, their health check, and how they stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import artifacts

from . import pods
from .containers import GRACE_SECONDS, Container, Engine, until

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
SHAPE = (32, 32, 3)
STOP_SECONDS = GRACE_SECONDS / 2
Start = Callable[..., Container]

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Noise in the shape of a CIFAR-10 image, in [0, 1]: an outlier."""
    return np.random.default_rng(0).random(SHAPE, dtype=np.float32)


def event(kind: str, image: np.ndarray) -> dict[str, Any]:
    """Return the arguments of a POST that carries an image as the event of one request or response."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": f"event-{kind}",
        "ce-source": "io.seldon.serving.deployment.cifar10.walkthrough",
        "ce-type": f"io.seldon.serving.inference.{kind}",
        "ce-requestid": "request-1",
        "ce-modelid": "resnet32",
        "ce-inferenceservicename": "cifar10",
        "ce-namespace": "walkthrough",
        "ce-endpoint": "default",
        "content-type": "application/json",
    }
    return {"headers": headers, "content": json.dumps({"instances": [image.tolist()]})}


def from_manifest(start: Start, name: str, port: int, **settings: Any) -> Container:
    """Start the one container of our image that a manifest has, as it is written there."""
    (pod,) = pods.read(MANIFESTS / name)
    return start(
        *(*pod.arguments, *settings.get("arguments", ())),
        port=port,
        entrypoint=pod.command,
        environment={**pod.environment, **settings.get("environment", {})},
        options=[*pod.options, *settings.get("options", ())],
    )


def stops_in_time(container: Container) -> None:
    stopped = container.stop()
    assert stopped.code == 0, container.logs()[-2000:]
    assert stopped.seconds < STOP_SECONDS


def test_prediction(model: Container, image: np.ndarray) -> None:
    answer = model.http.post("/v1/models/cifar10:predict", json={"instances": [image.tolist()]})
    assert answer.status_code == 200, answer.text
    from helpers.tf import tf

    folder = artifacts.path("cifar10", "resnet32") / "1"
    here = tf.saved_model.load(str(folder)).signatures["serving_default"](tf.constant(image[None]))
    (expected,) = here.values()
    np.testing.assert_allclose(answer.json()["predictions"], expected.numpy(), atol=1e-4)
    assert model.healthy()


def test_explanation(start: Start, model: Container) -> None:
    server = start(
        *("explain", "--model_name=cifar10", f"--predictor_host={model.address}"),
        *("--protocol=tensorflow.http", "--http_port=9000"),
        *("--storage_uri=s3://walkthrough/cifar10/anchor_images", "AnchorImages"),
        *("--threshold=0.8", "--n_covered_ex=1"),
        port=9000,
        environment={"EXPLAIN_RANDOM_SEED": "True", "EXPLAIN_RANDOM_SEED_VALUE": "0"},
    )
    server.wait("/ready")
    # A dark half and a bright one.
    halves = np.zeros(SHAPE, np.float32)
    halves[:16] = 0.9
    body = {"instances": [halves.tolist()]}
    answer = server.http.post("/v1/models/cifar10:explain", json=body)
    assert answer.status_code == 200, answer.text
    explanation = answer.json()
    assert explanation["meta"]["name"] == "AnchorImage"
    assert np.shape(explanation["data"]["anchor"]) == SHAPE
    predicted = model.http.post("/v1/models/cifar10:predict", json=body).json()["predictions"][0]
    assert explanation["data"]["raw"]["prediction"] == [int(np.argmax(predicted))]
    assert server.healthy()
    stops_in_time(server)


def test_detector_event_by_its_manifest(start: Start, image: np.ndarray) -> None:
    detector = from_manifest(start, "patterns/inliers-only/outlier-vae.yaml", 8080)
    detector.wait("/ready")
    answer = detector.http.post("/", **event("request", image))
    assert answer.status_code == 200, answer.text
    assert answer.headers["ce-type"] == "io.seldon.serving.inference.outlier"
    assert answer.json()["data"]["is_outlier"] == [1]
    assert detector.healthy()
    stops_in_time(detector)


def test_payload_logger_by_its_manifest(start: Start, image: np.ndarray) -> None:
    logger = from_manifest(start, "logging/payload-logger.yaml", 8080)
    logger.wait("/ready")
    taken = logger.http.post("/", **event("request", image))
    assert (taken.is_success, taken.content) == (True, b"")
    kept = logger.http.get("/v1/requests/request-1").json()
    (document,) = kept["documents"]
    np.testing.assert_allclose(document["_source"]["request"]["instance"], image, atol=1e-6)
    assert logger.healthy()
    stops_in_time(logger)


def test_explainer_over_v2_by_its_manifest(start: Start) -> None:
    """With the variables that Seldon's operator sets."""
    extra = {
        "explainer_type": "tree_shap",
        "infer_uri": "http://127.0.0.1:1/v2/models/forest/infer",
    }
    server = from_manifest(
        start,
        "explainers/v2/credit-risk-tree-shap.yaml",
        9000,
        environment={
            "MLSERVER_HTTP_PORT": "9000",
            "MLSERVER_GRPC_PORT": "9500",
            "MLSERVER_MODEL_NAME": "forest",
            "MLSERVER_MODEL_URI": "s3://walkthrough/credit_risk/tree_shap",
            "MLSERVER_MODEL_EXTRA": json.dumps(extra),
            "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_alibi_explain.AlibiExplainRuntime",
        },
    )
    server.wait("/v2/models/forest/ready")
    assert server.healthy()
    stops_in_time(server)


def test_explainer_by_its_manifest(start: Start) -> None:
    """With arguments as Seldon's operator passes them, and the folder that its init container fills."""
    server = from_manifest(
        start,
        "explainers/credit-network-integrated-gradients.yaml",
        9000,
        arguments=(
            *("--model_name=network", "--predictor_host=127.0.0.1:1", "--protocol=tensorflow.http"),
            *("--http_port=9000", "--storage_uri=/mnt/models", "IntegratedGradients"),
        ),
        options=(f"--volume={artifacts.path('credit_risk', 'network')}:/mnt/models:ro",),
    )
    server.wait("/ready")
    body = {"instances": np.zeros((2, 20)).tolist()}
    answer = server.http.post("/v1/models/network:explain", json=body)
    assert answer.status_code == 200, answer.text
    assert np.shape(answer.json()["data"]["attributions"][0]) == (2, 20)
    stops_in_time(server)


def test_explainer_on_kserve_by_its_manifest(start: Start, model: Container) -> None:
    """With the arguments that KServe adds, and the folder that it downloads."""
    folder = artifacts.path("cifar10", "anchor_images") / "single"
    server = from_manifest(
        start,
        "kserve/cifar10.yaml",
        8080,
        arguments=("--model_name=cifar10", f"--predictor_host={model.address}", "--http_port=8080"),
        options=(f"--volume={folder}:/mnt/models:ro",),
    )
    server.wait("/v1/models/cifar10")
    stops_in_time(server)


def test_a_model_server_stops_in_time(start: Start) -> None:
    server = start(
        *("tf_server", "--model_name=cifar10", "--rest_api_port=8501"),
        "--model_base_path=/app/artifacts/cifar10/resnet32",
        port=8501,
    )
    server.wait("/ready")
    stops_in_time(server)


@pytest.mark.skipif("not Path('/proc/self/status').exists()")
def test_a_stop_during_the_start_is_not_lost(start: Start) -> None:
    """The first process of a container ignores SIGTERM until it has a handler: it has one early."""
    server = start(
        *(
            "python",
            "-m",
            "helpers.serving.detect",
            "--storage_uri=s3:walkthrough/cifar10/drift_ks",
        ),
        "DriftDetector",
        port=8080,
    )
    status = Path("/proc") / str(server.state["Pid"]) / "status"

    def caught() -> bool:
        line = next(one for one in status.read_text().splitlines() if one.startswith("SigCgt"))
        return bool(int(line.split()[1], 16) >> 14 & 1)  # signal 15

    until("a handler of SIGTERM", caught, 30)
    stopped = server.stop()
    assert (stopped.code, server.logs()) == (0, "")
    assert stopped.seconds < STOP_SECONDS


def test_unhealthy_is_said(engine: Engine, start: Start) -> None:
    idle = start("python", "-c", "import time; time.sleep(300)", port=8080)
    assert not idle.healthy()
    said = engine("exec", idle.name, "python", "/app/health.py", check=False)
    assert (said.returncode, said.stderr.strip()) == (1, "not ready: nothing listens")
