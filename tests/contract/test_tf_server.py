"""Our server against TensorFlow Serving's REST API (api_rest.md of tensorflow/serving).

Most tests use a model written in numpy; those at the end load SavedModels with TensorFlow.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.tf_server.app import ModelServer
from helpers.serving.tf_server.batching import Batcher
from helpers.serving.tf_server.results import write_result
from helpers.serving.tf_server.row_reader import RowReader
from helpers.serving.tf_server.specs import (
    Arrays,
    Model,
    ModelInputError,
    Run,
    Signature,
    TensorSpec,
)
from helpers.serving.tf_server.tensors import PredictReader
from helpers.serving.tf_server.versions import newest_version

IMAGE = TensorSpec("image", np.dtype("float32"), "DT_FLOAT", (None, 2, 3))
SUMS = TensorSpec("sums", np.dtype("float32"), "DT_FLOAT", (None, 2))
WEIGHT = TensorSpec("weight", np.dtype("int32"), "DT_INT32", (None,))
FLAG = TensorSpec("flag", np.dtype("bool"), "DT_BOOL", (None,))
TEXT = TensorSpec("text", np.dtype(object), "DT_STRING", (None,))
TABLE = TensorSpec("table", np.dtype("float32"), "DT_FLOAT", (2, 2))


def sums(arrays: Arrays) -> dict[str, np.ndarray]:
    return {"sums": arrays["image"].sum(axis=2)}


def signature(name: str, inputs: list[TensorSpec], outputs: list[TensorSpec], run: Any) -> Any:
    return Signature(
        name, {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}, run
    )


def shout(arrays: Arrays) -> dict[str, np.ndarray]:
    upper = np.array([text.upper() for text in arrays["text"]], dtype=object)
    return {"loud": upper, "raw_bytes": arrays["text"]}


def refuse(arrays: Arrays) -> dict[str, np.ndarray]:
    if (arrays["image"] < -50).any():
        raise ModelInputError("a pixel is below -50")
    return sums(arrays)


SIGNATURES = {
    "serving_default": signature("serving_default", [IMAGE], [SUMS], refuse),
    "both": signature(
        "both",
        [IMAGE, WEIGHT],
        [SUMS, WEIGHT],
        lambda arrays: sums(arrays) | {"weight": arrays["weight"] * 2},
    ),
    "text": signature(
        "text",
        [TEXT],
        [
            TensorSpec("loud", np.dtype(object), "DT_STRING", (None,)),
            TensorSpec("raw_bytes", np.dtype(object), "DT_STRING", (None,)),
        ],
        shout,
    ),
    "flag": signature("flag", [FLAG], [FLAG], dict),
    "weight": signature("weight", [WEIGHT], [WEIGHT], dict),
    "table": signature("table", [TABLE], [TABLE], dict),
}
METADATA = {"serving_default": {"method_name": "tensorflow/serving/predict"}}


def model() -> Model:
    return Model(3, SIGNATURES, METADATA)


class World:
    """A started server and its client."""

    def __init__(self, load: Callable[[], Model] = model, **options: Any) -> None:
        limits = {"body_limit": options.pop("body_limit")} if "body_limit" in options else {}
        self.server = ModelServer("classifier", load, **options)
        self.app = self.server.app(**limits)

    async def __aenter__(self) -> World:
        self._lifespan = self.server._lifespan(self.app)
        await self._lifespan.__aenter__()
        transport = httpx.ASGITransport(app=self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://tf")
        return self

    async def __aexit__(self, *problem: object) -> None:
        await self._lifespan.__aexit__(None, None, None)

    async def ready(self) -> None:
        async with asyncio.timeout(30):
            while (await self.client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.001)

    async def predict(self, content: Any, path: str = "/v1/models/classifier:predict") -> Any:
        body = content if isinstance(content, bytes) else orjson.dumps(content)
        return await self.client.post(path, content=body)


def run(scenario: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        async with World(**options) as world:
            await world.ready()
            await scenario(world)

    asyncio.run(whole())


@pytest.mark.parametrize("host", ["[", "x/v1/models/classifier:predict?", "x#"])
def test_the_path_is_the_requests_and_not_the_hosts(host: str) -> None:
    """With starlette before 1.0.1, `Host` can name another in request.url (CVE-2026-48710)."""

    async def scenario(world: World) -> None:
        header = {"host": host}
        body = orjson.dumps({"instances": [[[1, 2, 3], [4, 5, 6]]]})
        called = await world.client.post(
            "/v1/models/classifier:predict", content=body, headers=header
        )
        assert called.json() == {"predictions": [[6.0, 15.0]]}
        elsewhere = await world.client.post("/v1/elsewhere", content=body, headers=header)
        assert elsewhere.status_code == 400
        assert "Malformed request: POST /v1/elsewhere" in elsewhere.json()["error"]

    run(scenario)


# Forms of a request ------------------------------------------------------------------------------

ROWS = [[[1, 2, 3], [4, 5, 6]], [[0.5, 0, 0], [1e1, -1, 1]]]
SUMMED = [[6.0, 15.0], [0.5, 10.0]]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"instances": ROWS}, {"predictions": SUMMED}),
        ({"instances": [{"image": row} for row in ROWS]}, {"predictions": SUMMED}),
        ({"inputs": ROWS}, {"outputs": SUMMED}),
        ({"inputs": {"image": ROWS}}, {"outputs": SUMMED}),
        ({"signature_name": "serving_default", "instances": ROWS}, {"predictions": SUMMED}),
        ({"signature_name": "", "instances": ROWS}, {"predictions": SUMMED}),
        (
            {
                "signature_name": "both",
                "instances": [{"image": ROWS[0], "weight": 4}, {"weight": 5, "image": ROWS[1]}],
            },
            {
                "predictions": [
                    {"sums": SUMMED[0], "weight": 8},
                    {"sums": SUMMED[1], "weight": 10},
                ]
            },
        ),
        (
            {"signature_name": "both", "inputs": {"image": ROWS, "weight": [4, 5]}},
            {"outputs": {"sums": SUMMED, "weight": [8, 10]}},
        ),
        (
            {"signature_name": "text", "instances": ["a", {"b64": "Yg=="}]},
            {
                "predictions": [
                    {"loud": "A", "raw_bytes": {"b64": "YQ=="}},
                    {"loud": "B", "raw_bytes": {"b64": "Yg=="}},
                ]
            },
        ),
        ({"signature_name": "flag", "instances": [True, False]}, {"predictions": [True, False]}),
        ({"signature_name": "table", "inputs": [[1, 2], [3, 4]]}, {"outputs": [[1, 2], [3, 4]]}),
    ],
)
def test_row_and_column_form(asked: dict, answer: dict) -> None:
    async def scenario(world: World) -> None:
        response = await world.predict(asked)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        assert response.json() == answer
        explicit = await world.predict(asked, "/v1/models/classifier/versions/3:predict")
        assert explicit.json() == answer

    run(scenario)


def test_white_space_and_gzip_do_not_matter() -> None:
    async def scenario(world: World) -> None:
        spaced = json.dumps({"instances": ROWS}, indent=3).encode()
        assert (await world.predict(spaced)).json() == {"predictions": SUMMED}
        zipped = await world.client.post(
            "/v1/models/classifier:predict",
            content=gzip.compress(spaced),
            headers={"content-encoding": "gzip"},
        )
        assert zipped.json() == {"predictions": SUMMED}

    run(scenario)


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b"not json", "JSON Parse error"),
        (b'{"instances": [[[NaN, 1, 2], [3, 4, 5]]]}', "NaN"),
        (b'{"instances": [[[1e999, 1, 2], [3, 4, 5]]]}', "JSON Parse error"),
        (b'{"instances": [[[1e39, 1, 2], [3, 4, 5]]]}', "too large"),
        (b'{"instances": [[[1, 2, 3], [4, 5, 6]]]', "JSON Parse error"),
        (b'{"instances": [[[1, 2, 3] [4, 5, 6]]]}', "JSON Parse error"),
        (b'{"instances": [[[1, 2, 3], [4, 5,[ 6]]]}', "JSON Parse error"),
        (b"[1]", "not an object"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"instances": []}', "No values in 'instances' array"),
        (b'{"instances": 3}', "to be a list"),
        (b'{"instances": {"image": 3}}', "to be a list"),
        (b'{"instances": [[[1, 2, 3], [4, 5, 6]]], "inputs": []}', "only one of"),
        (b'{"instances": [[[1, 2, 3], [4, 5]]]}', "ragged"),
        (b'{"instances": [[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], 4]]}', "ragged"),
        (b'{"instances": [[[1, 2], [3, 4], [5, 6]]]}', r"\[1,3,2\].*\[-1,2,3\]"),
        (b'{"instances": [[1, 2, 3], [4, 5, 6]]}', r"\[2,3\]"),
        (b'{"instances": [[[1, 2, 3], [4, 5, "6"]]]}', "DT_FLOAT"),
        (b'{"instances": [[[1, 2, 3], [4, 5, null]]]}', "DT_FLOAT"),
        (b'{"instances": [[[1, 2, 3], [4, 5, true]]]}', "true or false"),
        (b'{"instances": [[[1, 2, 3], [4, 5, {}]]]}', "DT_FLOAT"),
        (b'{"instances": [{"image": 1}, [2]]}', "Expecting object"),
        (b'{"instances": [{"picture": 1}]}', "keys image"),
        (b'{"instances": [{"image": 1, "more": 1}]}', "keys image"),
        (b'{"inputs": {"picture": 1}}', "Missing named input: image"),
        (b'{"inputs": []}', r"\[0\]"),
        (b'{"instances": [[[], []]]}', r"\[1,2,0\]"),
        (b'{"signature_name": "x", "instances": [1]}', 'name: "x" not found'),
        (b'{"signature_name": 3, "instances": [1]}', "must be a string"),
        (b'{"signature_name": "both", "instances": [1]}', "list of objects"),
        (b'{"signature_name": "both", "inputs": [1]}', "expecting an object"),
        (b'{"signature_name": "weight", "instances": [1.5]}', "DT_INT32"),
        (b'{"signature_name": "weight", "instances": [3000000000]}', "outside the range"),
        (b'{"signature_name": "weight", "instances": [1e400]}', "JSON Parse error"),
        (b'{"signature_name": "flag", "instances": [1]}', "DT_BOOL"),
        (b'{"signature_name": "text", "instances": [1]}', "DT_STRING"),
        (b'{"signature_name": "text", "instances": ["a", ["b"]]}', "ragged"),
        (b'{"signature_name": "text", "instances": [{"b64": "?"}]}', "base64"),
        (b'{"signature_name": "table", "inputs": [[1, 2]]}', r"\[1,2\].*\[2,2\]"),
        (b'{"instances": [[[-99, 2, 3], [4, 5, 6]]]}', "a pixel is below -50"),
        (b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}", "JSON Parse error"),
        (b'{"instances": ' + b"[" * 60 + b"]" * 60 + b"}", "ragged|shape"),
        (b'\xff{"instances": [1]}', "JSON Parse error"),
    ],
)
def test_bad_bodies_are_400_with_a_sentence(body: bytes, told: str) -> None:
    async def scenario(world: World) -> None:
        response = await world.predict(body)
        assert response.status_code == 400, response.text
        assert set(response.json()) == {"error"}
        assert "Traceback" not in response.text
        assert len(response.text) < 1000
        with pytest.raises(AssertionError, match=told):
            raise AssertionError(response.json()["error"])

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("POST", "/v1/models/other:predict", 404, "Servable not found for request: Latest(other)"),
        (
            "POST",
            "/v1/models/classifier/versions/9:predict",
            404,
            "Servable not found for request: Specific(classifier, 9)",
        ),
        ("POST", "/v1/models/classifier:explode", 400, "Malformed request: POST /v1/models/"),
        ("POST", "/v1/models/classifier", 400, "Malformed request: POST"),
        ("GET", "/v1/models/classifier:predict", 400, "Malformed request: GET"),
        ("POST", "/v1/models/classifier:classify", 400, "classify"),
        ("GET", "/v1/models/other", 404, "Could not find any versions of model other"),
        ("GET", "/v1/models/classifier/versions/9", 404, "Could not find version 9 of model"),
        ("GET", "/v1/models/classifier/versions/" + "9" * 30, 400, "Failed to convert version"),
        ("GET", "/v1/models/other/metadata", 404, "Servable not found"),
        ("GET", "/elsewhere", 404, "Nothing is served"),
        ("PUT", "/v1/models/classifier", 405, "not allowed"),
    ],
)
def test_wrong_paths(method: str, path: str, status: int, told: str) -> None:
    async def scenario(world: World) -> None:
        response = await world.client.request(method, path)
        assert response.status_code == status
        assert told in response.json()["error"]

    run(scenario)


def test_large_bodies_are_refused() -> None:
    async def scenario(world: World) -> None:
        response = await world.predict(b" " * 2000)
        assert response.status_code == 413
        assert "1000 bytes" in response.json()["error"]

    run(scenario, body_limit=1000)


# Status ------------------------------------------------------------------------------------------


def test_status_and_metadata() -> None:
    async def scenario(world: World) -> None:
        wanted = {
            "model_version_status": [
                {
                    "version": "3",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }
        assert (await world.client.get("/v1/models/classifier")).json() == wanted
        assert (await world.client.get("/v1/models/classifier/versions/3")).json() == wanted
        assert (await world.client.get("/v1/models/classifier/metadata")).json() == {
            "model_spec": {"name": "classifier", "signature_name": "", "version": "3"},
            "metadata": {"signature_def": {"signature_def": METADATA}},
        }

    run(scenario)


def test_it_says_that_it_is_not_ready_until_the_model_is_loaded() -> None:
    gate = threading.Event()

    def slow() -> Model:
        assert gate.wait(30)
        return model()

    async def whole() -> None:
        async with World(slow) as world:
            for response in (
                await world.predict({"instances": ROWS}),
                await world.client.get("/v1/models/classifier"),
            ):
                assert response.status_code == 503
                assert "not ready" in response.json()["error"]
            status = (await world.client.get("/v1/models/classifier")).json()
            assert status["model_version_status"][0]["state"] == "LOADING"
            assert (await world.client.get("/live")).status_code == 200
            assert (await world.client.get("/ready")).status_code == 503
            gate.set()
            await world.ready()
            assert (await world.predict({"instances": ROWS})).status_code == 200

    asyncio.run(whole())


def test_a_model_that_cannot_be_loaded_is_named() -> None:
    def broken() -> Model:
        raise ServingError("the folder is empty")

    async def whole() -> None:
        failures: list[Exception] = []
        async with World(broken, on_failure=failures.append) as world:
            async with asyncio.timeout(10):
                while not failures:
                    await asyncio.sleep(0.001)
            response = await world.predict({"instances": ROWS})
            assert response.status_code == 503
            assert "the folder is empty" in response.json()["error"]

    asyncio.run(whole())


def test_the_newest_version_is_the_highest_number(tmp_path: Path) -> None:
    for name in ("2", "10", "9", "draft", "11.bak"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    assert newest_version(tmp_path) == (10, tmp_path / "10")
    with pytest.raises(ServingError, match="No versions"):
        newest_version(tmp_path / "draft")
    with pytest.raises(ServingError, match="not a folder"):
        newest_version(tmp_path / "missing")
    (tmp_path / "12").mkdir()
    with pytest.raises(ServingError, match=r"no saved_model\.pb"):
        newest_version(tmp_path)


def test_metrics() -> None:
    async def scenario(world: World) -> None:
        await world.predict({"instances": ROWS})
        await world.predict({"instances": 1})
        for path in ("/metrics", "/monitoring/prometheus/metrics"):
            text = (await world.client.get(path)).text
            assert 'tf_server_requests_total{code="200",method="predict"} 1.0' in text
            assert 'tf_server_requests_total{code="400",method="predict"} 1.0' in text
            assert "tf_server_batch_rows_sum 2.0" in text

    run(scenario)


# The fast way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3), (), (4,), (32, 32, 3)])
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_the_fast_way_reads_what_json_reads(shape: tuple[int, ...], rows: int) -> None:
    spec = TensorSpec("image", np.dtype("float32"), "DT_FLOAT", (None, *shape))
    array = np.random.default_rng(0).normal(0, 1e3, (rows, *shape)).astype("float32")
    for body in (
        json.dumps({"instances": array.tolist()}).encode(),
        json.dumps({"instances": array.tolist()}, indent=1).encode(),
        orjson.dumps({"instances": array}, option=orjson.OPT_SERIALIZE_NUMPY),
    ):
        read = RowReader(spec).read(body)
        assert read is not None
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[[1, 2, 3], [4, 5, 6]]], "signature_name": "both"}',
        b'{"instances": [[[1, 2, 3], [4, 5]]]}',
        b'{"instances": [[[1, 2], [3, 4, 5, 6]]]}',
        b'{"instances": [[[1, 2, 3], [4, 5, 6]]]} ]',
        b'{"instances": [[[1, 2, 3], [4, 5, 6,]]]}',
        b'{"instances": [[[1, 2, 3], [4, , 6]]]}',
        b'{"instances": [[[1, 2, 3], [4, 5 5, 6]]]}',
        b'{"instances": [[[1, 2, 3], [4, 5.5.5, 6]]]}',
        b'{"instances": [[[1, 2, 3], 4[, 5, 6]]]}',
        b'{"instances": [[[1, 2, 3], [4, 5, 0x6]]]}',
        b'{"instances": [[[1, 2, 3], [4, 5, 1e39]]]}',
        b'{"instanc": [[[1, 2, 3], [4, 5, 6]]]}',
        b'{"instances": []}',
        b"",
    ],
)
def test_the_fast_way_leaves_everything_else_alone(body: bytes) -> None:
    reader = RowReader(IMAGE)
    assert reader.read(body) is None
    good = reader.read(b'{"instances": [[[1, 2, 3], [4, 5, 6]]]}')  # it can go on
    assert good is not None
    assert good.shape == (1, 2, 3)


def test_both_ways_agree() -> None:
    body = orjson.dumps({"instances": ROWS})
    fast = PredictReader(SIGNATURES).read(body).inputs["image"]
    slow = PredictReader(SIGNATURES)._read_any(body).inputs["image"]
    np.testing.assert_array_equal(fast, slow)
    assert fast.dtype == slow.dtype


# Results -----------------------------------------------------------------------------------------


def test_numbers_that_are_not_finite_are_written_like_tensorflow_serving_does() -> None:
    written = write_result({"a": np.array([[1.5, np.nan], [np.inf, -np.inf]], "float32")}, True)
    assert b"NaN" in written
    values = json.loads(written)["predictions"]
    assert values[0][0] == 1.5
    assert math.isnan(values[0][1])
    assert values[1] == [math.inf, -math.inf]


def test_row_form_needs_outputs_that_share_their_first_axis() -> None:
    with pytest.raises(RequestError, match="column form"):
        write_result({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, row_form=True)
    with pytest.raises(RequestError, match="column form"):
        write_result({"a": np.float32(1.0).reshape(())}, row_form=True)
    assert write_result({"a": np.float32(1.0).reshape(())}, False) == b'{"outputs":1.0}'


def test_floats_are_written_short_and_exact() -> None:
    values = np.random.default_rng(0).random(1000).astype("float32")
    written = write_result({"a": values}, row_form=True)
    np.testing.assert_array_equal(np.array(json.loads(written)["predictions"], "float32"), values)
    assert len(written) < 13 * 1000


# Batching ----------------------------------------------------------------------------------------


class Recorder:
    """A model that takes a while and notes the rows of each call."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.rows: list[int] = []

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        x = arrays["x"]
        self.rows.append(len(x))
        time.sleep(self.seconds)
        if (x < 0).any():
            raise ModelInputError("negative")
        return {"y": x * 2}


def batched(scenario: Callable[[Batcher], Awaitable[None]], model: Run, **options: Any) -> None:
    async def whole() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model, executor, **options)
            await scenario(batcher)
            await batcher.aclose()

    asyncio.run(whole())


def test_requests_under_load_are_computed_together_and_answered_each() -> None:
    model = Recorder()

    async def scenario(batcher: Batcher) -> None:
        async def client(number: int) -> None:
            for step in range(5):
                x = np.full((1 + number % 3, 2), 100.0 * number + step)
                y = (await batcher.submit({"x": x}))["y"]
                np.testing.assert_array_equal(y, 2 * x)

        await asyncio.gather(*[client(number) for number in range(32)])

    batched(scenario, model)
    assert sum(model.rows) == 5 * sum(1 + number % 3 for number in range(32))
    assert np.mean(model.rows) > 15
    assert max(model.rows) <= 32


def test_an_idle_server_does_not_wait_for_company() -> None:
    model = Recorder(seconds=0)

    async def scenario(batcher: Batcher) -> None:
        started = time.perf_counter()
        for _ in range(10):
            await batcher.submit({"x": np.zeros((1, 2))})
        assert time.perf_counter() - started < 5  # the window is 1 s here

    batched(scenario, model, window=1.0)
    assert model.rows == [1] * 10


def test_large_requests_are_cut_and_put_together() -> None:
    model = Recorder(seconds=0)

    async def scenario(batcher: Batcher) -> None:
        x = np.arange(200.0).reshape(100, 2)
        np.testing.assert_array_equal((await batcher.submit({"x": x}))["y"], 2 * x)

    batched(scenario, model, max_rows=16)
    assert model.rows == [16] * 6 + [4]


def test_requests_of_different_shapes_are_not_mixed() -> None:
    async def scenario(batcher: Batcher) -> None:
        async def one(width: int) -> None:
            x = np.full((1, width), float(width))
            np.testing.assert_array_equal((await batcher.submit({"x": x}))["y"], 2 * x)

        await asyncio.gather(*[one(1 + number % 3) for number in range(12)])

    batched(scenario, Recorder(seconds=0.001))


def test_one_bad_request_does_not_spoil_the_others() -> None:
    async def scenario(batcher: Batcher) -> None:
        xs = [np.full((1, 2), value) for value in (1.0, 2.0, -3.0, 4.0)]
        outcomes = await asyncio.gather(
            *[batcher.submit({"x": x}) for x in xs], return_exceptions=True
        )
        assert [isinstance(o, ModelInputError) for o in outcomes] == [False, False, True, False]

    batched(scenario, Recorder(seconds=0.001))


def test_outputs_that_have_no_row_for_each_row_in_are_computed_alone() -> None:
    def distinct(arrays: Arrays) -> dict[str, np.ndarray]:
        return {"y": np.unique(arrays["x"])}

    async def scenario(batcher: Batcher) -> None:
        async def one(low: int, rows: int) -> None:
            x = np.arange(low, low + 2 * rows).reshape(rows, 2) // 4
            np.testing.assert_array_equal((await batcher.submit({"x": x}))["y"], np.unique(x))

        await asyncio.gather(*[one(10 * number, 2 + number % 4) for number in range(12)])
        await one(0, 20)  # larger than one call

    batched(scenario, distinct, max_rows=8)


def test_too_much_waiting_is_refused_at_once_and_the_rest_is_served() -> None:
    model = Recorder(seconds=0.05)

    async def scenario(batcher: Batcher) -> None:
        started = time.perf_counter()
        tasks = [asyncio.create_task(batcher.submit({"x": np.zeros((4, 2))})) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task for task in tasks if task.done()]
        assert time.perf_counter() - started < 2
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(errors) == len(refused) > 0
        assert {error.status for error in errors if isinstance(error, RequestError)} == {503}
        assert len(errors) == 20 - 4
        assert batcher.waiting_rows == 0
        await batcher.submit({"x": np.zeros((1, 2))})  # and it recovers

    batched(scenario, model, max_waiting_rows=16)


def test_a_client_that_has_gone_is_not_computed() -> None:
    model = Recorder()

    async def scenario(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit({"x": np.zeros((1, 2))}))
        while not model.rows:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(batcher.submit({"x": np.zeros((5, 2))}))
        await asyncio.sleep(0)
        second.cancel()
        await first
        await batcher.submit({"x": np.zeros((2, 2))})

    batched(scenario, model)
    assert model.rows == [1, 2]


# With TensorFlow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense layer of 4 inputs and 3 outputs with known weights, as version 7."""
    from helpers.models.export import export_saved_model
    from helpers.tf import tf

    layer = tf.keras.layers.Dense(3, activation="relu", input_shape=(4,))
    network = tf.keras.Sequential([layer])
    layer.set_weights([np.arange(12, dtype="float32").reshape(4, 3), np.ones(3, "float32")])
    base = tmp_path_factory.mktemp("dense")
    export_saved_model(network, base / "7", input_name="features", output_name="scores")
    return base


def test_a_saved_model_is_loaded_and_described(saved_model: Path) -> None:
    from helpers.serving.tf_server.model import load

    loaded = load(saved_model / "7", 7)
    signature = loaded.signatures["serving_default"]
    assert signature.batchable
    assert signature.inputs["features"].shape == (None, 4)
    assert signature.inputs["features"].type_name == "DT_FLOAT"
    x = np.array([[1, 0, 0, 0], [0, 0, 1, -2]], "float32")
    (scores,) = signature.run({"features": x}).values()
    weights = np.arange(12).reshape(4, 3)
    np.testing.assert_allclose(scores, np.maximum(x @ weights + 1, 0), rtol=1e-6)
    described = loaded.metadata["serving_default"]
    assert described["method_name"] == "tensorflow/serving/predict"
    assert described["inputs"]["features"]["dtype"] == "DT_FLOAT"
    assert described["inputs"]["features"]["tensor_shape"]["dim"][1]["size"] == "4"


def test_the_program_takes_the_operators_flags(saved_model: Path, root: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "helpers.serving.tf_server"),
        "--port=2001",
        f"--rest_api_port={port}",
        "--model_name=classifier",
        f"--model_base_path={saved_model}",
    ]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    try:
        base = f"http://127.0.0.1:{port}/v1/models/classifier"
        deadline = time.monotonic() + 120
        seen = set()
        while 200 not in seen:
            assert process.poll() is None
            assert time.monotonic() < deadline
            with contextlib.suppress(httpx.TransportError):
                seen.add(httpx.get(base, timeout=5).status_code)
            time.sleep(0.05)
        assert seen <= {503, 200}
        asked = {"instances": [[1, 0, 0, 0]] * 3}
        answer = httpx.post(f"{base}:predict", json=asked, timeout=30)
        assert answer.json() == {"predictions": [[1.0, 2.0, 3.0]] * 3}
        described = httpx.get(f"{base}/metadata", timeout=30).json()
        assert described["model_spec"]["version"] == "7"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_the_program_says_what_is_wrong_with_its_model(tmp_path: Path, root: Path) -> None:
    command = [
        *(sys.executable, "-m", "helpers.serving.tf_server"),
        "--rest_api_port=0",
        "--model_name=classifier",
        f"--model_base_path={tmp_path}",
    ]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "No versions of the model" in ended.stderr
    assert "Traceback" not in ended.stderr


RESNET = Path(os.environ.get("ARTIFACTS", "artifacts")) / "cifar10" / "resnet32" / "1"


@pytest.mark.skipif(not (RESNET / "saved_model.pb").is_file(), reason=f"{RESNET} is not trained")
def test_resnet32_computes_the_same_batched_and_alone() -> None:
    from helpers.serving.tf_server.model import load
    from helpers.tf import tf

    signature = load(RESNET, 1).signatures["serving_default"]
    (name,) = signature.inputs
    images = np.random.default_rng(0).random((5, 32, 32, 3)).astype("float32")
    (together,) = signature.run({name: images}).values()
    (alone,) = signature.run({name: images[2:3]}).values()
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5)
    saved = tf.saved_model.load(str(RESNET)).signatures["serving_default"]
    (plain,) = saved(**{name: tf.constant(images)}).values()
    np.testing.assert_allclose(together, plain.numpy(), atol=1e-5)
