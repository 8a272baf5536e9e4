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


def test_the_stack_on_a_cluster_reads_the_events(server: Any, elastic: FakeElasticsearch) -> None:
    names = {"requestid": "r1", "namespace": "walkthrough"}
    sent = [
        new_event(type, "http://source/", {"instances": [[n]]}, **names)
        for n, type in enumerate((REQUEST_TYPE, RESPONSE_TYPE, "io.seldon.another"))
    ]
    for event in [*sent, sent[0]]:
        assert send(server, event).status_code == 200
    elastic.refresh()
    found = events(elastic.url, limit=10, data=True)
    assert [one["attributes"] for one in found] == [one.attributes() for one in reversed(sent)]
    assert [one["data"] for one in found] == [{"instances": [[n]]} for n in (2, 1, 0)]
    assert found[0]["bytes"] == len(sent[2].data)
    (one,) = events(elastic.url, limit=10, data=False, type=RESPONSE_TYPE, request_id="r1")
    assert "data" not in one
    assert events(elastic.url, limit=10, data=False, request_id="r2") == []


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
