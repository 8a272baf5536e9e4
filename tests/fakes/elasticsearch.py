"""An Elasticsearch 8 in this process: the APIs that are used here, as their documentation has them.

    with FakeElasticsearch() as elastic:
        ... elastic.url ...

It refuses what Elasticsearch refuses (a bulk body without its last newline, ids and index names that
are too long or malformed, documents that do not fit their mapping), sees in a search only what a
refresh has made visible, and fails a test that would have a field mapped dynamically or that asks for
a field that is not indexed. It knows nothing of shards, versions of documents or authorization, and
nothing here has been compared with a real Elasticsearch.
"""

from __future__ import annotations

import copy
import fnmatch
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from helpers.serving.common.server import bind
from tests.fakes.es_mapping import RejectedError, check, check_mapping
from tests.fakes.es_search import Row, matches, search

CONTENT_BYTES = 100 * 2**20  # http.max_content_length
_NAME = re.compile(r'(?![-_+.])[^\\/*?"<>| ,#:A-Z]{1,255}')
_TEMPLATE = {"index_patterns", "priority", "version", "template", "_meta", "composed_of"}
_LENIENT = {"ignore_unavailable", "allow_no_indices"}
_REASONS = {429: "es_rejected_execution_exception", 503: "unavailable_shards_exception"}

ItemFault = int | tuple[int, str, str] | None


class FakeElasticsearch:
    """One of them, empty.

    Attributes:
        url: `http://127.0.0.1:<port>`.
        indices: by name, `mappings` and `documents` by id.
        templates: by name.
        calls: `METHOD path` of each request.
        bulks: actions of each bulk request.
        authorization: of each request.
        broken: what was asked for that this fake does not know, or that is not to be asked for.
        fault: called with method and path; a status it returns is the answer.
        fault_after: the same once the work is done: an answer that is lost.
        item_fault: called with action, index and id of a bulk request's item; a status, or status, type
            and reason, that it returns is this item's.
        seconds: that each answer takes longer.
        content_bytes: http.max_content_length.
    """

    def __init__(self) -> None:
        self._port = 0
        self.reset()
        self.start()

    def reset(self) -> None:
        """Forget everything, for the next test."""
        self.indices: dict[str, dict[str, Any]] = {}
        self.templates: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.bulks: list[int] = []
        self.broken: list[str] = []
        self.authorization: set[str | None] = set()
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        self.fault_after: Callable[[str, str], int | None] = lambda method, path: None
        self.item_fault: Callable[[str, str, str], ItemFault] = lambda action, index, id: None
        self.seconds = 0.0
        self.content_bytes = CONTENT_BYTES
        self.version = {"number": "8.19.19"}
        self._seen: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> FakeElasticsearch:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before."""
        listener = bind("127.0.0.1", self._port)
        self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=_METHODS)])
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Listen no longer; what is kept stays."""
        self._server.should_exit = True
        self._thread.join(10)

    def refresh(self) -> None:
        """Make all that is kept visible to searches, as happens every second by itself."""
        self._seen = {name: copy.deepcopy(self.documents(name)) for name in self.indices}

    def documents(self, index: str) -> dict[str, Any]:
        """Return an index's documents by id."""
        return self.indices.get(index, {"documents": {}})["documents"]

    async def _answer(self, request: Request) -> Response:
        content = await request.body()
        path = request.url.path
        self.calls.append(f"{request.method} {path}")
        self.authorization.add(request.headers.get("authorization"))
        code = self.fault(request.method, path)
        if self.seconds:
            time.sleep(self.seconds)  # of the thread, which is this server's own
        if code is not None:
            return _error(code, _REASONS.get(code, "told_exception"), "as the test says")
        if len(content) > self.content_bytes:
            return Response(status_code=413)
        try:
            status, answer = self._handle(request, path.strip("/").split("/"), content)
        except RejectedError as problem:
            return _error(400, problem.type, problem.reason)
        except Exception as problem:
            self.broken.append(f"{request.method} {path}: {problem!r}")
            raise
        code = self.fault_after(request.method, path)
        if code is not None:
            return _error(code, _REASONS.get(code, "told_exception"), "as the test says")
        return JSONResponse(answer, status, headers={"x-elastic-product": "Elasticsearch"})

    def _handle(self, request: Request, path: list[str], content: bytes) -> tuple[int, Any]:
        given = set(request.query_params)
        body = None
        if content and path != ["_bulk"]:
            assert request.headers["content-type"].startswith("application/json")
            body = _parsed(content)
        match request.method, path:
            case "GET", [""]:
                return 200, {"version": self.version, "tagline": "You Know, for Search"}
            case "GET", ["_index_template", name]:
                if name not in self.templates:
                    return 404, _told("resource_not_found_exception", f"[{name}] not found")
                found = {"name": name, "index_template": self.templates[name]}
                return 200, {"index_templates": [found]}
            case "PUT", ["_index_template", name]:
                return self._put_template(name, body)
            case "POST", ["_bulk"]:
                assert given <= {"timeout"}, given
                assert request.headers["content-type"] in (
                    "application/x-ndjson",
                    "application/json",
                )
                return 200, self._bulk(content)
            case "GET", [index, "_doc", id]:
                documents = self.documents(index)
                if index not in self.indices:
                    return 404, _told("index_not_found_exception", f"no such index [{index}]")
                if id not in documents:
                    return 404, {"_index": index, "_id": id, "found": False}
                return 200, {"_index": index, "_id": id, "found": True, "_source": documents[id]}
            case "GET", [indices, "_mapping"]:
                assert given <= _LENIENT
                return 200, {
                    name: {"mappings": self.indices[name]["mappings"]}
                    for name in self._named(indices)
                }
            case "POST", [indices, "_refresh"]:
                assert given <= _LENIENT
                for name in self._named(indices):
                    self._seen[name] = copy.deepcopy(self.documents(name))
                return 200, {"_shards": {"failed": 0}}
            case (("POST" | "GET"), [indices, "_search"]):
                assert given <= _LENIENT | {"allow_partial_search_results"}
                return 200, {"timed_out": False, **search(self._rows(indices), body or {})}
            case "POST", [indices, "_delete_by_query"]:
                assert given <= _LENIENT | {"conflicts", "max_docs"}
                return 200, self._delete(indices, body, int(request.query_params["max_docs"]))
        raise AssertionError(f"{request.method} {path} is not one of the calls that are known here")

    def _put_template(self, name: str, body: Any) -> tuple[int, Any]:
        if set(body) - _TEMPLATE or set(body["template"]) - {"settings", "mappings", "aliases"}:
            raise RejectedError("x_content_parse_exception", "unknown field")
        check_mapping(body["template"]["mappings"])
        for other, one in self.templates.items():
            both = set(one["index_patterns"]) & set(body["index_patterns"])
            if other != name and both and one.get("priority") == body.get("priority"):
                raise RejectedError("illegal_argument_exception", f"the same priority as {other}")
        self.templates[name] = body
        return 200, {"acknowledged": True}

    def _bulk(self, content: bytes) -> dict[str, Any]:
        if not content.endswith(b"\n"):
            raise RejectedError(
                "illegal_argument_exception", "The bulk request must be terminated by a newline"
            )
        lines = content.split(b"\n")[:-1]
        actions = []
        while lines:
            ((action, named),) = _parsed(lines.pop(0)).items()
            if action not in ("create", "update") or not lines:
                raise RejectedError("illegal_argument_exception", "Malformed action/metadata line")
            unknown = set(named) - {"_index", "_id", "retry_on_conflict"}
            if unknown:
                raise RejectedError("illegal_argument_exception", f"unknown parameter {unknown}")
            if len(named["_id"].encode()) > 512:
                raise RejectedError(
                    "action_request_validation_exception", "id is too long, must be <= 512 bytes"
                )
            actions.append((action, named["_index"], named["_id"], lines.pop(0)))
        self.bulks.append(len(actions))
        items = [{one[0]: self._item(*one)} for one in actions]
        errors = any("error" in next(iter(item.values())) for item in items)
        return {"took": 1, "errors": errors, "items": items}

    def _item(self, action: str, index: str, id: str, line: bytes) -> dict[str, Any]:
        named = {"_index": index, "_id": id}
        fault = self.item_fault(action, index, id)
        if fault is not None:
            default = (fault, _REASONS.get(fault, "told_exception"), "as the test says")
            status, type, reason = fault if isinstance(fault, tuple) else default
            return {**named, "status": status, **_told(type, reason)}
        try:
            result = self._write(action, index, id, line)
        except RejectedError as problem:
            return {**named, "status": 400, **_told(problem.type, problem.reason)}
        if result is None:
            told = _told("version_conflict_engine_exception", f"[{id}]: document already exists")
            return {**named, "status": 409, **told}
        return {**named, "status": 201 if result == "created" else 200, "result": result}

    def _write(self, action: str, index: str, id: str, line: bytes) -> str | None:
        source = _parsed(line)
        if not _NAME.fullmatch(index) or len(index.encode()) > 255:
            raise RejectedError("invalid_index_name_exception", f"Invalid index name [{index}]")
        made = self.indices.get(index) or self._made(index)
        before = made["documents"].get(id)
        if action == "create":
            if before is not None:
                return None
            check(made["mappings"], source)
            made["documents"][id] = source
            return "created"
        unknown = set(source) - {"doc", "doc_as_upsert", "upsert"}
        if unknown:
            raise RejectedError("x_content_parse_exception", f"[UpdateRequest] {unknown}")
        if before is None and not source.get("doc_as_upsert") and "upsert" not in source:
            raise AssertionError(
                f"a partial update of {id}, which may be missing, without an upsert"
            )
        first = source["upsert"] if "upsert" in source else source["doc"]
        after = first if before is None else merged(before, source["doc"])
        check(made["mappings"], after)
        if before == after:
            return "noop"  # detect_noop
        made["documents"][id] = after
        return "created" if before is None else "updated"

    def _made(self, index: str) -> dict[str, Any]:
        fitting = [
            one
            for one in self.templates.values()
            if any(fnmatch.fnmatchcase(index, pattern) for pattern in one["index_patterns"])
        ]
        assert fitting, f"the index {index} is made without a template"
        best = max(fitting, key=lambda one: one.get("priority", 0))
        self.indices[index] = {"mappings": best["template"]["mappings"], "documents": {}}
        return self.indices[index]

    def _delete(self, indices: str, body: dict[str, Any], most: int) -> dict[str, Any]:
        found = [row for row in self._rows(indices) if matches(body["query"], row)][:most]
        for index, id, *_ in found:
            self.indices[index]["documents"].pop(id, None)
            self._seen[index].pop(id)
        return {"deleted": len(found), "version_conflicts": 0, "failures": []}

    def _rows(self, indices: str) -> list[Row]:
        return [
            (name, id, source, self.indices[name]["mappings"])
            for name in self._named(indices)
            for id, source in self._seen.get(name, {}).items()
        ]

    def _named(self, indices: str) -> list[str]:
        patterns = indices.split(",")
        return [
            name
            for name in self.indices
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]


_METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD"]


def merged(before: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return a document with a partial one merged in: objects by field, anything else replaced."""
    after = dict(before)
    for name, value in change.items():
        old = after.get(name)
        both = isinstance(old, dict) and isinstance(value, dict)
        after[name] = merged(old, value) if both else value
    return after


def _parsed(text: bytes) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise RejectedError("json_parse_exception", "Duplicate field")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as problem:
        raise RejectedError("json_parse_exception", str(problem)) from problem


def _told(type: str, reason: str) -> dict[str, Any]:
    return {"error": {"type": type, "reason": reason}}


def _error(code: int, type: str, reason: str) -> Response:
    return JSONResponse({**_told(type, reason), "status": code}, code)
