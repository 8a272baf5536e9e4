"""Prometheus as the local stack runs it: its settings, and the real program where it is installed."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, generate_latest

from helpers.errors import StackError
from helpers.stack.local import prometheus

needs_prometheus = pytest.mark.skipif(
    prometheus.find_prometheus() is None, reason="the program `prometheus` is not installed"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="the program `promtool` is not installed"
)
TOKEN = "s3cret-token"


@dataclass
class Control:
    """The control API's `/v1/targets` and one server's `/metrics`, on one port."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    refused: int = 0
    asked: int = 0

    def __post_init__(self) -> None:
        control = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/v1/targets":
                    control.asked += 1
                    if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        control.refused += 1
                        self.send_error(401)
                        return
                    address = f"127.0.0.1:{control.port}"
                    listed = [
                        (address, "/v1/metrics", {"pod": "outlier-vae", "namespace": "walkthrough"})
                    ]
                    self._answer(
                        "application/json", json.dumps(prometheus.targets(listed)).encode()
                    )
                elif self.path == "/v1/metrics":
                    self._answer("text/plain; version=0.0.4", generate_latest(control.registry))
                else:
                    self.send_error(404)

            def _answer(self, content_type: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


def test_targets_are_those_of_http_service_discovery() -> None:
    listed = prometheus.targets(
        [
            ("127.0.0.1:9001", "/v1/metrics", {"pod": "outlier-vae", "restarts": 2}),
            ("127.0.0.1:8003", "/prometheus", {}),
        ]
    )
    assert listed == [
        {
            "targets": ["127.0.0.1:9001"],
            "labels": {"__metrics_path__": "/v1/metrics", "pod": "outlier-vae", "restarts": "2"},
        },
        {"targets": ["127.0.0.1:8003"], "labels": {"__metrics_path__": "/prometheus"}},
    ]


def test_the_configuration_asks_the_control_api_with_its_token(tmp_path: Path) -> None:
    text = prometheus.configuration(
        "http://127.0.0.1:1/v1/targets", tmp_path / "token", scrape_interval="3s"
    )
    read = yaml.safe_load(text)
    assert read["global"] == {"scrape_interval": "3s", "scrape_timeout": "3s"}
    (job,) = read["scrape_configs"]
    assert job["honor_labels"] is True
    (discovery,) = job["http_sd_configs"]
    assert discovery["url"] == "http://127.0.0.1:1/v1/targets"
    assert discovery["authorization"]["credentials_file"] == str(tmp_path / "token")
    assert TOKEN not in text


@needs_promtool
def test_promtool_accepts_the_configuration(tmp_path: Path, token_file: Path) -> None:
    path = tmp_path / "prometheus.yml"
    path.write_text(prometheus.configuration("http://127.0.0.1:1/v1/targets", token_file))
    checked = subprocess.run(
        ["promtool", "check", "config", str(path)], capture_output=True, text=True, timeout=30
    )
    assert checked.returncode == 0, checked.stderr


def test_without_the_program_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prometheus.find_prometheus() is None
    with pytest.raises(StackError, match="apt-get install prometheus"):
        prometheus.spec("http://127.0.0.1:1/v1/targets", "token", tmp_path)


@needs_prometheus
@pytest.mark.timeout(90)
def test_the_real_program_scrapes_what_the_control_api_lists(
    tmp_path: Path,
    control: Control,
    token_file: Path,
    wait_until: Callable[[Callable[[], Any], float, str], None],
) -> None:
    counter = Counter("hits", "", ["pod"], registry=control.registry)
    counter.labels("cifar10-default-0-resnet32").inc(7)
    spec = prometheus.spec(
        f"http://127.0.0.1:{control.port}/v1/targets", token_file, tmp_path / "tsdb"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in spec.files.items():
        (folder / name).write_text(content)
    command = [part.format(port=port, folder=folder) for part in spec.command]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def query(expression: str) -> list[dict[str, Any]]:
        try:
            answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=5)
        except httpx.TransportError:
            return []
        return answer.json()["data"]["result"] if answer.status_code == 200 else []

    def ready() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return httpx.get(url + spec.ready_path, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready, 30, f"{url}{spec.ready_path}")

        wait_until(lambda: query("hits_total"), 30, "the first scrape")

        (found,) = query("hits_total")
        # Its own label `pod` wins over the target's; the target's others are added.
        assert found["metric"] == {
            "__name__": "hits_total",
            "instance": f"127.0.0.1:{control.port}",
            "job": prometheus.JOB,
            "namespace": "walkthrough",
            "pod": "cifar10-default-0-resnet32",
        }
        assert found["value"][1] == "7"
        assert control.refused == 0
        assert [r["metric"]["pod"] for r in query("up == 1")] == ["outlier-vae"]
    finally:
        process.terminate()
        assert process.wait(20) == 0
        log.close()
    assert "level=error" not in (tmp_path / "log").read_text()
