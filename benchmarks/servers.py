"""Starts the servers of `helpers.serving` as processes of their own, watches and ends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from helpers.errors import WalkthroughError
from helpers.metrics import Samples
from helpers.serving.common.polling import wait_for
from helpers.serving.common.tokens import make_token
from helpers.serving.payloads import SELDON, TENSORFLOW
from helpers.serving.program import Program, seldon_program, tf_server_program
from helpers.stack.interface import NAMESPACE
from helpers.stack.local.ports import Ports

ROOT = Path(__file__).absolute().parents[1]
START_SECONDS = 120.0
STOP_SECONDS = 20.0
DRAIN_SECONDS = 120.0
DEPLOYMENT = "cifar10"


@dataclass
class Server:
    """A process that listens; `seconds` from its start to its first answer that it is ready."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_url: str
    began: float
    seconds: float = 0.0

    def _tree(self) -> list[psutil.Process]:
        whole = psutil.Process(self.process.pid)
        return [whole, *whole.children(recursive=True)]

    @property
    def mebibytes(self) -> float:
        """The resident set of the process and those that it started."""
        return sum(one.memory_info().rss for one in self._tree()) / 2**20

    @property
    def processor_seconds(self) -> float:
        """What the process and those that it started have used of the processors."""
        times = [one.cpu_times() for one in self._tree()]
        return sum(one.user + one.system for one in times)

    def metrics(self, path: str = "/metrics") -> Samples:
        """Return a scrape."""
        return Samples.parse(httpx.get(self.url + path, timeout=10).text)


class Servers:
    """A folder and ports for servers; all of them are ended at the end of the block."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.folder = Path(self._folder.name)
        self._ports = Ports()
        self._running: list[Server] = []
        self._token = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in reversed(self._running):
            if server.process.poll() is None:
                server.process.terminate()
        for server in reversed(self._running):
            try:
                server.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait(10)
        self._folder.cleanup()

    def port(self) -> int:
        """Return a free port."""
        return self._ports.take()

    def spawn(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        *,
        ready: str = "/ready",
        environment: Mapping[str, str] | None = None,
    ) -> Server:
        """Start a server without waiting for it."""
        log = self.folder / f"{name}-{port}.log"
        url = f"http://127.0.0.1:{port}"
        began = time.perf_counter()
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        server = Server(name, url, process, log, url + ready, began)
        self._running.append(server)
        return server

    def wait(self, *servers: Server) -> None:
        """Return once all of them are ready.

        Raises:
            WalkthroughError: one ends, or is not ready in time; the message has the end of its log.
        """
        for server in servers:
            wait_for(
                lambda server=server: _is_ready(server),
                f"{server.name} to be ready",
                seconds=START_SECONDS,
                every=0.05,
                errors=(httpx.TransportError,),
            )
            server.seconds = time.perf_counter() - server.began

    # The servers

    def model(self, dataset: str = "cifar10", name: str = "resnet32") -> Server:
        """Start a model as a manifest would: TensorFlow's REST API, or seldon-core-microservice."""
        uri = f"s3://walkthrough/{dataset}/{name}"
        keras = protocol_of(dataset, name) == TENSORFLOW
        program: Program = tf_server_program(name, uri) if keras else seldon_program(name, uri)
        chosen = {one: str(self.port()) for one in ("port", "grpc_port", "metrics_port")}
        chosen["folder"] = str(self.folder)

        def filled(word: str) -> str:
            for key, value in chosen.items():
                word = word.replace(f"{{{key}}}", value)
            return word

        return self.spawn(
            f"model-{name}",
            [filled(word) for word in program.command],
            int(chosen["port"]),
            ready=program.ready_path,
            environment={key: filled(value) for key, value in program.environment.items()},
        )

    def gateway(self, model: Server, broker: Server | None = None) -> Server:
        """Start a gateway in front of ResNet32, its payloads logged where there is a broker."""
        port = self.port()
        config = self.folder / f"routes-{port}.json"
        options = [f"--config={config}", f"--port={port}"]
        predictor: dict[str, Any] = {"name": "default", "model": "resnet32", "url": model.url}
        predictor["traffic"] = 100
        if broker is not None:
            predictor["logger"] = {"url": f"{broker.url}/{NAMESPACE}/default"}
            options.append(f"--spool={self.folder / f'spool-{port}'}")  # as in the local stack
        deployment = {"namespace": NAMESPACE, "name": DEPLOYMENT, "protocol": "tensorflow"}
        table = {"deployments": [{**deployment, "predictors": [predictor]}]}
        config.write_text(json.dumps(table), encoding="utf-8")
        return self.spawn("gateway", [*_module("gateway"), *options], port)

    def broker(self) -> Server:
        """Start a broker with its events on disk."""
        port = self.port()
        token = self.folder / "token"
        self._token = make_token(token)
        options = [f"--port={port}", f"--state={self.folder / 'broker'}", f"--token-file={token}"]
        return self.spawn("broker", [*_module("broker"), *options], port)

    def trigger(self, broker: Server, name: str, subscriber: str, **wanted: str) -> None:
        """Declare the broker `default`, and have events with these attributes sent to `subscriber`."""
        spec = {"broker": "default", "filter": wanted, "subscriber": subscriber}
        self._control(broker, f"brokers/{NAMESPACE}/default")
        self._control(broker, f"triggers/{NAMESPACE}/{name}", spec)

    def _control(self, broker: Server, path: str, content: Any = None) -> None:
        headers = {"authorization": f"Bearer {self._token}"}
        url = f"{broker.url}/control/v1/{path}"
        answer = httpx.put(url, headers=headers, json=content, timeout=10)
        if not answer.is_success:
            raise WalkthroughError(f"{url} answers {answer.status_code}: {answer.text[:200]}")

    def payload_log(self) -> Server:
        """Start a payload log."""
        port = self.port()
        options = [f"--port={port}", f"--state={self.folder / f'payloads-{port}'}"]
        return self.spawn("payload-log", [*_module("payload_log"), *options], port)

    def detector(self, kind: str, uri: str, *options: str, **environment: str) -> Server:
        """Start a detect server: OutlierDetector, DriftDetector or MetricsServer."""
        port = self.port()
        protocol = "seldonfeedback.http" if kind == "MetricsServer" else TENSORFLOW
        told = [f"--model_name={kind}", f"--http_port={port}", f"--protocol={protocol}"]
        command = [*_module("detect"), *told, f"--storage_uri={uri}", kind, *options]
        return self.spawn(kind, command, port, environment=environment)

    def outlier(self) -> Server:
        """Start the outlier detector as its manifest does."""
        uri = "s3://walkthrough/cifar10/outlier_vae"
        return self.detector("OutlierDetector", uri, ALIBI_DETECT_RETURN_INSTANCE_SCORE="true")

    def drift(self, window: int = 1000) -> Server:
        """Start the drift detector."""
        uri = "s3://walkthrough/cifar10/drift_ks"
        return self.detector("DriftDetector", uri, f"--drift_batch_size={window}")

    def explainer(
        self,
        method: str,
        uri: str,
        protocol: str,
        model: Server | None,
        *options: str,
        **environment: str,
    ) -> Server:
        """Start an explain server; without a model for a method that holds its own."""
        port = self.port()
        host = "127.0.0.1:9" if model is None else model.url.removeprefix("http://")
        name = "m" if model is None else model.name.removeprefix("model-")
        told = [f"--model_name={name}", f"--predictor_host={host}", f"--protocol={protocol}"]
        command = [*_module("explain"), *told, f"--http_port={port}", f"--storage_uri={uri}"]
        return self.spawn(
            f"explainer-{method}", [*command, method, *options], port, environment=environment
        )

    def drain(self, broker: Server, gateway: Server | None = None) -> None:
        """Wait until every payload event has been delivered.

        Raises:
            WalkthroughError: it takes too long.
        """

        def empty() -> bool:
            waiting = 0.0
            if gateway is not None:
                waiting = gateway.metrics("/prometheus").value("gateway_events_waiting")
            if waiting:
                return False
            return broker.metrics().value("broker_backlog_events") == 0

        wait_for(empty, "all payload events to be delivered", seconds=DRAIN_SECONDS)


def protocol_of(dataset: str, name: str) -> str:
    """Return the protocol of a committed model."""
    return TENSORFLOW if name == "network" or dataset in ("cifar10", "digits") else SELDON


def _module(name: str) -> tuple[str, ...]:
    return sys.executable, "-m", f"helpers.serving.{name}"


def _is_ready(server: Server) -> bool:
    if server.process.poll() is not None:
        told = server.log.read_text(encoding="utf-8", errors="replace")[-1500:]
        raise WalkthroughError(f"{server.name} ended: {told}")
    return httpx.get(server.ready_url, timeout=5).status_code == 200


@contextmanager
def pinned(count: int) -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on the first `count` of its cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
