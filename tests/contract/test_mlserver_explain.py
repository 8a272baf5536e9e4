"""The explainer behind MLServer, as Seldon's operator starts it, against a model that speaks v2."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers.client import Client
from helpers.serving.common.errors import RequestError
from helpers.serving.explain.methods import method_class
from helpers.serving.explain.model_client import ModelClient
from helpers.serving.mlserver_explain import TAGS
from helpers.serving.payloads import V2
from helpers.stack.local.ports import Ports

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
PORTS = Ports()  # below those of outgoing connections, which could take one before the program does
SHAPE = (16, 16, 3)
URI = "s3://walkthrough/toy/anchor_images"


def classify(images: np.ndarray) -> np.ndarray:
    """A model: which third of the image has most texture, as probabilities (n, 3)."""
    thirds = np.stack([part.std(axis=(1, 2, 3)) for part in np.array_split(images, 3, axis=2)], 1)
    scores = np.exp(8 * thirds)
    return scores / scores.sum(axis=1, keepdims=True)


def picture(seed: int = 0) -> np.ndarray:
    """An image, float32, with most texture in its right third."""
    image = np.random.default_rng(seed).random(SHAPE, np.float32)
    image[:, :11] = 0.5 + 0.4 * (image[:, :11] - 0.5)
    return image


class Model:
    """The deployed model, in the tensorflow and v2 protocols; `status` other than 200 is a failure."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                model.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                if self.path == "/v2/models/toy/infer":
                    (tensor,) = body["inputs"]
                    assert tensor["datatype"] == "FP32"
                    rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
                    answers = classify(rows)
                    output = {"name": "predict", "datatype": "FP64", "shape": answers.shape}
                    answer = {"outputs": [output | {"data": answers.ravel().tolist()}]}
                else:
                    assert self.path == "/v1/models/toy:predict"
                    rows = np.array(body["instances"], np.float32)
                    answer = {"predictions": classify(rows).tolist()}
                if model.status != 200:
                    answer = {"error": "told to fail"}
                content = json.dumps(answer).encode()
                self.send_response(model.status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


class Program:
    """`python -m helpers.serving.mlserver_explain` with the variables that the operator sets."""

    def __init__(self, folder: Path, model: str, *arguments: str, **changes: str | None) -> None:
        ports = [PORTS.take() for _ in range(3)]
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.log = folder / f"{ports[0]}.log"
        extra = {
            "explainer_type": "anchor_image",
            "infer_uri": f"http://{model}/v2/models/toy/infer",
        }
        variables = {
            "MLSERVER_HTTP_PORT": str(ports[0]),
            "MLSERVER_GRPC_PORT": str(ports[1]),
            "MLSERVER_METRICS_PORT": str(ports[2]),
            "MLSERVER_METRICS_DIR": str(folder / "metrics"),
            "MLSERVER_MODEL_NAME": "toy-explainer",
            "MLSERVER_MODEL_URI": URI,
            "MLSERVER_MODEL_EXTRA": json.dumps(extra),
            # Of Seldon's own image, and not in ours.
            "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_alibi_explain.AlibiExplainRuntime",
            **changes,
        }
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "helpers.serving.mlserver_explain", *arguments],
                env={name: value for name, value in environment.items() if value is not None},
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> Program:
        until(self.ready, self)
        return self

    def ready(self) -> bool:
        assert self.process.poll() is None, self.said()
        try:
            url = f"{self.url}/v2/models/toy-explainer/ready"
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


def until(check: Any, program: Program) -> None:
    end = time.monotonic() + START_SECONDS
    while not check():
        assert time.monotonic() < end, program.said()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.server.shutdown()
    model.server.server_close()


@pytest.fixture(scope="module")
def toy(save_toy: Callable[..., Any]) -> None:
    """Save the artefact toy/anchor_images."""
    save_toy(classify, SHAPE)


@pytest.fixture(scope="module")
def served(toy: None, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("mlserver")
    program = Program(folder, model.host, "--threshold=0.9", "--n_covered_ex=1")
    try:
        yield program.wait()
    finally:
        program.kill()


@pytest.fixture
def healthy(model: Model) -> Iterator[Model]:
    model.asked.clear()
    yield model
    model.status = 200


def body(image: np.ndarray, **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "predict", "datatype": "FP32", "shape": [1, *image.shape]}
    request: dict[str, Any] = {"inputs": [{**tensor, "data": image.ravel().tolist()}]}
    return request | {"parameters": {"explain_parameters": parameters}}


def infer(served: Program, content: Any) -> httpx.Response:
    return httpx.post(f"{served.url}/v2/models/toy-explainer/infer", json=content, timeout=60)


def test_an_explanation_is_one_string_of_json_in_the_envelope_of_mlserver(
    served: Program, healthy: Model
) -> None:
    answer = infer(served, body(picture(), seed=7))
    assert answer.status_code == 200
    content = answer.json()
    assert content["model_name"] == "toy-explainer"
    (output,) = content["outputs"]
    (text,) = output.pop("data")
    assert output == {
        "name": "explanation",
        "datatype": "BYTES",
        "shape": [1, 1],
        "parameters": {"content_type": "str"},
    }
    explanation = json.loads(text)
    assert explanation["meta"]["name"] == "AnchorImage"
    assert explanation["meta"]["params"]["seed"] == 7
    assert explanation["meta"]["params"]["threshold"] == 0.9
    assert explanation["data"]["precision"] >= 0.9
    assert answer.headers["x-seldon-alibi-type"] == "explanation"
    assert answer.headers["x-seldon-alibi-method"] == "anchor_image"


def test_the_model_is_asked_over_v2_and_its_logging_is_skipped(
    served: Program, healthy: Model
) -> None:
    assert infer(served, body(picture(), seed=1)).status_code == 200
    assert {path for path, _ in healthy.asked} == {"/v2/models/toy/infer"}
    assert {headers["seldon-skip-logging"] for _, headers in healthy.asked} == {"true"}


def test_it_explains_as_the_explain_server_does_under_the_same_seed(
    served: Program, healthy: Model, start_server: Any
) -> None:
    explain_server = start_server(
        "helpers.serving.explain",
        "--model_name=toy",
        f"--predictor_host={healthy.host}",
        "--protocol=tensorflow.http",
        f"--storage_uri={URI}",
        "AnchorImages",
        "--threshold=0.9",
        "--n_covered_ex=1",
        port_option="--http_port",
    )
    different = set()
    for seed in (0, 7):
        for number in (0, 1):
            image = picture(number)
            request = {"instances": [image.tolist()], "parameters": {"seed": seed}}
            plain = httpx.post(
                f"{explain_server.url}/v1/models/toy:explain", json=request, timeout=60
            )
            over_v2 = infer(served, body(image, seed=seed)).json()["outputs"][0]["data"][0]
            assert over_v2.encode() == plain.content
            different.add(plain.content)
    assert len(different) == 4


def test_without_a_seed_one_is_drawn_and_told(served: Program, healthy: Model) -> None:
    image = picture(3)
    text = infer(served, body(image)).json()["outputs"][0]["data"][0]
    seed = json.loads(text)["meta"]["params"]["seed"]
    assert infer(served, body(image, seed=seed)).json()["outputs"][0]["data"][0] == text


def test_options_are_a_requests_too(served: Program, healthy: Model) -> None:
    text = infer(served, body(picture(), seed=7, threshold=0.75)).json()["outputs"][0]["data"][0]
    assert json.loads(text)["meta"]["params"]["threshold"] == 0.75


def test_the_plain_path_answers_without_an_envelope(served: Program, healthy: Model) -> None:
    content = body(picture(), seed=7)
    plain = httpx.post(f"{served.url}/explain", json=content, timeout=60)
    assert plain.content.decode() == infer(served, content).json()["outputs"][0]["data"][0]


def test_our_client_reads_it(served: Program, healthy: Model) -> None:
    def through_gateway(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/seldon/n/m-explainer/default")
        return httpx.post(served.url + path, content=request.content, timeout=60)

    transport = httpx.MockTransport(through_gateway)
    url = "http://gateway/seldon/n/m"
    with Client(url, protocol="v2", model="toy-explainer", transport=transport) as client:
        explanation = client.explain(picture(), seed=7)
    assert explanation.seed == 7
    assert explanation.precision >= 0.9


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"parameters": {"seed": 7}}, 400, "a seed and options go into explain_parameters"),
        ({"parameters": {"explain_parameters": {"seed": -1}}}, 400, "parameters.seed must be"),
        ({"parameters": {"explain_parameters": {"treshold": 1}}}, 400, "parameters.treshold"),
        ({"parameters": {"explain_parameters": [1]}}, 400, "`parameters` must be an object"),
        ({"inputs": []}, 400, 'Expected key "inputs"'),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0]}]},
            400,
            "do not fill the shape",
        ),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]},
            400,
            "shape",
        ),
        ({"inputs": [{"name": "x"}]}, 422, None),
    ],
)
def test_wrong_requests_are_refused_with_a_sentence(
    served: Program, healthy: Model, change: dict, status: int, told: str | None
) -> None:
    answer = infer(served, body(picture()) | change)
    assert answer.status_code == status
    if told is not None:
        assert told in answer.json()["error"]
    assert healthy.asked == []


def test_a_failing_model_is_a_502_and_an_unready_one_a_503(served: Program, healthy: Model) -> None:
    for status, expected in ((500, 502), (503, 503)):
        healthy.status = status
        answer = infer(served, body(picture(), seed=1))
        assert answer.status_code == expected
        assert "told to fail" in answer.json()["error"]
    healthy.status = 200
    assert infer(served, body(picture(), seed=1)).status_code == 200


def test_its_metrics_are_the_explain_servers(served: Program, healthy: Model) -> None:
    def total(name: str) -> float:
        text = httpx.get(f"{served.url}/metrics", timeout=10).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )

    before = total("explain_server_seconds_count"), total("explain_server_requests_total")
    infer(served, body(picture(), seed=1))
    infer(served, {"inputs": []})
    assert total("explain_server_seconds_count") == before[0] + 1
    assert total("explain_server_requests_total") == before[1] + 2


def test_it_waits_for_its_model_and_stops_while_it_waits(toy: None, tmp_path: Path) -> None:
    program = Program(tmp_path, f"127.0.0.1:{PORTS.take()}")
    try:
        until(lambda: "waits for its model" in program.said(), program)
        assert not program.ready()
        assert httpx.get(f"{program.url}/v2/health/live", timeout=5).status_code == 200
        assert infer(program, body(picture())).status_code == 400
        assert program.stop() == 0
    finally:
        program.kill()


@pytest.mark.parametrize(
    ("arguments", "changes", "told"),
    [
        ((), {"MLSERVER_MODEL_NAME": None}, "MLSERVER_MODEL_NAME is not set"),
        ((), {"MLSERVER_MODEL_EXTRA": "[]"}, "MLSERVER_MODEL_EXTRA is a JSON object"),
        ((), {"MLSERVER_MODEL_EXTRA": "{}"}, "extra.explainer_type is one of anchor_image"),
        (
            (),
            {"MLSERVER_MODEL_EXTRA": '{"explainer_type": "anchor_image", "infer_uri": "x"}'},
            "extra.infer_uri is http://",
        ),
        ((), {"MLSERVER_MODEL_URI": "s3://other/x/y"}, "bucket 'other'"),
        (("--storage_uri=s3://walkthrough/toy/lost",), {}, "toy/lost"),
        (("--threshold=2",), {}, "--threshold=2"),
        (("--treshold=0.9",), {}, "unrecognized arguments: --treshold=0.9"),
    ],
)
def test_a_wrong_setting_ends_the_process_with_a_sentence(
    toy: None, model: Model, tmp_path: Path, arguments: tuple, changes: dict, told: str
) -> None:
    program = Program(tmp_path, model.host, *arguments, **changes)
    try:
        assert program.process.wait(START_SECONDS) != 0
        assert told in program.said()
        assert "Traceback" not in program.said()
    finally:
        program.kill()


def test_every_tag_of_seldons_operator_has_its_name() -> None:
    assert {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in TAGS.values()} == {
        tag.replace("anchor_image", "anchor_images") if tag != "ALE" else "a_l_e" for tag in TAGS
    }


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ({"datatype": "BYTES", "shape": [2, 1], "data": ["a text", "another"]}, None),
        ({"datatype": "FP64", "shape": [1], "data": [1.0]}, "a tensor of BYTES"),
        ({"datatype": "BYTES", "shape": [1], "data": [" "]}, "inputs[0].data holds something else"),
        (None, "one tensor"),
    ],
)
def test_texts_come_as_a_tensor_of_bytes(tensor: dict | None, told: str | None) -> None:
    request = {"inputs": [{"name": "x", **tensor}] if tensor else []}
    method = method_class("AnchorText")()
    if told is None:
        assert method.read(request, V2) == ["a text", "another"]
        return
    with pytest.raises(RequestError, match=re.escape(told)):
        method.read(request, V2)


# The model client ---------------------------------------------------------------------------------


def v2_model(output: dict[str, Any], seen: list[Any]) -> ModelClient:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={"outputs": [output]})

    return ModelClient("m:1", V2, "my model", httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("rows", "datatype", "shape", "data", "content_type"),
    [
        (np.array([[1.5, 2]], np.float32), "FP32", [1, 2], [1.5, 2.0], "np"),
        (np.array([[1.5, 2]]), "FP64", [1, 2], [1.5, 2.0], "np"),
        (np.array([[1, 2]], np.int8), "INT8", [1, 2], [1, 2], "np"),
        (np.array([[True]]), "BOOL", [1, 1], [True], "np"),
        (["a b", "c"], "BYTES", [2, 1], ["a b", "c"], "str"),
        (np.array(["a b"]), "BYTES", [1, 1], ["a b"], "str"),
    ],
)
def test_rows_become_one_tensor(
    rows: Any, datatype: str, shape: list, data: list, content_type: str
) -> None:
    seen: list[Any] = []
    output = {"name": "y", "datatype": "FP64", "shape": [len(rows), 2]}
    client = v2_model(output | {"data": [0.25, 0.75] * len(rows)}, seen)
    assert client(rows).tolist() == [[0.25, 0.75]] * len(rows)
    ((path, request),) = seen
    assert path == "/v2/models/my model/infer"
    (tensor,) = request["inputs"]
    assert (tensor["datatype"], tensor["shape"], tensor["data"]) == (datatype, shape, data)
    assert request["parameters"] == tensor["parameters"] == {"content_type": content_type}


def test_labels_come_as_one_number_each_and_regressions_as_rows() -> None:
    x = np.zeros((2, 3))
    output = {"name": "y", "shape": [2, 1]}
    labels = v2_model(output | {"datatype": "INT64", "data": [1, 0]}, [])
    assert labels(x).tolist() == [1, 0]
    values = v2_model(output | {"datatype": "FP64", "data": [1.5, 0.5]}, [])
    assert values(x).tolist() == [[1.5], [0.5]]


@pytest.mark.parametrize(
    "output",
    [
        {"datatype": "FP64", "shape": [1, 2], "data": [1.0]},
        {"datatype": "BYTES", "shape": [1, 1], "data": ["a"]},
        {"datatype": "FP64", "data": [1.0]},
        {},
    ],
)
def test_an_answer_that_is_no_tensor_of_numbers_is_refused(output: dict) -> None:
    with pytest.raises(RequestError) as refused:
        v2_model(output, [])(np.zeros((1, 3)))
    assert refused.value.status == 502
