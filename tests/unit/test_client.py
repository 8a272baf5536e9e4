"""The client: what it writes and reads in each protocol, what it tries again, and what its errors say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from helpers.client import Client, Prediction, one_hot
from helpers.client import client as module
from helpers.errors import ClientError

URL = "http://gateway/seldon/walkthrough/cifar10"
X = np.random.default_rng(0).random((2, 4, 3), np.float32)
Y = [[0.25, 0.75], [1.0, 0.0]]


class Answers:
    """Plays the gateway: answers with the next of `given` (the last one for ever), notes what came."""

    def __init__(self, *given: Any) -> None:
        self.given = list(given)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.given.pop(0) if len(self.given) > 1 else self.given[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @property
    def body(self) -> Any:
        return orjson.loads(self.asked[-1].content)


def client(answers: Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
    return Client(URL, transport=httpx.MockTransport(answers), **options)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(module, "_backoff", lambda state: 0.0)


# Protocols ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "path", "sent", "answer"),
    [
        (
            "tensorflow",
            "/v1/models/resnet32:predict",
            lambda body: body["instances"],
            {"predictions": Y},
        ),
        (
            "seldon",
            "/api/v1.0/predictions",
            lambda body: body["data"]["ndarray"],
            {"data": {"names": ["a", "b"], "ndarray": Y}, "meta": {}},
        ),
        (
            "seldon",
            "/api/v1.0/predictions",
            lambda body: body["data"]["ndarray"],
            {"data": {"tensor": {"shape": [2, 2], "values": [0.25, 0.75, 1, 0]}}},
        ),
        (
            "v2",
            "/v2/models/resnet32/infer",
            lambda body: np.reshape(body["inputs"][0]["data"], body["inputs"][0]["shape"]),
            {"outputs": [{"name": "p", "shape": [2, 2], "data": [0.25, 0.75, 1, 0]}]},
        ),
    ],
)
def test_predict_speaks_the_protocol(
    protocol: str, path: str, sent: Callable, answer: dict
) -> None:
    headers = {"Seldon-Puid": "an-id"}
    answers = Answers(httpx.Response(200, json=answer, headers=headers))
    prediction = client(answers, protocol=protocol).predict(X)
    assert answers.asked[0].url.path == "/seldon/walkthrough/cifar10" + path
    assert answers.asked[0].headers["content-type"] == "application/json"
    # float32 in, and bit for bit the same float32 on the other side.
    np.testing.assert_array_equal(np.array(sent(answers.body), np.float32), X)
    np.testing.assert_array_equal(prediction.probabilities, Y)
    assert prediction.y is prediction.probabilities
    assert prediction.labels.tolist() == [1, 0]
    assert prediction.request_id == "an-id"
    assert prediction.headers["seldon-puid"] == "an-id"
    assert prediction.response == answer
    assert prediction.seconds > 0


def test_numbers_are_written_with_the_digits_they_need() -> None:
    encode = client(Answers({})).encode
    assert encode(np.float32([[0.1]])) == b'{"instances":[[0.1]]}'
    assert encode([[0.1]]) == b'{"instances":[[0.1]]}'
    assert encode(np.float16([[0.5]])) == b'{"instances":[[0.5]]}'
    assert encode(np.array([[1.5]], ">f8")) == b'{"instances":[[1.5]]}'
    assert encode(X[:, ::2, 0]) == encode(X[:, ::2, 0].copy())


@pytest.mark.parametrize(
    ("dtype", "name"), [("f4", "FP32"), ("f8", "FP64"), ("i8", "INT64"), ("u1", "UINT8")]
)
def test_v2_names_the_type(dtype: str, name: str) -> None:
    answers = Answers({"outputs": [{"shape": [1], "data": [0]}]})
    client(answers, protocol="v2").predict(np.ones((1, 2), dtype))
    tensor = answers.body["inputs"][0]
    assert (tensor["datatype"], tensor["shape"], tensor["data"]) == (name, [1, 2], [1, 1])


TEXTS = ["a text", "another"]


@pytest.mark.parametrize(
    ("protocol", "answer", "body"),
    [
        ("tensorflow", {"predictions": Y}, {"instances": TEXTS}),
        ("seldon", {"data": {"ndarray": Y}}, {"data": {"ndarray": TEXTS}}),
        (
            "v2",
            {"outputs": [{"shape": [2, 2], "data": np.ravel(Y).tolist()}]},
            {
                "parameters": {"content_type": "str"},
                "inputs": [
                    {
                        "name": "predict",
                        "shape": [2, 1],
                        "datatype": "BYTES",
                        "data": TEXTS,
                        "parameters": {"content_type": "str"},
                    }
                ],
            },
        ),
    ],
)
def test_texts(protocol: str, answer: dict, body: dict) -> None:
    answers = Answers(answer)
    np.testing.assert_array_equal(client(answers, protocol=protocol).predict(TEXTS).y, Y)
    assert answers.body == body


@pytest.mark.parametrize("protocol", ["tensorflow", "seldon", "v2"])
def test_one_text_is_explained_as_a_batch_of_one(protocol: str) -> None:
    answer = {"outputs": [{"data": [orjson.dumps(EXPLANATION).decode()]}]}
    answers = Answers(answer if protocol == "v2" else EXPLANATION)
    asking = client(answers, protocol=protocol)
    asking.explain(TEXTS[0], seed=7)
    asking.explain(TEXTS[:1], seed=7)
    one, batch = (orjson.loads(request.content) for request in answers.asked)
    assert one == batch
    told = one["parameters"]
    if protocol == "v2":
        assert told == {"content_type": "str", "explain_parameters": {"seed": 7}}
    else:
        assert told == {"seed": 7}


def test_the_id_and_the_wish_not_to_be_logged_are_headers() -> None:
    answers = Answers({"predictions": Y})
    asking = client(answers)
    asking.predict(X, request_id="mine", skip_logging=True)
    assert answers.asked[-1].headers["seldon-puid"] == "mine"
    assert answers.asked[-1].headers["seldon-skip-logging"] == "true"
    asking.predict(X)
    assert "seldon-puid" not in answers.asked[-1].headers
    assert "seldon-skip-logging" not in answers.asked[-1].headers


def test_a_request_can_be_pinned_and_the_answer_says_who_served() -> None:
    headers = {"Seldon-Variant": "canary", "Seldon-Variant-Pinned": "true"}
    answers = Answers(
        httpx.Response(200, json={"predictions": Y}, headers=headers),
        httpx.Response(200, json={"predictions": Y}, headers={"Seldon-Variant": "default"}),
        {"predictions": Y},
    )
    asking = client(answers)
    pinned = asking.predict(X, variant="canary")
    assert answers.asked[-1].headers["seldon-variant"] == "canary"
    assert (pinned.variant, pinned.pinned) == ("canary", True)
    split = asking.predict(X)
    assert "seldon-variant" not in answers.asked[-1].headers
    assert (split.variant, split.pinned) == ("default", False)
    assert (asking.predict(X).variant, asking.predict(X).pinned) == ("", False)


@pytest.mark.parametrize(
    ("protocol", "metadata", "status"),
    [
        ("tensorflow", "/v1/models/resnet32/metadata", "/v1/models/resnet32"),
        ("seldon", "/api/v1.0/metadata", "/api/v1.0/health/status"),
        ("v2", "/v2/models/resnet32", "/v2/models/resnet32/ready"),
    ],
)
def test_metadata_and_status(protocol: str, metadata: str, status: str) -> None:
    answers = Answers({"a": 1}, httpx.Response(200), httpx.Response(200), httpx.Response(503))
    asking = client(answers, protocol=protocol)
    assert asking.metadata() == {"a": 1}
    assert asking.status() == {}
    assert [request.url.path for request in answers.asked] == [
        "/seldon/walkthrough/cifar10" + metadata,
        "/seldon/walkthrough/cifar10" + status,
    ]
    assert asking.ready()
    assert answers.asked[-1].url.path == "/seldon/walkthrough/cifar10/ready"
    assert not asking.ready()


EXPLANATION = {
    "meta": {"name": "AnchorImage", "params": {"seed": 7}},
    "data": {"anchor": [[[0.5]]], "precision": [0.99], "coverage": 0.5},
}


@pytest.mark.parametrize(
    ("protocol", "path", "answer", "parameters"),
    [
        (
            "tensorflow",
            "/v1/models/resnet32:explain",
            EXPLANATION,
            lambda body: body["parameters"],
        ),
        ("seldon", "/api/v1.0/explain", EXPLANATION, lambda body: body["parameters"]),
        (
            "v2",
            "/v2/models/resnet32/infer",
            {"outputs": [{"data": [orjson.dumps(EXPLANATION).decode()]}]},
            lambda body: body["parameters"]["explain_parameters"],
        ),
    ],
)
def test_explain(protocol: str, path: str, answer: dict, parameters: Callable) -> None:
    answers = Answers(answer)
    asking = client(answers, protocol=protocol, predictor="main")
    image = np.ones((4, 4, 3), np.float32)
    explanation = asking.explain(image, seed=7, threshold=0.9, tau=0.2)
    assert answers.asked[0].url.path == f"/seldon/walkthrough/cifar10-explainer/main{path}"
    assert parameters(answers.body) == {"seed": 7, "threshold": 0.9, "tau": 0.2}
    assert explanation.data == EXPLANATION["data"]
    assert orjson.loads(explanation.content) == EXPLANATION
    assert (explanation.seed, explanation.precision, explanation.coverage) == (7, 0.99, 0.5)
    asking.explain(image[None])
    assert "parameters" not in answers.body
    one, batch = (orjson.loads(request.content) for request in answers.asked)
    assert {**one, "parameters": None} == {**batch, "parameters": None}


# Feedback ----------------------------------------------------------------------------------------


def test_feedback_that_is_complete_in_itself() -> None:
    answers = Answers(httpx.Response(200, json={}, headers={"seldon-puid": "made"}))
    truth, response = one_hot(3), one_hot([4])
    filed = client(answers).feedback(truth=truth, response=response, reward=1)
    assert filed == "made"
    assert answers.asked[0].url.path == "/seldon/walkthrough/cifar10/api/v1.0/feedback"
    assert "seldon-puid" not in answers.asked[0].headers
    assert answers.body == {
        "reward": 1.0,
        "truth": {"data": {"ndarray": truth.tolist()}},
        "response": {"data": {"ndarray": response.tolist()}},
    }


def test_feedback_on_a_prediction_carries_its_answer_and_its_id() -> None:
    answers = Answers({})
    prediction = Prediction(np.array(Y), "of-the-prediction", 0.1, {}, {})
    client(answers).feedback(truth=one_hot([0, 1], 2), response=prediction, request=X)
    assert answers.asked[0].headers["seldon-puid"] == "of-the-prediction"
    assert answers.body["response"] == {"data": {"ndarray": Y}}
    sent = np.array(answers.body["request"]["data"]["ndarray"], np.float32)
    np.testing.assert_array_equal(sent, X)


def test_feedback_by_request_id_has_no_response() -> None:
    answers = Answers({})
    assert client(answers).feedback(truth=[[1, 0]], request_id="earlier") == "earlier"
    assert answers.asked[0].headers["seldon-puid"] == "earlier"
    assert answers.body.keys() == {"reward", "truth"}


def test_feedback_on_nothing_is_refused_before_it_is_sent() -> None:
    answers = Answers({})
    with pytest.raises(ClientError, match="request_id"):
        client(answers).feedback(truth=[[1, 0]])
    assert answers.asked == []


def test_one_hot() -> None:
    assert one_hot([0, 2], 3).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert one_hot(1, 2).tolist() == [[0, 1]]


# Tried again -------------------------------------------------------------------------------------

BUSY = httpx.Response(
    503, json={"error": "64 requests are under way"}, headers={"retry-after": "1"}
)
GONE = httpx.ConnectError("Connection refused")
BROKEN = httpx.RemoteProtocolError("Server disconnected without sending a response.")


@pytest.mark.parametrize("trouble", [BUSY, GONE, BROKEN, httpx.ReadError("reset")])
def test_a_prediction_survives_a_short_trouble(trouble: Any) -> None:
    answers = Answers(trouble, trouble, {"predictions": Y})
    assert client(answers).predict(X).labels.tolist() == [1, 0]
    assert len(answers.asked) == 3
    assert len({request.content for request in answers.asked}) == 1


@pytest.mark.parametrize("trouble", [BUSY, GONE])
def test_tries_are_bounded(trouble: Any) -> None:
    answers = Answers(trouble)
    with pytest.raises(ClientError) as caught:
        client(answers).predict(X)
    assert len(answers.asked) == module.ATTEMPTS
    assert caught.value.status == (503 if trouble is BUSY else None)


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(503, json={"error": "not ready"}),
        httpx.Response(500, json={"error": "broken"}),
        httpx.Response(400, json={"error": "wrong"}),
        httpx.ReadTimeout("timed out"),
    ],
)
def test_anything_else_is_not_tried_again(trouble: Any) -> None:
    answers = Answers(trouble, {"predictions": Y})
    with pytest.raises(ClientError):
        client(answers).predict(X)
    assert len(answers.asked) == 1


def test_feedback_is_never_sent_twice_when_the_first_may_have_arrived() -> None:
    answers = Answers(BROKEN, {})
    with pytest.raises(ClientError, match="no answer"):
        client(answers).feedback(truth=[[1, 0]], request_id="earlier")
    assert len(answers.asked) == 1
    answers = Answers(GONE, {})
    client(answers).feedback(truth=[[1, 0]], request_id="earlier")
    assert len(answers.asked) == 2


@pytest.mark.parametrize(("asked", "pause"), [("3", 3.0), ("900", 5.0), ("tomorrow", 0.25)])
def test_it_pauses_as_long_as_the_server_asks(
    asked: str, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module, "LONGEST_PAUSE", 5.0)
    monkeypatch.setattr(module, "_backoff", lambda state: 0.25)
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    answers = Answers(httpx.Response(503, headers={"retry-after": asked}), {"predictions": Y})
    client(answers).predict(X)
    assert pauses == [pause]


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": "the shape is (1, 16, 16, 3)"}, "the shape is (1, 16, 16, 3)"),
        ({"status": {"code": 400, "info": "no data", "status": "FAILURE"}}, "no data"),
        ({"detail": "unknown model"}, "unknown model"),
        ({"other": 1}, '{"other":1}'),
        ("plain text", "plain text"),
        (b"<html>proxy</html>", "<html>proxy</html>"),
        (b"", "an empty body"),
    ],
)
def test_an_error_has_the_servers_own_words(body: Any, said: str) -> None:
    answer = (
        httpx.Response(400, content=body)
        if isinstance(body, bytes)
        else httpx.Response(400, json=body)
    )
    with pytest.raises(ClientError) as caught:
        client(Answers(answer)).predict(X)
    assert caught.value.status == 400
    message = str(caught.value)
    assert said in message
    assert f"POST {URL}/v1/models/resnet32:predict was answered with 400" in message
    assert "client.metadata()" in message  # what next


@pytest.mark.parametrize(
    ("code", "next_step"),
    [(404, "helpers.stack status"), (413, "fewer instances"), (500, "logs"), (418, "is wrong")],
)
def test_an_error_says_what_to_do_next(code: int, next_step: str) -> None:
    with pytest.raises(ClientError, match=next_step) as caught:
        client(Answers(httpx.Response(code, json={"error": "no"}))).metadata()
    assert caught.value.status == code


def test_no_answer_is_a_client_error_too() -> None:
    with pytest.raises(ClientError, match=r"no answer: Connection refused.*helpers.stack status"):
        client(Answers(GONE)).status()
    with pytest.raises(ClientError, match=r"within 3 s.*Client\(timeout"):
        client(Answers(httpx.ReadTimeout("timed out")), timeout=3).predict(X)


@pytest.mark.parametrize(
    "answer",
    [
        {"outputs": Y},
        {"predictions": None},
        {"predictions": [["a", "b"]]},
        {"predictions": [[1], [1, 2]]},
        [1, 2],
        httpx.Response(200, content=b"<html>"),
    ],
)
def test_an_answer_of_another_protocol_is_said_to_be_one(answer: Any) -> None:
    with pytest.raises(ClientError, match="protocol"):
        client(Answers(answer)).predict(X)


@pytest.mark.parametrize(
    ("x", "why"),
    [
        ([[1.0, np.nan]], "NaN"),
        ([[np.inf]], "infinity"),
        ([[1], [1, 2]], "array of numbers"),
        (["text", 1], "array of numbers"),
        ([["text"]], "array of numbers"),
    ],
)
def test_what_json_cannot_carry_is_not_sent(x: Any, why: str) -> None:
    answers = Answers({"predictions": Y})
    with pytest.raises(ClientError, match=why):
        client(answers).predict(x)
    assert answers.asked == []


def test_a_wrong_protocol_or_address_is_refused_at_once() -> None:
    with pytest.raises(ClientError, match="tensorflow, seldon, v2"):
        Client(URL, protocol="grpc")
    with pytest.raises(ClientError, match="no http address"):
        Client("127.0.0.1:8003")


def test_it_closes_its_connections() -> None:
    with client(Answers({"predictions": Y})) as asking:
        asking.predict(X)
    with pytest.raises(RuntimeError, match="closed"):
        asking.predict(X)


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Client("http://127.0.0.1:9", timeout=1) as asking:
        assert not asking._http._mounts
