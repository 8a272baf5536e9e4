"""Real server processes on free loopback ports, and a subscriber that does as it is told."""

from __future__ import annotations

import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from helpers import artifacts

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0  # a busy machine; an idle one needs less than one

Answer = tuple[int, Mapping[str, str], bytes]


class Server:
    """One `python -m <module>` process; `restart` keeps its port and arguments."""

    def __init__(self, module: str, arguments: list[str], log: Path, port_option: str) -> None:
        self.module = module
        self.arguments = arguments
        self.log = log
        self.port_option = port_option
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, ready: str = "/ready") -> Server:
        """Start the process and wait until it says that it is ready."""
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    self.module,
                    f"{self.port_option}={self.port}",
                    *self.arguments,
                ],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        until(lambda: self._listening() and self._answers(ready), START_SECONDS, str(self))
        return self

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def restart(self) -> Server:
        """Start again on the same port."""
        return self.start()

    def said(self) -> str:
        """All that the process has written since it started."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _listening(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.module} ended at once:\n{self.said()}")
        found = re.search(r"listening on http://[\d.]+:(\d+)", self.said())
        if found:
            self.port = int(found[1])
        return found is not None

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@dataclass
class Received:
    """One request that a subscriber got; header names in lower case."""

    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        """The event's id."""
        return self.headers["ce-id"]


class Subscriber:
    """An HTTP server in this process that records what it gets and answers as told."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], Answer] = lambda received: (200, {}, b"")
        subscriber = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(headers, self.rfile.read(length))
                status, named, body = subscriber.answer(received)
                subscriber.received.append(received)
                self.send_response(status)
                for name, value in named.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """A broker that was killed leaves broken connections: say nothing."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def ids(self) -> list[str]:
        """The ids of the events it got, in order."""
        return [received.id for received in self.received]

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


def until(check: Callable[[], Any], seconds: float, what: str) -> None:
    """Poll until `check` is true; fail with `what` after so many seconds."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def _starter(folder: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(module: str, *arguments: str, port_option: str = "--port") -> Server:
        log = folder / f"server-{len(servers)}.log"
        server = Server(module, list(arguments), log, port_option)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.kill()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return start(module, *arguments): a ready Server on a free port, gone after the test."""
    yield from _starter(tmp_path)


@pytest.fixture(scope="module")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """The same for a server that all tests of a file share."""
    yield from _starter(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def subscriber() -> Iterator[Subscriber]:
    """A subscriber that answers an empty 200."""
    one = Subscriber()
    yield one
    one.close()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any], float, str], None]:
    """Return until(check, seconds, what)."""
    return until


@pytest.fixture(scope="module")
def save_toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Return save(predict, shape): saves the artefact toy/anchor_images and returns its explainer."""
    from helpers.serving.explain.lean_alibi import prepare_alibi

    prepare_alibi()
    from alibi.explainers.anchors.anchor_image import AnchorImage

    def save(predict: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> AnchorImage:
        explainer = AnchorImage(
            predict,
            image_shape=shape,
            segmentation_fn="slic",
            segmentation_kwargs={
                "n_segments": 5,
                "compactness": 10,
                "sigma": 0.5,
                "start_label": 0,
            },
            seed=0,
        )
        artifacts.save(
            "toy", "anchor_images", explainer.save, format="alibi", summary="a toy", figures={}
        )
        return explainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIFACTS_DIR", str(tmp_path_factory.mktemp("artifacts")))
        yield save
