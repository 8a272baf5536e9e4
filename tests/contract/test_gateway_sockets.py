"""The gateway's client over real sockets, and the whole program as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from helpers.serving.gateway import client as client_module
from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.client import (
    PooledClient,
    UpstreamBrokenError,
    UpstreamDownError,
    UpstreamTimeoutError,
)
from helpers.serving.gateway.routes import RouteTable

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(closing, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


def replies(*answers: bytes) -> Handler:
    """Answer one request after the other on a connection, then close it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()

    return handler


async def post(client: PooledClient, base: str, body: bytes = b"{}", seconds: float = 10) -> Any:
    return await client.send("POST", base, "/x", [(b"x-a", b"1")], body, seconds)


def test_bodies_and_headers_go_through_untouched() -> None:
    async def scenario() -> None:
        seen = []

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head, body = await read_request(reader)
                seen.append(head)
                length = b"%d" % len(body)
                writer.write(b"HTTP/1.1 201 Made\r\nX-Back: yes\r\ncontent-length: " + length)
                writer.write(b"\r\n\r\n" + body)
                await writer.drain()

        client = PooledClient()
        async with server(handler) as base:
            for size in (0, 1, 100_000, 5_000_000):
                answer = await post(client, base, os.urandom(1) * size)
                assert (answer.status, len(answer.body)) == (201, size)
                assert answer.header(b"x-back") == b"yes"
            head = seen[0].lower()
            assert head.startswith(b"post /x http/1.1\r\n")
            names = {line.partition(b":")[0] for line in head.splitlines()[1:-1]}
            assert names == {b"host", b"x-a", b"content-length"}
            await client.aclose()

    asyncio.run(scenario())


def test_connections_are_used_again() -> None:
    async def scenario() -> None:
        connections = 0

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            while True:
                await read_request(reader)
                await asyncio.sleep(0.01)
                writer.write(OK)

        client = PooledClient()
        async with server(handler) as base:
            for _ in range(5):
                await asyncio.gather(*[post(client, base) for _ in range(3)])
            assert connections == 3
            await client.aclose()

    asyncio.run(scenario())


def gateway(model: str, **changes: Any) -> Gateway:
    predictor = {"name": "main", "model": "classifier", "url": model, **changes}
    given = {"namespace": "default", "name": "a", "protocol": "seldon", "predictors": [predictor]}
    return Gateway(RouteTable.model_validate({"deployments": [given]}))


PREDICT, FEEDBACK = (f"/seldon/default/a/api/v1.0/{what}" for what in ("predictions", "feedback"))


def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    async def scenario() -> None:
        async with server(replies(OK)) as base:  # closes after each answer, without saying so
            app = gateway(base)
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
                for _ in range(20):
                    assert (await client.post(PREDICT, content=b"{}")).status_code == 200
            await app.aclose()

    asyncio.run(scenario())


def test_predictions_are_sent_once_more_where_the_connection_breaks_and_feedback_is_not() -> None:
    async def scenario() -> None:
        got = []

        async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.append((await read_request(reader))[0].split()[1])

        async with server(breaks) as base:
            app = gateway(base)
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
                assert (await client.post(PREDICT, content=b"{}")).status_code == 503
                assert (await client.post(FEEDBACK, content=b"{}")).status_code == 503
            await app.aclose()
        assert got == [b"/predict", b"/predict", b"/send-feedback"]

    asyncio.run(scenario())


def test_a_model_that_hangs_is_504_and_frees_its_place() -> None:
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        async with server(hangs) as base:
            app = gateway(base, timeout_seconds=0.05)
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
                answer = await client.post(PREDICT, content=b"{}")
            await app.aclose()
        assert answer.status_code == 504
        assert "no answer within 0.05 s" in answer.json()["status"]["info"]
        assert app._bodies.held == 0
        assert not +app._in_flight

    asyncio.run(scenario())


def test_answers_in_chunks_with_100_continue_or_until_the_end() -> None:
    async def scenario() -> None:
        chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        until_end = b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n{}"
        client = PooledClient()
        for answer in (chunked, b"HTTP/1.1 100 Continue\r\n\r\n" + OK, until_end):
            async with server(replies(answer)) as base:
                assert (await post(client, base)).body == b"{}"
        await client.aclose()

    asyncio.run(scenario())


def test_what_can_go_wrong_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        client = PooledClient()
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(UpstreamDownError) as refused:
                await post(client, f"http://127.0.0.1:{port}")
            assert not refused.value.started
        async with server(silent) as base:
            with pytest.raises(UpstreamTimeoutError, match=r"within 0\.05 s"):
                await post(client, base, seconds=0.05)
        for broken in (b"what?\r\n\r\n", b"\x00\x01\x02\x03" * 10):
            async with server(replies(broken)) as base:
                with pytest.raises(UpstreamBrokenError):
                    await post(client, base)
        cut = OK.replace(b"length: 2", b"length: 9")
        async with server(replies(cut)) as base:
            with pytest.raises(UpstreamDownError) as lost:
                await post(client, base)
            assert lost.value.started
        monkeypatch.setattr(client_module, "ANSWER_LIMIT", 1)
        async with server(replies(OK)) as base:
            with pytest.raises(UpstreamBrokenError, match="over 1 bytes"):
                await post(client, base)
        await client.aclose()

    asyncio.run(scenario())


# The program -------------------------------------------------------------------------------------


def write_routes(path: Path, revision: str, model: str) -> None:
    predictor = {"name": "main", "model": "classifier", "url": model, "traffic": 100}
    whole = {
        "revision": revision,
        "deployments": [
            {
                "namespace": "default",
                "name": "cifar10",
                "protocol": "tensorflow",
                "predictors": [predictor],
            }
        ],
    }
    new = path.with_suffix(".new")
    new.write_bytes(orjson.dumps(whole))
    new.replace(path)


def test_the_program_follows_its_file_and_stops_cleanly(tmp_path: Path, root: Path) -> None:
    routes = tmp_path / "routes.json"
    write_routes(routes, "first", "http://127.0.0.1:9")
    command = [sys.executable, "-m", "helpers.serving.gateway", "--port", "0", "--config"]
    process = subprocess.Popen(
        [*command, str(routes)], cwd=root, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("gateway: listening on http://127.0.0.1:"), line
        base = line.split()[-1]

        async def scenario() -> None:
            async with server(replies(OK, OK, OK)) as model, httpx.AsyncClient() as client:
                path = f"{base}/seldon/default/cifar10/v1/models/:predict"
                assert (await client.get(f"{base}/ready")).json()["revision"] == "first"
                assert (await client.post(path, content=b"{}")).status_code == 503
                write_routes(routes, "second", model)
                await revision(client, "second")
                assert (await client.post(path, content=b"{}")).status_code == 200
                routes.write_text("{ broken")
                await asyncio.sleep(0.3)
                assert (await client.get(f"{base}/ready")).json()["revision"] == "second"
                assert (await client.post(path, content=b"{}")).status_code == 200

        async def revision(client: httpx.AsyncClient, wanted: str) -> None:
            until = time.monotonic() + 20
            while (await client.get(f"{base}/ready")).json()["revision"] != wanted:
                assert time.monotonic() < until
                await asyncio.sleep(0.05)

        asyncio.run(scenario())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "The routes in use stay." in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def test_the_program_refuses_wrong_routes(tmp_path: Path, root: Path) -> None:
    routes = tmp_path / "routes.json"
    routes.write_text('{"deployments": [{"name": 3}]}')
    ended = subprocess.run(
        [sys.executable, "-m", "helpers.serving.gateway", "--port", "0", "--config", str(routes)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "are wrong at deployments.0" in ended.stderr
    assert "Traceback" not in ended.stderr
