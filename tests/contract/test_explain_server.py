"""The explain server against CONTRACT.md: paths, responses, seeds, the model behind it, and refusals."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from helpers import artifacts
from helpers.serving.common.errors import ServingError
from helpers.serving.explain import cli
from helpers.serving.explain.app import ExplainServer, make_app
from helpers.serving.explain.measures import Measures
from helpers.serving.explain.model_client import ModelClient
from helpers.serving.explain.reuse import ReusedPredictions

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (16, 16, 3)
CLASSES = 3


def classify(images: np.ndarray) -> np.ndarray:
    """A model: which third of the image has most texture, as probabilities (n, 3).

    Averaging a superpixel takes its texture away.
    """
    thirds = np.stack([part.std(axis=(1, 2, 3)) for part in np.array_split(images, 3, axis=2)], 1)
    scores = np.exp(8 * thirds)
    return scores / scores.sum(axis=1, keepdims=True)


def picture(seed: int = 0) -> np.ndarray:
    """Return an image, float32 (16, 16, 3) in [0, 1], with most texture in its right third."""
    image = np.random.default_rng(seed).random(SHAPE, np.float32)
    image[:, :11] = 0.5 + 0.4 * (image[:, :11] - 0.5)
    return image


class Model:
    """The deployed model: answers in both protocols, records what it is asked, or fails as told."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.rows: list[np.ndarray] = []
        self.fail: Any = None

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def reset(self) -> None:
        self.asked, self.rows, self.fail = [], [], None

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if isinstance(self.fail, httpx.Response):
            return self.fail
        if self.fail is not None:
            raise self.fail
        body = json.loads(request.content)
        if request.url.path == "/v1/models/toy:predict":
            rows = np.array(body["instances"], np.float32)
            answer = {"predictions": classify(rows).tolist()}
        else:
            assert request.url.path == "/api/v1.0/predictions"
            rows = np.array(body["data"]["ndarray"], np.float32)
            answer = {"data": {"ndarray": classify(rows).tolist()}, "meta": {}}
        self.rows.append(rows)
        return httpx.Response(200, json=answer)


@pytest.fixture(scope="module")
def toy(save_toy: Callable[..., Any]) -> Any:
    """Save the artefact toy/anchor_images; return the explainer that asks `classify` directly."""
    return save_toy(classify, SHAPE)


def build(model: Model, *options: str, protocol: str = "tensorflow.http") -> ExplainServer:
    """Return the server of a command line, its model in this process."""
    arguments = [
        "--model_name=toy",
        "--predictor_host=model:9000",
        f"--protocol={protocol}",
        "--storage_uri=s3://walkthrough/toy/anchor_images",
        "AnchorImages",
        "--tf_data_type=float32",
        *options,
    ]
    server = cli.build(cli.parser().parse_args(arguments))
    reuse = server.service.predictions.reuse
    client = ModelClient("model:9000", protocol, "toy", model.transport())
    server.service.predictions = ReusedPredictions(client, reuse)
    return server


@contextmanager
def serving(server: ExplainServer, ready: bool = True) -> Iterator[TestClient]:
    failures: list[str] = []
    with TestClient(make_app(server, failures.append)) as client:
        end = time.monotonic() + 120
        while ready and client.get("/ready").status_code != 200:
            assert not failures, failures
            assert time.monotonic() < end
            time.sleep(0.01)
        yield client


@pytest.fixture(scope="module")
def served(toy: Any) -> Iterator[tuple[TestClient, Model]]:
    model = Model()
    with serving(build(model, "--threshold=0.9")) as client:
        yield client, model


@pytest.fixture
def server(served: tuple[TestClient, Model]) -> tuple[TestClient, Model]:
    served[1].reset()
    return served


def request(image: np.ndarray, **parameters: Any) -> dict:
    body: dict[str, Any] = {"instances": [image.tolist()]}
    return {**body, "parameters": parameters} if parameters else body


def metric(client: TestClient, name: str) -> float:
    """Return the sum over all series of a name."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name
    )


def test_requests_are_counted_from_zero() -> None:
    """A rate needs a value before the first request."""
    registry = CollectorRegistry()
    measures = Measures(registry, "m", "toy")

    def counted() -> float | None:
        labels = {"method": "m", "model_name": "toy", "code": "200"}
        return registry.get_sample_value("explain_server_requests_total", labels)

    assert counted() == 0
    measures.answered(200)
    assert counted() == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/toy:explain",
        "/v1/models/:explain",
        "/v1/models:explain",
        "/v1/models/toy/:explain",
        "/api/v1.0/explain",
        "/api/v0.1/explain",
    ],
)
def test_every_path_explains(server: Any, path: str) -> None:
    client, _ = server
    answer = client.post(path, json=request(picture(), seed=1))
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"meta", "data"}
    assert body["meta"]["name"] == "AnchorImage"
    assert body["meta"]["params"]["threshold"] == 0.9
    assert np.shape(body["data"]["anchor"]) == SHAPE
    assert np.shape(body["data"]["segments"]) == SHAPE[:2]
    assert 0 <= body["data"]["precision"] <= 1
    assert 0 <= body["data"]["coverage"] <= 1
    assert body["data"]["raw"]["prediction"] == [2]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_it_is_the_explanation_that_alibi_gives_under_the_seed(
    toy: Any, server: Any, seed: int
) -> None:
    client, _ = server
    image = picture(seed % 7)
    state = np.random.get_state()
    np.random.seed(seed)
    local = json.loads(toy.explain(image, threshold=0.9).to_json())
    np.random.set_state(state)
    local["meta"]["params"]["seed"] = seed
    remote = client.post("/v1/models/toy:explain", json=request(image, seed=seed)).json()
    assert remote["meta"] == local["meta"]
    assert remote["data"] == local["data"]


def test_the_seed_comes_back_and_repeats_the_explanation(server: Any) -> None:
    client, _ = server
    first = client.post("/api/v1.0/explain", json=request(picture()))
    seed = first.json()["meta"]["params"]["seed"]
    assert isinstance(seed, int)
    again = client.post("/api/v1.0/explain", json=request(picture(), seed=seed))
    assert again.content == first.content
    others = {
        client.post("/api/v1.0/explain", json=request(picture())).json()["meta"]["params"]["seed"]
        for _ in range(3)
    }
    assert len(others) == 3


def test_the_seed_of_the_environment(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPLAIN_RANDOM_SEED", "True")
    monkeypatch.setenv("EXPLAIN_RANDOM_SEED_VALUE", "42")
    with serving(build(Model())) as client:
        body = client.post("/api/v1.0/explain", json=request(picture())).json()
    assert body["meta"]["params"]["seed"] == 42


def test_requests_leave_each_other_alone(server: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client, _ = server
    state = np.random.get_state()[1].copy()
    bodies = [request(picture(n), seed=n) for n in range(4)]
    alone = [client.post("/api/v1.0/explain", json=body).content for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda body: client.post("/api/v1.0/explain", json=body).content, bodies * 4)
        )
    assert together == alone * 4
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_each_distinct_image_is_asked_about_once(server: Any) -> None:
    client, model = server
    before = {
        name: metric(client, f"explain_server_{name}_sum")
        for name in ("model_calls", "samples", "distinct_samples")
    }
    client.post("/v1/models/toy:explain", json=request(picture(), seed=3))
    rows = np.concatenate(model.rows)
    assert len(np.unique(rows.reshape(len(rows), -1), axis=0)) == len(rows) <= 64
    assert len(model.asked) == 1
    assert all(asked.headers["seldon-skip-logging"] == "true" for asked in model.asked)
    assert metric(client, "explain_server_model_calls_sum") == before["model_calls"] + 1
    distinct = metric(client, "explain_server_distinct_samples_sum") - before["distinct_samples"]
    assert distinct == len(rows)
    assert metric(client, "explain_server_samples_sum") - before["samples"] >= 100
    for name in ("seconds", "anchor_precision", "anchor_coverage"):
        assert metric(client, f"explain_server_{name}_count") > 0


def test_without_reuse_it_is_the_same_explanation(
    toy: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = request(picture(), seed=3)
    expected = server[0].post("/v1/models/toy:explain", json=body).content
    monkeypatch.setenv("EXPLAIN_REUSE_PREDICTIONS", "false")
    model = Model()
    with serving(build(model, "--threshold=0.9")) as client:
        model.reset()
        assert client.post("/v1/models/toy:explain", json=body).content == expected
    assert sum(map(len, model.rows)) > 100


def test_the_seldon_protocol_gives_the_same(toy: Any, server: Any) -> None:
    expected = server[0].post("/v1/models/toy:explain", json=request(picture(), seed=3)).content
    model = Model()
    with serving(build(model, "--threshold=0.9", protocol="seldon.http")) as client:
        image = picture()[None]
        for data in (
            {"ndarray": image.tolist()},
            {"tensor": {"shape": list(image.shape), "values": image.ravel().tolist()}},
        ):
            body = {"data": data, "parameters": {"seed": 3}}
            assert client.post("/api/v1.0/explain", json=body).content == expected
        refused = client.post("/api/v1.0/explain", json={"data": {}})
        assert refused.status_code == 400
        assert refused.json()["status"]["status"] == "FAILURE"


def test_options_of_a_request(server: Any) -> None:
    client, _ = server
    body = request(picture(), seed=1, threshold=0.5, n_covered_ex=1, max_anchor_size=1)
    params = client.post("/api/v1.0/explain", json=body).json()["meta"]["params"]
    assert (params["threshold"], params["n_covered_ex"], params["max_anchor_size"]) == (0.5, 1, 1)


def test_an_image_of_one_colour(server: Any) -> None:
    client, _ = server
    answer = client.post("/api/v1.0/explain", json=request(np.full(SHAPE, 0.5), seed=1))
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert data["raw"]["feature"] == []  # the anchor is empty: nothing that is changed matters
    assert np.array_equal(data["anchor"], np.zeros(SHAPE))
    assert metric(client, "explain_server_empty_anchors_total") >= 1


BAD_BODIES: dict[str, Any] = {
    "not JSON": b"{",
    "empty": b"",
    "a list": [],
    "no instances": {"x": 1},
    "no rows": {"instances": []},
    "another shape": {"instances": [[[0.0]]]},
    "text": {"instances": ["a"]},
    "parameters": {"instances": [picture().tolist()], "parameters": [1]},
    **{
        f"parameters {parameters}": request(picture(), **parameters)
        for parameters in (
            {"seed": -1},
            {"seed": 2**32},
            {"seed": "1"},
            {"seed": 1.5},
            {"seed": True},
            {"threshold": 2},
            {"threshold": "high"},
            {"tau": 0},
            {"batch_size": 10**9},
            {"binary_cache_size": 10},
            {"unknown": 1},
        )
    },
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_requests_are_refused(server: Any, body: Any) -> None:
    client, model = server
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/v1/models/toy:explain", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert not model.asked


def test_numbers_whose_average_overflows_are_refused(server: Any) -> None:
    client, model = server
    with np.errstate(over="ignore"):
        answer = client.post("/v1/models/toy:explain", json=request(np.full(SHAPE, 3e38)))
    assert (answer.status_code, "too large" in answer.json()["error"]) == (400, True)
    assert not model.asked


def test_large_images_are_asked_about_in_several_calls() -> None:
    model = Model()
    client = ModelClient("model:9000", "tensorflow.http", "toy", model.transport())
    answers = client(np.random.default_rng(0).random((5, 200, 600, 3), np.float32))
    assert answers.shape == (5, CLASSES)
    assert [len(rows) for rows in model.rows] == [2, 2, 1]


def test_an_explanation_that_nobody_waits_for_is_not_begun(toy: Any) -> None:
    """One client's explanation is under way; of two that wait behind it, one hangs up."""
    model = Model()
    server = build(model)
    held, release = threading.Event(), threading.Event()
    explain = server.service.explain

    def slow(*arguments: Any) -> Any:
        held.set()
        assert release.wait(30)
        return explain(*arguments)

    with serving(server) as client:
        server.service.explain = slow
        app, body = client.app, json.dumps(request(picture(), seed=1)).encode()

        async def post(hangs_up: asyncio.Event) -> int:
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/api/v1.0/explain",
                "headers": [(b"content-length", str(len(body)).encode())],
                "query_string": b"",
            }
            given = [{"type": "http.request", "body": body}]
            sent: list[Any] = []

            async def receive() -> Any:
                if given:
                    return given.pop()
                await hangs_up.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            await app(scope, receive, send)
            return sent[0]["status"]

        async def scenario() -> list[int]:
            stays, leaves = asyncio.Event(), asyncio.Event()
            first = asyncio.create_task(post(stays))
            await asyncio.to_thread(held.wait, 30)
            others = [asyncio.create_task(post(event)) for event in (leaves, stays)]
            leaves.set()
            gone = await asyncio.wait_for(others[0], 30)
            release.set()
            return [gone, *await asyncio.gather(first, others[1])]

        explained = metric(client, "explain_server_seconds_count")
        assert asyncio.run(scenario()) == [499, 200, 200]
        assert metric(client, "explain_server_seconds_count") == explained + 2
        assert server.waiting == 0


def test_unknown_models_and_paths(server: Any) -> None:
    client, _ = server
    answer = client.post("/v1/models/other:explain", json=request(picture()))
    assert (answer.status_code, "other" in answer.json()["error"]) == (404, True)
    assert client.post("/v1/models/toy:predict", json={}).status_code == 404
    assert client.get("/api/v1.0/explain").status_code == 405


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (httpx.ConnectError("refused"), 503),
        (httpx.ReadTimeout("slow"), 503),
        (httpx.Response(503, json={"error": "not now"}), 503),
        (httpx.Response(429), 503),
        (httpx.Response(500, text="<html>"), 502),
        (httpx.Response(400, json={"error": "bad\nshape"}), 502),
        (httpx.Response(200, text="no JSON"), 502),
        (httpx.Response(200, json={"other": 1}), 502),
        (httpx.Response(200, json={"predictions": [[0.5, 0.5]]}), 502),
        (httpx.Response(200, json={"predictions": [["a", "b"]]}), 502),
    ],
)
def test_a_model_that_fails(server: Any, failure: Any, status: int) -> None:
    client, model = server
    model.fail = failure
    answer = client.post("/v1/models/toy:explain", json=request(picture()))
    assert answer.status_code == status
    assert "model" in answer.json()["error"]
    model.fail = None
    assert client.post("/v1/models/toy:explain", json=request(picture())).status_code == 200


def test_it_starts_before_its_model_and_says_so(toy: Any) -> None:
    model = Model()
    model.fail = httpx.ConnectError("refused")
    server = build(model)
    with serving(server, ready=False) as client:
        while "waits for its model" not in (client.get("/ready").json().get("reason") or ""):
            time.sleep(0.01)
        answer = client.post("/v1/models/toy:explain", json=request(picture()))
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "waits for its model" in answer.json()["error"]
        assert client.get("/live").status_code == 200
        model.fail = None
        end = time.monotonic() + 30
        while client.get("/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        answer = client.post("/v1/models/toy:explain", json=request(picture()))
        assert answer.status_code == 200


def test_a_changed_artefact_is_not_unpickled(toy: Any) -> None:
    file = artifacts.path("toy", "anchor_images") / "explainer.dill"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    failures: list[str] = []
    try:
        with TestClient(make_app(build(Model()), failures.append)) as client:
            while not failures:
                time.sleep(0.01)
            assert "was changed after it was made" in failures[0]
            assert client.post("/api/v1.0/explain", json={}).status_code == 503
    finally:
        file.write_bytes(kept)


@pytest.mark.parametrize(
    "options",
    [["--threshold=much"], ["--threshold=1.5"], ["--stop_on_first=perhaps"]],
)
def test_a_wrong_configuration_stops_the_server_at_its_start(toy: Any, options: list[str]) -> None:
    with pytest.raises(ServingError, match=options[0].partition("=")[0]):
        build(Model(), *options)


@pytest.mark.parametrize(
    "arguments",
    [
        ["AnchorImages"],
        ["--storage_uri=s3://walkthrough/a/b", "AnchorImages"],
        ["--storage_uri=s3://walkthrough/a/b", "--predictor_host=h", "AnchorImages", "--colour=1"],
        ["--storage_uri=s3://nowhere/a/b", "--predictor_host=h", "AnchorImages"],
        ["--storage_uri=s3://walkthrough/a/b", "--predictor_host=h", "Unknown"],
    ],
)
def test_wrong_arguments_end_the_process(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code


def test_explaining_imports_neither_tensorflow_nor_the_rest_of_alibi(toy: Any) -> None:
    code = (
        "import sys; from helpers.serving.explain import cli\n"
        "from helpers.serving.explain.lean_alibi import prepare_alibi\n"
        "s = cli.build(cli.parser().parse_args(sys.argv[1:])); prepare_alibi()\n"
        "s.service.method.load(s.service.location)\n"
        "from helpers.serving.explain import image_sampling\n"
        "print([m for m in ('tensorflow', 'spacy', 'pandas', 'matplotlib.pyplot', 'sklearn')\n"
        "       if m in sys.modules])"
    )
    arguments = [
        "--predictor_host=h",
        "--storage_uri=s3://walkthrough/toy/anchor_images",
        "AnchorImages",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
