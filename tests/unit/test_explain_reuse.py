"""Predictions that are asked for once, and the model client's batches."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from helpers.serving.common.errors import RequestError
from helpers.serving.explain.model_client import ROWS_AT_ONCE, ModelClient
from helpers.serving.explain.reuse import ReusedPredictions


def double(x: np.ndarray) -> np.ndarray:
    return 2 * x


def test_answers_come_in_the_order_of_the_question() -> None:
    reused = ReusedPredictions(double)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.integers(0, 5, size=(30, 2)).astype(np.float32)
        np.testing.assert_array_equal(reused(x), 2 * x)
    assert reused.usage.samples == 600
    assert reused.usage.distinct == 25
    assert reused.usage.calls < 20


def test_nothing_is_kept_for_the_next_explanation() -> None:
    reused = ReusedPredictions(double)
    x = np.ones((3, 2))
    reused(x)
    reused.begin()
    reused(x)
    assert (reused.usage.calls, reused.usage.distinct, reused.usage.samples) == (1, 1, 3)


def test_texts_are_inputs_too() -> None:
    asked = []

    def lengths(texts: list[str]) -> np.ndarray:
        asked.append(list(texts))
        return np.array([[len(text)] for text in texts])

    reused = ReusedPredictions(lengths)
    assert reused(["a", "bb", "a"]).ravel().tolist() == [1, 2, 1]
    assert reused(["bb", "ccc"]).ravel().tolist() == [2, 3]
    assert asked == [["a", "bb"], ["ccc"]]


def test_a_failure_is_not_remembered() -> None:
    answers = iter([RequestError(503, "no"), None])

    def predict(x: np.ndarray) -> np.ndarray:
        problem = next(answers)
        if problem:
            raise problem
        return x

    reused = ReusedPredictions(predict)
    with pytest.raises(RequestError):
        reused(np.ones((1, 1)))
    assert reused(np.ones((1, 1))).tolist() == [[1]]


def test_many_rows_go_in_batches_over_kept_connections() -> None:
    sizes = []

    def answer(request: httpx.Request) -> httpx.Response:
        rows = json.loads(request.content)["instances"]
        sizes.append(len(rows))
        return httpx.Response(200, json={"predictions": rows})

    client = ModelClient("h:1/prefix/", "tensorflow.http", "m", httpx.MockTransport(answer))
    assert client.url == "http://h:1/prefix/v1/models/m:predict"
    x = np.random.default_rng(0).random((ROWS_AT_ONCE + 3, 2), np.float32)
    np.testing.assert_array_equal(client(x).astype(np.float32), x)
    assert sizes == [ROWS_AT_ONCE, 3]


def test_a_connection_that_broke_is_tried_again() -> None:
    tries = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        if len(tries) < 3:
            raise httpx.RemoteProtocolError("closed")
        return httpx.Response(200, json={"data": {"ndarray": [[1.0]]}})

    client = ModelClient("h:1", "seldon.http", "m", httpx.MockTransport(answer))
    assert client(np.ones((1, 1))).tolist() == [[1.0]]
    assert len(tries) == 3
