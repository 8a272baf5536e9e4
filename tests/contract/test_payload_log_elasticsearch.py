"""The payload log's process in front of Elasticsearch: readiness, faults, and who else reads there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import (
    FEEDBACK_TYPE,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    CloudEvent,
    new_event,
)
from helpers.serving.detect.completion import PayloadLog
from helpers.stack.kind.events import events
from tests.fakes.elasticsearch import FakeElasticsearch

pytestmark = pytest.mark.timeout(60)

INDEX = "inference-log-seldon-seldon-cifar10-default"
OWN_EVENTS, BROKER_EVENTS = "inference-events-seldon", "broker-events-walkthrough"
EXTENSIONS = {
    "modelid": "resnet32",
    "inferenceservicename": "cifar10",
    "namespace": "seldon",
    "endpoint": "default",
}
MODULE = "helpers.serving.payload_log"


@pytest.fixture
def elastic() -> Iterator[FakeElasticsearch]:
    with FakeElasticsearch() as elastic:
        yield elastic
    assert elastic.broken == []


@pytest.fixture
def server(
    start_server: Callable[..., Any], elastic: FakeElasticsearch, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """With its address in the environment, as on a cluster, where --state is set all the same."""
    monkeypatch.setenv("PAYLOAD_LOG_ELASTICSEARCH_URL", elastic.url)
    return start_server(MODULE, "--state=/nowhere/to/be/made")


def an_event(type: str, data: Any, request_id: str = "r1") -> CloudEvent:
    return new_event(type, "http://source/", data, requestid=request_id, **EXTENSIONS)


def send(server: Any, event: CloudEvent) -> httpx.Response:
    headers, body = event.to_binary()
    return httpx.post(server.url, headers=headers, content=body, timeout=20)


@pytest.mark.parametrize("rows", [1, 3])
def test_feedback_is_completed_from_the_log_and_from_elasticsearch_itself(
    server: Any, elastic: FakeElasticsearch, rows: int
) -> None:
    feedback = an_event(FEEDBACK_TYPE, {"truth": {"data": {"ndarray": [1] * rows}}})
    predictions = [[0.1, 0.2 + row] for row in range(rows)]
    readers = [PayloadLog(server.url), PayloadLog(elastic.url)]
    try:
        for event in (feedback, an_event(REQUEST_TYPE, {"instances": [[1.0]] * rows})):
            assert send(server, event).status_code == 200
            for reader in readers:
                with pytest.raises(RequestError, match="has no response"):
                    reader.response(feedback, rows)
        assert send(server, an_event(RESPONSE_TYPE, {"predictions": predictions})).content == b""
        wanted = predictions[0] if rows == 1 else predictions
        assert [reader.response(feedback, rows) for reader in readers] == [wanted, wanted]
    finally:
        for reader in readers:
            reader.close()


@pytest.fixture
def event_log(
    start_server: Callable[..., Any], elastic: FakeElasticsearch, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """As manifests/overlays/kind-logging has it."""
    with monkeypatch.context() as patch:
        patch.setenv("PAYLOAD_LOG_ELASTICSEARCH_URL", elastic.url)
        patch.setenv("PAYLOAD_LOG_EVENTS_ONLY", "walkthrough")
        return start_server(MODULE)


def test_the_stack_on_a_cluster_reads_the_events(
    event_log: Any, elastic: FakeElasticsearch
) -> None:
    names = {"requestid": "r1", "namespace": "walkthrough"}
    sent = [
        new_event(type, "http://source/", {"instances": [[n]]}, **names)
        for n, type in enumerate((REQUEST_TYPE, RESPONSE_TYPE, "io.seldon.another"))
    ]
    for event in [*sent, sent[0]]:
        answer = send(event_log, event)
        assert (answer.status_code, answer.content) == (200, b"")
    assert list(elastic.indices) == ["broker-events-walkthrough"]
    elastic.refresh()
    found = events(elastic.url, limit=10, data=True)
    assert [one["attributes"] for one in found] == [one.attributes() for one in reversed(sent)]
    assert [one["data"] for one in found] == [{"instances": [[n]]} for n in (2, 1, 0)]
    assert found[0]["bytes"] == len(sent[2].data)
    (one,) = events(elastic.url, limit=10, data=False, type=RESPONSE_TYPE, request_id="r1")
    assert "data" not in one
    assert events(elastic.url, limit=10, data=False, request_id="r2") == []
    told = httpx.get(f"{event_log.url}/metrics").text
    assert "event_log_events_total 3.0" in told
    assert "event_log_duplicates_total 1.0" in told
    # What monitors, alerts and panels count as the payload logger's is not counted twice.
    assert "payload_log_events_total" not in told
    assert httpx.get(f"{event_log.url}/v1/counts").status_code == 404


@pytest.mark.parametrize("first", ["event_log", "server"])
def test_the_payload_logger_knows_nothing_of_what_only_the_event_log_got(
    server: Any, event_log: Any, elastic: FakeElasticsearch, first: str
) -> None:
    """Its trigger passes responses; the event log's passes all."""
    request = an_event(REQUEST_TYPE, {"instances": [[1.0]]})
    response = an_event(RESPONSE_TYPE, {"predictions": [[0.5]]})
    both = {"event_log": (event_log, server), "server": (server, event_log)}[first]
    assert send(event_log, request).status_code == 200
    for one in both:
        assert send(one, response).status_code == 200
    (document,) = httpx.get(f"{server.url}/v1/requests/r1").json()["documents"]
    assert "request" not in document["_source"]
    assert document["_source"]["response"]["instance"] == [0.5]
    assert elastic.documents(INDEX) == {"r1": document["_source"]}
    assert httpx.get(f"{server.url}/v1/counts").json()["counts"][INDEX]["request"] == 0
    assert "payload_log_duplicates_total 0.0" in httpx.get(f"{server.url}/metrics").text
    assert [len(elastic.documents(name)) for name in (OWN_EVENTS, BROKER_EVENTS)] == [1, 2]


def test_events_only_is_of_elasticsearch(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "--port=0", f"--state={tmp_path}", "--events-only=x"],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=root,
    )
    assert done.returncode == 1
    assert "payload-log: events only" in done.stderr
    assert "PAYLOAD_LOG_ELASTICSEARCH_URL" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_outage_is_a_503_with_a_live_process_and_ends_by_itself(
    server: Any, elastic: FakeElasticsearch, wait_until: Callable[..., None]
) -> None:
    first, second = (an_event(REQUEST_TYPE, {"instances": [[n]]}, f"r{n}") for n in range(2))
    assert send(server, first).status_code == 200
    elastic.stop()
    refused = send(server, second)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "cannot be reached" in refused.json()["error"]
    assert httpx.get(server.url + "/v1/requests/r0").status_code == 503
    ready = httpx.get(server.url + "/ready")
    assert (ready.status_code, "cannot be reached" in ready.json()["reason"]) == (503, True)
    assert httpx.get(server.url + "/live").status_code == 200
    elastic.start()
    wait_until(lambda: httpx.get(server.url + "/ready").status_code == 200, 20, "readiness")
    assert send(server, second).status_code == 200
    assert set(elastic.documents(INDEX)) == {"r0", "r1"}
    metrics = httpx.get(server.url + "/metrics").text
    assert 'payload_log_elasticsearch_errors_total{reason="unavailable"}' in metrics
    assert "payload_log_elasticsearch_bulk_seconds_bucket" in metrics


def test_it_is_ready_once_the_templates_are_there(
    start_server: Callable[..., Any], elastic: FakeElasticsearch
) -> None:
    answers = [503] * 3
    elastic.fault = lambda method, path: answers.pop() if method == "PUT" and answers else None
    start_server(MODULE, f"--elasticsearch-url={elastic.url}")  # returns once it is ready
    assert not answers
    assert len(elastic.templates) == 2


def test_sqlite_does_not_pay_for_it(tmp_path: Path, root: Path) -> None:
    code = (
        "import sys, pathlib; from helpers.serving.payload_log.cli import make_app;"
        f"make_app(pathlib.Path({str(tmp_path)!r}));"
        "print(sorted(name for name in sys.modules if 'elastic' in name or name == 'httpx'))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=30
    )
    assert told.stdout == "[]\n", told.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "say where the log is kept"),
        (("--elasticsearch-url=here",), "http(s)://host:port"),
        (("--elasticsearch-url=http://u:hush@",), "http(s)://host:port"),
    ],
)
def test_settings_that_cannot_be_end_it_with_a_sentence(
    root: Path, options: tuple[str, ...], says: str
) -> None:
    told = subprocess.run(
        [sys.executable, "-m", MODULE, "--port=0", *options],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert told.returncode == 1
    assert says in told.stderr
    assert "Traceback" not in told.stderr
    assert "hush" not in told.stderr
