"""The client and traffic against this repository's own servers, over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from helpers.client import Client, one_hot
from helpers.errors import ClientError
from helpers.metrics import Samples
from helpers.serving.common.events import from_http
from helpers.serving.common.server import bind
from helpers.serving.detect.completion import PayloadLog
from helpers.serving.detect.feedback import MetricsServer
from helpers.serving.explain.app import ExplainServer, make_app
from helpers.serving.explain.methods.anchor_images import AnchorImages, AnchorImagesOptions
from helpers.serving.explain.methods.base import Explained
from helpers.serving.explain.reuse import Usage
from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.routes import Deployment, Routes, RouteTable
from helpers.serving.storage import Location
from helpers.serving.tf_server.app import ModelServer
from helpers.serving.tf_server.specs import Model, Signature, TensorSpec
from helpers.traffic import feedback_for_accuracy, send

IMAGE = TensorSpec("image", np.dtype("float32"), "DT_FLOAT", (None, 4, 4, 3))
SCORES = TensorSpec("scores", np.dtype("float32"), "DT_FLOAT", (None, 3))
X = np.random.default_rng(0).random((64, 4, 4, 3), np.float32)
EXECUTOR = "seldon_api_executor_server_requests_seconds_count"


def score(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the mean of each channel, in float32."""
    return {"scores": arrays["image"].mean(axis=(1, 2), dtype=np.float32)}


@contextmanager
def listening(app: Any, lifespan: str = "on") -> Iterator[str]:
    """Serve an app on a free port, in a thread."""
    socket = bind("127.0.0.1", 0)
    config = uvicorn.Config(app, lifespan=lifespan, log_config=None, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        socket.close()


class Echo:
    """An explanation service that gives its options and seed back."""

    method = AnchorImages()
    location = Location("cifar10", "anchor_images")

    def not_ready(self) -> None:
        return None

    def start(self, on_failure: Callable[[str], None]) -> None:
        """Be ready."""

    def stop(self) -> None:
        """Be gone."""

    def explain(
        self, instances: Any, options: Any, seed: int, deadline: Any = None
    ) -> tuple[Explained, Usage, float]:
        data = {"anchor": np.array(instances[0]), "precision": [0.97], "coverage": 0.25}
        meta = {"name": "AnchorImage", "params": {**options.model_dump(), "seed": seed}}
        return Explained(meta, data, {"precision": 0.97, "coverage": 0.25}), Usage(), 0.01


class World:
    """A gateway before a model written in NumPy and an explainer; its broker is a Subscriber."""

    def __init__(self, stack: ExitStack, broker: str) -> None:
        signature = Signature("serving_default", {"image": IMAGE}, {"scores": SCORES}, run=score)
        model = ModelServer(
            "resnet32",
            lambda: Model(1, {"serving_default": signature}, {"serving_default": {}}),
        )
        explainer = ExplainServer(
            Echo(),  # type: ignore[arg-type]
            method="AnchorImages",
            options=AnchorImagesOptions(),
            model_name="resnet32",
            protocol="tensorflow.http",
        )
        predictor = {
            "name": "default",
            "model": "resnet32",
            "url": stack.enter_context(listening(model.app())),
            "explainer": stack.enter_context(listening(make_app(explainer))),
            "logger": {"url": broker},
        }
        self.routes = Routes(RouteTable(deployments=(self._deployment(predictor),)))
        self.gateway = Gateway(self.routes, seed=0)
        self.base = stack.enter_context(listening(self.gateway))
        self.client = stack.enter_context(Client(f"{self.base}/seldon/walkthrough/cifar10"))

    @staticmethod
    def _deployment(predictor: dict) -> Deployment:
        return Deployment.model_validate(
            {
                "namespace": "walkthrough",
                "name": "cifar10",
                "protocol": "tensorflow",
                "predictors": [predictor],
            }
        )

    def metrics(self) -> Samples:
        return Samples.parse(httpx.get(f"{self.base}/prometheus", timeout=10).text)


@pytest.fixture
def world(subscriber: Any, wait_until: Callable) -> Iterator[World]:
    with ExitStack() as stack:
        one = World(stack, subscriber.url)
        wait_until(one.client.ready, 30, "the model to be ready")
        yield one


def test_a_prediction_and_what_the_orchestrator_adds(
    world: World, subscriber: Any, wait_until: Callable
) -> None:
    prediction = world.client.predict(X[:3])
    expected = score({"image": X[:3]})["scores"]
    np.testing.assert_array_equal(prediction.probabilities.astype(np.float32), expected)
    assert prediction.request_id
    wait_until(lambda: len(subscriber.received) == 2, 10, "request and response events")
    assert {r.headers["ce-requestid"] for r in subscriber.received} == {prediction.request_id}

    world.client.predict(X[:1], skip_logging=True)
    mine = world.client.predict(X[:1], request_id="mine")
    assert mine.request_id == "mine"
    wait_until(lambda: len(subscriber.received) >= 4, 10, "the events of the last request")
    assert {r.headers["ce-requestid"] for r in subscriber.received[2:]} == {"mine"}


def test_metadata_and_status(world: World) -> None:
    assert world.client.status()["model_version_status"][0]["state"] == "AVAILABLE"
    assert world.client.metadata()["model_spec"]["name"] == "resnet32"


def test_refusals_have_the_servers_words(world: World) -> None:
    with pytest.raises(ClientError) as caught:
        world.client.predict(X[:, :2])
    assert caught.value.status == 400
    served = httpx.post(
        f"{world.client.url}/v1/models/resnet32:predict", content=world.client.encode(X[:, :2])
    )
    assert served.json()["error"][:200] in str(caught.value)
    with pytest.raises(ClientError, match="There is no deployment") as caught:
        Client(f"{world.base}/seldon/walkthrough/other").predict(X[:1])
    assert caught.value.status == 404
    with pytest.raises(ClientError, match="the model here is resnet32"):
        Client(world.client.url, model="vgg").predict(X[:1])
    with pytest.raises(ClientError, match="v2 protocol"):
        Client(world.client.url, protocol="v2").predict(X[:1])


def test_explain(world: World) -> None:
    explanation = world.client.explain(X[0], seed=7, threshold=0.9)
    assert explanation.seed == 7
    assert explanation.meta["params"]["threshold"] == 0.9
    assert (explanation.precision, explanation.coverage) == (0.97, 0.25)
    assert explanation.request_id
    np.testing.assert_array_equal(np.float32(explanation.data["anchor"]), X[0])
    with pytest.raises(ClientError, match=r"parameters\.threshold") as caught:
        world.client.explain(X[0], threshold=2)
    assert caught.value.status == 400


def test_feedback_is_what_the_metrics_server_compares(
    world: World, subscriber: Any, wait_until: Callable
) -> None:
    prediction = world.client.predict(X[:1], skip_logging=True)
    world.client.feedback(truth=one_hot(0, 3), response=one_hot(1, 3))
    world.client.feedback(truth=one_hot(2, 3), response=prediction, request=X[:1])
    world.client.feedback(truth=one_hot(1, 3), request_id=prediction.request_id)
    wait_until(lambda: len(subscriber.received) == 3, 10, "three feedback events")

    asked: list[str] = []

    def logged(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={"_source": {"response": {"instance": [0.1, 0.8, 0.1]}}})

    server = MetricsServer(
        "adserver.cm_models.multiclass_one_hot.MulticlassOneHot",
        PayloadLog("http://log", httpx.MockTransport(logged)),
    )
    server.load()
    by_id = {r.headers["ce-requestid"]: r for r in subscriber.received}
    assert len(by_id) == 2  # the second and the third are of one request
    counted = []
    for received in subscriber.received:
        event = from_http(received.headers, received.body)
        verdict = server.process(event.json(), received.headers, event)
        counted.append({(m.key, m.tags["class"]) for m in verdict.metrics})
    key = "seldon_metric_{}".format
    assert {(key("false_negative"), "CLASS_0"), (key("false_positive"), "CLASS_1")} in counted
    assert {(key("true_positive"), "CLASS_1"), (key("true_negative"), "CLASS_1")} in counted
    label = int(prediction.labels[0])
    right = {(key("true_positive"), "CLASS_2"), (key("true_negative"), "CLASS_2")}
    wrong = {(key("false_negative"), "CLASS_2"), (key("false_positive"), f"CLASS_{label}")}
    assert (right if label == 2 else wrong) in counted
    assert asked == [
        f"/inference-log-seldon-walkthrough-cifar10-default/_doc/{prediction.request_id}"
    ]


def test_traffic_and_the_orchestrator_count_the_same(world: World) -> None:
    before = world.metrics()
    requests = [row[None] for row in X] + [X[:1, :2]] * 6
    traffic = send(world.client, requests, concurrency=8, skip_logging=True)
    counted = world.metrics() - before
    assert traffic.codes() == {200: 64, 400: 6}
    assert counted.by(EXECUTOR, "code", service="predictions") == {"200": 64, "400": 6}
    expected = score({"image": X})["scores"]
    np.testing.assert_array_equal(traffic.probabilities[:64].astype(np.float32), expected)
    assert "shape" in traffic.problems[400]
    summed = "seldon_api_executor_server_requests_seconds_sum"
    assert traffic.seconds.sum() > counted.value(summed)  # what the network and this side add


def test_feedback_to_order_arrives_as_ordered(
    world: World, subscriber: Any, wait_until: Callable
) -> None:
    truth, response = feedback_for_accuracy(0.4, 20, classes=3)
    for true, answered in zip(truth, response, strict=True):
        world.client.feedback(truth=one_hot(true, 3), response=one_hot(answered, 3))
    wait_until(lambda: len(subscriber.received) == 20, 10, "twenty feedback events")
    bodies = [from_http(r.headers, r.body).json() for r in subscriber.received]
    right = sum(body["truth"] == body["response"] for body in bodies)
    assert right == 8


def test_predictions_survive_a_model_server_that_comes_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After, as the gateway gives while nothing listens, then the real server."""
    table = world.routes.table
    predictor = table.deployments[0].predictors[0]
    gone = predictor.model_copy(update={"url": "http://127.0.0.1:1"})
    deployment = table.deployments[0].model_dump() | {"predictors": [gone.model_dump()]}
    world.routes.replace(RouteTable(deployments=(Deployment.model_validate(deployment),)))
    with pytest.raises(ClientError, match="cannot be reached") as caught:
        Client(world.client.url, timeout=0.5).predict(X[:1])
    assert caught.value.status == 503

    # The first pause is the moment at which the server comes back.
    pauses: list[float] = []

    def come_back(seconds: float) -> None:
        pauses.append(seconds)
        world.routes.replace(table)

    monkeypatch.setattr("tenacity.nap.time.sleep", come_back)
    assert world.client.predict(X[:1]).labels.shape == (1,)
    assert pauses == [1.0]
