"""The small parts of the detect server, without a detector and without TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import CloudEvent
from helpers.serving.detect.exposition import RuntimeMetrics
from helpers.serving.detect.remembered import Remembered
from helpers.serving.detect.verdict import GAUGE, TIMER, Metric
from helpers.serving.detect.window import Window
from helpers.serving.payloads import read_rows, replace_rows, write_json


@pytest.mark.parametrize("batches", [[1] * 25, [25], [7, 1, 12, 5], [10, 10, 5], [9, 2, 14]])
def test_every_row_is_in_exactly_one_window(batches: list[int]) -> None:
    window = Window(10, (2,), np.float32)
    rows = np.arange(50, dtype=np.float32).reshape(25, 2)
    seen, at = [], 0
    for count in batches:
        seen += [full.copy() for full in window.add(rows[at : at + count])]
        at += count
    assert len(seen) == 2
    np.testing.assert_array_equal(np.concatenate(seen), rows[:20])
    assert window.filled == 5


def test_a_window_is_allocated_once() -> None:
    window = Window(4, (3,), np.float32)
    before = window.rows
    for _ in range(10):
        for full in window.add(np.ones((6, 3))):
            assert full is before
    assert window.rows is before


def test_only_some_rows_in_every_protocol() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    keep = np.array([True, False, True])
    bodies = {
        "tensorflow.http": {"signature_name": "x", "instances": rows.tolist()},
        "seldon.http": {"data": {"names": ["a", "b"], "ndarray": rows.tolist()}},
        "v2.http": {
            "inputs": [
                {"name": "x", "shape": [3, 2], "datatype": "FP64", "data": [0, 1, 2, 3, 4, 5]}
            ]
        },
    }
    for protocol, body in bodies.items():
        kept = replace_rows(body, protocol, keep, rows)
        import orjson

        back = read_rows(orjson.loads(write_json(kept)), protocol)
        np.testing.assert_array_equal(back, rows[keep])


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        ("seldon.http", {"data": {}}),
        ("seldon.http", {"data": {"ndarray": ["a"]}}),
        ("seldon.http", {"data": {"tensor": {"shape": [2, -1], "values": [1, 2]}}}),
        ("seldon.http", {"data": {"tensor": {"shape": [2, 2], "values": [1, 2]}}}),
        ("seldon.http", {"data": {"tensor": {"shape": [1] * 33, "values": [1]}}}),
        ("seldon.http", {"data": {"tftensor": {"floatVal": [1]}}}),
        ("v2.http", {"inputs": []}),
        ("v2.http", {"inputs": [{"shape": [1], "datatype": "BYTES", "data": ["a"]}]}),
        ("v2.http", {"inputs": [{"shape": [1], "datatype": "UINT8", "data": [256]}]}),
        ("v2.http", {"inputs": [{"shape": [True], "datatype": "FP32", "data": [1]}]}),
        ("v2.http", {"inputs": [{"shape": [1], "datatype": ["FP32"], "data": [1]}]}),
        ("tensorflow.http", {"instances": {"a": 1, "b": 2}}),
        ("tensorflow.http", {"instances": [{"a": 1, "b": 2}]}),
        ("tensorflow.http", {"instances": [10**400]}),
        ("tensorflow.http", {"instances": "text"}),
    ],
)
def test_what_is_no_array_is_refused(protocol: str, body: dict) -> None:
    with pytest.raises(RequestError) as refused:
        read_rows(body, protocol)
    assert refused.value.status == 400


def test_remembered_events_are_limited() -> None:
    remembered = Remembered(events=3, bytes=10)
    events = [CloudEvent("t", "s", id=str(n)) for n in range(5)]
    for one in events:
        remembered.put(one, b"")
    assert [remembered.get(one) for one in events] == [None, None, b"", b"", b""]
    remembered.put(events[0], b"123456789")
    remembered.put(events[1], b"12")
    assert remembered.get(events[0]) is None
    assert remembered.get(events[1]) == b"12"


def test_metrics_are_applied_all_or_none() -> None:
    metrics = RuntimeMetrics("m", {})
    metrics.update([Metric("a", 1), Metric("b", 2.0, GAUGE)])
    with pytest.raises(ValueError, match="not a"):
        metrics.update([Metric("a", 1), Metric("b", 1)])
    values = {f.name: f.samples[0].value for f in metrics.collect()}
    assert values == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="tag"):
        metrics.update([Metric("a", 1, tags={"method": "other"})])


def test_a_timer_is_a_histogram_in_seconds() -> None:
    metrics = RuntimeMetrics("m", {})
    metrics.update([Metric("t", 20, TIMER), Metric("t", 40_000, TIMER)])
    (family,) = metrics.collect()
    samples = {(s.name, s.labels.get("le")): s.value for s in family.samples}
    assert samples["t_count", None] == 2
    assert samples["t_sum", None] == pytest.approx(40.02)
    assert samples["t_bucket", "+Inf"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": "a b", "value": 1},
        {"key": "a", "value": "1"},
        {"key": "a", "value": float("nan")},
        {"key": "a", "value": -1},
        {"key": "a", "value": True},
        {"key": "a", "value": 1, "type": "OTHER"},
        {"key": "a", "value": 1, "tags": {"b": 1}},
        {"key": "a", "value": 1, "tags": {"b c": "1"}},
        {"key": "a", "value": 1, "tags": {"le": "1"}},
        {"key": "a", "value": 1, "tags": {"__name__": "b"}},
    ],
)
def test_what_is_no_metric(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"a\b"):
        Metric(**arguments)
