"""Waiting for verdicts: each request gets its own, in order, and a limit ends the wait with a sentence."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import orjson
import pytest

from helpers import verdicts
from helpers.errors import StackError

pytestmark = pytest.mark.timeout(60)


class FakeStack:
    """A broker whose events come one by one, each time that it is asked."""

    def __init__(self, *request_ids: str, url: str = "") -> None:
        self.coming = list(request_ids)
        self.arrived: list[dict] = []
        self.address = url

    def events(self, *, type: str, limit: int, data: bool) -> list[dict]:
        assert data
        if self.coming:
            request_id = self.coming.pop(0)
            event = {"attributes": {"requestid": request_id, "type": type}, "data": request_id * 2}
            self.arrived.insert(0, event)
        return self.arrived[:limit]

    def url(self, name: str) -> str:
        assert name == "payload-logger"
        return self.address


def test_answers_wait_for_all_and_have_the_order_of_the_requests() -> None:
    stack = FakeStack("c", "elsewhere", "a", "b")
    assert verdicts.answers(stack, verdicts.OUTLIER, ["a", "b", "c"], seconds=20) == [
        "aa",
        "bb",
        "cc",
    ]


def test_a_window_needs_one_answer_only() -> None:
    stack = FakeStack("elsewhere", "b", "a")
    assert verdicts.answers(stack, verdicts.DRIFT, ["a", "b"], count=1, seconds=20) == ["bb"]


def test_the_limit_ends_the_wait_and_says_how_many_came() -> None:
    with pytest.raises(StackError, match=r"1 of 2 answers of type .*outlier came within 0\.5 s"):
        verdicts.answers(FakeStack("a"), verdicts.OUTLIER, ["a", "b"], seconds=0.5)


@pytest.mark.parametrize("request_ids", [[], [str(n) for n in range(verdicts.NEWEST + 1)]])
def test_none_or_too_many_requests_are_refused(request_ids) -> None:
    with pytest.raises(StackError, match="1 to 1000"):
        verdicts.answers(FakeStack(), verdicts.OUTLIER, request_ids)


@pytest.fixture
def payload_log():
    """Return its url; the request `late` has its verdict from the third question on, others never."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            document = {"RequestId": self.path.rpartition("/")[2], "request": {}}
            if self.path.endswith("/late") and len(asked) > 2:
                document["outlier"] = {"data": {"is_outlier": 1}}
            known = self.path.endswith(("/late", "/never"))
            content = orjson.dumps({"documents": [{"_source": document}]} if known else {})
            self.send_response(200 if known else 404)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_document_is_returned_once_it_has_the_part(payload_log) -> None:
    (document,) = verdicts.logged(FakeStack(url=payload_log), ["late"], seconds=20)
    assert document["RequestId"] == "late"
    assert document["outlier"]["data"]["is_outlier"] == 1


@pytest.mark.parametrize("request_id", ["never", "unknown"])
def test_a_part_that_does_not_come_is_an_error(payload_log, request_id) -> None:
    with pytest.raises(StackError, match=f"no outlier of the request {request_id} after"):
        verdicts.logged(FakeStack(url=payload_log), [request_id], seconds=0.5)
