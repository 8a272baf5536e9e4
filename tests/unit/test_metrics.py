"""Samples: parsing, sums, differences and quantiles."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from helpers.errors import ClientError
from helpers.metrics import Samples

TEXT = """\
# HELP hits_total Right answers.
# TYPE hits_total counter
hits_total{class="CLASS_10",model="a"} 4
hits_total{class="CLASS_2",model="a"} 3
hits_total{class="CLASS_2",model="b"} 2
hits_total{model="c"} 1
# TYPE temperature gauge
temperature{index="0"} 20.5
# TYPE seconds histogram
seconds_bucket{le="0.1",code="200"} 10
seconds_bucket{le="0.5",code="200"} 30
seconds_bucket{le="+Inf",code="200"} 40
seconds_bucket{le="0.1",code="500"} 0
seconds_bucket{le="0.5",code="500"} 0
seconds_bucket{le="+Inf",code="500"} 5
seconds_sum{code="200"} 12.5
seconds_count{code="200"} 40
"""


def test_value_sums_what_matches() -> None:
    samples = Samples.parse(TEXT)
    assert samples.value("hits_total") == 10
    assert samples.value("hits_total", model="a") == 7
    assert samples.value("hits_total", model="a", **{"class": "CLASS_2"}) == 3
    assert samples.value("temperature", index=0) == 20.5
    assert samples.value("hits_total", model="z") == 0.0
    assert samples.value("nothing") == 0.0


def test_a_counter_is_found_with_and_without_total() -> None:
    samples = Samples.parse(TEXT + "# TYPE plain counter\nplain 3\n")
    assert samples.value("hits") == samples.value("hits_total") == 10
    assert samples.value("plain_total") == samples.value("plain") == 3


def test_by_is_in_natural_order_and_leaves_out_what_lacks_the_label() -> None:
    assert list(Samples.parse(TEXT).by("hits", "class").items()) == [
        ("CLASS_2", 5),
        ("CLASS_10", 4),
    ]
    assert Samples.parse(TEXT).by("hits", "class", model="b") == {"CLASS_2": 2}
    assert Samples.parse(TEXT).by("nothing", "class") == {}
    bounds = list(Samples.parse(TEXT).by("seconds_bucket", "le"))
    assert bounds == ["0.1", "0.5", "+Inf"]


def test_a_label_may_be_called_name_or_label() -> None:
    samples = Samples.parse('a_total{name="x",label="y"} 1\n')
    assert samples.value("a_total", name="x", label="y") == 1
    assert samples.by("a_total", "name", label="y") == {"x": 1}


def test_names() -> None:
    assert Samples.parse(TEXT).names() == (
        "hits_total",
        "seconds_bucket",
        "seconds_count",
        "seconds_sum",
        "temperature",
    )
    assert Samples.parse("").names() == ()


def test_a_difference_is_what_was_added() -> None:
    registry = CollectorRegistry()
    counter = Counter("events", "", ["code"], registry=registry)
    gauge = Gauge("waiting", "", registry=registry)
    counter.labels("200").inc(5)
    gauge.set(7)
    before = Samples.parse(generate_latest(registry).decode())
    counter.labels("200").inc(2)
    counter.labels("404").inc(3)
    gauge.set(4)
    after = Samples.parse(generate_latest(registry).decode())

    added = after - before
    assert added.by("events", "code") == {"200": 2, "404": 3}
    assert added.value("waiting") == -3
    assert before.value("events") == 5, "neither side changes"
    assert after.value("events") == 10
    assert len(after - after) == len(after)
    assert (after - after).value("events") == 0
    assert (before - after).by("events", "code") == {"200": -2}
    with pytest.raises(TypeError):
        after - 1


def test_samples_cannot_be_changed() -> None:
    samples = Samples.parse(TEXT)
    with pytest.raises(TypeError):
        samples._values["hits_total"] = {}  # type: ignore[index]
    with pytest.raises(AttributeError):
        samples.other = 1  # type: ignore[attr-defined]
    assert samples == Samples.parse(TEXT)
    assert samples != Samples.parse("")


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0.25, 0.1),  # rank 10 of 40: the end of the first bucket
        (0.5, 0.1 + 0.4 * (20 - 10) / 20),
        (0.0, 0.0),
        (0.9, 0.5),  # beyond the last finite bound
        (1.0, 0.5),
    ],
)
def test_quantile_is_that_of_histogram_quantile(q: float, expected: float) -> None:
    assert Samples.parse(TEXT).quantile("seconds", q, code=200) == pytest.approx(expected)


def test_quantile_over_several_series_and_after_a_difference() -> None:
    samples = Samples.parse(TEXT)
    rank = 0.5 * 45
    assert samples.quantile("seconds", 0.5) == pytest.approx(0.1 + 0.4 * (rank - 10) / 20)
    assert math.isnan((samples - samples).quantile("seconds", 0.5))
    assert math.isnan(samples.quantile("nothing", 0.5))
    with pytest.raises(ValueError, match="between 0 and 1"):
        samples.quantile("seconds", 99)


def test_quantile_of_a_real_histogram_lies_in_the_right_bucket() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("took_seconds", "", buckets=(0.1, 0.2, 0.4), registry=registry)
    for value in (0.05, 0.15, 0.15, 0.3):
        histogram.observe(value)
    samples = Samples.parse(generate_latest(registry).decode())
    assert samples.quantile("took_seconds", 0.5) == pytest.approx(0.15)
    assert samples.quantile("took_seconds_bucket", 0.5) == pytest.approx(0.15)


@pytest.mark.parametrize(
    "text",
    [
        "<html><body>404 page not found</body></html>",
        '{"detail": "Not Found"}',
        "upstream connect error or disconnect",
        "hits_total{class=",
        "hits_total many",
        "hits_total",
    ],
)
def test_text_that_is_no_exposition_is_an_error(text: str) -> None:
    with pytest.raises(ClientError, match="no exposition") as caught:
        Samples.parse(text)
    assert text[:20] in str(caught.value)
