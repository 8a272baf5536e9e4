"""What all servers share: the frame, the body, CloudEvents, waiting, tokens."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from helpers.serving.common.app import JSON, create_app
from helpers.serving.common.body import deeper_than, parse_json, read_json
from helpers.serving.common.errors import RequestError, ServingError, seldon_error
from helpers.serving.common.events import CloudEvent, from_http, new_event
from helpers.serving.common.polling import WaitError, wait_for
from helpers.serving.common.tokens import make_token, read_token

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(60)


async def _echo(request: Request) -> Response:
    return JSON(await read_json(request))


async def _fault(request: Request) -> Response:
    raise KeyError("a fault of ours")


async def _busy(request: Request) -> Response:
    raise RequestError(503, "Not yet.", reason="LOADING", headers={"retry-after": "2"})


def client(**options: Any) -> TestClient:
    routes = [
        Route("/echo", _echo, methods=["POST"]),
        Route("/fault", _fault),
        Route("/busy", _busy),
    ]
    return TestClient(create_app("tested", routes, **options))


MALFORMED_HOSTS = ["[", "x/echo?", "x#", "a@b:99999999"]

# The frame.


@pytest.mark.parametrize("host", MALFORMED_HOSTS)
def test_a_malformed_host_changes_nothing(host: str) -> None:
    """With starlette before 1.0.1 it changes request.url, or makes it raise (CVE-2026-48710)."""
    app = client()
    missing = app.get("/missing", headers={"host": host})
    assert (missing.status_code, missing.json()) == (
        404,
        {"error": "Nothing is served at /missing."},
    )
    assert app.get("/echo", headers={"host": host}).status_code == 405
    assert app.get("/live", headers={"host": host}).json() == {"live": True}


def test_frame() -> None:
    app = client()
    assert app.get("/live").json() == {"live": True}
    assert app.get("/ready").json() == {"ready": True}
    assert "process_cpu_seconds_total" in app.get("/metrics").text
    assert app.post("/echo", json={"a": [1, 2.5]}).json() == {"a": [1, 2.5]}


def test_not_ready_says_why() -> None:
    answer = client(not_ready=lambda: "the model is loading").get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reason": "the model is loading"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/echo", 405),
        ("GET", "/fault", 500),
        ("GET", "/busy", 503),
    ],
)
def test_every_error_is_json(method: str, path: str, status: int) -> None:
    answer = client().request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert "KeyError" not in answer.text
    assert "Traceback" not in answer.text


def test_the_shape_of_an_error_is_the_protocols() -> None:
    answer = client(shape_error=seldon_error).get("/busy")
    assert answer.headers["retry-after"] == "2"
    assert answer.json() == {
        "status": {"code": 503, "info": "Not yet.", "reason": "LOADING", "status": "FAILURE"}
    }


def test_body_limit() -> None:
    app = client(body_limit=100)
    assert app.post("/echo", content=b'"' + b"x" * 98 + b'"').status_code == 200
    assert app.post("/echo", content=b'"' + b"x" * 99 + b'"').status_code == 413
    chunks = (b"x" * 60 for _ in range(3))  # of no announced length
    assert app.post("/echo", content=chunks).status_code == 413
    bomb = gzip.compress(b" " * 10_000)
    assert len(bomb) < 100
    assert app.post("/echo", content=bomb, headers={"content-encoding": "gzip"}).status_code == 413
    small = gzip.compress(b"[1]")
    assert app.post("/echo", content=small, headers={"content-encoding": "gzip"}).json() == [1]


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"{", b"[NaN]", b"[Infinity]", b"\xff", b"[1e999", b"'a'", b"[" * 70 + b"]" * 70],
)
def test_bad_json_is_refused(body: bytes) -> None:
    answer = client().post("/echo", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("value", "depth"),
    [
        ([[[1]], [2]], 3),
        ({"a": [{"b": "]]}}"}]}, 3),
        (["[[[[", "}{", '\\"[[', "]"], 1),
        ([["]"], "[", [["]]"]]], 3),
        ("text", 0),
        ([[[[[[[1]]]]]]] * 20, 7),
        ([[1], [[[[[[2]]]]]], [[[[[[3]]]]]], [[]] * 9], 7),
    ],
)
def test_depth_is_exact(value: Any, depth: int) -> None:
    body = json.dumps(value).encode()
    assert not deeper_than(body, depth)
    assert depth == 0 or deeper_than(body, depth - 1)
    assert parse_json(body) == value


def test_deep_json_is_refused_in_no_time() -> None:
    """The event loop stands still meanwhile: one level a pass over the text would take minutes."""
    stack = b"[" * 900 + b"]" * 900
    body = b"[" + b",".join([stack] * 2000) + b"]"
    begun = time.process_time()
    assert deeper_than(body, 64)
    took = time.process_time() - begun
    begun = time.process_time()
    orjson.loads(body)
    assert took < 2 * (time.process_time() - begun) + 0.2


# CloudEvents.


def test_both_modes_keep_an_event() -> None:
    event = new_event("a.b", '/s "ü%', {"x": [1, 2.5]}, requestid="r\u00e9")
    for headers, body in (event.to_binary(), event.to_structured()):
        assert from_http(headers, body) == event
        assert all(value.isascii() and value.isprintable() for value in headers.values())


def test_binary_data_is_untouched() -> None:
    data = bytes(range(256))
    event = CloudEvent(type="t", source="s", data=data, datacontenttype="image/png")
    for headers, body in (event.to_binary(), event.to_structured()):
        assert from_http(headers, body).data == data


def test_attributes() -> None:
    event = new_event("a.b", "/s", {}, requestid="r1")
    assert [event.get(name) for name in ("type", "specversion", "requestid", "absent")] == [
        "a.b",
        "1.0",
        "r1",
        None,
    ]
    assert event.with_extensions(requestid="r2").get("requestid") == "r2"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"ce-id": ""}, 400),
        ({"ce-specversion": "2.0"}, 400),
        ({"ce-data": "x"}, 400),
        ({"ce-Upper": "x"}, 400),
        ({"ce-evil": "%0d%0a"}, 400),
        ({"ce-time": "25 o'clock"}, 400),
        ({f"ce-x{number}": "x" * 4000 for number in range(5)}, 400),
        ({"content-type": "application/cloudevents+avro"}, 415),
    ],
)
def test_bad_events_are_refused(change: dict[str, str], status: int) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t", "ce-source": "/s"}
    with pytest.raises(RequestError) as raised:
        from_http(headers | change, b"{}")
    assert raised.value.status == status


# Processes, waiting, tokens.


def test_no_server_package_needs_tensorflow() -> None:
    code = (
        "import sys, helpers.serving.broker.cli, helpers.serving.payload_log.cli;"
        "sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    )
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ("-m", "helpers.serving.payload_log")
        ended = subprocess.run(
            [sys.executable, *arguments, "--port", str(port), "--state", str(tmp_path)],
            cwd=ROOT,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"payload-log: port {port} of 127.0.0.1 is in use; "
        "stop what listens there or choose another port."
    ]


@pytest.mark.parametrize("phase", ["building the app", "loading"])
def test_a_signal_ends_the_process_whatever_it_is_at(phase: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), phase],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        while "busy" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        assert process.wait(8) == 0
    finally:
        process.kill()
        process.communicate()


PROGRAM = """
import contextlib, sys, time
from concurrent.futures import ThreadPoolExecutor
from helpers.serving.common.app import create_app
from helpers.serving.common.server import run

def busy():
    print("busy", file=sys.stderr, flush=True)
    time.sleep(60)

@contextlib.asynccontextmanager
async def lifespan(app):
    ThreadPoolExecutor(1).submit(busy)
    yield

def build():
    if sys.argv[1] == "loading":
        return create_app("slow", [], lifespan=lifespan)
    busy()

run(build, name="slow", port=0)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["broker", "--port={port}", "--state={folder}", "--token-file={folder}/token"],
        ["payload_log", "--port={port}", "--state={folder}"],
        ["tf_server", "--model_name=m", "--model_base_path={folder}", "--rest_api_port={port}"],
        [
            "detect",
            "--http_port={port}",
            "--protocol=seldonfeedback.http",
            "--storage_uri=helpers.serving.detect.rmse.RMSE",
            "MetricsServer",
        ],
        [
            "explain",
            "--http_port={port}",
            "--predictor_host=nowhere:1",
            "--storage_uri=s3://walkthrough/cifar10/anchor_images",
            "AnchorImages",
        ],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_environment_sets_the_address(arguments: list[str], tmp_path: Path) -> None:
    """Loopback unless told otherwise: in a container, where the image sets SERVING_HOST, 0.0.0.0."""
    make_token(tmp_path / "token")
    module, *given = arguments
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, expected in ((None, "127.0.0.1"), ("127.0.0.2", "127.0.0.2")):
            environment = dict(os.environ, PYTHONPATH=str(ROOT))
            environment.pop("SERVING_HOST", None)
            if host is not None:
                environment["SERVING_HOST"] = host
            with socket.create_server(("127.0.0.2", port)):
                ended = subprocess.run(
                    [sys.executable, "-m", f"helpers.serving.{module}"]
                    + [text.format(folder=tmp_path, port=port) for text in given],
                    cwd=ROOT,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=50,
                )
            assert f"port {port} of {expected} is in use" in ended.stderr


def test_waiting_says_what_for() -> None:
    answers = iter([None, OSError("refused"), "there"])

    def check() -> Any:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert wait_for(check, "it", seconds=5) == "there"
    begun = time.monotonic()
    with pytest.raises(WaitError, match=r"Waited 0\.2 s for the moon; last seen: False"):
        wait_for(lambda: False, "the moon", seconds=0.2)
    assert time.monotonic() - begun < 2


def test_tokens(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = make_token(path)
    assert read_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ServingError, match="chmod 600"):
        read_token(path)
    with pytest.raises(ServingError, match="cannot be read"):
        read_token(tmp_path / "missing")
