"""Whatever is sent to a server, it refuses with a 4xx in its protocol's shape, lives on, and serves on.

One battery against every server, each a real process: what is not JSON, what is JSON of another shape, numbers
that are none, other protocols, other paths and methods, bodies without end, and connections that break.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from helpers.serving.common.body import BODY_LIMIT
from helpers.serving.common.tokens import make_token

pytestmark = pytest.mark.timeout(300)

SHAPE = (32, 32, 3)
IMAGE = np.random.default_rng(0).random(SHAPE).round(3).tolist()
STORAGE = "--storage_uri=s3://walkthrough/cifar10/"
EVENT = {
    "ce-specversion": "1.0",
    "ce-source": "test",
    "ce-type": "io.seldon.serving.inference.request",
    "content-type": "application/json",
}

CLIENT = httpx.Client(timeout=60, trust_env=False)

Json = Any


@dataclass
class Target:
    """A server and what it takes.

    Args:
        name: for the tests' names.
        good: a body that it answers with 2xx.
        path: where to POST it.
        seldon: refusals have the seldon protocol's shape.
        headers: of a good request.
        wrong: JSON bodies that only it refuses, by what is wrong with them.
    """

    name: str
    good: Json
    path: str = "/"
    seldon: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, Json] = field(default_factory=dict)
    server: Any = None
    secrets: dict[str, str] = field(default_factory=dict)  # headers that open its control API

    @property
    def url(self) -> str:
        return self.server.url + self.path


def rows(value: Json) -> dict[str, Json]:
    return {"instances": [value]}


def filled(value: Json) -> Json:
    return np.full(SHAPE, value, dtype=object).tolist()


WRONG_IMAGES: dict[str, Json] = {
    "ragged": rows([IMAGE[0], IMAGE[1][:5]]),
    "strings": rows(filled("0.5")),
    "one string": rows([*IMAGE[:-1], "0.5"]),
    "nulls": rows(filled(None)),
    "objects": rows(filled({"b64": "AA=="})),
    "no instance": {"instances": []},
    "empty instance": rows([]),
    "instances is a number": {"instances": 5},
    "instances is an object": {"instances": {"a": {"b": 1}}},
    "a dimension is missing": {"instances": IMAGE},
    "a dimension too many": rows([IMAGE]),
    "too few channels": rows(np.zeros((32, 32)).tolist()),
    "larger than float32": rows(filled(1e300)),
    "seldon protocol": {"data": {"ndarray": [IMAGE]}},
    "v2 protocol": {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]},
}
TRUTH = {"data": {"ndarray": [[0.0, 1.0]]}}
EVENT_BODY = {**{name[3:]: value for name, value in EVENT.items() if name[:3] == "ce-"}, "id": "1"}
TARGETS = [
    Target(
        "broker",
        {**EVENT_BODY, "data": {"instances": [1]}},
        "/walkthrough/default",
        headers={"content-type": "application/cloudevents+json"},
        wrong={
            "no type": {name: value for name, value in EVENT_BODY.items() if name != "type"},
            "an old version": {**EVENT_BODY, "specversion": "0.3"},
            "an attribute is a list": {**EVENT_BODY, "subject": [1]},
            "a name in capitals": {**EVENT_BODY, "RequestId": "1"},
            "a time that is none": {**EVENT_BODY, "time": "noon"},
            "data twice": {**EVENT_BODY, "data": 1, "data_base64": "AA=="},
            "base64 that is none": {**EVENT_BODY, "data_base64": "%%"},
            "tensorflow protocol": rows(1),
        },
    ),
    Target(
        "payload_log",
        rows([1, 2]),
        headers={**EVENT, "ce-id": "good", "ce-requestid": "good"},
    ),
    Target("tf_server", rows(IMAGE), "/v1/models/resnet32:predict", wrong=WRONG_IMAGES),
    Target(
        "gateway",
        rows(IMAGE),
        "/seldon/walkthrough/cifar10/v1/models/resnet32:predict",
        wrong=WRONG_IMAGES,
    ),
    Target(
        "outlier",
        rows(IMAGE),
        headers={**EVENT, "ce-id": "good"},
        wrong={**WRONG_IMAGES, "beyond the score": rows(filled(1e30))},
    ),
    Target("drift", rows(IMAGE), headers={**EVENT, "ce-id": "good"}, wrong=WRONG_IMAGES),
    Target(
        "metrics",
        {"truth": TRUTH, "response": TRUTH},
        seldon=True,
        headers={**EVENT, "ce-id": "good", "ce-type": "io.seldon.serving.feedback"},
        wrong={
            "no truth": {"response": TRUTH},
            "truth is a number": {"truth": 1, "response": TRUTH},
            "ragged truth": {"truth": {"data": {"ndarray": [["a"], ["b", "c"]]}}},
            "empty truth": {"truth": {"data": {"ndarray": []}}, "response": TRUTH},
            "strings": {"truth": {"data": {"ndarray": [["0", "1"]]}}, "response": TRUTH},
            "another shape": {"truth": {"data": {"ndarray": [[0, 0, 1]]}}, "response": TRUTH},
            "neither response nor request id": {"truth": TRUTH},
            "tensorflow protocol": rows([0, 1]),
        },
    ),
    Target(
        "explain",
        {**rows(IMAGE), "parameters": {"seed": 1}},
        "/v1/models/resnet32:explain",
        wrong={
            **WRONG_IMAGES,
            "an unknown option": {**rows(IMAGE), "parameters": {"depth": 3}},
            "an option out of range": {**rows(IMAGE), "parameters": {"threshold": 7}},
            "options that are none": {**rows(IMAGE), "parameters": [1]},
            "a seed that is none": {**rows(IMAGE), "parameters": {"seed": -1}},
        },
    ),
]
BY_NAME = {target.name: target for target in TARGETS}

NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \n ",
    "text": b"hello",
    "an image": b"\x89PNG\r\n\x1a\n\x00\x00",
    "cut short": b'{"instances": [[1, 2',
    "invalid UTF-8": b'{"instances": ["\xff\xfe"]}',
    "UTF-16": '{"instances": [1]}'.encode("utf-16"),
    "a lone surrogate": b'{"instances": ["\\ud800"]}',
    "NaN": b'{"instances": [[NaN]], "truth": {"data": {"ndarray": [NaN]}}}',
    "Infinity": b'{"instances": [[-Infinity]], "truth": {"data": {"ndarray": [1]}}}',
    "a number beyond float64": b'{"instances": [[1e999]], "truth": 1}',
    "nested 10,000 deep": b'{"instances": ' + b"[" * 10_000 + b"1" + b"]" * 10_000 + b"}",
    "nested 100 deep": b'{"instances": ' + b"[" * 100 + b"1" + b"]" * 100 + b"}",
    "open without end": b"[" * 100_000,
    "a number": b"5",
    "a string": b'"text"',
    "null": b"null",
    "a list": b"[1, 2]",
}


@pytest.fixture(scope="module")
def targets(
    start_shared: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Target]:
    """Start all servers side by side: TensorFlow takes its time to be imported."""
    folder = tmp_path_factory.mktemp("state")
    token = make_token(folder / "token")

    def start(name: str, *arguments: str, port_option: str = "--port") -> None:
        module = f"helpers.serving.{name if name in ('broker', 'payload_log') else arguments[0]}"
        given = arguments if name in ("broker", "payload_log") else arguments[1:]
        BY_NAME[name].server = start_shared(module, *given, port_option=port_option)

    def detect(name: str, *arguments: str) -> None:
        start(name, "detect", f"--model_name={name}", *arguments, port_option="--http_port")

    def behind_the_model() -> None:
        start(
            "tf_server",
            "tf_server",
            "--model_name=resnet32",
            "--model_base_path=artifacts/cifar10/resnet32",
            port_option="--rest_api_port",
        )
        model = BY_NAME["tf_server"].server
        predictor = {"name": "default", "model": "resnet32", "url": model.url, "traffic": 100}
        deployment = {"namespace": "walkthrough", "name": "cifar10", "protocol": "tensorflow"}
        routes = folder / "routes.json"
        routes.write_text(json.dumps({"deployments": [{**deployment, "predictors": [predictor]}]}))
        start("gateway", "gateway", f"--config={routes}")
        start(
            "explain",
            "explain",
            "--model_name=resnet32",
            f"--predictor_host={model.url.removeprefix('http://')}",
            "--protocol=tensorflow.http",
            f"{STORAGE}anchor_images",
            "AnchorImages",
            "--n_covered_ex=0",
            port_option="--http_port",
        )

    jobs: list[Callable[[], None]] = [
        lambda: start("broker", f"--state={folder}/b", f"--token-file={folder}/token"),
        lambda: start("payload_log", f"--state={folder}/p"),
        lambda: detect(
            "metrics",
            "--protocol=seldonfeedback.http",
            "--storage_uri=adserver.cm_models.multiclass_one_hot.MulticlassOneHot",
            "MetricsServer",
        ),
        behind_the_model,
        lambda: detect("outlier", f"{STORAGE}outlier_vae", "OutlierDetector"),
        lambda: detect("drift", f"{STORAGE}drift_ks", "DriftDetector"),
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()
    broker = BY_NAME["broker"]
    broker.secrets = {"authorization": f"Bearer {token}"}
    declared = CLIENT.put(
        f"{broker.server.url}/control/v1/brokers/walkthrough/default", headers=broker.secrets
    )
    assert declared.status_code == 200
    return BY_NAME


@pytest.fixture(params=[target.name for target in TARGETS])
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Iterator[Target]:
    """Each server in turn; after the test it must be alive and answer a good request."""
    one = targets[request.param]
    yield one
    still_serves(one)


def still_serves(target: Target) -> None:
    assert target.server.process.poll() is None, target.server.said()[-2000:]
    answer = CLIENT.post(target.url, json=target.good, headers=target.headers)
    assert answer.is_success, answer.text
    assert "Traceback" not in target.server.said()


def refused(target: Target, answer: httpx.Response, *statuses: int) -> None:
    """Assert a 4xx (one of these) in the shape of the server's protocol."""
    assert answer.status_code in statuses if statuses else 400 <= answer.status_code < 500, (
        answer.status_code,
        answer.text[:200],
    )
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    if target.seldon:
        assert body.keys() == {"status"}
        assert body["status"].keys() == {"code", "info", "reason", "status"}
        assert (body["status"]["code"], body["status"]["status"]) == (answer.status_code, "FAILURE")
        told = body["status"]["info"]
    else:
        assert body.keys() == {"error"}
        told = body["error"]
    assert isinstance(told, str)
    assert told
    assert len(told) < 1000
    assert str(Path.home()) not in told


def post(target: Target, content: Any, **headers: str) -> httpx.Response:
    given = {**target.headers, **headers}
    if "ce-id" in given:
        given["ce-id"] = os.urandom(8).hex()  # no answer out of the memory of an earlier one
    return CLIENT.post(target.url, content=content, headers=given)


@pytest.mark.parametrize("what", NOT_JSON)
def test_what_is_no_json_object(target: Target, what: str) -> None:
    refused(target, post(target, NOT_JSON[what]), 400)


@pytest.mark.parametrize(
    ("name", "what"), [(target.name, what) for target in TARGETS for what in target.wrong]
)
def test_json_of_another_shape(targets: dict[str, Target], name: str, what: str) -> None:
    target = targets[name]
    content = json.dumps(target.wrong[what]).encode()
    refused(target, post(target, content), 400)
    still_serves(target)


def test_an_empty_object(target: Target) -> None:
    if target.name == "payload_log":  # keeps whatever object a model was sent
        return
    refused(target, post(target, b"{}"), 400)


def test_encodings(target: Target) -> None:
    good = json.dumps(target.good).encode()
    refused(target, post(target, good, **{"content-encoding": "br"}), 415)
    if target.name == "gateway":  # hands bodies on as they are, so that they must be plain
        refused(target, post(target, good, **{"content-encoding": "gzip"}), 415)
        return
    refused(target, post(target, good, **{"content-encoding": "gzip"}), 400)
    bomb = gzip.compress(b" " * (BODY_LIMIT + 1), compresslevel=1)
    refused(target, post(target, bomb, **{"content-encoding": "gzip"}), 413)
    cut = gzip.compress(good)[:-9]
    refused(target, post(target, cut, **{"content-encoding": "gzip"}), 400)


def test_content_types(target: Target) -> None:
    """Servers of predictions go by the body, as Seldon's do; the type of an event counts."""
    refused(target, post(target, b"\x89PNG\r\n\x1a\n", **{"content-type": "image/png"}), 400)
    if "ce-type" in target.headers:
        batch = {"content-type": "application/cloudevents-batch+json"}
        refused(target, post(target, b"[]", **batch), 415)


def test_bodies_that_are_too_large(target: Target) -> None:
    refused(target, post(target, b"[" * (BODY_LIMIT + 1)), 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(BODY_LIMIT // 2**20 + 1):
            yield b" " * 2**20

    refused(target, post(target, chunks()), 413)


def test_other_paths_and_methods(target: Target) -> None:
    base = target.server.url
    for method in ("PUT", "DELETE", "PATCH"):
        refused(target, CLIENT.request(method, target.url, headers=target.headers), 405)
    for path in (
        "/nothing/at/all",
        "/v3/models/x:predict",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/a" * 900,
    ):
        answer = CLIENT.post(base + path, json=target.good, headers=target.headers)
        refused(target, answer, 400, 404, 405)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("broker", "default", "nobody"),
        ("tf_server", "resnet32", "nobody"),
        ("tf_server", ":predict", "/versions/99:predict"),
        ("tf_server", ":predict", "/versions/" + "9" * 5000 + ":predict"),
        ("gateway", "cifar10", "nobody"),
        ("gateway", "resnet32", "nobody"),
        ("gateway", "walkthrough", "%00"),
        ("explain", "resnet32", "nobody"),
        ("explain", "resnet32", "%ff" * 300),
    ],
)
def test_unknown_models(targets: dict[str, Target], name: str, old: str, new: str) -> None:
    target = targets[name]
    url = target.server.url + target.path.replace(old, new)
    refused(target, CLIENT.post(url, json=target.good, headers=target.headers), 400, 404)
    still_serves(target)


BROKEN: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "half a request line": b"POST /",
    "content-length is a word": b"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n{}",
    "content-length is negative": b"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}",
    "content-length is endless": b"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: "
    + b"9" * 5000
    + b"\r\n\r\n{}",
    "content-length twice": b"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
    b"content-length: 3\r\n\r\n{}",
    "less than announced": b"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: 100\r\n\r\n{",
    "less than announced, far too large": b"POST {path} HTTP/1.1\r\nhost: x\r\n"
    b"content-length: 999999999999\r\n\r\n{",
    "a chunk that is none": b"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}"
    b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "a chunk that never comes": b"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}"
    b"transfer-encoding: chunked\r\n\r\nff\r\n{",
    "a header without end": b"POST {path} HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 200_000,
    "a header that is none": b"POST {path} HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_connections_that_break(target: Target, what: str) -> None:
    """What is no HTTP gets a 4xx in the HTTP layer's own words, or no answer at all."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
    content = BROKEN[what].replace(b"{path}", target.path.encode())
    content = content.replace(b"{headers}", headers.encode())
    with socket.create_connection(("127.0.0.1", target.server.port), timeout=5) as connection:
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except ConnectionError:
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]


# By the OpenAPI documents -----------------------------------------------------------------------

# What exists, so that not all cases end at a name that does not.
EXISTING = {
    "namespace": "walkthrough",
    "deployment": "cifar10",
    "predictor": "default",
    "broker": "default",
    "model": "resnet32",
    "index": "inference-log-tensorflow-walkthrough-cifar10-default",
    "id": "good",
}


@pytest.mark.timeout(2400)
def test_whatever_fits_or_misses_its_openapi_document(
    target: Target, try_openapi: Callable[..., int]
) -> None:
    """No 5xx, no traceback, and every answer is one that the document announces."""
    tried = try_openapi(target.server.url, existing=EXISTING, headers=target.secrets)
    print(f"{target.name}: {tried} requests")
