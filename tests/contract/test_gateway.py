"""The gateway against the wire facts of Seldon Core 1.19: paths, headers, events, metrics, errors.

In process: requests go to the ASGI app, and a table of functions plays the model servers and
brokers. Real sockets are in test_gateway_sockets.py.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from helpers.serving.common.errors import ServingError
from helpers.serving.common.events import from_http
from helpers.serving.gateway import orchestrator
from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.client import (
    Answer,
    Header,
    UpstreamBrokenError,
    UpstreamDownError,
    UpstreamTimeoutError,
)
from helpers.serving.gateway.routes import Deployment, RouteTable, read_table
from helpers.serving.gateway.split import Splitter

MODEL, CANARY, EXPLAINER, BROKER = (f"http://127.0.0.1:{port}" for port in (1, 2, 3, 4))
JSON = [(b"content-type", b"application/json")]
PREFIX = "/seldon/default/cifar10"


@dataclass
class Call:
    method: str
    base: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Servers:
    """Stands for every server: base address -> a function of the call; others are down."""

    handlers: dict[str, Callable[[Call], Answer | Awaitable[Answer]]]
    calls: list[Call] = field(default_factory=list)

    async def send(
        self,
        method: str,
        base: str,
        path: str,
        headers: Iterable[Header],
        body: bytes,
        seconds: float,
    ) -> Answer:
        named = {name.decode(): value.decode() for name, value in headers}
        call = Call(method, base, path, named, body)
        self.calls.append(call)
        if base not in self.handlers:
            raise UpstreamDownError("no connection: Connection refused", started=False)
        answer = self.handlers[base](call)
        return await answer if inspect.isawaitable(answer) else answer

    async def aclose(self) -> None:
        pass

    def at(self, base: str) -> list[Call]:
        return [call for call in self.calls if call.base == base]


def answers(content: Any, status: int = 200) -> Callable[[Call], Answer]:
    return lambda call: Answer(status, list(JSON), orjson.dumps(content))


def deployment(protocol: str = "tensorflow", **changes: Any) -> Deployment:
    given: dict[str, Any] = {
        "namespace": "default",
        "name": "cifar10",
        "protocol": protocol,
        "predictors": [predictor()],
    }
    return Deployment.model_validate(given | changes)


def predictor(**changes: Any) -> dict[str, Any]:
    given = {
        "name": "main",
        "model": "classifier",
        "url": MODEL,
        "image": "tensorflow/serving",
        "image_version": "2.18.0",
        "version": "v1",
        "traffic": 100,
    }
    return given | changes


def logger(mode: str = "all") -> dict[str, Any]:
    return {"logger": {"url": f"{BROKER}/default/default", "mode": mode}}


def table(*deployments: Deployment) -> RouteTable:
    return RouteTable(deployments=deployments)


class World:
    """A gateway, its servers and a client."""

    def __init__(self, *deployments: Deployment, **options: Any) -> None:
        self.servers = Servers(
            {MODEL: answers({"predictions": [[1.0]]}), BROKER: lambda call: Answer(202, [], b"")}
        )
        self.gateway = Gateway(table(*deployments), upstream=self.servers, seed=0, **options)
        transport = httpx.ASGITransport(app=self.gateway)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def post(self, path: str, content: Any = b'{"instances": [[1]]}', **more: Any) -> Any:
        return await self.client.post(f"{PREFIX}{path}", content=content, **more)

    async def get(self, path: str) -> Any:
        return await self.client.get(f"{PREFIX}{path}")

    async def events(self) -> list[Call]:
        assert await self.gateway.events.flush(30)
        return self.servers.at(BROKER)

    async def metrics(self) -> dict[str, list[Any]]:
        text = (await self.client.get("/prometheus")).text
        found: dict[str, list[Any]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found


async def until(check: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.001)


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


# Paths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "path", "at_model"),
    [
        ("tensorflow", "/v1/models/classifier:predict", "/v1/models/classifier:predict"),
        ("tensorflow", "/v1/models/classifier/:predict", "/v1/models/classifier:predict"),
        ("tensorflow", "/v1/models/:predict", "/v1/models/classifier:predict"),
        ("tensorflow", "/v1/models:predict", "/v1/models/classifier:predict"),
        ("v2", "/v2/models/classifier/infer", "/v2/models/classifier/infer"),
        ("v2", "/v2/models/infer", "/v2/models/classifier/infer"),
        ("seldon", "/api/v1.0/predictions", "/predict"),
        ("seldon", "/api/v0.1/predictions", "/predict"),
    ],
)
def test_predictions_reach_the_model(protocol: str, path: str, at_model: str) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol))
        body = b'{"instances":  [[1.50]],\n "anything": "kept as it is"}'
        response = await world.post(path, body)
        assert response.status_code == 200
        assert response.json()["predictions"] == [[1.0]]
        (call,) = world.servers.calls
        assert (call.method, call.base, call.path) == ("POST", MODEL, at_model)
        assert call.body == body

    run(scenario())


@pytest.mark.parametrize(
    ("protocol", "path", "at_model"),
    [
        ("tensorflow", "/v1/models/classifier", "/v1/models/classifier"),
        ("tensorflow", "/v1/models/classifier/metadata", "/v1/models/classifier/metadata"),
        ("v2", "/v2/models/classifier/ready", "/v2/models/classifier/ready"),
        ("v2", "/v2/models/classifier", "/v2/models/classifier"),
        ("v2", "/v2/health/ready", "/v2/health/ready"),
        ("seldon", "/api/v1.0/health/status", "/health/status"),
        ("seldon", "/api/v1.0/status/classifier", "/health/status"),
        ("seldon", "/api/v1.0/metadata/classifier", "/metadata"),
    ],
)
def test_status_and_metadata_reach_the_model(protocol: str, path: str, at_model: str) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol))
        world.servers.handlers[MODEL] = answers({"fine": True})
        response = await world.get(path)
        assert response.json() == {"fine": True}
        assert [(call.method, call.path) for call in world.servers.calls] == [("GET", at_model)]

    run(scenario())


def test_graph_metadata_of_the_seldon_protocol() -> None:
    async def scenario() -> None:
        world = World(deployment("seldon"))
        model = {"name": "classifier", "inputs": [{"shape": [4]}], "outputs": []}
        world.servers.handlers[MODEL] = answers(model)
        assert (await world.get("/api/v1.0/metadata")).json() == {
            "name": "main",
            "models": {"classifier": model},
            "graphinputs": [{"shape": [4]}],
            "graphoutputs": [],
        }

    run(scenario())


@pytest.mark.parametrize(
    "path", ["/v1/models/classifier:explain", "/v1/models/:explain", "/api/v1.0/explain"]
)
def test_explanations_reach_the_explainer(path: str) -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(explainer=EXPLAINER, **logger())]))
        world.servers.handlers[EXPLAINER] = answers({"data": {}})
        response = await world.client.post(
            f"/seldon/default/cifar10-explainer/main{path}", content=b"{}"
        )
        assert response.json() == {"data": {}}
        (call,) = world.servers.calls  # nothing is sent to a broker
        assert (call.base, call.path) == (EXPLAINER, path)

    run(scenario())


@pytest.mark.parametrize("id", ["7", "-1oqCXSyYQz3KOBthFZIh8c6", "_1oq-"])
def test_an_explanation_for_later_is_asked_for_and_fetched_through_the_gateway(id: str) -> None:
    async def scenario() -> None:
        told = {
            "location": f"../../v1/explanations/{id}",
            "preference-applied": "respond-async",
            "x-explanation-audit": "1:ab",
            "x-explanation-source": "memory",
            "x-other": "1",
        }
        headers = [*JSON, *((name.encode(), value.encode()) for name, value in told.items())]
        world = World(deployment(predictors=[predictor(explainer=EXPLAINER)]))
        world.servers.handlers[EXPLAINER] = lambda call: Answer(202, list(headers), b"{}")
        response = await world.client.post(
            "/seldon/default/cifar10-explainer/main/v1/models/:explain",
            content=b"{}",
            headers={"prefer": "respond-async"},
        )
        assert response.status_code == 202
        del told["x-other"]
        assert told.items() <= dict(response.headers).items()
        assert "x-other" not in response.headers
        place = response.request.url.join(response.headers["location"])
        assert place.path == f"/seldon/default/cifar10-explainer/main/v1/explanations/{id}"
        await world.client.get(f"/seldon/default/cifar10-explainer/main/v1/explanations/{id}")
        first, second = world.servers.calls
        assert first.headers["prefer"] == "respond-async"
        assert (second.method, second.path) == ("GET", f"/v1/explanations/{id}")
        # The model's own headers stay what they were.
        world.servers.handlers[MODEL] = lambda call: Answer(200, list(headers), b"{}")
        assert "location" not in (await world.get("/v1/models/classifier")).headers

    run(scenario())


def test_a_deployment_that_is_called_like_an_explainer() -> None:
    async def scenario() -> None:
        own = deployment("seldon", name="cifar10-explainer")
        world = World(deployment(), own)
        response = await world.client.post(
            "/seldon/default/cifar10-explainer/api/v1.0/predictions", content=b"{}"
        )
        assert response.status_code == 200
        assert world.servers.calls[0].path == "/predict"

    run(scenario())


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/api/v1.0/predictions", 404),
        ("POST", "/v2/models/classifier/infer", 404),
        ("GET", "/v1/models/classifier:predict", 405),
        ("DELETE", "/v1/models/classifier", 405),
        ("POST", "/v1/models/classifier", 405),
        ("POST", "/v1/models/classifier:classify", 404),
        ("POST", "/v1/models/../../x:predict", 404),
        ("POST", "/v1/models/%2e%2e%2fx:predict", 404),
        ("POST", "//v1/models/classifier:predict", 404),
        ("GET", "/", 404),
        ("GET", "", 404),
    ],
)
def test_wrong_paths_are_refused(method: str, path: str, status: int) -> None:
    async def scenario() -> None:
        world = World(deployment())
        response = await world.client.request(method, PREFIX + path)
        assert response.status_code == status
        assert set(response.json()) == {"error"}
        assert world.servers.calls == []

    run(scenario())


@pytest.mark.parametrize(
    "path",
    [
        "/seldon/default/nothing/v1/models/:predict",
        "/seldon/other/cifar10/v1/models/:predict",
        "/seldon/default/cifar10-explainer/main/v1/models/:explain",
        "/seldon/default/cifar10-explainer/other/v1/models/:explain",
        "/seldon/default/with-explainer-explainer/main/../../x",
        "/seldon/default/with-explainer-explainer/main/a//b",
        "/seldon/default/with-explainer-explainer/main",
        "/seldon/default",
        "/elsewhere",
    ],
)
def test_unknown_places_are_404(path: str) -> None:
    async def scenario() -> None:
        explained = deployment(name="with-explainer", predictors=[predictor(explainer=EXPLAINER)])
        world = World(deployment(), explained)
        scope = raw_scope(path)
        status, body = await raw_request(world.gateway, scope)
        assert status == 404
        assert set(orjson.loads(body)) == {"error"}
        assert world.servers.calls == []

    run(scenario())


def raw_scope(path: str, headers: Iterable[Header] = ()) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "headers": list(headers)}


async def raw_request(gateway: Gateway, scope: dict[str, Any], *chunks: bytes) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
        for number, chunk in enumerate(chunks, 1)
    ] or [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await gateway(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    "header",
    [
        (b"x-note", b"two\nlines"),
        (b"x-note", b"two\r\nSeldon-Puid: forged"),
        (b"seldon-puid", b""),
        (b"seldon-puid", b"with space"),
        (b"seldon-puid", b"x" * 500),
        (b"seldon-puid", "ü".encode()),
        (b"content-encoding", b"gzip"),
    ],
)
def test_impossible_headers_are_refused(header: Header) -> None:
    async def scenario() -> None:
        world = World(deployment())
        scope = raw_scope(f"{PREFIX}/v1/models/:predict", [header])
        status, body = await raw_request(world.gateway, scope)
        if header == (b"seldon-puid", b""):
            assert status == 200  # an empty one is none
        else:
            assert status in (400, 415)
            assert b"error" in body
            assert world.servers.calls == []

    run(scenario())


def test_large_bodies_are_refused_announced_or_not() -> None:
    async def scenario() -> None:
        world = World(deployment(), body_limit=1000)
        path = f"{PREFIX}/v1/models/:predict"
        announced = raw_scope(path, [(b"content-length", b"100000000000")])
        assert (await raw_request(world.gateway, announced, b"x"))[0] == 413
        chunked = await raw_request(world.gateway, raw_scope(path), b"x" * 600, b"x" * 600)
        assert chunked[0] == 413
        assert (await raw_request(world.gateway, raw_scope(path), b"x" * 1000))[0] == 200
        assert world.gateway._bodies.held == 0

    run(scenario())


def test_a_client_that_goes_away_in_its_body_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        world = World(deployment())
        messages = [
            {"type": "http.request", "body": b"x" * 100, "more_body": True},
            {"type": "http.disconnect"},
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await world.gateway(raw_scope(f"{PREFIX}/v1/models/:predict"), receive, send)
        assert sent[0]["status"] == 400
        assert world.gateway._bodies.held == 0
        assert not +world.gateway._in_flight
        assert world.servers.calls == []

    run(scenario())


def test_bodies_share_one_limit_of_memory() -> None:
    async def scenario() -> None:
        world = World(deployment(), buffer_limit=1500)
        gate = asyncio.Event()

        async def slow(call: Call) -> Answer:
            await gate.wait()
            return Answer(200, list(JSON), b"{}")

        world.servers.handlers[MODEL] = slow
        first = asyncio.create_task(world.post("/v1/models/:predict", b"x" * 1000))
        await until(lambda: len(world.servers.calls) == 1)
        assert (await world.post("/v1/models/:predict", b"x" * 1000)).status_code == 503
        gate.set()
        assert (await first).status_code == 200
        assert (await world.post("/v1/models/:predict", b"x" * 1000)).status_code == 200

    run(scenario())


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (UpstreamDownError("no connection: Connection refused", started=False), 503),
        (UpstreamDownError("the connection broke", started=True), 503),
        (UpstreamTimeoutError("no answer within 60 s", started=True), 504),
        (UpstreamBrokenError("it did not answer in HTTP", started=True), 502),
    ],
)
@pytest.mark.parametrize("protocol", ["tensorflow", "v2", "seldon"])
def test_a_model_that_does_not_answer(protocol: str, problem: Exception, status: int) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol))

        def fail(call: Call) -> Answer:
            raise problem

        world.servers.handlers[MODEL] = fail
        paths = {"tensorflow": "/v1/models/:predict", "v2": "/v2/models/infer"}
        response = await world.post(paths.get(protocol, "/api/v1.0/predictions"))
        assert response.status_code == status
        assert "seldon-puid" in response.headers
        answer = response.json()
        assert "Traceback" not in response.text
        if protocol == "seldon":
            assert answer["status"]["code"] == status
            assert answer["status"]["status"] == "FAILURE"
            assert "classifier" in answer["status"]["info"]
        else:
            assert "classifier" in answer["error"]

    run(scenario())


def test_the_models_own_errors_are_passed_on() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger())]))
        world.servers.handlers[MODEL] = answers({"error": "wrong shape"}, 400)
        response = await world.post("/v1/models/:predict")
        assert response.status_code == 400
        assert response.json() == {"error": "wrong shape"}
        types = [event.headers["ce-type"] for event in await world.events()]
        assert types == ["io.seldon.serving.inference.request"]  # as the executor has it

    run(scenario())


# Puid --------------------------------------------------------------------------------------------


def test_puid_is_taken_or_made_returned_and_carried() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger())]))
        response = await world.post("/v1/models/:predict", headers={"Seldon-Puid": "my-own-id"})
        assert response.headers["seldon-puid"] == "my-own-id"
        assert world.servers.at(MODEL)[0].headers["seldon-puid"] == "my-own-id"
        assert {event.headers["ce-requestid"] for event in await world.events()} == {"my-own-id"}

        made = [(await world.post("/v1/models/:predict")).headers["seldon-puid"] for _ in range(3)]
        assert len(set(made)) == 3
        assert all(re.fullmatch(r"[0-9a-f-]{36}", puid) for puid in made)

    run(scenario())


def test_headers_go_on_to_the_model_but_not_those_of_the_connection() -> None:
    async def scenario() -> None:
        world = World(deployment())
        sent = {
            "X-Trace": "7",
            "Content-Type": "application/json; charset=utf-8",
            "Connection": "keep-alive",
            "Accept-Encoding": "gzip",
            "Seldon-Skip-Logging": "true",
        }
        await world.post("/v1/models/:predict", headers=sent)
        headers = world.servers.calls[0].headers
        assert headers["x-trace"] == "7"
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert headers["seldon-skip-logging"] == "true"
        assert not {"connection", "host", "accept-encoding", "content-length"} & set(headers)

    run(scenario())


# Payload events ----------------------------------------------------------------------------------


def test_events_have_the_executors_attributes_and_the_untouched_bodies() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger())]))
        body = b'{"instances":   [[0.10]]}'
        response = await world.post(
            "/v1/models/:predict",
            body,
            headers={"content-type": "application/json", "seldon-puid": "p-1"},
        )
        events = await world.events()
        by_type = {event.headers["ce-type"]: event for event in events}
        assert set(by_type) == {
            "io.seldon.serving.inference.request",
            "io.seldon.serving.inference.response",
        }
        for event in events:
            assert (event.method, event.path) == ("POST", "/default/default")
            assert from_http(event.headers, event.body).get("requestid") == "p-1"
            assert event.headers["content-type"] == "application/json"
            extensions = {
                name.removeprefix("ce-"): value
                for name, value in event.headers.items()
                if name.startswith("ce-")
            }
            assert extensions.pop("id")
            assert extensions.pop("time").endswith("Z")
            assert extensions.pop("type")
            assert extensions == {
                "specversion": "1.0",
                "source": "http://:8000/",
                "requestid": "p-1",
                "modelid": "classifier",
                "inferenceservicename": "cifar10",
                "namespace": "default",
                "endpoint": "main",
                "protocol": "tensorflow",
                "variant": "main",
            }
        assert by_type["io.seldon.serving.inference.request"].body == body
        assert by_type["io.seldon.serving.inference.response"].body == response.content
        assert len({event.headers["ce-id"] for event in events}) == 2

    run(scenario())


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [("all", {"request", "response"}), ("request", {"request"}), ("response", {"response"})],
)
def test_logger_mode(mode: str, kinds: set[str]) -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger(mode))]))
        await world.post("/v1/models/:predict")
        types = {event.headers["ce-type"].rpartition(".")[2] for event in await world.events()}
        assert types == kinds

    run(scenario())


def test_skip_logging_serves_and_sends_nothing() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger())]))
        headers = {"seldon-skip-logging": "true"}
        assert (await world.post("/v1/models/:predict", headers=headers)).status_code == 200
        assert await world.events() == []
        headers = {"seldon-skip-logging": "false"}
        await world.post("/v1/models/:predict", headers=headers)
        assert len(await world.events()) == 2

    run(scenario())


def test_a_dead_broker_neither_slows_nor_fails_predictions_and_loses_nothing() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger())]))
        del world.servers.handlers[BROKER]
        started = time.perf_counter()
        for _ in range(50):
            assert (await world.post("/v1/models/:predict")).status_code == 200
        assert time.perf_counter() - started < 10
        assert world.gateway.events.waiting == 100
        await until(lambda: len(world.servers.at(BROKER)) >= 8)  # tried, and tried again
        world.servers.calls.clear()
        world.servers.handlers[BROKER] = lambda call: Answer(202, [], b"")
        assert await world.gateway.events.flush(30)
        delivered = Counter(event.headers["ce-id"] for event in world.servers.at(BROKER))
        assert len(delivered) == 100
        assert set(delivered.values()) == {1}
        metrics = await world.metrics()
        assert metrics["gateway_events_sent_total"][0].value == 100
        assert metrics["gateway_events_retried_total"][0].value > 0
        assert metrics["gateway_events_waiting"][0].value == 0

    run(scenario())


def test_a_slow_broker_does_not_slow_predictions() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger())]))

        async def slow(call: Call) -> Answer:
            await asyncio.sleep(60)
            return Answer(202, [], b"")

        world.servers.handlers[BROKER] = slow
        started = time.perf_counter()
        for _ in range(20):
            await world.post("/v1/models/:predict")
        assert time.perf_counter() - started < 30
        await world.gateway.events.aclose(0.01)

    run(scenario())


def test_events_beyond_the_bound_are_dropped_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger())]))
        world.gateway.events._max_events = 10
        del world.servers.handlers[BROKER]
        for _ in range(20):
            assert (await world.post("/v1/models/:predict")).status_code == 200
        assert world.gateway.events.waiting == 10
        (dropped,) = (await world.metrics())["gateway_events_dropped_total"]
        assert (dropped.labels, dropped.value) == ({"reason": "queue full"}, 30)
        await world.gateway.events.aclose(0)

    run(scenario())
    about_drops = [r for r in caplog.records if "queue full" in r.getMessage()]
    assert len(about_drops) == 1  # not a line for every event


def test_events_a_broker_refuses_for_good_are_not_tried_again() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger("request"))]))
        world.servers.handlers[BROKER] = answers({}, 400)
        await world.post("/v1/models/:predict")
        assert len(await world.events()) == 1
        (dropped,) = (await world.metrics())["gateway_events_dropped_total"]
        assert dropped.labels == {"reason": "refused"}

    run(scenario())


# Feedback ----------------------------------------------------------------------------------------

FEEDBACK = b'{"response": {"data": {"ndarray": [[0.9, 0.1]]}}, "truth": {"data": {"ndarray": [0]}}}'


@pytest.mark.parametrize("protocol", ["tensorflow", "v2"])
def test_feedback_outside_the_seldon_protocol_is_logged_and_echoed(protocol: str) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol, predictors=[predictor(**logger("response"))]))
        headers = {"seldon-puid": "earlier", "content-type": "application/json"}
        response = await world.post("/api/v1.0/feedback", FEEDBACK, headers=headers)
        assert (response.status_code, response.content) == (200, FEEDBACK)
        (event,) = await world.events()
        assert event.headers["ce-type"] == "io.seldon.serving.feedback"
        assert event.headers["ce-requestid"] == "earlier"
        assert event.body == FEEDBACK
        assert world.servers.at(MODEL) == []

    run(scenario())


def test_feedback_in_the_seldon_protocol_goes_to_the_model() -> None:
    async def scenario() -> None:
        world = World(deployment("seldon", predictors=[predictor(**logger())]))
        world.servers.handlers[MODEL] = answers({"meta": {}})
        response = await world.post("/api/v1.0/feedback", FEEDBACK)
        assert response.json() == {"meta": {"tags": {"variant": "main"}}}
        (call,) = world.servers.at(MODEL)
        assert (call.path, call.body) == ("/send-feedback", FEEDBACK)
        assert [e.headers["ce-type"] for e in await world.events()] == [
            "io.seldon.serving.feedback"
        ]

        deaf = World(deployment("seldon", predictors=[predictor(takes_feedback=False)]))
        assert (await deaf.post("/api/v1.0/feedback", FEEDBACK)).content == FEEDBACK
        assert deaf.servers.calls == []

    run(scenario())


def test_feedback_that_is_logged_in_no_mode_or_is_no_json() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(**logger("request"))]))
        assert (await world.post("/api/v1.0/feedback", FEEDBACK)).status_code == 200
        for wrong in (b"", b"truth", b"[1]", b'{"truth": NaN}'):
            response = await world.post("/api/v1.0/feedback", wrong)
            assert response.status_code == 400
            assert "error" in response.json()
        assert await world.events() == []

    run(scenario())


# Traffic -----------------------------------------------------------------------------------------


def canary(share: int, **changes: Any) -> Deployment:
    predictors = [
        predictor(traffic=100 - share),
        predictor(name="canary", url=CANARY, traffic=share),
    ]
    return deployment(predictors=predictors, **changes)


def test_traffic_is_split_by_weight_and_repeatable() -> None:
    chosen = [Splitter(seed=7).choose(canary(20)).name for _ in range(1)]
    splitter = Splitter(seed=7)
    many = Counter(splitter.choose(canary(20)).name for _ in range(10_000))
    assert abs(many["canary"] - 2000) < 160  # four standard deviations
    again = Splitter(seed=7)
    assert chosen[0] == again.choose(canary(20)).name
    none = Counter(Splitter(seed=1).choose(canary(0)).name for _ in range(500))
    assert none == {"main": 500}
    everything = Counter(Splitter(seed=1).choose(canary(100)).name for _ in range(500))
    assert everything == {"canary": 500}


def test_split_requests_reach_both_models_with_their_own_metrics() -> None:
    async def scenario() -> None:
        world = World(canary(30))
        world.servers.handlers[CANARY] = answers({"predictions": [[2.0]]})
        for _ in range(100):
            assert (await world.post("/v1/models/:predict")).status_code == 200
        served = {
            sample.labels["predictor_name"]: sample.value
            for sample in (await world.metrics())[
                "seldon_api_executor_server_requests_seconds_count"
            ]
        }
        assert served == {"main": len(world.servers.at(MODEL)), "canary": 100 - served["main"]}
        assert 10 < served["canary"] < 50

    run(scenario())


def test_a_shadow_gets_copies_and_its_answers_are_dropped() -> None:
    async def scenario() -> None:
        shadow = predictor(
            name="candidate", model="second", url=CANARY, traffic=0, shadow=True, **logger()
        )
        world = World(deployment(predictors=[predictor(**logger()), shadow]))
        world.servers.handlers[CANARY] = answers({"predictions": [[9.0]]})
        for number in range(5):
            response = await world.post(
                "/v1/models/classifier:predict",
                b'{"instances": [[%d]]}' % number,
                headers={"seldon-puid": f"p-{number}"},
            )
            assert response.json() == {"predictions": [[1.0]]}
        await until(lambda: len(world.servers.at(CANARY)) == 5)
        copies = world.servers.at(CANARY)
        assert [call.body for call in copies] == [b'{"instances": [[%d]]}' % n for n in range(5)]
        assert {call.path for call in copies} == {"/v1/models/second:predict"}
        events = Counter(
            (event.headers["ce-endpoint"], event.headers["ce-modelid"])
            for event in await world.events()
        )
        assert events == {("main", "classifier"): 10, ("candidate", "second"): 10}

    run(scenario())


def test_a_dead_or_slow_shadow_does_not_matter() -> None:
    async def scenario() -> None:
        shadow = predictor(name="candidate", url=CANARY, traffic=0, shadow=True)
        world = World(deployment(predictors=[predictor(), shadow]))
        assert (await world.post("/v1/models/:predict")).status_code == 200
        await until(lambda: not world.gateway._orchestrator._copies)

        async def slow(call: Call) -> Answer:
            await asyncio.sleep(60)
            return Answer(200, [], b"")

        world.servers.handlers[CANARY] = slow
        started = time.perf_counter()
        for _ in range(80):
            assert (await world.post("/v1/models/:predict")).status_code == 200
        assert time.perf_counter() - started < 30
        (dropped,) = (await world.metrics())["gateway_shadow_dropped_total"]
        assert dropped.value == 80 - 64
        await world.gateway.aclose()

    run(scenario())


def test_copies_for_a_slow_shadow_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        shadow = predictor(name="candidate", url=CANARY, traffic=0, shadow=True)
        world = World(deployment(predictors=[predictor(), shadow]))
        gate = asyncio.Event()

        async def slow(call: Call) -> Answer:
            await gate.wait()
            return Answer(200, list(JSON), b"{}")

        world.servers.handlers[CANARY] = slow
        monkeypatch.setattr(orchestrator, "MAX_COPY_BYTES", 2500)
        for _ in range(5):
            assert (await world.post("/v1/models/:predict", b"x" * 1000)).status_code == 200
        await until(lambda: len(world.servers.at(CANARY)) == 2)
        (dropped,) = (await world.metrics())["gateway_shadow_dropped_total"]
        assert dropped.value == 3
        gate.set()
        await until(lambda: not world.gateway._orchestrator._copies)
        await world.post("/v1/models/:predict", b"x" * 1000)
        await until(lambda: len(world.servers.at(CANARY)) == 3)

    run(scenario())


# One predictor's own address ---------------------------------------------------------------------

OWN = "/predictor/default/cifar10"


def test_a_predictors_own_address_has_no_split_and_no_copies() -> None:
    async def scenario() -> None:
        shadow = predictor(name="candidate", model="second", url=EXPLAINER, traffic=0, shadow=True)
        both = [predictor(**logger()), predictor(name="canary", url=CANARY, traffic=0), shadow]
        world = World(deployment(predictors=both))
        world.servers.handlers[CANARY] = answers({"predictions": [[2.0]]})
        world.servers.handlers[EXPLAINER] = answers({"predictions": [[9.0]]})

        async def post(path: str, **headers: str) -> Any:
            return await world.client.post(f"{OWN}{path}", content=b"{}", headers=headers)

        assert (await post("/canary/v1/models/:predict")).json() == {"predictions": [[2.0]]}
        assert await world.events() == []  # it has no logger
        own = await post("/main/v1/models/classifier:predict", **{"seldon-puid": "p-1"})
        assert own.json() == {"predictions": [[1.0]]}
        assert own.headers["seldon-puid"] == "p-1"
        assert {e.headers["ce-endpoint"] for e in await world.events()} == {"main"}
        assert len(await world.events()) == 2
        skipping = {"seldon-skip-logging": "true"}
        assert (await post("/main/v1/models/:predict", **skipping)).status_code == 200
        assert len(await world.events()) == 2
        assert world.servers.at(EXPLAINER) == []
        shadowed = await post("/candidate/v1/models/second:predict")  # a shadow has one as well
        assert shadowed.json() == {"predictions": [[9.0]]}
        assert (await post("/main/api/v1.0/feedback")).content == b"{}"
        served = {
            (sample.labels["predictor_name"], sample.labels["service"]): sample.value
            for sample in (await world.metrics())[
                "seldon_api_executor_server_requests_seconds_count"
            ]
        }
        assert served == {
            ("canary", "predictions"): 1,
            ("main", "predictions"): 2,
            ("main", "feedback"): 1,
            ("candidate", "predictions"): 1,
        }

    run(scenario())


def test_probes_of_one_predictor_ask_only_its_model() -> None:
    async def scenario() -> None:
        world = World(canary(10))  # nothing answers for the canary
        assert (await world.client.get(f"{PREFIX}/ready")).status_code == 503
        assert (await world.client.get(f"{OWN}/main/ready")).status_code == 200
        assert (await world.client.get(f"{OWN}/canary/ready")).status_code == 503
        assert (await world.client.get(f"{OWN}/canary/live")).status_code == 200
        assert (await world.client.get(f"{OWN}/canary/prometheus")).status_code == 200

    run(scenario())


@pytest.mark.parametrize("protocol", ["tensorflow", "v2", "seldon"])
@pytest.mark.parametrize("place", ["/other", "/main", "", "/other/x", "/main/other"])
def test_unknown_predictors_are_404_in_the_protocols_shape(protocol: str, place: str) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol, predictors=[predictor(explainer=EXPLAINER)]))
        response = await world.client.post(OWN + place, content=b"{}")
        assert response.status_code == 404
        assert set(response.json()) == ({"status"} if protocol == "seldon" else {"error"})
        for unknown in (
            "default/lost/main/ready",
            "lost/cifar10/main",
            "default/cifar10-explainer/main",
        ):
            lost = await world.client.post(f"/predictor/{unknown}", content=b"{}")
            assert lost.status_code == 404
        assert world.servers.calls == []

    run(scenario())


# Load --------------------------------------------------------------------------------------------


def test_surplus_load_is_refused_at_once_and_the_rest_is_served() -> None:
    async def scenario() -> None:
        world = World(deployment(predictors=[predictor(max_in_flight=8)]), deployment(name="other"))
        gate = asyncio.Event()

        async def slow(call: Call) -> Answer:
            await gate.wait()
            return Answer(200, list(JSON), b"{}")

        world.servers.handlers[MODEL] = slow
        requests = [asyncio.create_task(world.post("/v1/models/:predict")) for _ in range(32)]
        await until(lambda: sum(task.done() for task in requests) == 24)
        refused = [task.result() for task in requests if task.done()]
        assert len(refused) == 24
        assert {response.status_code for response in refused} == {503}
        assert all(response.headers["retry-after"] == "1" for response in refused)
        assert "error" in refused[0].json()
        world.servers.handlers[MODEL] = answers({})
        other = await world.client.post("/seldon/default/other/v1/models/:predict", content=b"{}")
        assert other.status_code == 200  # another deployment has its own limit
        gate.set()
        codes = Counter(response.status_code for response in await asyncio.gather(*requests))
        assert codes == {200: 8, 503: 24}
        assert (await world.post("/v1/models/:predict")).status_code == 200
        (shed,) = (await world.metrics())["gateway_shed_requests_total"]
        assert (shed.labels, shed.value) == ({"deployment_name": "cifar10"}, 24)

    run(scenario())


def test_routes_are_swapped_under_load_without_a_failed_request() -> None:
    """A rolling change: the new server is ready, routes swap, the old server goes."""

    async def scenario() -> None:
        world = World(deployment())
        old, new = MODEL, CANARY
        codes: Counter[int] = Counter()
        served: Counter[str] = Counter()
        stopping = False

        def server(base: str) -> Callable[[Call], Awaitable[Answer]]:
            async def answer(call: Call) -> Answer:
                await asyncio.sleep(0.001)
                served[base] += 1
                return Answer(200, list(JSON), b"{}")

            return answer

        async def load() -> None:
            while not stopping:
                codes[(await world.post("/v1/models/:predict")).status_code] += 1

        world.servers.handlers = {old: server(old), new: server(new)}
        clients = [asyncio.create_task(load()) for _ in range(8)]
        for _ in range(10):
            await asyncio.sleep(0.02)
            world.gateway.routes.replace(table(deployment(predictors=[predictor(url=new)])))
            del world.servers.handlers[old]  # at once: late requests are sent to where it went
            await asyncio.sleep(0.02)
            old, new = new, old
            world.servers.handlers[new] = server(new)
        stopping = True
        await asyncio.gather(*clients)
        assert set(codes) == {200}
        assert min(served.values()) > 10

    run(scenario())


def test_a_request_is_sent_to_where_its_model_moved() -> None:
    async def scenario() -> None:
        world = World(deployment())
        world.servers.handlers[CANARY] = answers({"predictions": [[2.0]]})

        def dies(call: Call) -> Answer:
            world.gateway.routes.replace(table(deployment(predictors=[predictor(url=CANARY)])))
            raise UpstreamDownError("the connection broke", started=True)

        world.servers.handlers[MODEL] = dies
        assert (await world.post("/v1/models/:predict")).json() == {"predictions": [[2.0]]}

    run(scenario())


# Metrics and probes ------------------------------------------------------------------------------


def test_histograms_have_the_executors_labels_and_buckets() -> None:
    async def scenario() -> None:
        world = World(deployment())
        await world.post("/v1/models/:predict")
        await world.post("/api/v1.0/feedback", FEEDBACK)
        await world.get("/v1/models/classifier")
        await world.get("/v1/models/classifier/metadata")
        del world.servers.handlers[MODEL]
        await world.post("/v1/models/:predict")
        metrics = await world.metrics()
        server = "seldon_api_executor_server_requests_seconds"
        labels = {
            (s.labels["service"], s.labels["method"], s.labels["code"]): s.value
            for s in metrics[f"{server}_count"]
        }
        assert labels == {
            ("predictions", "post", "200"): 1,
            ("predictions", "post", "503"): 1,
            ("feedback", "post", "200"): 1,
            ("status", "get", "200"): 1,
            ("metadata", "get", "200"): 1,
        }
        common = {
            "deployment_name": "cifar10",
            "predictor_name": "main",
            "predictor_version": "v1",
            "service": "predictions",
            "method": "post",
            "code": "200",
        }
        first = next(s for s in metrics[f"{server}_count"] if s.labels["code"] == "200")
        assert first.labels == common
        client = next(
            s
            for s in metrics["seldon_api_executor_client_requests_seconds_count"]
            if s.labels["service"] == "/v1/models/classifier:predict"
        )
        assert client.labels == common | {
            "service": "/v1/models/classifier:predict",  # a path, as the executor has it
            "model_name": "classifier",
            "model_image": "tensorflow/serving",
            "model_version": "2.18.0",
        }
        buckets = [
            s.labels["le"] for s in metrics[f"{server}_bucket"] if s.labels["service"] == "feedback"
        ]
        assert [float(le) for le in buckets[:-1]] == [
            *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
            *(1.0, 2.5, 5.0, 7.5, 10.0),
        ]

    run(scenario())


def test_probes() -> None:
    async def scenario() -> None:
        world = World(canary(10))
        ready = await world.client.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["deployments"] == ["default/cifar10"]
        assert (await world.client.get("/live")).status_code == 200
        assert (await world.get("/live")).status_code == 200
        assert (await world.client.post("/ready")).status_code == 405
        head = await world.client.head("/ready")
        assert (head.status_code, head.content) == (200, b"")
        assert (await world.client.head(f"{PREFIX}/v1/models/classifier")).status_code == 405
        waiting = await world.get("/ready")
        assert waiting.status_code == 503
        assert "canary" in waiting.json()["reason"]
        world.servers.handlers[CANARY] = answers({}, 503)
        assert (await world.get("/ready")).status_code == 503
        world.servers.handlers[CANARY] = answers({})
        assert (await world.get("/ready")).status_code == 200
        assert (await world.get("/prometheus")).status_code == 200

    run(scenario())


# Routes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"predictors": [predictor(traffic=50)]}, "adds up to 50"),
        ({"predictors": [predictor(), predictor()]}, "same name"),
        ({"predictors": [predictor(shadow=True)]}, "cannot be a shadow"),
        ({"predictors": [predictor(url="http://x/path")]}, "without a path"),
        ({"predictors": [predictor(url="https://x")]}, "http://host:port"),
        ({"predictors": [predictor(model="../x")]}, "pattern"),
        ({"predictors": []}, "at least 1"),
        ({"protocol": "grpc"}, "'seldon', 'tensorflow' or 'v2'"),
        ({"name": "Upper"}, "pattern"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_wrong_routes_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        deployment(**changes)


def test_routes_are_read_from_a_file_and_a_wrong_one_names_its_field(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    content = {"revision": "r1", "deployments": [deployment().model_dump(mode="json")]}
    path.write_bytes(orjson.dumps(content))
    assert read_table(path).revision == "r1"
    assert read_table(path).deployment("default", "cifar10") == deployment()

    content["deployments"][0]["predictors"][0]["traffic"] = "all"
    path.write_bytes(orjson.dumps(content))
    with pytest.raises(ServingError, match=r"deployments\.0\.predictors\.0\.traffic"):
        read_table(path)
    path.write_text("{")
    with pytest.raises(ServingError, match="not JSON"):
        read_table(path)
    with pytest.raises(ServingError, match="cannot be read"):
        read_table(tmp_path / "missing.json")
