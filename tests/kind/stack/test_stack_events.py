"""Events of a cluster: what the event log writes, read from the Elasticsearch that it writes to."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from helpers import verdicts
from helpers.errors import StackError
from helpers.serving.common.events import OUTLIER_TYPE, CloudEvent, new_event
from helpers.serving.payload_log.elastic.client import Client
from helpers.serving.payload_log.elastic.store import ElasticsearchStore
from tests.fakes.elasticsearch import FakeElasticsearch

REQUEST = "io.seldon.serving.inference.request"


@pytest.fixture
def elastic(stack) -> Iterator[FakeElasticsearch]:
    """The stack's Elasticsearch."""
    with FakeElasticsearch() as elastic:
        stack.addresses = dataclasses.replace(stack.addresses, elasticsearch=elastic.url)
        yield elastic
    assert elastic.broken == []


@pytest.fixture
def log(elastic):
    """Return log(*events): the event log's own store keeps them, in this order."""

    async def write(events: tuple[CloudEvent, ...]) -> None:
        store = ElasticsearchStore(Client(elastic.url), CollectorRegistry(), "walkthrough")
        await store.start()
        async with asyncio.timeout(20):
            while store.problem is not None:
                await asyncio.sleep(0.01)
            for event in events:
                await store.add(event, None)
        await store.close()
        elastic.refresh()

    return lambda *events: asyncio.run(write(events))


def event(request_id: str, type: str = REQUEST, data: object = None) -> CloudEvent:
    return new_event(type, "http://x/", data or {"instances": [[1.0]]},
                     requestid=request_id, namespace="walkthrough")  # fmt: skip


def test_events_newest_first_in_the_local_stacks_shape(stack, log):
    log(event("a"), event("b", OUTLIER_TYPE, {"data": {"is_outlier": [1]}}))
    newest, first = stack.events()
    assert set(newest) == {"seq", "arrived", "attributes", "matched", "waiting", "bytes"}
    assert newest["seq"] > first["seq"]
    assert newest["attributes"]["requestid"] == "b"
    assert newest["attributes"]["specversion"] == "1.0"
    assert first["bytes"] == len(b'{"instances":[[1.0]]}')
    assert (first["matched"], first["waiting"]) == (None, None)


def test_events_by_type_and_request(stack, log):
    log(event("a"), event("a", OUTLIER_TYPE), event("b"), event("b", OUTLIER_TYPE))
    assert [one["attributes"]["requestid"] for one in stack.events(type=REQUEST)] == ["b", "a"]
    assert [one["attributes"]["type"] for one in stack.events(request_id="a")] == [
        OUTLIER_TYPE,
        REQUEST,
    ]
    assert len(stack.events(type=OUTLIER_TYPE, request_id="b")) == 1
    assert stack.events(request_id="c") == []
    assert len(stack.events(limit=3)) == 3


def test_events_with_their_payload(stack, log):
    log(event("a"))
    assert "data" not in stack.events()[0]
    assert stack.events(data=True)[0]["data"] == {"instances": [[1.0]]}


def test_an_event_that_is_delivered_again_is_one(stack, log):
    again = event("a")
    log(again, event("b"), again)
    assert [one["attributes"]["requestid"] for one in stack.events()] == ["b", "a"]


def test_an_event_that_says_nothing_of_a_namespace(stack, log):
    log(new_event("com.example.alarm", "http://x/", b"no JSON"))
    (one,) = stack.events(data=True)
    assert one["attributes"]["type"] == "com.example.alarm"
    assert (one["bytes"], one["data"]) == (7, None)


def test_verdicts_of_detectors(stack, log):
    log(*(event(name, OUTLIER_TYPE, {"data": {"is_outlier": [n]}}) for n, name in enumerate("ab")))
    found = verdicts.answers(stack, verdicts.OUTLIER, ["b", "a"], seconds=5)
    assert [one["data"]["is_outlier"] for one in found] == [[1], [0]]


def test_no_events_yet(stack, elastic):
    assert stack.events() == []


def test_another_broker_and_another_limit(stack):
    with pytest.raises(StackError, match="the broker 'other' are not known"):
        stack.events(broker="other")
    with pytest.raises(StackError, match="limit is 0"):
        stack.events(limit=0)


def test_an_elasticsearch_that_refuses(stack, elastic):
    elastic.fault = lambda method, path: 503
    with pytest.raises(StackError, match=r"Elasticsearch refuses the search for events \(503\)"):
        stack.events()
