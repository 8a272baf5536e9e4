"""The payload log's Elasticsearch, piece by piece: what is written, what is refused, what is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.common.events import (
    DRIFT_TYPE,
    FEEDBACK_TYPE,
    OUTLIER_TYPE,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    CloudEvent,
    new_event,
)
from helpers.serving.payload_log.elastic import bulk, templates
from helpers.serving.payload_log.elastic import store as elastic_store
from helpers.serving.payload_log.elastic.client import Client
from helpers.serving.payload_log.elastic.operations import document_key, event_key, index_name
from helpers.serving.payload_log.elastic.store import ElasticsearchStore
from helpers.serving.payload_log.parts import kind_of, read_part
from helpers.serving.payload_log.store import Search
from tests.fakes.elasticsearch import FakeElasticsearch

pytestmark = pytest.mark.timeout(60)

INDEX = "inference-log-seldon-seldon-cifar10-default"
EVENTS = "inference-events-seldon"
EXTENSIONS = {
    "modelid": "resnet32",
    "inferenceservicename": "cifar10",
    "namespace": "seldon",
    "endpoint": "default",
}


@pytest.fixture(scope="module")
def shared_elastic() -> Iterator[FakeElasticsearch]:
    with FakeElasticsearch() as elastic:
        yield elastic


@pytest.fixture
def elastic(shared_elastic: FakeElasticsearch) -> Iterator[FakeElasticsearch]:
    shared_elastic.reset()
    yield shared_elastic
    assert shared_elastic.broken == []


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def an_event(type: str, data: Any, request_id: str = "r1", **more: str) -> CloudEvent:
    return new_event(type, "http://source/", data, **{"requestid": request_id} | EXTENSIONS | more)


REQUEST = an_event(REQUEST_TYPE, {"instances": [[1.5, 2.0]]}, time="2026-01-31T12:00:00Z")
RESPONSE = an_event(RESPONSE_TYPE, {"predictions": [[0.1, 0.9]]}, time="2026-01-31T12:00:01Z")
OUTLIER = an_event(OUTLIER_TYPE, {"data": {"is_outlier": [1]}}, time="2026-01-31T12:00:02Z")


async def add(store: ElasticsearchStore, event: CloudEvent) -> bool:
    kind = kind_of(event.type)
    return await store.add(event, None if kind is None else read_part(event, kind))


async def until(check: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 10
    while not check():
        assert time.monotonic() < end, f"waited 10 s for {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def a_store(elastic: FakeElasticsearch, registry: CollectorRegistry) -> Any:
    store = ElasticsearchStore(Client(elastic.url), registry)
    await store.start()
    try:
        await until(lambda: store.problem is None, "Elasticsearch to be ready")
        yield store
    finally:
        await store.close()


def run[T](
    elastic: FakeElasticsearch,
    registry: CollectorRegistry,
    scenario: Callable[[ElasticsearchStore], Awaitable[T]],
) -> T:
    async def whole() -> T:
        async with a_store(elastic, registry) as store:
            return await scenario(store)

    return asyncio.run(whole())


def written(elastic: FakeElasticsearch, registry: CollectorRegistry, *events: CloudEvent) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        for event in events:
            await add(store, event)

    run(elastic, registry, scenario)


def test_an_event_is_kept_as_it_came(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    text = b'{"instances" :\n [[1.50, 2.0]], "a": 1, "a": 2}'
    began = time.time()
    written(elastic, registry, an_event(REQUEST_TYPE, text))
    (event,) = elastic.documents(EVENTS).values()
    assert event["attributes"]["type"] == REQUEST_TYPE
    assert event["attributes"]["requestid"] == "r1"
    assert event["attributes"]["namespace"] == "seldon"
    assert event["bytes"] == len(text)
    assert event["data"] == {"instances": [[1.5, 2.0]], "a": 2}
    assert event["arrived"].endswith("Z")
    assert len(event["arrived"]) == len("2026-01-31T12:00:00.000Z")
    assert began - 1 < event["seq"] / 1e9 < time.time() + 1


@pytest.mark.parametrize("data", [b"", b"no json", b"[1, 2]", b'"text"'])
def test_an_event_of_another_type_is_kept_as_an_event_only(
    elastic: FakeElasticsearch, registry: CollectorRegistry, data: bytes
) -> None:
    written(elastic, registry, an_event("io.seldon.serving.inference.inlier", data))
    (event,) = elastic.documents(EVENTS).values()
    assert event["data"] == (json.loads(data) if data[:1] in (b"[", b'"') else None)
    assert "part" not in event
    assert list(elastic.indices) == [EVENTS]


def test_an_event_without_a_namespace_has_an_index_too(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    written(elastic, registry, new_event(REQUEST_TYPE, "s", {"instances": [1]}))
    assert set(elastic.indices) == {
        "inference-events-unknown-namespace",
        "inference-log-seldon-unknown-namespace-unknown-inferenceservice-unknown-endpoint",
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1, 0, 1, 2)])
def test_parts_become_one_document_in_any_order(
    elastic: FakeElasticsearch, registry: CollectorRegistry, order: tuple[int, ...]
) -> None:
    parts = (REQUEST, RESPONSE, OUTLIER)

    async def scenario(store: ElasticsearchStore) -> list[dict[str, Any]]:
        for number in order:
            await add(store, parts[number])
        return await store.documents("r1", None)

    (answered,) = run(elastic, registry, scenario)
    assert answered["_id"] == "r1"
    assert elastic.documents(INDEX) == {"r1": answered["_source"]}
    document = answered["_source"]
    assert document["@timestamp"] == REQUEST.time
    assert document["request"]["instance"] == [1.5, 2.0]
    assert document["response"]["instance"] == [0.1, 0.9]
    assert document["outlier"]["data"]["is_outlier"] == 1
    assert len(elastic.documents(EVENTS)) == 3


def test_what_belongs_to_a_batch_as_a_whole_has_the_bare_id_as_with_seldon(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    async def scenario(store: ElasticsearchStore) -> list[dict[str, Any]]:
        await add(store, an_event(FEEDBACK_TYPE, {"reward": 1.0}))
        await add(store, an_event(DRIFT_TYPE, {"data": {"is_drift": 1, "p_val": [0.1]}}))
        await add(store, an_event(REQUEST_TYPE, {"instances": [[1], [2]]}))
        return await store.documents("r1", INDEX)

    answered = run(elastic, registry, scenario)
    documents = elastic.documents(INDEX)
    assert set(documents) == {"r1", "r1-item-0", "r1-item-1"}
    assert {"feedback", "drift"} <= set(documents["r1"])
    assert documents["r1-item-1"]["request"]["instance"] == [2]
    # The payload log itself knows the whole request, and answers as it does from SQLite.
    assert [one["_id"] for one in answered] == ["r1-item-0", "r1-item-1"]
    assert all("feedback" in one["_source"] for one in answered)
    assert ["drift" in one["_source"] for one in answered] == [False, True]


def test_names_and_ids_that_elasticsearch_has_no_room_for(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    long = "ü" * 2000
    names = {"namespace": "Team A", "inferenceservicename": "x" * 300, "endpoint": "a,b*c"}

    async def scenario(store: ElasticsearchStore) -> list[dict[str, Any]]:
        await add(store, an_event(REQUEST_TYPE, {"instances": [[1]]}, long, **names))
        return await store.documents(long, None)

    (found,) = run(elastic, registry, scenario)
    assert found["_id"] == long
    assert found["_index"].startswith("inference-log-seldon-Team A-xxx")
    log, events = sorted(elastic.indices, reverse=True)
    assert events == "inference-events-team_a"
    assert log.startswith("inference-log-seldon-team_a-xxx")
    assert len(log) <= 255
    (id,) = elastic.documents(log)
    assert id == document_key(long) != long


def test_index_names_of_kubernetes_stay_as_they_are() -> None:
    assert index_name(INDEX) == INDEX
    assert document_key("r" * 512) == "r" * 512
    other = [event_key(new_event(REQUEST_TYPE, "s", {})) for _ in range(2)]
    assert other[0] != other[1]


def test_what_is_sent_again_is_there_once(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    async def scenario(store: ElasticsearchStore) -> list[bool]:
        return [await add(store, event) for event in (REQUEST, RESPONSE, REQUEST, RESPONSE)]

    assert run(elastic, registry, scenario) == [True, True, False, False]
    assert len(elastic.documents(EVENTS)) == 2
    name = "payload_log_elasticsearch_documents_total"
    count = registry.get_sample_value
    assert count(name, {"kind": "event", "result": "created"}) == 2
    assert count(name, {"kind": "event", "result": "duplicate"}) == 2
    assert count(name, {"kind": "item", "result": "noop"}) == 2


def test_a_reply_with_source_and_id_of_what_it_answers_is_another_event(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    reply = replace(OUTLIER, source=REQUEST.source, id=REQUEST.id)
    written(elastic, registry, REQUEST, reply)
    assert len(elastic.documents(EVENTS)) == 2


def test_an_answer_that_is_lost_costs_nothing(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    lost = [503]

    async def scenario(store: ElasticsearchStore) -> None:
        elastic.fault_after = lambda method, path: lost.pop() if path == "/_bulk" and lost else None
        with pytest.raises(RequestError, match="503") as told:
            await add(store, REQUEST)
        assert (told.value.status, told.value.headers) == (503, {"retry-after": "1"})
        assert await add(store, REQUEST) is False

    run(elastic, registry, scenario)
    assert list(elastic.documents(INDEX)) == ["r1"]


FULL = (400, "validation_exception", "this action would add [1] shards, of [1000] maximum open")


@pytest.mark.parametrize("status", [429, 503, 404, 409, 500, FULL])
def test_an_action_that_is_not_done_now_is_a_503_and_the_others_are_kept(
    elastic: FakeElasticsearch, registry: CollectorRegistry, status: Any
) -> None:
    events = [an_event(REQUEST_TYPE, {"instances": [[n]]}, f"r{n}") for n in range(10)]
    elastic.item_fault = lambda action, index, id: (
        status if (action, id) == ("update", "r3") else None
    )

    async def scenario(store: ElasticsearchStore) -> list[Any]:
        first = await asyncio.gather(*(add(store, one) for one in events), return_exceptions=True)
        elastic.item_fault = lambda action, index, id: None
        assert await add(store, events[3]) is False  # the event was kept, its document not
        return first

    first = run(elastic, registry, scenario)
    failed = [one for one in first if one is not True]
    assert first.index(failed[0]) == 3
    assert (len(failed), failed[0].status) == (1, 503)
    assert len(elastic.documents(INDEX)) == 10
    reason = {429: "busy", 503: "busy", 409: "conflict"}.get(status, "unavailable")
    name = "payload_log_elasticsearch_errors_total"
    assert registry.get_sample_value(name, {"reason": reason}) == 1


def test_an_event_that_does_not_fit_is_rejected_and_the_others_are_kept(
    elastic: FakeElasticsearch, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    good = [an_event(REQUEST_TYPE, {"instances": [[n]]}, f"r{n}") for n in range(10)]
    bad = an_event(FEEDBACK_TYPE, {"reward": {"is": "no number"}}, "bad")

    async def scenario(store: ElasticsearchStore) -> list[Any]:
        events = [*good[:5], bad, *good[5:]]
        return await asyncio.gather(*(add(store, one) for one in events), return_exceptions=True)

    results = run(elastic, registry, scenario)
    refused = results.pop(5)
    assert isinstance(refused, RequestError)
    assert refused.status == 400
    assert "feedback.reward" in refused.message
    assert "feedback.reward" in caplog.text
    assert results == [True] * 10
    assert len(elastic.documents(INDEX)) == 10
    name = "payload_log_elasticsearch_errors_total"
    assert registry.get_sample_value(name, {"reason": "rejected"}) == 1


def test_an_event_too_large_for_elasticsearch_is_rejected_alone(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    elastic.content_bytes = 20_000
    large = an_event(REQUEST_TYPE, {"instances": [["x" * 30_000]]}, "large")
    good = [an_event(REQUEST_TYPE, {"instances": [[n]]}, f"r{n}") for n in range(10)]

    async def scenario(store: ElasticsearchStore) -> list[Any]:
        events = [*good[:5], large, *good[5:]]
        return await asyncio.gather(*(add(store, one) for one in events), return_exceptions=True)

    results = run(elastic, registry, scenario)
    assert results.pop(5).status == 400
    assert results == [True] * 10


def test_an_event_larger_than_any_request_is_refused_at_once(
    elastic: FakeElasticsearch, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "ACTION_BYTES", 1_000)

    async def scenario(store: ElasticsearchStore) -> None:
        with pytest.raises(RequestError, match="1000 at most") as told:
            await add(store, an_event(REQUEST_TYPE, {"instances": [["x" * 2_000]]}))
        assert told.value.status == 413

    run(elastic, registry, scenario)
    assert not elastic.indices


def test_many_events_go_together(elastic: FakeElasticsearch, registry: CollectorRegistry) -> None:
    events = [an_event(REQUEST_TYPE, {"instances": [[n]]}, f"r{n}") for n in range(400)]

    async def scenario(store: ElasticsearchStore) -> list[bool]:
        return await asyncio.gather(*(add(store, one) for one in events))

    assert all(run(elastic, registry, scenario))
    assert sum(elastic.bulks) == 800
    assert len(elastic.bulks) < 20
    assert registry.get_sample_value("payload_log_elasticsearch_bulk_actions_sum") == 800
    assert registry.get_sample_value("payload_log_elasticsearch_bulk_seconds_count") >= 1
    assert registry.get_sample_value("payload_log_elasticsearch_pending_bytes") == 0


def test_a_bulk_request_has_bounds_and_a_large_batch_takes_several(
    elastic: FakeElasticsearch, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "OPERATIONS", 10)
    monkeypatch.setattr(bulk, "BYTES", 5_000)
    rows = [[n, "x" * 200] for n in range(50)]
    written(elastic, registry, an_event(REQUEST_TYPE, {"instances": rows}))
    assert len(elastic.documents(INDEX)) == 50
    assert max(elastic.bulks) <= 10
    assert len(elastic.bulks) >= 6


def test_too_much_at_once_is_told_to_come_back(
    elastic: FakeElasticsearch, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PENDING_BYTES", 50_000)
    events = [an_event(REQUEST_TYPE, {"instances": [["x" * 5_000]]}, f"r{n}") for n in range(10)]

    async def scenario(store: ElasticsearchStore) -> list[Any]:
        given = (add(store, one) for one in events)
        first = await asyncio.gather(*given, return_exceptions=True)
        # One that is larger than all there is room for still has its turn.
        huge = an_event(REQUEST_TYPE, {"instances": [["x" * 60_000]]}, "huge")
        assert await add(store, huge) is True
        return first

    results = run(elastic, registry, scenario)
    kept = [one for one in results if one is True]
    assert 1 <= len(kept) < 10
    assert {one.status for one in results if one is not True} == {503}


def test_a_slow_elasticsearch_is_a_503_in_time(
    elastic: FakeElasticsearch, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "WAIT_SECONDS", 0.3)

    async def scenario(store: ElasticsearchStore) -> None:
        elastic.seconds = 0.8
        with pytest.raises(RequestError, match=r"within 0\.3 s") as told:
            await add(store, REQUEST)
        assert told.value.status == 503
        assert not elastic.bulks  # refused before Elasticsearch answers
        await until(lambda: elastic.bulks, "Elasticsearch, which takes it all the same")

    run(elastic, registry, scenario)


def test_templates_are_installed_once_and_later_ones_stay(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    puts = [f"PUT /_index_template/{name}" for name in templates.TEMPLATES]
    written(elastic, registry)
    assert [call for call in elastic.calls if call.startswith("PUT")] == puts
    elastic.templates["payload-log"] = {**elastic.templates["payload-log"], "version": 7}
    elastic.templates["payload-log-events"] = {
        **elastic.templates["payload-log-events"],
        "version": 0,
    }
    elastic.calls.clear()
    written(elastic, CollectorRegistry())
    assert [call for call in elastic.calls if call.startswith("PUT")] == puts[1:]
    assert elastic.templates["payload-log"]["version"] == 7


def test_the_files_are_the_templates(root: Path, tmp_path: Path) -> None:
    templates.write(tmp_path)
    folder = root / "manifests/logging/elasticsearch"
    made = sorted(tmp_path.iterdir())
    assert [one.name for one in made] == [one.name for one in folder.glob("payload-log*.json")]
    for one in made:
        assert (folder / one.name).read_bytes() == one.read_bytes()


def test_no_field_of_a_payload_is_mapped(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    """The fake fails where one would be."""
    odd = {"": 1, "a.b.": [{}, [1, "x"]], "@timestamp": "never"}
    written(
        elastic,
        registry,
        an_event(REQUEST_TYPE, {"jsonData": odd, "meta": {"tags": odd}, "a.b": 1}),
        an_event(OUTLIER_TYPE, {"data": {"is_outlier": [[0, 1]], "feature_score": [odd]}}),
        an_event(FEEDBACK_TYPE, {"truth": odd, "request": odd, "reward": "much"}),
        an_event(REQUEST_TYPE, {"instances": [[1]]}, "r2", time="2026-01-31 12:00:00"),
    )
    assert len(elastic.documents(EVENTS)) == 4


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ({"number": "7.17.1"}, "is Elasticsearch 7.17.1, where 8 or later is needed"),
        ({"number": "2.19.0", "distribution": "opensearch"}, "is opensearch 2.19.0"),
        ({}, "is not Elasticsearch"),
        ("8", "is not Elasticsearch"),
    ],
)
def test_another_server_is_not_written_to(
    elastic: FakeElasticsearch, registry: CollectorRegistry, version: Any, says: str
) -> None:
    elastic.version = version

    async def scenario() -> None:
        store = ElasticsearchStore(Client(elastic.url), registry)
        assert "has not answered yet" in str(store.problem)
        await store.start()
        try:
            await until(lambda: says in str(store.problem), says)
            with pytest.raises(RequestError, match="is not ready") as told:
                await add(store, REQUEST)
            assert told.value.status == 503
        finally:
            await store.close()

    asyncio.run(scenario())
    assert not elastic.indices


def test_an_index_of_events_without_the_template_is_refused(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    text = {"properties": {"attributes": {"type": "object"}}}
    elastic.indices["inference-events-old"] = {"mappings": text, "documents": {}}

    async def scenario() -> None:
        store = ElasticsearchStore(Client(elastic.url), registry)
        await store.start()
        try:
            await until(lambda: "inference-events-old" in str(store.problem), "the refusal")
        finally:
            await store.close()

    asyncio.run(scenario())


def test_an_elasticsearch_that_was_made_anew_gets_its_templates_first(
    elastic: FakeElasticsearch, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake fails where an index would be made without a template."""
    monkeypatch.setattr(elastic_store, "RETRY_SECONDS", 0.05)

    async def scenario(store: ElasticsearchStore) -> None:
        await add(store, REQUEST)
        await asyncio.to_thread(elastic.stop)
        with pytest.raises(RequestError) as told:
            await add(store, RESPONSE)
        assert told.value.status == 503
        assert "cannot be reached" in str(store.problem)
        elastic.indices.clear()
        elastic.templates.clear()
        elastic.start()
        await until(lambda: store.problem is None, "Elasticsearch to be back")
        assert await add(store, RESPONSE) is True

    run(elastic, registry, scenario)
    assert set(elastic.templates) == set(templates.TEMPLATES)
    assert list(elastic.documents(INDEX)) == ["r1"]


def test_reads_see_what_was_written_and_share_a_refresh(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    async def scenario(store: ElasticsearchStore) -> None:
        await add(store, REQUEST)
        elastic.calls.clear()
        found = await asyncio.gather(*(store.documents("r1", None) for _ in range(20)))
        assert all(len(one) == 1 for one in found)
        refreshes = [call for call in elastic.calls if call.endswith("_refresh")]
        assert len(refreshes) < 5

    run(elastic, registry, scenario)


def test_reads_go_on_over_pages(
    elastic: FakeElasticsearch, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic_store, "PAGE", 3)
    monkeypatch.setattr(elastic_store, "REQUESTS", 2)

    async def scenario(store: ElasticsearchStore) -> None:
        for n in range(7):
            await add(store, an_event(REQUEST_TYPE, {"instances": [[n]]}, f"r{n}"))
            await add(store, an_event(RESPONSE_TYPE, {"predictions": [[n]]}, f"r{n}"))
            await add(store, an_event(FEEDBACK_TYPE, {"reward": n}, f"r{n}"))
        found = await store.search(Search(limit=5))
        assert [one["_id"] for one in found] == ["r6", "r5", "r4", "r3", "r2"]
        assert all("feedback" in one["_source"] for one in found)

    run(elastic, registry, scenario)


def test_what_is_older_is_removed(
    elastic: FakeElasticsearch, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic_store, "EXPIRE_DOCUMENTS", 2)

    async def scenario(store: ElasticsearchStore) -> None:
        for n in range(5):
            old = an_event(
                REQUEST_TYPE, {"instances": [[n]]}, f"old{n}", time="2020-01-01T00:00:00Z"
            )
            await add(store, old)
        elastic.refresh()
        # Documents go by their request's own time, events by when they came.
        assert await store.expire(time.time() - 60, None) == 5
        assert elastic.documents(INDEX) == {}
        assert len(elastic.documents(EVENTS)) == 5
        await add(store, an_event(REQUEST_TYPE, {"instances": [[9]]}, "new"))
        elastic.refresh()
        await asyncio.sleep(0.01)  # `arrived` counts milliseconds
        assert await store.expire(None, 1) == 0
        assert await store.expire(time.time(), None) == 7

    run(elastic, registry, scenario)
    assert elastic.documents(EVENTS) == {}


def test_an_events_only_log_leaves_the_indices_of_the_other_alone(
    elastic: FakeElasticsearch, registry: CollectorRegistry
) -> None:
    written(elastic, registry, REQUEST)
    # Not its own, so that it does not mind.
    elastic.indices["inference-events-old"] = {"mappings": {}, "documents": {}}

    async def scenario() -> None:
        store = ElasticsearchStore(Client(elastic.url), CollectorRegistry(), "Team A")
        await store.start()
        try:
            await until(lambda: store.problem is None, "Elasticsearch to be ready")
            assert [await store.add(one, None) for one in (REQUEST, REQUEST)] == [True, False]
            (kept,) = elastic.documents("broker-events-team_a").values()
            assert kept.keys() == {"seq", "arrived", "attributes", "bytes", "data"}
            assert len(elastic.documents("inference-events-seldon")) == 1
            elastic.refresh()
            await asyncio.sleep(0.01)  # `arrived` counts milliseconds
            assert await store.expire(time.time(), None) == 1
        finally:
            await store.close()

    asyncio.run(scenario())
    assert elastic.documents("broker-events-team_a") == {}
    assert len(elastic.documents(EVENTS)) == len(elastic.documents(INDEX)) == 1


def test_removing_waits_for_elasticsearch_to_be_ready(
    elastic: FakeElasticsearch, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic_store, "RETRY_SECONDS", 0.05)
    elastic.fault = lambda method, path: 503

    async def scenario() -> None:
        store = ElasticsearchStore(Client(elastic.url), registry)
        await store.start()
        removing = asyncio.create_task(store.expire(time.time(), None))
        try:
            await until(lambda: "503" in str(store.problem), "the first refusal")
            elastic.fault = lambda method, path: None
            assert await asyncio.wait_for(removing, 10) == 0
        finally:
            await store.close()

    asyncio.run(scenario())
    assert any(call.endswith("_delete_by_query") for call in elastic.calls)


@pytest.mark.parametrize("url", ["here", "ftp://h", "http://", "http://h:x/"])
def test_an_address_that_cannot_be_is_told_with_a_sentence(url: str) -> None:
    with pytest.raises(ServingError, match="PAYLOAD_LOG_ELASTICSEARCH_URL"):
        Client(url)


def test_credentials_are_sent_and_not_told(
    elastic: FakeElasticsearch, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    url = elastic.url.replace("http://", "http://clerk:hush-hush@")

    async def scenario(client: Client) -> str:
        try:
            await client.call("GET", "/")
            elastic.fault = lambda method, path: 401
            with pytest.raises(RequestError) as told:
                await client.call("GET", "/")
            return told.value.message
        finally:
            elastic.fault = lambda method, path: None
            await client.close()

    said = asyncio.run(scenario(Client(url))) + asyncio.run(scenario(Client(elastic.url, "a-key")))
    assert elastic.authorization == {"Basic Y2xlcms6aHVzaC1odXNo", "ApiKey a-key"}
    assert "401" in said
    assert "hush-hush" not in said + caplog.text
    assert "a-key" not in said
