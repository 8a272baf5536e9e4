"""The audit trail in Elasticsearch, against a server that behaves like it for the calls that are made."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain import cli
from helpers.serving.explain.app import make_app
from helpers.serving.explain.production import audit, audit_elasticsearch
from helpers.serving.explain.production.audit import Entry, Receipt
from helpers.serving.explain.production.audit_elasticsearch import ElasticsearchTrail, verify
from helpers.serving.explain.production.settings import read_settings

pytestmark = pytest.mark.timeout(120)

LABELS = {"method": "KernelShap", "model_name": "credit"}
SECRET = b"the key of the trail"
INDEX = "explanation-audit-credit"
TEMPLATE = json.loads(
    (
        Path(__file__).parents[2] / "manifests/logging/elasticsearch/audit-index-template.json"
    ).read_text()
)["template"]["mappings"]


class Elastic:
    """One index; a search sees what was there at the last refresh, a get what is there."""

    def __init__(self) -> None:
        self.mapping: dict[str, Any] | None = None
        self.template: dict[str, Any] = TEMPLATE
        self.rows: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.authorization: set[str | None] = set()
        # Called with method and action before and after; a status it returns is the answer.
        self.before: Callable[[str, str], int | None] = lambda method, action: None
        self.after: Callable[[str, str], int | None] = lambda method, action: None
        elastic = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one segment for each answer: no wait for an acknowledgement

            def answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length") or 0))
                elastic.authorization.add(self.headers.get("authorization"))
                parts = urlsplit(self.path).path.strip("/").split("/")
                action = parts[1] if len(parts) > 1 else ""
                elastic.calls.append(f"{self.command} {action}".strip())
                assert parts[0] == INDEX
                code, body = elastic.before(self.command, action), {}
                if code is None:
                    key = unquote(parts[2]) if len(parts) > 2 else ""
                    given = json.loads(content) if content else None
                    code, body = elastic.handle(f"{self.command} {action}".strip(), key, given)
                    code = elastic.after(self.command, action) or code
                if code < 0:  # hang up
                    self.close_connection = True
                    return
                text = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client waits no longer
                    self.wfile.write(text)
                    self.wfile.flush()

            do_GET = do_PUT = do_POST = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}/{INDEX}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def handle(self, call: str, key: str, given: Any) -> tuple[int, dict[str, Any]]:
        if call == "PUT":
            if self.mapping is not None:
                return 400, {"error": {"type": "resource_already_exists_exception"}}
            self.mapping = self.template
            return 200, {"acknowledged": True}
        if call == "PUT _create":
            if key in self.rows:
                return 409, {"error": {"type": "version_conflict_engine_exception"}}
            unknown = set(given) - set(TEMPLATE["properties"])
            assert not unknown, unknown  # dynamic: strict
            self.rows[key] = given
            return 201, {"_id": key, "result": "created"}
        if self.mapping is None:
            return 404, {"error": {"type": "index_not_found_exception"}}
        if call == "GET _mapping":
            return 200, {INDEX: {"mappings": self.mapping}}
        if call == "POST _refresh":
            self.seen = copy.deepcopy(self.rows)
            return 200, {}
        if call == "GET _doc":
            if key not in self.rows:
                return 404, {"found": False}
            return 200, {"found": True, "_source": self.rows[key]}
        assert call == "POST _search", call
        return 200, {"hits": {"hits": self.search(given)}}

    def search(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        chain = given["query"]["term"]["chain"]["value"]
        fields = [next(iter(one)) for one in given["sort"]]
        falling = next(iter(given["sort"][0].values()))["order"] == "desc"
        hits = [
            {"_id": key, "_source": row, "sort": [row[field] for field in fields]}
            for key, row in self.seen.items()
            if row["chain"] == chain
        ]
        hits.sort(key=lambda hit: hit["sort"], reverse=falling)
        after = given.get("search_after")
        if after is not None:
            hits = [hit for hit in hits if hit["sort"] > after]
        return hits[: given["size"]]


@pytest.fixture
def elastic() -> Iterator[Elastic]:
    made = Elastic()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join(10)


def entry(**other: Any) -> Entry:
    given: dict[str, Any] = {
        "request_id": "r-1",
        "caller": "clerk",
        "method": "KernelShap",
        "explainer": "credit_risk/kernel_shap",
        "explainer_version": "ab" * 32,
        "model": "credit",
        "model_version": "3",
        "parameters": {"nsamples": 100, "seed": 7, "l1": 1e-7},
        "input_hash": "cd" * 32,
        "top": [("income", -0.25), ("age", 1), ("häuser", None)],
    }
    return Entry(**given | other)


def write(url: str, count: int = 1, chain: str = "pod-1", **options: Any) -> list[Receipt]:
    async def scenario() -> list[Receipt]:
        trail = ElasticsearchTrail(url, CollectorRegistry(), LABELS, SECRET, chain, **options)
        trail.start()
        try:
            return [await trail.record(entry(request_id=f"r-{n}")) for n in range(1, count + 1)]
        finally:
            await trail.close()

    return asyncio.run(scenario())


def test_a_row_holds_what_one_of_sqlite_holds_with_the_same_hash(
    elastic: Elastic, tmp_path: Path
) -> None:
    one = entry()

    async def both() -> tuple[Receipt, Receipt, list[dict[str, Any]]]:
        file = audit.AuditTrail(tmp_path / "a", CollectorRegistry(), LABELS, SECRET, "pod-1")
        index = ElasticsearchTrail(elastic.url, CollectorRegistry(), LABELS, SECRET, "pod-1")
        file.start()
        index.start()
        try:
            return await file.record(one), await index.record(one), await file.rows("r-1")
        finally:
            await file.close()
            await index.close()

    expected, receipt, rows = asyncio.run(both())
    assert receipt == expected
    assert elastic.rows == {"pod-1:1": rows[0]}


def test_a_chain_goes_on_after_a_restart_and_each_replica_has_its_own(
    elastic: Elastic, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(elastic.url, 3)
    assert "chain pod-1 is begun" in caplog.text
    (fourth,) = write(elastic.url)
    assert fourth.seq == 4
    assert "chain pod-1 goes on after row 3" in caplog.text
    (other,) = write(elastic.url, chain="pod-2")
    assert other.seq == 1
    for chain, rows in (("pod-1", 4), ("pod-2", 1), ("pod-3", 0)):
        verdict = verify(elastic.url, chain, SECRET)
        assert (verdict.ok, verdict.rows) == (True, rows)
    assert not verify(elastic.url, "pod-1", b"another key of the trail").ok


def test_a_write_whose_answer_is_lost_is_one_row(elastic: Elastic) -> None:
    lost = [-1, 503]
    elastic.after = lambda method, action: lost.pop() if action == "_create" and lost else None
    receipts = write(elastic.url, 2)
    assert not lost
    assert [one.seq for one in receipts] == [1, 2]
    assert list(elastic.rows) == ["pod-1:1", "pod-1:2"]
    assert verify(elastic.url, "pod-1", SECRET, receipts[-1]).rows == 2


def test_two_processes_may_write_to_one_chain(elastic: Elastic) -> None:
    async def scenario() -> list[Receipt]:
        trails = [
            ElasticsearchTrail(elastic.url, CollectorRegistry(), LABELS, SECRET, "pod-1")
            for _ in range(2)
        ]
        try:
            return [await trails[n % 2].record(entry()) for n in range(6)]
        finally:
            for trail in trails:
                await trail.close()

    assert [one.seq for one in asyncio.run(scenario())] == [1, 2, 3, 4, 5, 6]
    assert verify(elastic.url, "pod-1", SECRET).rows == 6


def test_many_at_once_are_one_chain(elastic: Elastic) -> None:
    async def scenario() -> list[Receipt]:
        trail = ElasticsearchTrail(elastic.url, CollectorRegistry(), LABELS, SECRET, "pod-1")
        try:
            return await asyncio.gather(*(trail.record(entry()) for _ in range(20)))
        finally:
            await trail.close()

    assert sorted(one.seq for one in asyncio.run(scenario())) == list(range(1, 21))
    assert verify(elastic.url, "pod-1", SECRET).rows == 20


@pytest.mark.parametrize(
    ("status", "tries", "says"),
    [(503, 3, "503"), (-1, 3, "cannot be reached"), (403, 1, "403")],
)
def test_a_row_that_cannot_be_written_is_a_503_and_the_next_one_goes_on(
    elastic: Elastic, status: int, tries: int, says: str
) -> None:
    async def scenario() -> None:
        registry = CollectorRegistry()
        trail = ElasticsearchTrail(elastic.url, registry, LABELS, SECRET, "pod-1")
        try:
            assert (await trail.record(entry())).seq == 1
            elastic.before = lambda method, action: status if action == "_create" else None
            elastic.calls.clear()
            with pytest.raises(RequestError, match=says) as told:
                await trail.record(entry())
            assert told.value.status == 503
            assert elastic.calls.count("PUT _create") == tries
            elastic.before = lambda method, action: None
            assert (await trail.record(entry())).seq == 2
        finally:
            await trail.close()
        name = "explain_server_audit_{}_total"
        assert registry.get_sample_value(name.format("failures"), LABELS) == 1
        assert registry.get_sample_value(name.format("records"), LABELS) == 2

    asyncio.run(scenario())


def test_a_server_that_does_not_answer_is_a_503_in_time(
    elastic: Elastic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "WAIT_SECONDS", 0.5)
    held = threading.Event()
    elastic.before = lambda method, action: held.wait(20) and None
    began = time.monotonic()
    try:
        with pytest.raises(RequestError, match=r"within 0\.5 s"):
            write(elastic.url)
    finally:
        held.set()
    assert time.monotonic() - began < 5


def test_an_index_without_the_template_is_refused(elastic: Elastic) -> None:
    elastic.template = {"properties": {"chain": {"type": "text"}}}
    with pytest.raises(RequestError, match="index template") as told:
        write(elastic.url)
    assert told.value.status == 503
    assert not elastic.rows


def test_a_server_that_is_not_elasticsearch_is_a_503(elastic: Elastic) -> None:
    elastic.before = lambda method, action: 200  # with {} for an answer
    with pytest.raises(RequestError, match="not one of Elasticsearch") as told:
        write(elastic.url)
    assert told.value.status == 503


@pytest.mark.parametrize(
    ("change", "row", "says"),
    [
        (lambda rows: rows["pod-1:2"].update(caller="nobody"), 2, "was changed"),
        (lambda rows: rows["pod-1:2"]["top"][0].update(attribution=0.5), 2, "was changed"),
        (lambda rows: rows["pod-1:2"]["parameters"].update(seed=8), 2, "was changed"),
        (lambda rows: rows["pod-1:2"].pop("caller"), 2, "was changed"),
        (lambda rows: rows["pod-1:2"].update(hash="é"), 2, "was changed"),
        (lambda rows: rows.pop("pod-1:3"), 3, "is missing"),
        (lambda rows: rows.pop("pod-1:1"), 1, "is missing"),
        (lambda rows: rows.pop("pod-1:5"), 5, "receipt"),
        (lambda rows: rows.update(x=rows["pod-1:2"] | {"hash": "f" * 64}), 2, "was inserted"),
    ],
)
@pytest.mark.parametrize("page", [1, 2, 1000])
def test_verify_says_which_row_is_not_as_it_was_written(
    elastic: Elastic, change: Any, row: int, says: str, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_elasticsearch, "PAGE", page)
    last = write(elastic.url, 5)[-1]
    assert verify(elastic.url, "pod-1", SECRET, last).rows == 5
    change(elastic.rows)
    verdict = verify(elastic.url, "pod-1", SECRET, last)
    assert (verdict.ok, verdict.row) == (False, row)
    assert says in verdict.message


def test_verify_says_that_it_cannot_read(elastic: Elastic) -> None:
    with pytest.raises(ServingError, match="404"):
        verify(elastic.url, "pod-1")
    elastic.mapping = TEMPLATE
    elastic.after = lambda method, action: 503 if action == "_search" else None
    with pytest.raises(ServingError, match="503"):
        verify(elastic.url, "pod-1")


def test_credentials_are_sent_and_not_told(
    elastic: Elastic, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    write(elastic.url, api_key="a-key-of-elastic")
    assert elastic.authorization == {"ApiKey a-key-of-elastic"}
    elastic.authorization.clear()
    write(elastic.url.replace("http://", "http://clerk:hush-hush@"))
    known = base64.b64encode(b"clerk:hush-hush").decode()
    assert elastic.authorization == {f"Basic {known}"}
    elastic.before = lambda method, action: -1
    with pytest.raises(RequestError) as told:
        write(elastic.url.replace("http://", "http://clerk:hush-hush@"))
    for secret in ("hush-hush", "a-key-of-elastic", known):
        assert secret not in caplog.text + told.value.message


@pytest.mark.parametrize(
    "url",
    ["here", "ftp://h/explanation-audit-a", "http://u:hush-hush@h", "http://h/logs", "http://h:x/"],
)
def test_an_address_that_cannot_be_stops_the_server_with_a_sentence(url: str) -> None:
    with pytest.raises(ServingError, match="--audit_elasticsearch_url") as told:
        ElasticsearchTrail(url, CollectorRegistry(), LABELS)
    assert "hush-hush" not in str(told.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"audit_file": "a", "audit_elasticsearch_url": "http://h/explanation-audit-a"}, "choose"),
        ({"audit_elasticsearch_key": "env:A"}, "needs --audit_elasticsearch_url"),
        ({"audit_key": "env:A"}, "needs --audit_file or --audit_elasticsearch_url"),
    ],
)
def test_settings_that_cannot_be_together(given: dict[str, str], says: str) -> None:
    with pytest.raises(ServingError, match=says):
        read_settings(given, "TreeShap", False)


def server(*options: str) -> Any:
    arguments = ["--model_name=m", "--storage_uri=s3://walkthrough/credit_risk/tree_shap"]
    return cli.build(cli.parser().parse_args([*arguments, "TreeShap", *options]))


def test_the_explain_server_writes_its_trail_there(
    elastic: Elastic, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServingError, match="the environment has no TRAIL_URL"):
        server("--audit_elasticsearch_url=env:TRAIL_URL")
    monkeypatch.setenv("TRAIL_URL", elastic.url)
    monkeypatch.setenv("TRAIL_KEY", SECRET.decode())
    monkeypatch.setenv("HOSTNAME", "pod-7")
    built = server("--audit_elasticsearch_url=env:TRAIL_URL", "--audit_key=env:TRAIL_KEY")
    failures: list[str] = []
    body = {"data": {"ndarray": [[2.0, 5000.0, 3.0, 1.0, 14250.0, 6.3, 2.0, 0.0]]}}
    with TestClient(make_app(built, failures.append)) as client:
        end = time.monotonic() + 60
        while client.get("/ready").status_code != 200:
            assert not failures
            assert time.monotonic() < end
            time.sleep(0.05)

        def ask() -> Any:
            headers = {"seldon-puid": "p-1", "x-forwarded-user": "anna"}
            return client.post("/api/v1.0/explain", json=body, headers=headers)

        answer = ask()
        assert answer.status_code == 200, answer.text
        receipt = Receipt.parse(answer.headers["x-explanation-audit"])
        elastic.before = lambda method, action: 403
        refused = ask()
        assert refused.status_code == 503
        assert "audit trail" in refused.text
        assert refused.headers["retry-after"] == "5"
    elastic.before = lambda method, action: None
    row = elastic.rows["pod-7:1"]
    assert (row["request_id"], row["caller"], row["outcome"]) == ("p-1", "anna", "made")
    assert verify(elastic.url, "pod-7", SECRET, receipt).rows == 1
