"""The payload log: Seldon's documents, whatever order, however often, however broken, wherever kept.

The same tests run against SQLite and against Elasticsearch, the latter tests/fakes/elasticsearch.py.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.serving.common.events import (
    DRIFT_TYPE,
    FEEDBACK_TYPE,
    OUTLIER_TYPE,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    CloudEvent,
    new_event,
)
from tests.fakes.elasticsearch import FakeElasticsearch

INDEX = "inference-log-seldon-seldon-cifar10-default"
EXTENSIONS = {
    "modelid": "resnet32",
    "inferenceservicename": "cifar10",
    "namespace": "seldon",
    "endpoint": "default",
}

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=["sqlite", "elasticsearch"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def elastic(backend: str) -> Iterator[FakeElasticsearch | None]:
    yield from an_elasticsearch(backend)


@pytest.fixture
def server(
    start_server: Callable[..., Any], tmp_path: Path, elastic: FakeElasticsearch | None
) -> Any:
    return start_server("helpers.serving.payload_log", kept(elastic, tmp_path / "state"))


@pytest.fixture
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def shared_elastic(backend: str) -> Iterator[FakeElasticsearch | None]:
    yield from an_elasticsearch(backend)


@pytest.fixture(scope="module")
def shared(
    start_shared: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    shared_elastic: FakeElasticsearch | None,
) -> Iterator[httpx.Client]:
    """A client of a server that tests share; each uses a request id of its own."""
    state = tmp_path_factory.mktemp("state")
    server = start_shared("helpers.serving.payload_log", kept(shared_elastic, state))
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


def an_elasticsearch(backend: str) -> Iterator[FakeElasticsearch | None]:
    if backend == "sqlite":
        yield None
        return
    with FakeElasticsearch() as elastic:
        yield elastic
    assert elastic.broken == []


def kept(elastic: FakeElasticsearch | None, folder: Path) -> str:
    return f"--elasticsearch-url={elastic.url}" if elastic else f"--state={folder}"


@pytest.fixture
def request_id(request: pytest.FixtureRequest) -> str:
    return request.node.name


def an_event(type: str, data: Any, request_id: str = "r1", **more: str) -> CloudEvent:
    return new_event(type, "http://source/", data, requestid=request_id, **EXTENSIONS, **more)


def send(client: httpx.Client, event: CloudEvent, structured: bool = False) -> httpx.Response:
    headers, body = event.to_structured() if structured else event.to_binary()
    return client.post("/", headers=headers, content=body)


def document(client: httpx.Client, id: str = "r1") -> dict[str, Any]:
    answer = client.get(f"/{INDEX}/_doc/{id}")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["_index"], found["_id"], found["found"]) == (INDEX, id, True)
    return found["_source"]


PARTS = {
    "request": an_event(REQUEST_TYPE, {"instances": [[1.5, 2.0]]}),
    "response": an_event(RESPONSE_TYPE, {"predictions": [[0.1, 0.9]]}),
    "outlier": an_event(OUTLIER_TYPE, {"data": {"is_outlier": [1]}, "meta": {"name": "vae"}}),
    "drift": an_event(DRIFT_TYPE, {"data": {"is_drift": 1, "p_val": [0.01]}, "meta": {}}),
    "feedback": an_event(FEEDBACK_TYPE, {"reward": 1, "truth": {"data": {"ndarray": [1]}}}),
}


def test_answers_an_empty_200(shared: httpx.Client) -> None:
    for structured in (False, True):
        answer = send(shared, PARTS["request"], structured)
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_document_gathers_its_parts_in_any_order(shared: httpx.Client) -> None:
    whole = None
    for number, order in enumerate(itertools.islice(itertools.permutations(PARTS), 0, 120, 17)):
        id = f"order-{number}"
        for kind in order:
            event = PARTS[kind].with_extensions(requestid=id)
            event = CloudEvent(
                type=event.type,
                source=event.source,
                data=event.data,
                time=event.time,
                datacontenttype=event.datacontenttype,
                extensions=event.extensions,
            )
            assert send(shared, event).status_code == 200
        found = document(shared, id)
        assert found.pop("RequestId") == id
        whole = whole or found
        assert found == whole
    assert whole is not None
    assert whole["request"]["instance"] == [1.5, 2.0]
    assert whole["request"]["dataType"] == "tabular"
    assert whole["request"]["payload"] == {"instances": [[1.5, 2.0]]}
    assert whole["response"]["instance"] == [0.1, 0.9]
    assert whole["outlier"]["data"]["is_outlier"] == 1
    assert whole["drift"]["data"]["is_drift"] == 1
    assert whole["feedback"]["reward"] == 1
    assert whole["@timestamp"] == PARTS["request"].time
    assert whole["ServingEngine"] == "seldon"
    assert (whole["Ce-Namespace"], whole["Ce-Inferenceservicename"]) == ("seldon", "cifar10")
    assert (whole["Ce-Endpoint"], whole["Ce-Modelid"]) == ("default", "resnet32")


def test_a_batch_has_a_document_for_each_item(shared: httpx.Client, request_id: str) -> None:
    send(shared, an_event(REQUEST_TYPE, {"instances": [[1.0], [2.0], [3.0]]}, request_id))
    send(shared, an_event(RESPONSE_TYPE, {"predictions": [[0.1], [0.2], [0.3]]}, request_id))
    result = {"data": {"is_outlier": [0, 1, 0], "instance_score": [0.1, 9.0, 0.2]}, "meta": {}}
    send(shared, an_event(OUTLIER_TYPE, result, request_id))
    second = document(shared, f"{request_id}-item-1")
    assert second["RequestId"] == request_id
    assert second["request"]["instance"] == [2.0]
    assert second["request"]["payload"] == {"instances": [[2.0]]}
    assert second["response"]["instance"] == [0.2]
    assert second["outlier"]["data"] == {"is_outlier": 1, "instance_score": 9.0}
    assert shared.get(f"/{INDEX}/_doc/{request_id}").status_code == 404
    documents = shared.get(f"/v1/requests/{request_id}").json()["documents"]
    assert [found["_id"] for found in documents] == [f"{request_id}-item-{n}" for n in range(3)]


@pytest.mark.parametrize(
    ("content", "instances"),
    [
        ({"data": {"ndarray": [[1, 2], [3, 4]], "names": ["a", "b"]}}, [[1, 2], [3, 4]]),
        ({"data": {"tensor": {"shape": [2, 2], "values": [1, 2, 3, 4]}}}, [[1, 2], [3, 4]]),
        ({"strData": "hello"}, ["hello"]),
        ({"jsonData": {"a": 1}}, [{"a": 1}]),
        (
            {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [5, 6]}]},
            [[5], [6]],
        ),
        ({"inputs": {"x": [1, 2], "y": [3, 4]}}, [{"x": 1, "y": 3}, {"x": 2, "y": 4}]),
        ({"inputs": [[1, 2]]}, [[1, 2]]),
        ({"data": {"tensor": {"shape": [3], "values": [1]}}}, None),
    ],
)
def test_every_protocol(
    shared: httpx.Client, request_id: str, content: dict[str, Any], instances: list[Any] | None
) -> None:
    assert send(shared, an_event(REQUEST_TYPE, content, request_id)).status_code == 200
    documents = shared.get(f"/v1/requests/{request_id}").json()["documents"]
    found = [one["_source"]["request"]["instance"] for one in documents]
    assert found == (instances if instances is not None else [content])


def test_seldon_names_become_elements(shared: httpx.Client, request_id: str) -> None:
    send(
        shared,
        an_event(REQUEST_TYPE, {"data": {"ndarray": [[1, 2]], "names": ["a", "b"]}}, request_id),
    )
    assert document(shared, request_id)["request"]["elements"] == {"a": 1, "b": 2}


def test_a_repeated_event_counts_once(client: httpx.Client) -> None:
    for _ in range(3):
        for event in PARTS.values():
            assert send(client, event).status_code == 200
    counts = client.get("/v1/counts").json()["counts"][INDEX]
    assert counts == dict.fromkeys(PARTS, 1) | {"requests": 1, "outliers": 1, "drifts": 1}
    metrics = client.get("/metrics").text
    assert "payload_log_duplicates_total 10.0" in metrics
    assert 'payload_log_events_total{kind="request"} 1.0' in metrics


def test_a_reply_keeps_the_id_of_what_it_answers(client: httpx.Client) -> None:
    request = PARTS["request"]
    send(client, request)
    reply = CloudEvent(
        type=OUTLIER_TYPE,
        source="detector",
        id=request.id,
        data=PARTS["outlier"].data,
        extensions=request.extensions,
    )
    send(client, reply)
    assert {"request", "outlier"} <= set(document(client))


def test_search(client: httpx.Client) -> None:
    for number in range(6):
        id = f"s{number}"
        send(client, an_event(REQUEST_TYPE, {"instances": [[number]]}, id))
        flag = {"data": {"is_outlier": [number % 2]}, "meta": {}}
        send(client, an_event(OUTLIER_TYPE, flag, id))
    send(client, an_event(FEEDBACK_TYPE, {"reward": 0.0}, "s0"))

    def ids(**query: Any) -> list[str]:
        answer = client.get("/v1/documents", params=query)
        assert answer.status_code == 200, answer.text
        return [one["_id"] for one in answer.json()["documents"]]

    assert ids(outlier="true") == ["s5", "s3", "s1"]
    assert ids(outlier="false", index=INDEX) == ["s4", "s2", "s0"]
    assert ids(outlier="true", limit=2) == ["s5", "s3"]
    assert ids(kind="feedback") == ["s0"]
    assert ids(limit=2) == ["s0", "s5"]
    assert ids(index="other") == []
    assert len(ids(since="2020-01-01T00:00:00Z")) == 6
    assert ids(until="2020-01-01T00:00:00+00:00") == []


def test_drift_windows_are_listed_by_themselves(client: httpx.Client) -> None:
    for number in range(3):
        data = {"data": {"is_drift": int(number == 1), "p_val": [0.5]}, "meta": {}}
        send(client, an_event(DRIFT_TYPE, data, f"last-{number}"))
    windows = client.get("/v1/drift", params={"index": INDEX}).json()["windows"]
    assert [window["request_id"] for window in windows] == ["last-2", "last-1", "last-0"]
    assert [window["drift"] for window in windows] == [False, True, False]
    assert windows[0]["data"]["data"]["p_val"] == [0.5]


def test_large_payloads_are_kept_whole(shared: httpx.Client) -> None:
    batch = [[[0.123456789] * 32] * 32] * 200  # 3 MB of JSON
    assert send(shared, an_event(REQUEST_TYPE, {"instances": batch}, "big")).status_code == 200
    assert document(shared, "big-item-199")["request"]["instance"] == batch[0]


def test_another_type_is_not_kept(shared: httpx.Client, request_id: str) -> None:
    event = an_event("io.seldon.serving.inference.inlier", {"instances": [[1]]}, request_id)
    answer = send(shared, event)
    assert (answer.status_code, answer.content) == (200, b"")
    assert shared.get(f"/v1/requests/{request_id}").status_code == 404
    assert "payload_log_ignored_total 1.0" in shared.get("/metrics").text


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"{}", 400),
        ({"ce-id": ""}, b"{}", 400),
        ({"ce-specversion": "0.3"}, b"{}", 400),
        ({"ce-time": "yesterday"}, b"{}", 400),
        ({"ce-Bad_name": "x"}, b"{}", 400),
        ({"ce-subject": "x" * 5000}, b"{}", 400),
        ({"ce-type": OUTLIER_TYPE}, b'{"data": {"is_outlier": 1}}', 400),
        ({"ce-type": OUTLIER_TYPE}, b"{}", 400),
        ({"ce-type": DRIFT_TYPE}, b'{"data": []}', 400),
        ({"x": "y"}, b"", 400),
        ({"x": "y"}, b"not json", 400),
        ({"x": "y"}, b"[1]", 400),
        ({"x": "y"}, b'{"instances": [NaN]}', 400),
        ({"x": "y"}, b"[" * 3000 + b"]" * 3000, 400),
        ({"x": "y"}, b'{"a":' * 100 + b"1" + b"}" * 100, 400),
        ({"x": "y"}, b'"\xff"', 400),
        ({"x": "y"}, b"1" * (33 * 2**20), 413),
        ({"content-encoding": "br"}, b"{}", 415),
        ({"content-encoding": "gzip"}, b"{}", 400),
        ({"content-encoding": "gzip"}, gzip.compress(b" " * (40 * 2**20)), 413),
        ({"content-type": "application/cloudevents-batch+json"}, b"[]", 415),
        ({"content-type": "application/cloudevents+json"}, b"[]", 400),
        ({"content-type": "application/cloudevents+json"}, b'{"specversion": "1.0"}', 400),
    ],
)
def test_bad_input_is_refused(
    shared: httpx.Client, headers: dict[str, str], body: bytes, status: int
) -> None:
    given = {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-type": REQUEST_TYPE,
        "ce-source": "/s",
        "content-type": "application/json",
    }
    answer = shared.post("/", headers=given | headers if headers else {}, content=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert "Traceback" not in answer.text
    assert shared.get("/live").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/documents?limit=0", 400),
        ("/v1/documents?limit=many", 400),
        ("/v1/documents?kind=nothing", 400),
        ("/v1/documents?outlier=maybe", 400),
        ("/v1/documents?since=later", 400),
        ("/v1/requests/nobody", 404),
        ("/nothing", 404),
        ("/", 405),
    ],
)
def test_bad_questions_are_refused(shared: httpx.Client, path: str, status: int) -> None:
    answer = shared.get(path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


def test_a_missing_document_is_answered_as_elasticsearch_does(shared: httpx.Client) -> None:
    answer = shared.get(f"/{INDEX}/_doc/nobody")
    assert answer.status_code == 404
    assert answer.json() == {"_index": INDEX, "_id": "nobody", "found": False}


def test_kill_9_loses_nothing_that_was_acknowledged(server: Any, client: httpx.Client) -> None:
    for number in range(50):
        event = an_event(REQUEST_TYPE, {"instances": [[number]]}, f"k{number}")
        assert send(client, event).status_code == 200
    server.kill()
    server.restart()
    for number in range(50):
        assert document(client, f"k{number}")["request"]["instance"] == [number]


def test_two_processes_never_share_a_folder(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    start_server("helpers.serving.payload_log", "--state", str(tmp_path / "state"))
    with pytest.raises(AssertionError, match=r"Another payload log uses the folder"):
        start_server("helpers.serving.payload_log", "--state", str(tmp_path / "state"))


def test_stops_cleanly(server: Any, client: httpx.Client) -> None:
    send(client, PARTS["request"])
    assert server.stop() == 0
    assert json.dumps(server.said()).count("Traceback") == 0
