"""The HTTP side of the detect server: one event in, at most one event out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from helpers.errors import WalkthroughError
from helpers.serving.common.app import create_app
from helpers.serving.common.body import parse_json, read_body
from helpers.serving.common.errors import RequestError, plain_error, seldon_error
from helpers.serving.common.events import CloudEvent, from_http, is_event, now
from helpers.serving.common.metrics import new_registry
from helpers.serving.detect.exposition import RuntimeMetrics
from helpers.serving.detect.forwarding import InlierForwarder, Sender
from helpers.serving.detect.remembered import Remembered, Unsent
from helpers.serving.detect.verdict import Detector, Verdict
from helpers.serving.payloads import FEEDBACK, SELDON, write_json

log = logging.getLogger(__name__)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server was told besides its detector.

    Args:
        name: `--model_name`, for the log.
        protocol: of the payloads.
        event_type: of reply events; empty for the detector's own.
        event_source: of reply events; empty for one made of the name.
        reply_url: replies are also posted there; empty for not.
    """

    name: str
    protocol: str
    event_type: str = ""
    event_source: str = ""
    reply_url: str = ""

    @property
    def source(self) -> str:
        """The source of this server's events; CloudEvents asks for one."""
        return self.event_source or f"io.seldon.serving.{self.name}"


class DetectServer:
    """Takes events one at a time, in a thread of its own, and says what the detector says.

    Args:
        detector: asked about each event.
        settings: see there.
        forwarder: sends inliers on; None for not.
        sender: posts replies to `settings.reply_url`; None for not.
    """

    def __init__(
        self,
        detector: Detector,
        settings: Settings,
        forwarder: InlierForwarder | None = None,
        sender: Sender | None = None,
    ) -> None:
        self.detector = detector
        self.settings = settings
        self.forwarder = forwarder
        self.sender = sender
        self.event_type = settings.event_type or detector.event_type
        self.state = f"{settings.name} is loading its {type(detector).__name__}."
        self.loaded = threading.Event()
        self.remembered = Remembered()
        self.unsent = Unsent()
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="detector")
        self.registry = new_registry()
        self.metrics = RuntimeMetrics(self.event_type)
        self.registry.register(self.metrics)
        self._measure()

    def _measure(self) -> None:
        self.seconds = Histogram(
            "detect_server_event_seconds",
            "Time to answer an event, waiting for the one before included",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.events = Counter(
            "detect_server_events",
            "Events by outcome: answered, repeated (answered before), refused",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("answered", "repeated", "refused"):
            self.events.labels(outcome)
        if hasattr(self.detector, "filled"):
            waiting = Gauge(
                "detect_server_window_rows",
                "Rows in the window that is being filled",
                registry=self.registry,
            )
            waiting.set_function(lambda: self.detector.filled)

    def not_ready(self) -> str | None:
        """Return why events are not taken yet, or None."""
        return None if self.loaded.is_set() else self.state

    def load(self, on_failure: Callable[[str], None]) -> None:
        """Load the detector; `on_failure` gets the sentence that says why it cannot be loaded."""
        started = time.perf_counter()
        try:
            self.detector.load()
        except Exception as problem:
            if not isinstance(problem, WalkthroughError):
                log.exception("%s cannot load its detector", self.settings.name)
            self.state = f"{self.settings.name} cannot load its detector: {problem}"
            on_failure(self.state)
            return
        self.loaded.set()
        log.info("%s is ready after %.1f s", self.settings.name, time.perf_counter() - started)

    def answer(self, headers: Mapping[str, str], raw: bytes) -> Response:
        """Answer one request; called in the worker's thread."""
        event = from_http(headers, raw) if is_event(headers) or _has_ce(headers) else None
        if event is not None:
            known = self.remembered.get(event)
            if known is not None:
                self.events.labels("repeated").inc()
                return self._respond(event, known)
        body = event.json() if event is not None else parse_json(raw)
        # An event that came again because its verdict could not be passed on is not judged again.
        verdict = self.unsent.take(event) or self.detector.process(body, headers, event)
        data = b"" if verdict.reply is None else write_json(verdict.reply)
        try:
            self._pass_on(event, raw, body, verdict, data)
        except RequestError:
            self.unsent.put(event, verdict)
            raise
        try:
            self.metrics.update(verdict.metrics)
        except ValueError as problem:
            raise RequestError(400, f"The metrics cannot be counted: {problem}.") from problem
        if event is not None:
            self.remembered.put(event, data)
        self.events.labels("answered").inc()
        return self._respond(event, data)

    def _pass_on(
        self, event: CloudEvent | None, raw: bytes, body: Any, verdict: Verdict, data: bytes
    ) -> None:
        """Send what is to be sent before anything is counted: where that fails, all comes again."""
        forwarder = self.forwarder
        if forwarder is not None and verdict.inliers is not None:
            carrier = event or CloudEvent(self.event_type, self.settings.source, raw, time=now())
            if carrier.type != forwarder.event_type:  # sent by itself: it would go round for ever
                forwarder.forward(carrier, body, verdict.inliers)
        if self.sender is not None and data:
            self.sender.send(self._reply(event, data))

    def _reply(self, event: CloudEvent | None, data: bytes) -> CloudEvent:
        kept = {} if event is None else {"id": event.id, "extensions": event.extensions}
        return CloudEvent(
            type=self.event_type,
            source=self.settings.source,
            data=data,
            time=now(),
            datacontenttype="application/json",
            **kept,
        )

    def _respond(self, event: CloudEvent | None, data: bytes) -> Response:
        if not data:
            return Response(status_code=200)
        headers, content = self._reply(event, data).to_binary()
        return Response(content, headers=headers)

    def close(self) -> None:
        """Let go of the thread and the connections."""
        self.worker.shutdown(wait=False, cancel_futures=True)
        if self.sender is not None:
            self.sender.close()
        if self.forwarder is not None:
            self.forwarder.sender.close()


def make_app(server: DetectServer, on_failure: Callable[[str], None] = log.error) -> Starlette:
    """Return the ASGI app of a detect server; its detector is loaded once the app has started.

    Until then POST `/` answers 503 with Retry-After, so that a broker delivers again.
    """
    settings = server.settings

    async def take(request: Request) -> Response:
        raw = await read_body(request)
        reason = server.not_ready()
        if reason is not None:
            raise RequestError(503, reason, headers={"retry-after": "1"})
        loop = asyncio.get_running_loop()
        with server.seconds.time():
            try:
                return await loop.run_in_executor(
                    server.worker, server.answer, dict(request.headers), raw
                )
            except RequestError:
                server.events.labels("refused").inc()
                raise

    async def protocol(request: Request) -> Response:
        return PlainTextResponse(settings.protocol)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        server.worker.submit(server.load, on_failure)
        try:
            yield
        finally:
            server.close()

    return create_app(
        settings.name,
        [Route("/", take, methods=["POST"]), Route("/protocol", protocol)],
        shape_error=seldon_error if settings.protocol in (SELDON, FEEDBACK) else plain_error,
        not_ready=server.not_ready,
        registry=server.registry,
        metrics_path="/v1/metrics",
        lifespan=lifespan,
        described_in="helpers.serving.detect",
    )


def _has_ce(headers: Mapping[str, str]) -> bool:
    return any(name.startswith("ce-") for name in headers)
