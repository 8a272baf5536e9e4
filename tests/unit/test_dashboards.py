"""Dashboards: their files, what is drawn of them, and their queries against a real Prometheus."""

from __future__ import annotations

import http.server
import io
import json
import math
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jsonschema
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score

from helpers import dashboards
from helpers.dashboards import formats, model
from helpers.dashboards.model import Field
from helpers.errors import ClientError, DashboardError, StackError
from helpers.metrics import Samples
from helpers.stack import ServerStatus
from tests.monitoring import grafana
from tests.monitoring.exposition import exposed, metric_names

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "manifests/monitoring/dashboards"
FILES = sorted(FOLDER.glob("*.json"))
NAMES = (
    "alerts",
    "drift",
    "explanations-production",
    "explanations",
    "outliers",
    "serving",
    "statistical",
)
START, END = 1_700_000_000.0, 1_700_000_060.0

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="the program `prometheus` is not installed"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="the programs `prometheus` and `promtool` are not installed",
)


# A Prometheus that answers as told


class FakePrometheus:
    """Answers the API with what `answers` has for a query, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.targets: list[dict[str, Any]] = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(parse_qs(urlsplit(self.path).query))

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                self._answer(parse_qs(self.rfile.read(length).decode()))

            def _answer(self, given: dict[str, list[str]]) -> None:
                kind = urlsplit(self.path).path.removeprefix("/api/v1/")
                asked = {name: value[0] for name, value in given.items()}
                fake.asked.append((kind, asked))
                status, content = fake.answer(kind, asked.get("query", ""))
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, kind: str, query: str) -> tuple[int, Any]:
        if kind == "targets":
            return 200, {"status": "success", "data": {"activeTargets": self.targets}}
        found = self.answers.get(query, [])
        if isinstance(found, str):
            return 400, {"status": "error", "errorType": "bad_data", "error": found}
        if callable(found):
            found = found()
        result = "matrix" if kind == "query_range" else "vector"
        return 200, {"status": "success", "data": {"resultType": result, "result": found}}

    def queries(self) -> list[str]:
        return [asked["query"] for kind, asked in self.asked if kind != "targets"]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def fake() -> Iterator[FakePrometheus]:
    made = FakePrometheus()
    yield made
    made.close()


def panel(kind: str, title: str = "One", expr: str = "up", **more: Any) -> dict[str, Any]:
    """Return a panel with one target, `more` over it."""
    return {
        "type": kind,
        "title": title,
        "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
        "targets": [{"refId": "A", "expr": expr, "legendFormat": "{{pod}}"}],
        "fieldConfig": {"defaults": {"unit": "s"}, "overrides": []},
    } | more


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return write(*panels, variables): the file of a dashboard called Small."""

    def write(*panels: dict[str, Any], variables: Any = ()) -> Path:
        path = tmp_path / "small.json"
        content = {"title": "Small", "panels": panels, "templating": {"list": list(variables)}}
        path.write_text(json.dumps(content))
        return path

    return write


def matrix(values: dict[float, float], **labels: str) -> dict[str, Any]:
    return {"metric": labels, "values": [[START + at, str(v)] for at, v in values.items()]}


def vector(value: float, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [END, str(value)]}


def axes_of(figure: Figure, title: str) -> Any:
    """Return the axes that hold the data of the panel with that title."""
    (found,) = (axis for axis in figure.axes if axis.get_label() == title)
    return found


def texts(figure: Figure) -> list[str]:
    """Return all that is written in the panels."""
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def draw(path: Path, fake: FakePrometheus, **options: Any) -> Figure:
    options = {"start": START, "end": END, "step": 10} | options
    return dashboards.draw(path, prometheus_url=fake.url, **options)


def test_lines_have_the_answers_values_and_gaps(write: Any, fake: FakePrometheus) -> None:
    fake.answers["up"] = [
        matrix({0: 1, 10: 2, 40: 5, 60: 7}, pod="b-10"),
        matrix({20: 0.5}, pod="b-2"),
    ]
    figure = draw(write(panel("timeseries", "Latency")), fake)
    axis = axes_of(figure, "Latency")
    first, second = axis.lines
    assert [line.get_label() for line in axis.lines] == ["b-2", "b-10"], "natural order"
    np.testing.assert_array_equal(second.get_ydata(), [1, 2, np.nan, np.nan, 5, np.nan, 7])
    spacing = np.diff(second.get_xdata()) * 86400
    np.testing.assert_allclose(spacing, 10, atol=1e-3)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["b-2", "b-10"]
    (alone,) = [c.get_offsets() for c in axis.collections if len(c.get_offsets()) == 1]
    assert alone[0][1] == 0.5, "a point between gaps is drawn as a point"
    assert np.isnan(first.get_ydata()).sum() == 6
    assert "Latency" in texts(figure)
    kind, asked = fake.asked[-1]
    assert (kind, float(asked["start"]), float(asked["end"]), asked["step"]) == (
        "query_range", START, END, "10",
    )  # fmt: skip


def test_the_last_point_is_the_end(write: Any, fake: FakePrometheus) -> None:
    draw(write(panel("timeseries")), fake, start=START + 7)
    _, asked = fake.asked[-1]
    assert (float(asked["start"]), float(asked["end"])) == (START + 10, END)


def test_stacked_lines_are_sums(write: Any, fake: FakePrometheus) -> None:
    fake.answers["up"] = [
        matrix({0: 1, 10: 2, 20: 3}, pod="a"),
        matrix({0: 10, 20: 10}, pod="b"),
    ]
    stacked = {"unit": "short", "custom": {"stacking": {"mode": "normal"}, "fillOpacity": 30}}
    chart = panel("timeseries", fieldConfig={"defaults": stacked, "overrides": []})
    axis = axes_of(draw(write(chart), fake, end=START + 20), "One")
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), [1, 2, 3])
    np.testing.assert_array_equal(axis.lines[1].get_ydata(), [11, np.nan, 13])


@pytest.mark.parametrize("seconds", [1.3, 2, 3.5, 6, 20, 599])
def test_no_two_moments_have_the_same_name(
    write: Any, fake: FakePrometheus, seconds: float
) -> None:
    fake.answers["up"] = [matrix({0: 1, 1: 2}, pod="a")]
    figure = draw(write(panel("timeseries")), fake, end=START + seconds, step=1)
    figure.canvas.draw()
    names = [label.get_text() for label in axes_of(figure, "One").get_xticklabels()]
    assert names
    assert len(set(names)) == len(names)


def test_limits_units_and_thresholds_of_lines(write: Any, fake: FakePrometheus) -> None:
    fake.answers["up"] = [matrix({0: 0.2, 60: 0.9}, pod="a")]
    defaults = {
        "unit": "percentunit",
        "min": 0,
        "max": 1,
        "thresholds": {
            "steps": [{"color": "green", "value": None}, {"color": "red", "value": 0.8}]
        },
        "custom": {"thresholdsStyle": {"mode": "dashed"}},
    }
    override = {
        "matcher": {"id": "byName", "options": "a"},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": "purple"}}],
    }
    chart = panel("timeseries", fieldConfig={"defaults": defaults, "overrides": [override]})
    axis = axes_of(draw(write(chart), fake), "One")
    low, high = axis.get_ylim()
    assert -0.05 < low <= 0
    assert 1 <= high < 1.05
    assert [label.get_text() for label in axis.get_yticklabels()][-1] == "100%"
    line, threshold = axis.lines
    assert line.get_color() == formats.PURPLE
    assert list(threshold.get_ydata()) == [0.8, 0.8]
    assert threshold.get_color() == formats.RED


def test_a_stat_shows_value_unit_and_colour(write: Any, fake: FakePrometheus) -> None:
    fake.answers["up"] = [vector(0.0312, pod="a"), vector(2.5, pod="b")]
    steps = [{"color": "green", "value": None}, {"color": "red", "value": 1}]
    defaults = {"unit": "s", "color": {"mode": "thresholds"}, "thresholds": {"steps": steps}}
    figure = draw(write(panel("stat", fieldConfig={"defaults": defaults})), fake)
    shown = {text.get_text(): text.get_color() for text in axes_of(figure, "One").texts}
    assert shown["31.2 ms"] == formats.GREEN
    assert shown["2.5 s"] == formats.RED
    assert {"a", "b"} <= shown.keys()
    assert fake.asked[-1] == ("query", {"query": "up", "time": f"{END:.3f}"})


def test_a_stat_shows_what_its_value_is_mapped_to(write: Any, fake: FakePrometheus) -> None:
    fake.answers["up"] = [vector(1, pod="a")]
    mappings = [{"type": "value", "options": {"1": {"text": "drift", "color": "red"}}}]
    chart = panel("stat", fieldConfig={"defaults": {"mappings": mappings}})
    (text,) = axes_of(draw(write(chart), fake), "One").texts
    assert (text.get_text(), text.get_color()) == ("drift", formats.RED)


def test_a_gauge_and_bars_show_their_values(write: Any, fake: FakePrometheus) -> None:
    fake.answers = {"one": [vector(0.25)], "many": [vector(3, pod="b"), vector(6, pod="a")]}
    percent = {"defaults": {"unit": "percentunit", "min": 0, "max": 1}}
    dial = panel("gauge", "Dial", "one", fieldConfig=percent)
    bars = panel("bargauge", "Bars", "many", fieldConfig={"defaults": {"unit": "none", "max": 12}})
    bars["gridPos"] = {"x": 12, "y": 0, "w": 12, "h": 8}
    figure = draw(write(dial, bars), fake)
    wedge = axes_of(figure, "Dial").patches[1]
    assert (wedge.theta1, wedge.theta2) == (135, 180), "a quarter of the dial"
    assert "25%" in texts(figure)
    axis = axes_of(figure, "Bars")
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert [bar.get_width() for container in axis.containers for bar in container] == [6, 3]
    assert {"3", "6"} <= set(texts(figure))


def test_bars_keep_the_order_that_a_query_asks_for(write: Any, fake: FakePrometheus) -> None:
    fake.answers["topk(2, up)"] = [vector(6, pod="b"), vector(3, pod="a")]
    axis = axes_of(draw(write(panel("bargauge", expr="topk(2, up)")), fake), "One")
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "a"]


def test_names_of_bars_stay_in_their_panel(write: Any, fake: FakePrometheus) -> None:
    names = ["hidden-dc57113448a1b0f2", "WWWWWWWWWWWWWWWWWWWW", "employment_years", "a"]
    fake.answers["topk(4, up)"] = [vector(4 - n, pod=name) for n, name in enumerate(names)]
    narrow = panel("bargauge", expr="topk(4, up)", gridPos={"x": 4, "y": 0, "w": 8, "h": 8})
    figure = draw(write(narrow), fake)
    figure.canvas.draw()
    card = axes_of(figure, "card: One").get_window_extent()
    axis = axes_of(figure, "One")
    labels = axis.get_yticklabels()
    for label in labels:
        box = label.get_window_extent()
        assert card.x0 < box.x0, label.get_text()
        assert box.x1 < axis.get_window_extent().x0, label.get_text()
    assert [label.get_text()[-1] for label in labels] == ["…", "…", "s", "a"]


def test_a_bar_alone_is_as_tall_as_the_dashboard_allows(write: Any, fake: FakePrometheus) -> None:
    fake.answers["up"] = [vector(1, pod="a")]
    heights = []
    for tallest in (40, 20):
        chart = panel("bargauge", options={"maxVizHeight": tallest})
        (bars,) = axes_of(draw(write(chart), fake), "One").containers
        heights.append(bars[0].get_window_extent().height)
    assert heights[0] < 40
    assert heights[1] == pytest.approx(heights[0] / 2)


def test_a_table_joins_its_targets_by_labels(write: Any, fake: FakePrometheus) -> None:
    fake.answers = {
        "cpu": [vector(90, pod="b"), vector(0.5, pod="a")],
        "restarts": [vector(2, pod="b")],
    }
    override = {
        "matcher": {"id": "byName", "options": "CPU"},
        "properties": [{"id": "unit", "value": "s"}],
    }
    organize = {"renameByName": {"pod": "Pod", "Value #A": "CPU", "Value #B": "Restarts"}}
    chart = panel(
        "table",
        targets=[{"refId": "A", "expr": "cpu"}, {"refId": "B", "expr": "restarts"}],
        transformations=[{"id": "merge"}, {"id": "organize", "options": organize}],
        fieldConfig={"defaults": {"unit": "none"}, "overrides": [override]},
    )
    written = [text.get_text() for text in axes_of(draw(write(chart), fake), "One").texts]
    assert written == ["Pod", "CPU", "Restarts", "a", "500 ms", "–", "b", "1.5 min", "2"]


@pytest.mark.parametrize("kind", ["timeseries", "stat", "gauge", "bargauge", "table"])
@pytest.mark.parametrize("answer", [[], [math.nan]], ids=["nothing", "NaN"])
def test_a_panel_without_data_says_so(
    kind: str, answer: list[float], write: Any, fake: FakePrometheus
) -> None:
    make = (lambda v: matrix({0: v, 10: v})) if kind == "timeseries" else vector
    fake.answers["up"] = [make(value) for value in answer]
    figure = draw(write(panel(kind)), fake)
    assert texts(figure) == ["One", "no data"]


def test_panels_lie_where_the_grid_puts_them(write: Any, fake: FakePrometheus) -> None:
    places = {
        "left": {"x": 0, "y": 1, "w": 8, "h": 6},
        "right": {"x": 8, "y": 1, "w": 16, "h": 6},
        "below": {"x": 0, "y": 7, "w": 24, "h": 4},
    }
    panels = [panel("stat", title, gridPos=place) for title, place in places.items()]
    heading = {"type": "row", "title": "Group", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}}
    figure = draw(write(heading, *panels), fake)
    assert figure.get_size_inches()[0] == 10
    left, right, below = (axes_of(figure, f"card: {title}").get_position() for title in places)
    assert left.x1 < right.x0
    assert left.y0 == pytest.approx(right.y0)
    assert right.width > 1.9 * left.width
    assert below.y1 < left.y0
    assert below.x1 == pytest.approx(right.x1)
    assert below.y0 >= 0
    assert right.x1 <= 1
    assert figure.texts[0].get_text() == "Small"
    assert axes_of(figure, "Group").texts[0].get_text() == "Group"


def test_variables_are_the_dashboards_own_or_the_given(write: Any, fake: FakePrometheus) -> None:
    known = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {"name": "namespace", "type": "query", "current": {"value": "$__all"}, "allValue": ".+"},
        {"name": "pod", "type": "custom", "current": {"value": ["a", "b"]}},
        {"name": "limit", "type": "textbox", "query": "0.5"},
        {"name": "window", "type": "interval", "current": {"value": "5m"}},
    ]
    expr = 'up{n=~"$namespace",p=~"${pod:regex}"}[$window] > [[limit]] [$__rate_interval] $__range'
    chart = panel("stat", "Last $window", expr)
    chart["targets"][0]["legendFormat"] = "in $window"
    path = write(chart, variables=known)
    fake.targets = [{"labels": {}, "scrapeInterval": "30s"}, {"labels": {}, "scrapeInterval": "1s"}]
    figure = draw(path, fake)
    assert fake.queries()[-1] == 'up{n=~".+",p=~"(a|b)"}[5m] > 0.5 [120s] 60s'
    assert "Last 5m" in texts(figure)
    fake.targets = [{"labels": {}, "scrapeInterval": "1s"}]
    draw(path, fake, namespace="x", pod="c", limit=2, window="30s")
    assert fake.queries()[-1] == 'up{n=~"x",p=~"c"}[30s] > 2 [11s] 60s'
    with pytest.raises(DashboardError, match=r"no variable 'windows'.*namespace, pod, limit"):
        draw(path, fake, windows="1m")
    with pytest.raises(DashboardError, match=r"panel 'One'.*\$unknown"):
        draw(write(panel("stat", expr="up > $unknown")), fake)


def test_a_wrong_query_names_dashboard_and_panel(write: Any, fake: FakePrometheus) -> None:
    fake.answers["sum(up"] = "parse error: unclosed left parenthesis"
    with pytest.raises(DashboardError) as caught:
        draw(write(panel("timeseries", "Latency", "sum(up")), fake)
    for part in ("'Small'", "small.json", "'Latency'", "unclosed left parenthesis", "sum(up"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "piechart"}, "'piechart' is not drawn; timeseries"),
        ({"gridPos": {"x": 20, "y": 0, "w": 12, "h": 8}}, "24 columns"),
        ({"gridPos": {"x": 0}}, "whole numbers x, y, w and h"),
        ({"targets": []}, "no targets"),
        ({"targets": [{"refId": "C"}]}, "target C has no `expr`"),
        ({"transformations": [{"id": "reduce"}]}, "transformation 'reduce'"),
    ],
)
def test_a_panel_that_cannot_be_drawn(
    change: dict[str, Any], message: str, write: Any, fake: FakePrometheus
) -> None:
    with pytest.raises(DashboardError, match=message) as caught:
        draw(write(panel("stat", "Odd") | change), fake)
    assert "'Small' (small.json), panel 'Odd'" in str(caught.value)
    assert not fake.asked


def test_a_relative_path_is_of_the_repository_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClientError):  # it was read: nobody answers at that address
        dashboards.draw(
            "manifests/monitoring/dashboards/serving.json", prometheus_url="http://127.0.0.1:1"
        )


def test_files_that_are_no_dashboard(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DashboardError, match=r"a\.json cannot be read"):
        dashboards.draw(path, prometheus_url="http://127.0.0.1:1")
    path.write_text("{")
    with pytest.raises(DashboardError, match="is not JSON"):
        dashboards.draw(path, prometheus_url="http://127.0.0.1:1")
    path.write_text('{"kind": "Deployment"}')
    with pytest.raises(DashboardError, match="no list `panels`"):
        dashboards.draw(path, prometheus_url="http://127.0.0.1:1")


def test_impossible_times(write: Any, fake: FakePrometheus) -> None:
    path = write(panel("timeseries"))
    for options in ({"start": END, "end": START}, {"start": 0}, {"step": 0}, {"step": 1e-4}):
        with pytest.raises(DashboardError):
            draw(path, fake, **options)
    with pytest.raises(DashboardError, match="nan"):
        draw(path, fake, start=math.nan)


def test_a_prometheus_that_is_none(write: Any, fake: FakePrometheus) -> None:
    path = write(panel("stat"))
    with pytest.raises(ClientError, match="does not answer"):
        dashboards.draw(path, prometheus_url="http://127.0.0.1:1")
    fake.answer = lambda kind, query: (404, {"detail": "Not Found"})  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="not as Prometheus does"):
        draw(path, fake)


class NoPrometheus:
    """A stack without one."""

    backend = "local"
    prometheus_url = None
    prometheus_note = "There is no Prometheus: install it."


def test_without_prometheus_one_sentence_and_nothing_else(capsys: Any) -> None:
    stack: Any = NoPrometheus()
    assert dashboards.draw(FOLDER / "serving.json", stack) is None
    assert capsys.readouterr().out == "There is no Prometheus: install it.\n"
    assert dashboards.settle(stack) is None


@pytest.mark.filterwarnings("error")
def test_figures_are_small_and_known_to_a_notebook(write: Any, fake: FakePrometheus) -> None:
    fake.answers["up"] = [
        matrix({at: at * number for at in range(0, 61, 10)}, pod=str(number)) for number in range(9)
    ]
    figure = draw(write(panel("timeseries")), fake)
    png = figure._repr_png_()
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert picture.size == tuple(round(100 * side) for side in figure.get_size_inches())
    plain = io.BytesIO()
    figure.savefig(plain, format="raw")
    exact = np.frombuffer(plain.getvalue(), np.uint8).reshape(*picture.size[::-1], 4)[..., :3]
    shown = np.asarray(picture.convert("RGB"))
    assert np.abs(shown.astype(int) - exact).max() < 40, "thin lines keep their colours"
    whole = io.BytesIO()
    Image.fromarray(exact).save(whole, "PNG", optimize=True)
    assert len(png) < 0.6 * len(whole.getvalue())


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.0123, "s", "12.3 ms"),
        (0, "s", "0 s"),
        (90, "s", "1.5 min"),
        (0.00002, "s", "20 µs"),
        (250, "ms", "250 ms"),
        (1500, "ms", "1.5 s"),
        (0.9, "percentunit", "90%"),
        (0.12345, "percentunit", "12.3%"),
        (3 * 2**20, "bytes", "3 MiB"),
        (0, "bytes", "0 B"),
        (1234567, "decbytes", "1.23 MB"),
        (12.345, "reqps", "12.3 req/s"),
        (17_820, "short", "17.8 K"),
        (0.5, "short", "0.5"),
        (1234, "none", "1,234"),
        (2.4e-4, "none", "0.00024"),
        (-1.5, "none", "−1.5"),
        (3, "explanations", "3 explanations"),
        (math.inf, "s", "∞"),
        (math.nan, "s", "–"),
    ],
)
def test_units(value: float, unit: str, expected: str) -> None:
    assert formats.text(float(value), Field({"unit": unit}, {})) == expected


# Waiting for a scrape


def test_settle_waits_for_a_scrape_of_every_target_after_the_call(fake: FakePrometheus) -> None:
    fake.targets = [
        {"labels": {"job": "j", "instance": "a"}},
        {"labels": {"job": "j", "instance": "b"}},
    ]
    asked = iter(range(100))

    def scraped() -> list[dict[str, Any]]:
        after = END + 5 if next(asked) >= 2 else END - 5
        return [vector(END + 1, job="j", instance="a"), vector(after, job="j", instance="b")]

    fake.answers = {"time()": [END, str(END)], "timestamp(up)": scraped}
    dashboards.settle(prometheus_url=fake.url, seconds=30)
    assert fake.queries().count("timestamp(up)") == 3
    fake.answers["timestamp(up)"] = [vector(END + 1, job="j", instance="a")]
    with pytest.raises(DashboardError, match=r"0\.3 s.*b \(j\)"):
        dashboards.settle(prometheus_url=fake.url, seconds=0.3)
    fake.targets = []
    with pytest.raises(DashboardError, match="any target"):
        dashboards.settle(prometheus_url=fake.url, seconds=0.3)


class NewServer:
    """A local stack: Prometheus knows one of its servers, not yet the second; the third has no metrics."""

    backend = "local"
    prometheus_note = ""

    def __init__(self, url: str) -> None:
        self.prometheus_url = url
        self.looked: list[str] = []

    def status(self) -> list[ServerStatus]:
        names = ("known", "new", "silent")
        started = ServerStatus("starting", "Deployment/starting", "starting")
        return [*(ServerStatus(name, f"Deployment/{name}", "ready") for name in names), started]

    def metrics(self, name: str) -> Samples:
        self.looked.append(name)
        if name != "new":
            raise StackError(f"{name} has no metrics")
        return Samples.parse("")


def test_settle_waits_for_a_server_that_prometheus_has_not_found_yet(fake: FakePrometheus) -> None:
    stack: Any = NewServer(fake.url)
    known = {"labels": {"job": "j", "instance": "a", "pod": "known"}}
    new = {"labels": {"job": "j", "instance": "b", "pod": "new"}}
    scraped = [vector(END + 1, job="j", instance="a"), vector(END + 1, job="j", instance="b")]
    fake.answers = {"time()": [END, str(END)], "timestamp(up)": scraped}
    fake.targets = [known]
    with pytest.raises(DashboardError, match=r"has not scraped new\."):
        dashboards.settle(stack, 0.3)
    assert set(stack.looked) == {"new", "silent"}
    fake.targets = [known, new]
    dashboards.settle(stack, 5)


# The files


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def content(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text(encoding="utf-8"))


def test_the_dashboards_are_there() -> None:
    assert tuple(path.stem for path in FILES) == NAMES


def test_a_dashboard_is_as_grafana_takes_it(content: dict[str, Any]) -> None:
    checker = jsonschema.Draft202012Validator(grafana.DASHBOARD)
    wrong = [f"{error.json_path}: {error.message:.200}" for error in checker.iter_errors(content)]
    assert not wrong, "\n".join(wrong)
    assert "walkthrough" in content["tags"]
    ids = [one["id"] for one in content["panels"]]
    assert len(set(ids)) == len(ids)
    for one in content["panels"]:
        refs = [target["refId"] for target in one["targets"]]
        assert len(set(refs)) == len(refs)
        steps = [step["value"] for step in one["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        assert steps[0] is None, one["title"]
        assert steps[1:] == sorted(steps[1:]), one["title"]
        for target in one["targets"]:
            assert target["instant"] is (one["type"] != "timeseries")
            assert target["range"] is not target["instant"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schemaversion": 42}, "'schemaversion' was unexpected"),
        ({"schemaVersion": 36}, "42 was expected"),
        ({"uid": "serving"}, "does not match"),
        ({"id": 7}, "is not of type 'null'"),
    ],
)
def test_the_schema_refuses(change: dict[str, Any], told: str) -> None:
    content = json.loads((FOLDER / "serving.json").read_text(encoding="utf-8")) | change
    checker = jsonschema.Draft202012Validator(grafana.DASHBOARD)
    assert any(told in error.message for error in checker.iter_errors(content))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"type": "graph"}, "'graph' is not one of"),
        ({"description": ""}, "should be non-empty"),
        ({"datasource": {"type": "prometheus", "uid": "PBFA97CFB590B2093"}}, "was expected"),
        ({"nullPointMode": "null"}, "'nullPointMode' was unexpected"),
        ({"fieldConfig": {"defaults": {}, "overrides": []}}, "'unit' is a required property"),
    ],
)
def test_the_schema_refuses_a_panel(change: dict[str, Any], told: str) -> None:
    content = json.loads((FOLDER / "serving.json").read_text(encoding="utf-8"))
    content["panels"][4] |= change
    checker = jsonschema.Draft202012Validator(grafana.DASHBOARD)
    assert any(told in error.message for error in checker.iter_errors(content))


def test_a_dashboard_shows_what_its_namespace_and_deployment_have(content: dict[str, Any]) -> None:
    names = [variable["name"] for variable in content["templating"]["list"]]
    assert names[0] == "datasource"
    assert {"namespace", "deployment"} <= set(names)
    for one in content["panels"]:
        for target in one["targets"]:
            if not target["expr"].startswith("vector("):  # a threshold
                assert "$namespace" in target["expr"], one["title"]
    used = json.dumps(content["panels"]) + "".join(
        variable.get("definition", "") for variable in content["templating"]["list"]
    )
    for name in names:
        assert re.search(rf"\$\{{?{name}\b", used), f"{name} is used nowhere"


def test_panels_do_not_overlap(content: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for one in content["panels"]:
        place = one["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, one["title"]
        taken |= cells


def test_metric_names_finds_them_all() -> None:
    found = metric_names('sum by (le) (rate(a_total{x="y_total"}[$w])) / {__name__=~"(b|c)_total"}')
    assert found == {"a_total", "b_total", "c_total"}
    found = metric_names(
        "sum by (x) (a:b:rate5m) / on (y) count(c) unless d offset 5m > clamp_min(2, 0.1)"
    )
    assert found == {"a:b:rate5m", "c", "d"}


def test_dashboards_ask_for_metrics_that_servers_expose(content: dict[str, Any]) -> None:
    known = exposed() | {"ALERTS"}  # which Prometheus makes itself
    for one in content["panels"]:
        for target in one["targets"]:
            unknown = metric_names(target["expr"]) - known
            assert not unknown, f"{one['title']}: {sorted(unknown)} is exposed by no server"
    for variable in content["templating"]["list"]:
        queried = re.match(r"label_values\((\w+)", variable.get("definition", ""))
        assert queried is None or queried[1] in known


# A real Prometheus


@pytest.fixture
def start_prometheus(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return start(scraped, backfill): the URL of a Prometheus, gone after the test.

    scraped: `host:port` to scrape each half second; backfill: OpenMetrics text with timestamps.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def start(scraped: str = "", backfill: str = "") -> str:
        data = tmp_path / "tsdb"
        if backfill:
            (tmp_path / "history").write_text(backfill)
            subprocess.run(
                [
                    "promtool",
                    "tsdb",
                    "create-blocks-from",
                    "openmetrics",
                    tmp_path / "history",
                    data,
                ],
                check=True,
                capture_output=True,
                timeout=60,
            )
        scrape = {"job_name": "test", "static_configs": [{"targets": [scraped]}]}
        config: dict[str, Any] = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}}
        config["scrape_configs"] = [scrape] if scraped else []
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = (tmp_path / "log").open("wb")
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        log.close()
        processes.append(process)
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 30
        while not _ready(url):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, f"no answer from {url}"
            time.sleep(0.05)
        return url

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@needs_prometheus
@pytest.mark.timeout(120)
def test_real_prometheus_takes_every_query(start_prometheus: Callable[..., str]) -> None:
    url = start_prometheus()
    for path in FILES:
        figure = dashboards.draw(path, prometheus_url=url, minutes=1)
        empty = texts(figure).count("no data")
        assert empty >= len(model.read(path).panels) - 2, "only constants have values"


@needs_prometheus
@pytest.mark.timeout(120)
def test_what_was_just_sent_is_drawn(start_prometheus: Callable[..., str], write: Any) -> None:
    registry = CollectorRegistry()
    hits = Counter("hits", "", ["class"], registry=registry)
    Gauge("level", "", registry=registry).set(0.75)
    took = Histogram("took_seconds", "", buckets=(0.1, 0.2, 0.4), registry=registry)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = generate_latest(registry)
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = start_prometheus(f"127.0.0.1:{server.server_port}")
        began = time.time()
        dashboards.settle(prometheus_url=url, seconds=30)
        for k in (2, 10):
            hits.labels(f"CLASS_{k}").inc(k)
        for value in (0.05, 0.15, 0.15, 0.3):
            took.observe(value)
        dashboards.settle(prometheus_url=url, seconds=30)
        quantile = "histogram_quantile(0.5, sum by (le) (took_seconds_bucket))"
        whole = {"x": 0, "y": 0, "w": 24, "h": 8}
        lines = panel("timeseries", "Hits", "hits_total", gridPos=whole)
        lines["targets"][0]["legendFormat"] = "{{class}}"
        median = panel("stat", "Median", quantile, gridPos=whole | {"y": 8})
        level = panel("gauge", "Level", "level", gridPos=whole | {"y": 16})
        level["fieldConfig"] = {"defaults": {"unit": "percentunit"}}
        figure = dashboards.draw(
            write(lines, median, level), prometheus_url=url, start=began, step=1
        )
        server.shutdown()
    drawn = {line.get_label(): line.get_ydata() for line in axes_of(figure, "Hits").lines}
    assert list(drawn) == ["CLASS_2", "CLASS_10"]
    assert [values[-1] for values in drawn.values()] == [2, 10]
    assert [text.get_text() for text in axes_of(figure, "Median").texts] == ["150 ms"]
    assert "75%" in texts(figure)


def history(*counts: tuple[float, np.ndarray, np.ndarray]) -> str:
    """Return OpenMetrics of counters of feedback: at each time, truths and answers up to then."""
    lines = []
    for name in ("true_positive", "true_negative", "false_negative", "false_positive"):
        lines.append(f"# TYPE seldon_metric_{name} counter")
        for at, truths, answers in counts:
            for k in range(4):
                right = np.sum((truths == k) & (answers == k))
                number = {
                    "true_positive": right,
                    "true_negative": right,  # as Seldon's one-hot server counts it
                    "false_negative": np.sum((truths == k) & (answers != k)),
                    "false_positive": np.sum((truths != k) & (answers == k)),
                }[name]
                if number:  # a series begins with its first count
                    labels = f'class="CLASS_{k}",deployment_name="cifar10",worker_id="{k % 2}"'
                    lines.append(f"seldon_metric_{name}_total{{{labels}}} {number} {at:.0f}")
    return "\n".join([*lines, "# EOF", ""])


@needs_promtool
@pytest.mark.timeout(120)
def test_statistical_figures_are_those_of_scikit_learn(
    start_prometheus: Callable[..., str],
) -> None:
    now = float(int(time.time()))
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 4, 400)
    answers = np.where(rng.random(400) < 0.9, truths, (truths + 1) % 4)
    # The last 100 of the 400: 40 % right, and class 3 is neither true nor answered.
    truths[300:] = rng.integers(0, 3, 100)
    answers[300:] = np.where(rng.random(100) < 0.4, truths[300:], (truths[300:] + 1) % 3)
    text = history(
        *((now - ago, truths[:300], answers[:300]) for ago in range(200, 40, -10)),
        *((now - ago, truths, answers) for ago in range(40, -1, -10)),
    )
    url = start_prometheus(backfill=text)
    figure = dashboards.draw(
        FOLDER / "statistical.json", prometheus_url=url, end=now, minutes=3, window="60s"
    )
    late = (truths[300:], answers[300:])
    accuracy = dict(
        zip(
            ("last 60s", "all feedback"),
            (line.get_ydata() for line in axes_of(figure, "Accuracy").lines),
            strict=True,
        )
    )
    assert accuracy["last 60s"][-1] == pytest.approx(accuracy_score(*late))
    assert accuracy["all feedback"][-1] == pytest.approx(accuracy_score(truths, answers))
    assert accuracy["all feedback"][0] == pytest.approx(accuracy_score(truths[:300], answers[:300]))

    shown = [text.get_text() for text in axes_of(figure, "Mean over the classes now").texts]
    table = confusion_matrix(*late)
    negatives = table.sum() - table.sum(1)
    specificity = np.mean((negatives - (table.sum(0) - np.diag(table))) / negatives)
    # Class 3 has no rows of late, so no recall or precision; nobody answered it: specificity 1.
    specificity = (3 * specificity + 1) / 4
    expected = {
        "precision": precision_score(*late, average="macro"),
        "recall": recall_score(*late, average="macro"),
        "specificity": specificity,
    }
    percent = Field({"unit": "percentunit"}, {})
    assert shown == [
        part for name, value in expected.items() for part in (formats.text(value, percent), name)
    ]
    feedback = [text.get_text() for text in axes_of(figure, "Feedback").texts]
    assert feedback == ["100", "in 60s", "400", "all"]
    by_class = [text.get_text() for text in axes_of(figure, "All feedback by class").texts]
    first = by_class[8 : 2 * 8]
    recalls = recall_score(truths, answers, average=None)
    assert first[:2] == ["CLASS_0", str(np.sum(truths == 0))]
    assert first[6] == formats.text(float(recalls[0]), percent)


@pytest.mark.parametrize(
    ("intervals", "at_least", "wanted"),
    [(["1s", "1s"], "2s", "2s"), (["1s", "15s"], "2s", "30s"), (["1s"], "1m30s", "90s")],
)
def test_a_window_holds_two_scrapes(
    fake: FakePrometheus, intervals: list[str], at_least: str, wanted: str
) -> None:
    fake.targets = [{"labels": {}, "scrapeInterval": interval} for interval in intervals]
    stack = SimpleNamespace(prometheus_url=fake.url)
    assert dashboards.window(stack, at_least) == wanted
    assert dashboards.window(SimpleNamespace(prometheus_url=None), at_least) == at_least
