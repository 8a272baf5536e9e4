"""The detect server against CONTRACT.md: events, headers, replies, metrics, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from helpers import artifacts
from helpers.serving.common.errors import ServingError
from helpers.serving.detect import cli
from helpers.serving.detect.app import DetectServer, Settings, make_app
from helpers.serving.detect.completion import PayloadLog
from helpers.serving.detect.feedback import MetricsServer
from helpers.serving.detect.forwarding import INLIER_TYPE, InlierForwarder, Sender
from helpers.serving.detect.verdict import Verdict

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (8, 8, 3)
EVENT = {
    "ce-specversion": "1.0",
    "ce-id": "event-1",
    "ce-source": "io.seldon.serving.deployment.cifar10",
    "ce-type": "io.seldon.serving.inference.request",
    "ce-requestid": "request-1",
    "ce-modelid": "resnet32",
    "ce-inferenceservicename": "cifar10",
    "ce-namespace": "seldon",
    "ce-endpoint": "default",
    "content-type": "application/json",
}
LABELS = {
    "deployment_name",
    "model_name",
    "model_image",
    "model_version",
    "predictor_name",
    "predictor_version",
    "seldon_deployment_name",
    "seldon_deployment_namespace",
    "image_name",
    "image_version",
    "worker_id",
    "method",
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Artefacts toy/outlier_vae, toy/drift_encoded and toy/drift_plain, saved by alibi-detect."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS_DIR", str(tmp_path_factory.mktemp("artifacts")))
        from helpers.quiet import quiet_libraries
        from helpers.seeds import seed_everything
        from helpers.tf import tf

        seed_everything(0)
        layers = tf.keras.layers
        with quiet_libraries():
            from alibi_detect.cd import KSDrift
            from alibi_detect.cd.tensorflow import preprocess_drift
            from alibi_detect.od import OutlierVAE
            from alibi_detect.saving import save_detector

            vae = OutlierVAE(
                threshold=0.08,
                encoder_net=tf.keras.Sequential(
                    [layers.InputLayer(SHAPE), layers.Conv2D(4, 4, strides=2, padding="same")]
                ),
                decoder_net=tf.keras.Sequential(
                    [
                        layers.InputLayer((3,)),
                        layers.Dense(4 * 4 * 2),
                        layers.Reshape((4, 4, 2)),
                        layers.Conv2DTranspose(
                            3, 4, strides=2, padding="same", activation="sigmoid"
                        ),
                    ]
                ),
                latent_dim=3,
                samples=4,
            )
            vae.score(images(2))
            encoder = tf.keras.Sequential(
                [layers.InputLayer(SHAPE), layers.Flatten(), layers.Dense(4)]
            )
            encoded = KSDrift(
                images(100, 1),
                p_val=0.05,
                preprocess_fn=partial(preprocess_drift, model=encoder, batch_size=32),
            )
            plain = KSDrift(np.random.default_rng(0).normal(size=(200, 3)), p_val=0.05)
            for name, detector in (
                ("outlier_vae", vae),
                ("drift_encoded", encoded),
                ("drift_plain", plain),
            ):
                artifacts.save(
                    "toy",
                    name,
                    lambda folder, detector=detector: save_detector(detector, folder),
                    format="alibi-detect",
                    summary="a toy",
                    figures={},
                )
        yield


def images(count: int, seed: int = 0) -> np.ndarray:
    """Return (count, 8, 8, 3), float32 in [0, 1]."""
    return np.random.default_rng(seed).random((count, *SHAPE), np.float32)


def tensorflow(rows: np.ndarray) -> dict:
    """Return a request in the tensorflow protocol."""
    return {"instances": rows.tolist()}


def event(id: str = "event-1", **extra: str) -> dict[str, str]:
    """Return the headers of a payload event."""
    return {**EVENT, "ce-id": id, **extra}


def build(*arguments: str) -> DetectServer:
    """Return the server of a command line."""
    return cli.build(cli.parser().parse_args(["--model_name", "toy", *arguments]))


def outlier_server() -> DetectServer:
    return build("--storage_uri", "s3://walkthrough/toy/outlier_vae", "OutlierDetector")


def drift_server(name: str, window: int) -> DetectServer:
    uri = f"s3:walkthrough/toy/{name}"
    return build("--storage_uri", uri, "DriftDetector", "--drift_batch_size", str(window))


@contextmanager
def serving(server: DetectServer, ready: bool = True) -> Iterator[TestClient]:
    """Run the app in this process; by default wait until its detector is loaded."""
    failures: list[str] = []
    with TestClient(make_app(server, failures.append)) as client:
        end = time.monotonic() + 120
        while ready and client.get("/ready").status_code != 200:
            assert not failures, failures
            assert time.monotonic() < end
            time.sleep(0.01)
        yield client


def metric(client: TestClient, name: str, **labels: str) -> float | None:
    """Return the value of one series; None if it is not there."""
    for family in text_string_to_metric_families(client.get("/v1/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


# Outliers


@pytest.fixture(scope="module")
def outliers(toys: None) -> Iterator[tuple[TestClient, DetectServer]]:
    server = outlier_server()
    with serving(server) as client:
        yield client, server


def test_reply_event_keeps_id_and_extensions(outliers: Any) -> None:
    client, _ = outliers
    answer = client.post("/", json=tensorflow(images(1)), headers=event("reply"))
    assert answer.status_code == 200
    assert answer.headers["ce-specversion"] == "1.0"
    assert answer.headers["ce-id"] == "reply"
    assert answer.headers["ce-type"] == "io.seldon.serving.inference.outlier"
    assert answer.headers["ce-source"] == "io.seldon.serving.toy"
    for name in ("requestid", "modelid", "inferenceservicename", "namespace", "endpoint"):
        assert answer.headers[f"ce-{name}"] == EVENT[f"ce-{name}"]
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["data"].keys() == {"is_outlier"}
    assert body["data"]["is_outlier"] in ([0], [1])
    assert body["meta"]["name"] == "OutlierVAE"


def test_scores_on_request(outliers: Any) -> None:
    client, _ = outliers
    headers = event(
        "scores",
        **{
            "Alibi-Detect-Return-Instance-Score": "true",
            "Alibi-Detect-Return-Feature-Score": "true",
        },
    )
    data = client.post("/", json=tensorflow(images(3)), headers=headers).json()["data"]
    assert np.shape(data["instance_score"]) == (3,)
    assert np.shape(data["feature_score"]) == (3, *SHAPE)
    by_feature = {**event("features"), "Alibi-Detect-Outlier-Type": "feature"}
    data = client.post("/", json=tensorflow(images(3)), headers=by_feature).json()["data"]
    assert np.shape(data["is_outlier"]) == (3, *SHAPE)


def test_scores_by_environment(toys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIBI_DETECT_RETURN_INSTANCE_SCORE", "True")
    with serving(outlier_server()) as client:
        data = client.post("/", json=tensorflow(images(2))).json()["data"]
    assert data.keys() == {"is_outlier", "instance_score"}


@pytest.mark.parametrize("rows", [1, 3, 70])
def test_the_scores_are_those_of_predict(outliers: Any, rows: int) -> None:
    from helpers.seeds import seed_everything

    client, server = outliers
    x = images(rows, rows)
    headers = {"Alibi-Detect-Return-Instance-Score": "true"}
    data = client.post("/", json=tensorflow(x), headers=headers).json()["data"]
    seed_everything(0)
    expected = server.detector.detector.predict(x)["data"]
    np.testing.assert_allclose(data["instance_score"], expected["instance_score"], rtol=1e-5)
    assert data["is_outlier"] == expected["is_outlier"].tolist()
    again = client.post("/", json=tensorflow(x), headers=headers).json()["data"]
    assert again == data


def test_unseeded_scores_differ(toys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIBI_DETECT_SEED", "none")
    monkeypatch.setenv("ALIBI_DETECT_RETURN_INSTANCE_SCORE", "true")
    with serving(outlier_server()) as client:
        first, second = (client.post("/", json=tensorflow(images(1))).json() for _ in range(2))
    assert first["data"]["instance_score"] != second["data"]["instance_score"]


def test_metrics_of_each_row(toys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SELDON_DEPLOYMENT_ID": "cifar10",
        "PREDICTIVE_UNIT_ID": "resnet32",
        "PREDICTIVE_UNIT_IMAGE": "localhost:5000/detect:1.19.0",
        "PREDICTOR_ID": "default",
        "PREDICTOR_LABELS": '{"version": "v2"}',
        "SELDON_DEPLOYMENT_NAMESPACE": "seldon",
    }.items():
        monkeypatch.setenv(name, value)
    server = outlier_server()
    with serving(server) as client:
        server.detector.detector.threshold = -1.0  # all are outliers
        for _ in range(2):
            client.post("/", json=tensorflow(images(3)))
        total = "seldon_metric_outlier_is_outlier_total"
        assert [metric(client, total, index=str(row)) for row in range(4)] == [2, 2, 2, None]
        assert metric(client, "seldon_metric_outlier_instance_score", index="2") > 0
        assert metric(client, "detect_server_rows_total") == 6
        (series,) = [
            sample.labels
            for family in text_string_to_metric_families(client.get("/v1/metrics").text)
            for sample in family.samples
            if sample.name == total and sample.labels["index"] == "0"
        ]
    assert series.keys() == LABELS | {"index"}
    assert series["method"] == "io.seldon.serving.inference.outlier"
    assert series["model_image"] == "localhost:5000/detect"
    assert series["model_version"] == series["image_version"] == "1.19.0"
    assert (series["deployment_name"], series["seldon_deployment_name"]) == ("cifar10", "cifar10")
    assert series["predictor_version"] == "v2"


def test_a_repeated_event_is_answered_and_not_counted(outliers: Any) -> None:
    client, server = outliers
    server.detector.detector.threshold, kept = -1.0, server.detector.detector.threshold
    total = "seldon_metric_outlier_is_outlier_total"
    before = metric(client, total, index="0") or 0.0
    answers = [
        client.post("/", json=tensorflow(images(1)), headers=event("twice")) for _ in range(3)
    ]
    server.detector.detector.threshold = kept
    assert len({answer.content for answer in answers}) == 1
    assert metric(client, total, index="0") == before + 1


def test_structured_events_and_other_protocols(toys: None) -> None:
    x = images(2)
    whole = {
        "specversion": "1.0",
        "id": "structured",
        "source": "here",
        "type": "io.seldon.serving.inference.request",
        "requestid": "r",
        "data": {"inputs": x.tolist()},
    }
    headers = {"content-type": "application/cloudevents+json"}
    with serving(outlier_server()) as client:
        answer = client.post("/", content=json.dumps(whole), headers=headers)
        assert answer.headers["ce-requestid"] == "r"
        expected = answer.json()
    flat = {"shape": list(x.shape), "values": x.ravel().tolist()}
    v2 = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    dims = [{"size": str(size)} for size in x.shape]
    tensors = {"dtype": "DT_FLOAT", "tensorShape": {"dim": dims}, "floatVal": flat["values"]}
    for protocol, body in (
        ("seldon.http", {"data": {"ndarray": x.tolist()}}),
        ("seldon.http", {"data": {"tensor": flat}}),
        ("seldon.http", {"data": {"tftensor": tensors}}),
        ("v2.http", {"inputs": [v2]}),
        ("kfserving.http", {"inputs": [v2]}),
    ):
        uri = str(artifacts.root() / "toy" / "outlier_vae")
        server = build("--protocol", protocol, "--storage_uri", uri, "OutlierDetector")
        with serving(server) as client:
            assert client.post("/", json=body).json() == expected
            shown = client.get("/protocol")
            assert (shown.status_code, shown.text) == (200, server.settings.protocol)


BAD_BODIES = {
    "not JSON": b"{",
    "empty": b"",
    "not an object": b"[1]",
    "no instances": b'{"x": 1}',
    "no rows": b'{"instances": []}',
    "null": b'{"instances": null}',
    "not finite": b'{"instances": [NaN]}',
    "text": b'{"instances": ["a"]}',
    "an empty row": b'{"instances": [[]]}',
    "other shape": b'{"instances": [[1, 2, 3]]}',
    "ragged": b'{"instances": [[1, 2], [1]]}',
    "holes": json.dumps({"instances": np.full((1, *SHAPE), None).tolist()}).encode(),
    "too large a number": json.dumps({"instances": np.full((1, *SHAPE), 1e300).tolist()}).encode(),
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_input_is_refused_in_json(outliers: Any, body: bytes) -> None:
    client, _ = outliers
    for headers in ({}, event("bad")):
        answer = client.post("/", content=body, headers=headers)
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]
        assert "Traceback" not in answer.text
    good = client.post("/", json=tensorflow(images(1)))
    assert good.status_code == 200


def test_broken_events_and_paths_are_refused(outliers: Any) -> None:
    client, _ = outliers
    no_id = {name: value for name, value in EVENT.items() if name != "ce-id"}
    assert client.post("/", json=tensorflow(images(1)), headers=no_id).status_code == 400
    assert client.get("/").status_code == 405
    assert client.post("/nowhere", json={}).status_code == 404
    wrong = event("type", **{"Alibi-Detect-Outlier-Type": "pixel"})
    assert client.post("/", json=tensorflow(images(1)), headers=wrong).status_code == 400


# Loading


class Slow:
    """A detector that is loaded when the test lets it."""

    event_type = "slow"

    def __init__(self) -> None:
        self.let = threading.Event()

    def load(self) -> None:
        self.let.wait(30)

    def process(self, body: Any, headers: Any, event: Any) -> Verdict:
        return Verdict({"data": body})


def test_while_loading_the_broker_is_told_to_come_back() -> None:
    detector = Slow()
    server = DetectServer(detector, Settings("slow", "tensorflow.http"))
    with serving(server, ready=False) as client:
        answer = client.post("/", json={})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "loading" in answer.json()["error"]
        assert client.get("/ready").status_code == 503
        assert client.get("/live").status_code == 200
        assert client.get("/v1/metrics").status_code == 200
        detector.let.set()
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        assert client.post("/", json={}).status_code == 200


def test_a_changed_artefact_is_not_loaded(toys: None) -> None:
    from shutil import copytree

    source = artifacts.path("toy", "drift_plain")
    copytree(source, source.parent / "changed")
    record = source.parent / "changed" / "artifact.json"
    record.write_text(record.read_text().replace('"drift_plain"', '"changed"'))
    with open(source.parent / "changed" / "x_ref.npy", "r+b") as file:
        file.seek(200)
        file.write(b"\1")
    failures: list[str] = []
    server = drift_server("changed", 10)
    with TestClient(make_app(server, failures.append)) as client:
        while not failures:
            time.sleep(0.01)
        assert "was changed after it was made" in failures[0]
        assert client.post("/", json={"instances": [[1, 2, 3]]}).status_code == 503


@pytest.mark.parametrize(
    "uri",
    [
        "s3://walkthrough/../secrets",
        "s3://walkthrough/toy/../../x",
        "s3://elsewhere/toy/outlier_vae",
        "s3://walkthrough/toy",
        "gs://walkthrough/toy/outlier_vae",
        "/etc",
        "../../etc/passwd",
        "",
    ],
)
def test_storage_cannot_be_left(toys: None, uri: str) -> None:
    with pytest.raises(Exception, match=r"storage URI|name|outside|bucket|plain names"):
        build("--storage_uri", uri, "OutlierDetector")


# Inliers


class Broker:
    """Takes what is posted to it, or answers what it is told."""

    def __init__(self) -> None:
        self.status = 202
        self.taken: list[httpx.Request] = []
        self.sender = Sender("http://broker/", httpx.MockTransport(self._take))

    def _take(self, request: httpx.Request) -> httpx.Response:
        if self.status == 202:
            self.taken.append(request)
        return httpx.Response(self.status)


def test_inliers_go_on_as_events_of_their_own(toys: None) -> None:
    broker = Broker()
    server = outlier_server()
    server.forwarder = InlierForwarder(broker.sender, "tensorflow.http", "io.seldon.outlier")
    x = images(4)
    with serving(server) as client:
        detector = server.detector.detector
        from helpers.seeds import seed_everything

        seed_everything(0)
        scores = detector.predict(x)["data"]["instance_score"]
        detector.threshold = float(np.sort(scores)[1:3].mean())  # two in, two out
        body = json.dumps(tensorflow(x)).encode()
        first = client.post("/", content=body, headers=event("mixed"))
        assert sum(first.json()["data"]["is_outlier"]) == 2
        (sent,) = broker.taken
        assert sent.headers["ce-type"] == INLIER_TYPE
        assert sent.headers["ce-id"] == "mixed-inlier"
        assert sent.headers["ce-requestid"] == "request-1"
        kept = np.array(json.loads(sent.content)["instances"], np.float32)
        np.testing.assert_array_equal(kept, x[scores <= detector.threshold])

        detector.threshold = 1e9
        client.post("/", content=body, headers=event("all"))
        assert broker.taken[-1].content == body

        back = {**event("back"), "ce-type": INLIER_TYPE}  # a trigger without a filter
        assert client.post("/", content=body, headers=back).status_code == 200
        assert len(broker.taken) == 2

        detector.threshold = -1.0
        client.post("/", content=body, headers=event("none"))
        assert len(broker.taken) == 2


def test_an_inlier_that_cannot_be_sent_is_neither_lost_nor_counted(toys: None) -> None:
    broker = Broker()
    broker.status = 500
    server = outlier_server()
    server.forwarder = InlierForwarder(broker.sender, "tensorflow.http", "io.seldon.outlier")
    with serving(server) as client:
        server.detector.detector.threshold = 1e9
        answer = client.post("/", json=tensorflow(images(1)), headers=event("kept"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert metric(client, "seldon_metric_outlier_is_outlier_total") is None
        broker.status = 202
        answer = client.post("/", json=tensorflow(images(1)), headers=event("kept"))
        assert answer.status_code == 200
        assert len(broker.taken) == 1
        assert metric(client, "seldon_metric_outlier_is_outlier_total", index="0") == 0


def test_results_are_posted_to_the_reply_url_only_if_there_is_one(toys: None) -> None:
    broker = Broker()
    server = outlier_server()
    assert server.sender is None
    server.sender = broker.sender
    with serving(server) as client:
        answer = client.post("/", json=tensorflow(images(1)), headers=event("reply"))
    (sent,) = broker.taken
    assert sent.content == answer.content
    assert sent.headers["ce-type"] == "io.seldon.serving.inference.outlier"
    assert sent.headers["ce-id"] == "reply"


def test_numbers_that_overflow_the_score_are_refused(outliers: Any) -> None:
    client, _ = outliers
    answer = client.post("/", json=tensorflow(np.full((1, *SHAPE), 1e30)), headers=event("big"))
    assert answer.status_code == 400
    assert "too large" in answer.json()["error"]


# Drift


def test_numbers_that_overflow_the_encoder_do_not_enter_the_window(toys: None) -> None:
    with serving(drift_server("drift_encoded", 10)) as client:
        x = np.full((1, *SHAPE), 3e38) * np.sign(np.random.default_rng(0).normal(size=SHAPE))
        assert client.post("/", json=tensorflow(x), headers=event("big")).status_code == 400
        assert metric(client, "detect_server_window_rows") == 0


def test_nothing_is_answered_until_the_window_is_full(toys: None) -> None:
    from helpers.serving.storage import locate

    x = images(20, 5)
    server = drift_server("drift_encoded", 20)
    with serving(server) as client:
        for row in range(19):
            answer = client.post("/", json=tensorflow(x[row : row + 1]), headers=event(str(row)))
            assert (answer.status_code, answer.content) == (200, b"")
            assert metric(client, "detect_server_window_rows") == row + 1
        assert metric(client, "seldon_metric_drift_counter_total") is None
        answer = client.post("/", json=tensorflow(x[19:]), headers=event("19"))
        assert answer.headers["ce-type"] == "io.seldon.serving.inference.drift"
        location = locate("s3://walkthrough/toy/drift_encoded")
        expected = artifacts.load(location.dataset, location.name).predict(x)["data"]
        data = answer.json()["data"]
        assert data["is_drift"] == expected["is_drift"]
        assert data["threshold"] == pytest.approx(expected["threshold"])
        np.testing.assert_allclose(data["p_val"], expected["p_val"], rtol=1e-5)
        np.testing.assert_allclose(data["distance"], expected["distance"], rtol=1e-5)
        assert metric(client, "seldon_metric_drift_is_drift", index="0") == data["is_drift"]
        for name in ("distance", "p_val"):
            values = [metric(client, f"seldon_metric_drift_{name}", index=str(i)) for i in range(4)]
            assert values == pytest.approx(data[name])
        assert metric(client, "seldon_metric_drift_threshold", index="0") == data["threshold"]
        assert metric(client, "detect_server_window_rows") == 0
    features = server.detector.window.rows
    assert features.shape == (20, 4)  # features, not images


def test_the_window_counts_rows_and_a_batch_may_fill_several(toys: None) -> None:
    rng = np.random.default_rng(3)
    calm, drifted = rng.normal(size=(10, 3)), rng.normal(5.0, 1.0, size=(10, 3))
    with serving(drift_server("drift_plain", 10)) as client:
        batch = np.concatenate([calm, drifted, calm[:7]])
        body = client.post("/", json=tensorflow(batch), headers=event("batch")).json()
        assert [window["is_drift"] for window in body["windows"]] == [0, 1]
        assert body["data"] == body["windows"][1]
        assert metric(client, "seldon_metric_drift_counter_total") == 1
        assert metric(client, "detect_server_windows_total") == 2
        assert client.post("/", json=tensorflow(calm[7:9])).content == b""
        last = client.post("/", json=tensorflow(calm[9:])).json()
        assert "windows" not in last
        assert last["data"] == body["windows"][0]


def test_a_repeated_event_does_not_enter_the_window_twice(toys: None) -> None:
    with serving(drift_server("drift_plain", 10)) as client:
        for _ in range(20):
            answer = client.post("/", json={"instances": [[1, 2, 3]]}, headers=event("same"))
            assert answer.content == b""
        assert metric(client, "detect_server_window_rows") == 1


def test_a_result_that_cannot_be_posted_fills_no_second_window(toys: None) -> None:
    broker = Broker()
    broker.status = 500
    server = drift_server("drift_plain", 10)
    server.sender = broker.sender
    rows = tensorflow(np.random.default_rng(3).normal(size=(14, 3)))
    with serving(server) as client:
        assert client.post("/", json=rows, headers=event("kept")).status_code == 503
        assert client.post("/", json=rows, headers=event("kept")).status_code == 503
        broker.status = 202
        assert client.post("/", json=rows, headers=event("kept")).status_code == 200
        assert len(broker.taken) == 1
        assert metric(client, "detect_server_window_rows") == 4
        assert metric(client, "seldon_metric_drift_is_drift", index="0") is not None


def test_drift_of_each_feature(toys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIBI_DETECT_DRIFT_TYPE_FEATURE", "TRUE")
    rows = np.random.default_rng(3).normal(size=(10, 3))
    rows[:, 1] += 5
    with serving(drift_server("drift_plain", 10)) as client:
        data = client.post("/", json=tensorflow(rows)).json()["data"]
        assert data["is_drift"] == [0, 1, 0]
        drifts = [metric(client, "seldon_metric_drift_is_drift", index=str(i)) for i in range(3)]
        assert drifts == [0, 1, 0]


@pytest.mark.parametrize("rows", [[1, 2, 3], [[1, 2]], [[[1, 2, 3]]], []])
def test_rows_of_another_shape_do_not_enter_the_window(toys: None, rows: list) -> None:
    with serving(drift_server("drift_plain", 10)) as client:
        assert client.post("/", json={"instances": rows}).status_code == 400
        assert metric(client, "detect_server_window_rows") == 0


def test_a_window_has_rows(toys: None) -> None:
    with pytest.raises(ServingError, match="at least one row"):
        drift_server("drift_plain", 0)


# Metrics of feedback

MODELS = "adserver.cm_models."
POSITIVE, NEGATIVE = "seldon_metric_true_positive_total", "seldon_metric_true_negative_total"
MISSED, FALSE = "seldon_metric_false_negative_total", "seldon_metric_false_positive_total"


def metrics_server(name: str, log: PayloadLog | None = None) -> DetectServer:
    return DetectServer(MetricsServer(name, log), Settings("metrics", "seldonfeedback.http"))


def feedback(truth: Any, response: Any = None) -> dict:
    body: dict[str, Any] = {"truth": {"data": {"ndarray": truth}}}
    if response is not None:
        body["response"] = {"data": {"ndarray": response}, "meta": {}}
    return body


def test_binary_metrics() -> None:
    with serving(metrics_server(f"{MODELS}binary_metrics.BinaryMetrics")) as client:
        pairs = [(1, 1), (1, 1), (1, 0), (0, 0), (0, 1), (0, 1), (0, 1)]
        for truth, response in pairs:
            answer = client.post("/", json=feedback([truth], [response]))
            assert (answer.status_code, answer.content) == (200, b"")
        counts = [metric(client, name) for name in (POSITIVE, MISSED, NEGATIVE, FALSE)]
        assert counts == [2, 1, 1, 3]
        assert client.post("/", json=feedback([2], [1])).status_code == 400


@pytest.mark.parametrize("name", ["classification.BinaryMetrics", "rmse.RMSE"])
@pytest.mark.parametrize("truth", [[], [[]], [["a"], ["b", "c"]], ["a", 1, [2]]])
def test_a_truth_without_shape_is_refused(name: str, truth: list) -> None:
    with serving(metrics_server(f"helpers.serving.detect.{name}", logged({}))) as client:
        for response in (truth, None):
            answer = client.post("/", json=feedback(truth, response), headers=event(f"{response}"))
            assert answer.status_code == 400
            assert answer.json()["status"]["status"] == "FAILURE"


class Broken:
    """A metrics server of a user's own, with a mistake in it."""

    def transform(self, truth: Any, response: Any, request: Any = None) -> list:
        raise ZeroDivisionError("mine")


def test_a_mistake_in_a_class_of_ones_own_is_told(caplog: pytest.LogCaptureFixture) -> None:
    server = metrics_server(f"{MODELS}binary_metrics.BinaryMetrics")
    with serving(server) as client:
        server.detector.model = Broken()
        answer = client.post("/", json=feedback([1], [1]))
    assert (answer.status_code, answer.json()["status"]["reason"]) == (400, "METRICS_SERVER_ERROR")
    assert "mine" in answer.json()["status"]["info"]
    assert "in transform" in caplog.text


def test_multiclass_numeric() -> None:
    with serving(metrics_server(f"{MODELS}multiclass_numeric.MultiClassNumeric")) as client:
        client.post("/", json=feedback([[3], [9]], [[3], [1]]))
        client.post("/", json=feedback([3], [[3.0]]))
        assert metric(client, POSITIVE, **{"class": "CLASS_3"}) == 2
        assert metric(client, MISSED, **{"class": "CLASS_9"}) == 1
        assert metric(client, FALSE, **{"class": "CLASS_1"}) == 1
        assert metric(client, NEGATIVE) is None
        client.post("/", json=feedback(["truck"], ["truck"]))
        assert metric(client, POSITIVE, **{"class": "CLASS_truck"}) == 1
        assert client.post("/", json=feedback([3], [0.5])).status_code == 400


def test_multiclass_one_hot() -> None:
    with serving(metrics_server(f"{MODELS}multiclass_one_hot.MulticlassOneHot")) as client:
        client.post("/", json=feedback([0, 0, 1], [[0.1, 0.2, 0.7]]))
        client.post("/", json=feedback([[1, 0, 0], [0, 1, 0]], [[0.9, 0.1, 0], [0, 0.2, 0.8]]))
        assert metric(client, POSITIVE, **{"class": "CLASS_2"}) == 1
        assert metric(client, POSITIVE, **{"class": "CLASS_0"}) == 1
        assert metric(client, MISSED, **{"class": "CLASS_1"}) == 1
        assert metric(client, FALSE, **{"class": "CLASS_2"}) == 1
        assert metric(client, NEGATIVE, **{"class": "CLASS_2"}) == 1  # as Seldon's


def test_feedback_in_the_tensorflow_protocol_and_metrics_of_its_own() -> None:
    with serving(metrics_server(f"{MODELS}multiclass_one_hot.MulticlassOneHot")) as client:
        body = feedback([[0, 1]])
        body["response"] = {"predictions": [[0.2, 0.8]]}
        body["truth"]["meta"] = {
            "metrics": [{"key": "mine", "type": "TIMER", "value": 250, "tags": {"who": "me"}}]
        }
        assert client.post("/", json=body).status_code == 200
        assert metric(client, POSITIVE, **{"class": "CLASS_1"}) == 1
        assert metric(client, "mine_sum", who="me") == pytest.approx(0.25)
        body["truth"]["meta"]["metrics"][0]["value"] = "much"
        assert client.post("/", json=body).status_code == 400
        body["truth"]["meta"]["metrics"][0] |= {"value": 1, "type": "GAUGE"}
        assert client.post("/", json=body).status_code == 400
        assert metric(client, POSITIVE, **{"class": "CLASS_1"}) == 1


def logged(documents: dict[str, Any]) -> PayloadLog:
    """Return a payload log with these responses by document id."""

    def answer(request: httpx.Request) -> httpx.Response:
        index, _, id = request.url.path.strip("/").split("/")
        if index != "inference-log-seldon-seldon-cifar10-default" or id not in documents:
            return httpx.Response(404, json={"found": False})
        return httpx.Response(200, json={"_source": {"response": {"instance": documents[id]}}})

    return PayloadLog("http://log", httpx.MockTransport(answer))


def test_asynchronous_feedback_is_completed_from_the_payload_log() -> None:
    documents: dict[str, Any] = {
        "batch-item-0": [0.9, 0.1, 0.0],
        "batch-item-1": [0.0, 0.9, 0.1],
    }
    server = metrics_server(f"{MODELS}multiclass_one_hot.MulticlassOneHot", logged(documents))
    with serving(server) as client:
        late = event("late", **{"ce-requestid": "single"})
        answer = client.post("/", json=feedback([[0, 0, 1]]), headers=late)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        documents["single"] = [0.1, 0.2, 0.7]
        for _ in range(3):  # delivered again and again, counted once
            assert client.post("/", json=feedback([[0, 0, 1]]), headers=late).status_code == 200
        assert metric(client, POSITIVE, **{"class": "CLASS_2"}) == 1
        both = event("both", **{"ce-requestid": "batch"})
        client.post("/", json=feedback([[1, 0, 0], [1, 0, 0]]), headers=both)
        assert metric(client, POSITIVE, **{"class": "CLASS_0"}) == 1
        assert metric(client, MISSED, **{"class": "CLASS_0"}) == 1
        assert client.post("/", json=feedback([[0, 0, 1]])).status_code == 400


def test_completion_from_the_real_payload_log(
    start_server: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    log = start_server("helpers.serving.payload_log", "--state", str(tmp_path / "state"))
    headers = {**event("answered"), "ce-type": "io.seldon.serving.inference.response"}
    answered = {"predictions": [[0.1, 0.2, 0.7]]}
    assert httpx.post(log.url, json=answered, headers=headers).status_code == 200
    name = f"{MODELS}multiclass_one_hot.MulticlassOneHot"
    with serving(metrics_server(name, PayloadLog(log.url))) as client:

        def counted() -> bool:
            given = client.post("/", json=feedback([[0, 0, 1]]), headers=event("truth"))
            return given.status_code == 200

        wait_until(counted, 10, "the payload log to have the response")
        assert metric(client, POSITIVE, **{"class": "CLASS_2"}) == 1
        log.kill()
        answer = client.post("/", json=feedback([[0, 0, 1]]), headers=event("later"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_examples_of_own_metrics() -> None:
    with serving(metrics_server("helpers.serving.detect.rmse.RMSE")) as client:
        client.post("/", json=feedback([[1.0], [2.0]], [[1.0], [4.0]]))
        client.post("/", json=feedback([[0.0]], [[1.0]]))
        assert metric(client, "rmse") == pytest.approx((5 / 3) ** 0.5)
        assert metric(client, "squared_error_count_total") == 3
    with serving(metrics_server("helpers.serving.detect.kl_divergence.KLDivergence")) as client:
        client.post("/", json=feedback([[0.5, 0.5]], [[0.5, 0.5]]))
        assert metric(client, "kl_divergence") == pytest.approx(0, abs=1e-9)
        client.post("/", json=feedback([[0.5, 0.5]], [[0.9, 0.1]]))
        assert metric(client, "kl_divergence") == pytest.approx(0.5108, abs=1e-4)
        assert client.post("/", json=feedback([[0.0, 0.0]], [[0.9, 0.1]])).status_code == 400


def test_a_class_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metrics.py").write_text(
        "from types import SimpleNamespace\n"
        "class SeldonStyle:\n"
        "    def transform(self, truth, response, request=None):\n"
        "        return SimpleNamespace(metrics=[{'key': 'seen', 'type': 'COUNTER', 'value': 1}])\n"
        "class NoTransform: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with serving(metrics_server("my_metrics.SeldonStyle")) as client:
        client.post("/", json=feedback([1], [1]))
        assert metric(client, "seen_total") == 1
    for name in ("my_metrics.NoTransform", "my_metrics.Absent", "no_such.Class", "s3://x/y"):
        failures: list[str] = []
        with TestClient(make_app(metrics_server(name), failures.append)):
            while not failures:
                time.sleep(0.005)
        assert name in failures[0] or name.rpartition(".")[2] in failures[0]


BAD_FEEDBACK: dict[str, Any] = {
    "no truth": {"response": {"data": {"ndarray": [1]}}},
    "no data": {"truth": {}, "response": {"data": {"ndarray": [1]}}},
    "no response": feedback([1]),
    "another length": feedback([[1], [2], [3]], [[1], [2]]),
    "probabilities": feedback([1], [[0.5, 0.5]]),
    "a list": [1],
    "null": None,
    "nested": {"truth": {"data": {"tensor": {"shape": [2], "values": [1]}}}},
}


@pytest.mark.parametrize("body", BAD_FEEDBACK.values(), ids=BAD_FEEDBACK.keys())
def test_bad_feedback_is_refused(body: Any) -> None:
    with serving(metrics_server(f"{MODELS}multiclass_numeric.MultiClassNumeric")) as client:
        answer = client.post("/", json=body, headers=event())
        assert answer.status_code == 400
        assert answer.json()["status"]["status"] == "FAILURE"
        assert client.post("/", json=feedback([1], [1])).status_code == 200


# The process


def test_a_metrics_server_never_imports_tensorflow() -> None:
    code = (
        "import sys; from helpers.serving.detect import cli\n"
        "s = cli.build(cli.parser().parse_args(sys.argv[1:])); s.load(print)\n"
        "sys.exit('tensorflow' in sys.modules or 'alibi_detect' in sys.modules)"
    )
    arguments = [
        "--protocol=seldonfeedback.http",
        "--storage_uri=adserver.cm_models.binary_metrics.BinaryMetrics",
        "MetricsServer",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0


def test_the_process_serves_and_stops(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    arguments = [
        "--model_name=metrics",
        "--http_port=0",
        "--protocol=seldonfeedback.http",
        "--storage_uri=adserver.cm_models.binary_metrics.BinaryMetrics",
        "MetricsServer",
    ]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "helpers.serving.detect", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=output,
        )
    try:
        wait_until(lambda: "is ready" in log.read_text(), 120, "the metrics server")
        url = log.read_text().split("listening on ")[1].split()[0]
        assert httpx.post(url, json=feedback([1], [1])).status_code == 200
        assert POSITIVE in httpx.get(f"{url}/v1/metrics").text
    finally:
        process.terminate()
    assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--storage_uri=x", "MetricsServer"],
        ["--storage_uri=s3://nowhere/a/b", "OutlierDetector"],
        ["--storage_uri=s3://walkthrough/a/b", "AdversarialDetector"],
        ["--storage_uri=s3://walkthrough/a/b", "--protocol=grpc", "OutlierDetector"],
        ["OutlierDetector"],
    ],
)
def test_wrong_arguments_end_the_process(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code
