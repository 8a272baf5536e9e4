"""Which predictor served: told in headers, `meta.tags` and events, and chosen by `Seldon-Variant`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers.serving.gateway.app import Gateway
from helpers.serving.gateway.client import Answer, Header, UpstreamDownError
from helpers.serving.gateway.routes import Deployment, RouteTable

MAIN, CANARY, SHADOW, EXPLAINER, BROKER = (f"http://127.0.0.1:{port}" for port in range(1, 6))
ROOT = "/seldon/walkthrough/model"
PREDICT = {
    "tensorflow": "/v1/models/node:predict",
    "v2": "/v2/models/node/infer",
    "seldon": "/api/v1.0/predictions",
}
ANSWER = {
    "tensorflow": b'{"predictions": [[0.10]]}',
    "v2": b'{"outputs": [{"name": "y",  "data": [0.10]}]}',
    "seldon": b'{"data": {"ndarray": [[0.10]]}}',
}


@dataclass
class Servers:
    """Every server: a base address answers with these bytes; those that are not here are down."""

    bodies: dict[str, bytes]
    status: int = 200
    headers: list[Header] = field(default_factory=list)
    calls: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    async def send(
        self,
        method: str,
        base: str,
        path: str,
        headers: Iterable[Header],
        body: bytes,
        seconds: float,
    ) -> Answer:
        self.calls.append((base, path, {n.decode(): v.decode() for n, v in headers}, body))
        if base not in self.bodies:
            raise UpstreamDownError("no connection", started=False)
        status = self.status if base != BROKER else 202
        return Answer(
            status, [(b"content-type", b"application/json"), *self.headers], self.bodies[base]
        )

    async def aclose(self) -> None:
        pass

    def asked(self) -> Counter[str]:
        return Counter(base for base, *_ in self.calls if base != BROKER)


def deployment(protocol: str = "tensorflow", share: int = 5, **shadow: Any) -> Deployment:
    """A deployment of `default` and `canary`, and of `shadow` where asked for."""

    def predictor(name: str, url: str, **more: Any) -> dict[str, Any]:
        logger = {"url": f"{BROKER}/walkthrough/default"}
        return {"name": name, "model": "node", "url": url, "logger": logger, **more}

    predictors = [
        predictor("default", MAIN, traffic=100 - share, explainer=EXPLAINER),
        predictor("canary", CANARY, traffic=share),
    ]
    if shadow:
        predictors.append(predictor("shadow", SHADOW, **shadow))
    return Deployment.model_validate(
        {
            "namespace": "walkthrough",
            "name": "model",
            "protocol": protocol,
            "predictors": predictors,
        }
    )


class World:
    """A gateway in this process, with its servers."""

    def __init__(self, one: Deployment, **bodies: bytes) -> None:
        answer = ANSWER[one.protocol]
        self.servers = Servers(
            {MAIN: answer, CANARY: answer, SHADOW: answer, EXPLAINER: b'{"meta": {}}', BROKER: b""}
            | {globals()[name]: body for name, body in bodies.items()}
        )
        self.gateway = Gateway(RouteTable(deployments=(one,)), upstream=self.servers, seed=0)
        self.path = PREDICT[one.protocol]
        transport = httpx.ASGITransport(app=self.gateway)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def ask(self, pin: str | None = None, path: str | None = None) -> httpx.Response:
        headers = {} if pin is None else {"seldon-variant": pin}
        content = b'{"instances": [[1]]}'
        return await self.client.post(ROOT + (path or self.path), content=content, headers=headers)

    async def events(self) -> list[dict[str, Any]]:
        """The attributes of every event, with its body as `data`."""
        assert await self.gateway.events.flush(30)
        return [
            {name.removeprefix("ce-"): value for name, value in headers.items()} | {"data": body}
            for base, _, headers, body in self.servers.calls
            if base == BROKER
        ]

    async def counted(self, name: str) -> dict[str, float]:
        """A metric by predictor."""
        text = (await self.client.get("/prometheus")).text
        return {
            sample.labels["predictor_name"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def told(response: httpx.Response) -> tuple[str | None, str | None]:
    return response.headers.get("seldon-variant"), response.headers.get("seldon-variant-pinned")


PROTOCOL = pytest.mark.parametrize("protocol", PREDICT)


@PROTOCOL
def test_a_pinned_request_is_served_by_that_predictor_and_all_say_so(protocol: str) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol, share=0))
        response = await world.ask("canary")
        assert response.status_code == 200
        assert told(response) == ("canary", "true")
        assert world.servers.asked() == {CANARY: 1}
        events = await world.events()
        assert len(events) == 2
        for event in events:
            assert (event["variant"], event["variantpinned"]) == ("canary", "true")
            assert event["endpoint"] == "canary"

    run(scenario)


@PROTOCOL
def test_what_the_split_chose_is_named_without_being_called_pinned(protocol: str) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol, share=50))
        names = Counter()
        for _ in range(20):
            response = await world.ask()
            name, pinned = told(response)
            names[name] += 1
            assert pinned is None
        assert names == {
            "default": world.servers.asked()[MAIN],
            "canary": world.servers.asked()[CANARY],
        }
        events = await world.events()
        assert Counter(event["variant"] for event in events) == {
            name: 2 * count for name, count in names.items()
        }
        assert not any("variantpinned" in event for event in events)

    run(scenario)


@pytest.mark.parametrize("protocol", ["tensorflow", "v2"])
@pytest.mark.parametrize("pin", [None, "canary"])
def test_other_protocols_keep_their_bodies_to_the_byte(protocol: str, pin: str | None) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol))
        assert (await world.ask(pin)).content == ANSWER[protocol]

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "meta"),
    [
        (b'{"data": {}}', {}),
        (b'{"data": {}, "meta": null}', {}),
        (b'{"data": {}, "meta": {"puid": "p"}}', {"puid": "p"}),
        (b'{"data": {}, "meta": {"tags": []}}', {}),
        (b'{"data": {}, "meta": {"tags": {"a": 1}}}', {"tags": {"a": 1}}),
        # What a model claims is not taken for true.
        (b'{"data": {}, "meta": {"tags": {"variant": "x", "variant_pinned": true}}}', {}),
    ],
)
def test_seldon_messages_have_the_variant_in_their_tags(answer: bytes, meta: dict) -> None:
    async def scenario() -> None:
        world = World(deployment("seldon", share=0), MAIN=answer, CANARY=answer)
        for pin, tags in [
            (None, {"variant": "default"}),
            ("canary", {"variant": "canary", "variant_pinned": True}),
        ]:
            body = (await world.ask(pin)).json()
            assert body == {"data": {}, "meta": {**meta, "tags": {**meta.get("tags", {}), **tags}}}
        responses = [
            event for event in await world.events() if event["type"].endswith("inference.response")
        ]
        assert [orjson.loads(event["data"])["meta"]["tags"]["variant"] for event in responses] == [
            "default",
            "canary",
        ]

    run(scenario)


@pytest.mark.parametrize("answer", [b"no JSON", b"[1]", b""])
def test_an_answer_that_is_no_message_is_passed_on_as_it_is(answer: bytes) -> None:
    async def scenario() -> None:
        world = World(deployment("seldon", share=0), MAIN=answer)
        response = await world.ask()
        assert response.content == answer
        assert told(response) == ("default", None)

    run(scenario)


def test_numbers_of_a_tagged_message_stay_the_same() -> None:
    numbers = [0.1, 1e-300, 123456789.123456789, -0.0, 5e-324, 2**53 + 1, 1, 1.0]
    answer = orjson.dumps({"data": {"ndarray": [numbers]}})

    async def scenario() -> None:
        body = (await World(deployment("seldon", share=0), MAIN=answer).ask()).json()
        (row,) = body["data"]["ndarray"]
        assert list(map(repr, row)) == list(map(repr, numbers))

    run(scenario)


def test_metadata_and_status_name_the_variant_in_their_headers_only() -> None:
    async def scenario() -> None:
        world = World(deployment("seldon", share=0), MAIN=b'{"name": "m"}')
        answer = await world.client.get(f"{ROOT}/api/v1.0/metadata/node")
        assert answer.json() == {"name": "m"}
        assert told(answer) == ("default", None)

    run(scenario)


def test_feedback_can_be_pinned_to_the_variant_that_it_is_about() -> None:
    async def scenario() -> None:
        world = World(deployment("seldon", share=0), CANARY=b'{"meta": {}}')
        answer = await world.ask("canary", "/api/v1.0/feedback")
        assert answer.json() == {"meta": {"tags": {"variant": "canary", "variant_pinned": True}}}
        (event,) = await world.events()
        assert event["type"] == "io.seldon.serving.feedback"
        assert (event["variant"], event["variantpinned"]) == ("canary", "true")

    run(scenario)


@PROTOCOL
@pytest.mark.parametrize("pin", ["nobody", "", "default,canary", "Canary"])
def test_an_unknown_variant_is_refused_with_those_there_are(protocol: str, pin: str) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol))
        response = await world.ask(pin)
        assert response.status_code == 400
        message = (
            response.json()["status"]["info"] if protocol == "seldon" else response.json()["error"]
        )
        assert f"no predictor '{pin}'" in message
        assert "it has default, canary." in message
        assert told(response) == (None, None)
        assert world.servers.calls == []

    run(scenario)


def test_two_different_pins_are_refused_and_a_repeated_one_is_not() -> None:
    async def scenario() -> None:
        world = World(deployment())
        for second, status in (("default", 400), ("canary", 200)):
            headers = [("seldon-variant", "canary"), ("seldon-variant", second)]
            response = await world.client.post(ROOT + world.path, content=b"{}", headers=headers)
            assert response.status_code == status

    run(scenario)


def test_pinned_requests_do_not_count_in_the_split() -> None:
    async def split(pins: int) -> list[str]:
        world = World(deployment(share=30))
        chosen = []
        for _ in range(60):
            for _ in range(pins):
                assert told(await world.ask("canary")) == ("canary", "true")
            chosen.append(told(await world.ask())[0])
        served = await world.counted("seldon_api_executor_server_requests_seconds_count")
        pinned = await world.counted("gateway_pinned_requests_total")
        assert served["canary"] - pinned.get("canary", 0) == chosen.count("canary")
        assert served["default"] == chosen.count("default")
        return chosen

    async def scenario() -> None:
        alone = await split(0)
        assert set(alone) == {"default", "canary"}
        assert await split(2) == alone

    run(scenario)


def test_a_shadow_can_be_pinned_and_pinned_requests_are_not_copied_to_it() -> None:
    async def scenario() -> None:
        world = World(deployment(share=0, shadow=True))
        assert told(await world.ask("canary")) == ("canary", "true")
        assert told(await world.ask("shadow")) == ("shadow", "true")
        assert world.servers.asked() == {CANARY: 1, SHADOW: 1}
        assert told(await world.ask()) == ("default", None)
        while world.servers.asked()[SHADOW] < 2:
            await asyncio.sleep(0)
        assert world.servers.asked() == {MAIN: 1, CANARY: 1, SHADOW: 2}
        events = await world.events()
        copies = [event for event in events if event["endpoint"] == "shadow"]
        assert {event["variant"] for event in copies} == {"shadow"}
        assert sum("variantpinned" in event for event in copies) == 2  # of the pinned one

    run(scenario)


@PROTOCOL
def test_a_failure_names_the_variant_that_failed(protocol: str) -> None:
    async def scenario() -> None:
        world = World(deployment(protocol))
        world.servers.bodies.pop(CANARY)
        response = await world.ask("canary")
        assert response.status_code == 503
        assert told(response) == ("canary", "true")
        if protocol == "seldon":
            assert response.json()["status"]["code"] == 503
            assert response.json()["meta"]["tags"] == {"variant": "canary", "variant_pinned": True}

    run(scenario)


def test_what_a_model_says_in_these_headers_is_not_passed_on() -> None:
    async def scenario() -> None:
        world = World(deployment(share=0))
        world.servers.headers = [(b"seldon-variant", b"x"), (b"seldon-variant-pinned", b"true")]
        response = await world.ask()
        assert response.headers.get_list("seldon-variant") == ["default"]
        assert "seldon-variant-pinned" not in response.headers

    run(scenario)


def test_an_explanation_names_the_predictor_of_its_path() -> None:
    path = "/seldon/walkthrough/model-explainer/default/v1/models/node:explain"

    async def scenario() -> None:
        world = World(deployment())
        for pin, status, expected in [
            (None, 200, ("default", None)),
            ("default", 200, ("default", "true")),
            ("canary", 400, (None, None)),
        ]:
            headers = {} if pin is None else {"seldon-variant": pin}
            response = await world.client.post(path, content=b"{}", headers=headers)
            assert (response.status_code, told(response)) == (status, expected)
        assert world.servers.asked() == {EXPLAINER: 2}

    run(scenario)


def test_a_predictors_own_address_serves_only_that_predictor() -> None:
    path = f"/predictor/walkthrough/model/canary{PREDICT['tensorflow']}"

    async def scenario() -> None:
        world = World(deployment(share=0))
        assert told(await world.client.post(path, content=b"{}")) == ("canary", None)
        wrong = await world.client.post(path, content=b"{}", headers={"seldon-variant": "default"})
        assert wrong.status_code == 400
        assert "the path names the predictor canary" in wrong.json()["error"]

    run(scenario)


def test_a_pinned_variant_that_leaves_the_routes_is_refused_at_once() -> None:
    async def scenario() -> None:
        world = World(deployment())
        assert (await world.ask("canary")).status_code == 200
        rolled_back = deployment(share=0)
        rolled_back = rolled_back.model_validate(
            rolled_back.model_dump() | {"predictors": [rolled_back.predictors[0]]}
        )
        world.gateway.routes.replace(RouteTable(deployments=(rolled_back,)))
        response = await world.ask("canary")
        assert response.status_code == 400
        assert "it has default." in response.json()["error"]

    run(scenario)
