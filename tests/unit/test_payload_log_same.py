"""Whatever events come, the payload log answers the same from SQLite and from Elasticsearch."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from helpers.serving.common.events import (
    DRIFT_TYPE,
    FEEDBACK_TYPE,
    OUTLIER_TYPE,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    CloudEvent,
    new_event,
)
from helpers.serving.payload_log.elastic.client import Client
from helpers.serving.payload_log.elastic.store import ElasticsearchStore
from helpers.serving.payload_log.parts import KINDS, kind_of, read_part
from helpers.serving.payload_log.sqlite_store import SQLiteStore
from helpers.serving.payload_log.store import Search, Store
from tests.fakes.elasticsearch import FakeElasticsearch

pytestmark = pytest.mark.timeout(120)

REQUESTS = ("r1", "r2", "a b/c", "ü" * 300)
ENDPOINTS = ("default", "canary", "Odd, Name")
SECONDS = (1_700_000_000, 1_700_000_060)

numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
rows = st.lists(numbers, min_size=1, max_size=3)
names = st.text("ab. é", min_size=1, max_size=3)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=5,
)
flags = st.lists(
    st.one_of(st.integers(0, 1), st.lists(st.integers(0, 1), min_size=1, max_size=2)),
    min_size=1,
    max_size=3,
)
batches = st.lists(rows, min_size=1, max_size=3)
contents = st.one_of(
    st.tuples(st.just(REQUEST_TYPE), batches.map(lambda batch: {"instances": batch})),
    st.tuples(st.just(REQUEST_TYPE), anything.map(lambda data: {"jsonData": data})),
    st.tuples(st.just(RESPONSE_TYPE), batches.map(lambda batch: {"predictions": batch})),
    st.tuples(st.just(RESPONSE_TYPE), batches.map(lambda batch: {"data": {"ndarray": batch}})),
    st.tuples(st.just(OUTLIER_TYPE), flags.map(lambda found: {"data": {"is_outlier": found}})),
    st.tuples(
        st.just(DRIFT_TYPE), st.integers(0, 1).map(lambda found: {"data": {"is_drift": found}})
    ),
    st.tuples(
        st.just(FEEDBACK_TYPE),
        st.builds(lambda reward, truth: {"reward": reward, "truth": truth}, numbers, anything),
    ),
    st.tuples(st.just("io.seldon.another"), anything),
)


@st.composite
def events(draw: st.DrawFn) -> list[CloudEvent]:
    made = []
    for _ in range(draw(st.integers(1, 8))):
        type, data = draw(contents)
        moment = draw(st.integers(*SECONDS))
        event = new_event(
            type,
            draw(st.sampled_from(("http://one/", "http://two/"))),
            data,
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
            requestid=draw(st.sampled_from(REQUESTS)),
            namespace="seldon",
            endpoint=draw(st.sampled_from(ENDPOINTS)),
            modelid=draw(st.sampled_from(("resnet32", ""))),
        )
        made += [event] * draw(st.sampled_from((1, 1, 1, 2)))
    return draw(st.permutations(made))


searches = st.builds(
    Search,
    since=st.none() | st.integers(*SECONDS),
    until=st.none() | st.integers(*SECONDS),
    kind=st.none() | st.sampled_from(KINDS),
    flagged=st.none() | st.booleans(),
    limit=st.integers(1, 4),
)


@pytest.fixture(scope="module")
def elastic() -> Iterator[FakeElasticsearch]:
    with FakeElasticsearch() as elastic:
        yield elastic


async def answers(store: Store, sent: list[CloudEvent], search: Search) -> dict[str, Any]:
    """Send all, and return all that the store can be asked."""
    await store.start()
    try:
        end = time.monotonic() + 20
        while store.problem is not None:
            assert time.monotonic() < end, f"waited 20 s: {store.problem}"
            await asyncio.sleep(0.005)
        added = []
        for event in sent:
            kind = kind_of(event.type)
            part = None if kind is None else read_part(event, kind)
            new = await store.add(event, part)
            added.append(new if part is not None else None)
        counts = await store.counts()
        indices = [None, *sorted(counts)[:1]]
        return {
            "added": added,
            "counts": counts,
            "documents": {
                (id, index): await store.documents(id, index)
                for id in REQUESTS
                for index in indices
            },
            "search": {index: await store.search(search_in(search, index)) for index in indices},
            "windows": [await store.windows(index, 3) for index in indices],
        }
    finally:
        await store.close()


def search_in(search: Search, index: str | None) -> Search:
    return Search(**{**vars(search), "index": index})


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sent=events(), search=searches)
def test_both_answer_the_same(
    elastic: FakeElasticsearch, sent: list[CloudEvent], search: Search
) -> None:
    elastic.reset()
    with tempfile.TemporaryDirectory() as folder:
        one = asyncio.run(answers(SQLiteStore(Path(folder)), sent, search))
    other = ElasticsearchStore(Client(elastic.url), CollectorRegistry())
    assert asyncio.run(answers(other, sent, search)) == one
    assert elastic.broken == []
