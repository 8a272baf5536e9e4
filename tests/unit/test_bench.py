"""`make bench`: what is committed is what the README says, and the harness measures what it says it does."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import machine, on_paper, report
from benchmarks.figures import Found, in_turn, is_met, percentile, text
from benchmarks.load import Target, send
from benchmarks.parts import notebooks
from benchmarks.reasons import REASONS
from helpers.errors import WalkthroughError

RESULTS = report.read()


def test_the_readme_is_made_of_the_committed_results() -> None:
    readme = report.README.read_text(encoding="utf-8")
    assert report.filled(readme, RESULTS) == readme, "run `python -m benchmarks --report`"
    assert set(RESULTS) <= set(bench.PARTS) == set(report.PARTS)
    assert f"at most {machine.CALM_LOAD} as the run begins" in readme
    assert f"at most {machine.CALM_OTHERS} cores meanwhile" in readme
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == set(bench.PARTS)


TARGETS = {
    "model": {
        "gateway_latency": "< 2",
        "share_32": "≥ 80",
        "logging_paced": "< 5",
        "logging_throughput": "< 5",
    },
    "explain": {
        "anchor_made": "< 250",
        "anchor_cached": "< 10",
        "anchor_reuse": "≥ 10",
        "gradients_batch": "≥ 100",
    },
    "detectors": {"drift_constant": "< 1.1"},
}


def test_every_target_has_its_row_and_every_missed_one_its_reason() -> None:
    assert set(REASONS) == {key for targets in TARGETS.values() for key in targets}
    calm = {part: {**found, "calm": True, "quick": False} for part, found in RESULTS.items()}
    shown = report.whole(calm)
    for part, found in RESULTS.items():
        rows = {row["key"]: row for row in found["rows"]}
        targets = {key: row["target"] for key, row in rows.items() if row["target"]}
        assert targets == TARGETS.get(part, {})
        for key, target in targets.items():
            anchor = f'id="why-{key.replace("_", "-")}"'
            assert (anchor in shown) == (is_met(rows[key]["value"], target) is False)


def test_the_seconds_of_notebooks_are_those_of_the_readme() -> None:
    (table,) = RESULTS["notebooks"]["tables"]
    assert dict(map(tuple, table["rows"])) == notebooks.committed()
    told = re.search(r"one after the other, (\d+) in all", notebooks.README.read_text("utf-8"))
    assert told is not None
    assert int(told[1]) == sum(notebooks.committed().values())


def test_busy_and_small_runs_are_marked() -> None:
    def found(**changed: object) -> str:
        part = {**RESULTS["model"], "calm": True, "quick": False, **changed}
        return report.whole({"model": part})

    assert "†" not in found()
    for text_of in (found(calm=False), found(quick=True)):
        assert "**Not final: predictions.**" in text_of
        assert " ms † |" in text_of
        assert "| open † |" in text_of
        assert "**no**" not in text_of
        assert "targets that are missed" not in text_of.lower()
    assert machine.Quiet(0.7, 0.1, 0).calm
    assert not machine.Quiet(0.8, 0.0, 0).calm
    assert not machine.Quiet(0.1, 0.5, 0).calm


def test_what_10000_predictions_a_second_need_follows_from_the_measurements() -> None:
    costs = {name: 1.0 for name in on_paper.PODS if name != "explainer"} | {"model server": 3.0}
    row = {"key": "scale_error", "limit": "200 promised, 190 measured", "value": -5.0}
    results = {
        "scale": {"facts": {"milliseconds": costs, "payload_bytes": 34_000}, "rows": [row]},
        "servers": {"facts": {place: 512.0 for _, place in on_paper.PODS.values()}},
        "explain": {"facts": {"AnchorImages_cifar10_seconds": 0.06}},
    }
    needed = {one["part"]: one for one in on_paper.needs(results)}
    assert set(needed) == set(on_paper.PODS)
    # 10,000 · 3 ms are 30 cores, 50 where they are 60 % busy: 25 pods of two cores, half a GiB each.
    assert needed["model server"]["cores"] == pytest.approx(50)
    assert (needed["model server"]["pods"], needed["model server"]["gib"]) == (25, 12.5)
    # 10 explanations of 60 ms each second.
    assert needed["explainer"]["cores"] == pytest.approx(1)
    told = on_paper.told(results)
    assert "| model server | 3.00 | 333 | 50.0 | 25 | 12.5 |" in told
    assert "2.7 Gbit/s" in told
    assert "200 promised, 190 measured, -5 %" in told
    assert on_paper.told({}) == ""


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    most = under_way = 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        kind = type(self)
        with kind.lock:
            kind.under_way += 1
            kind.most = max(kind.most, kind.under_way)
        body = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.02)
        with kind.lock:
            kind.under_way -= 1
        self.send_response(500 if body == b"bad" else 200)
        self.send_header("content-length", "70000")
        self.end_headers()
        self.wfile.write(b"x" * 70_000)
        self.close_connection = body == b"close"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def target() -> Iterator[Target]:
    _Answers.most = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield Target(f"http://127.0.0.1:{server.server_port}/some/path")
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_load_sends_so_many_so_many_at_once(target: Target) -> None:
    load = send(target, [target.request(b"{}")], concurrency=4, count=24)
    assert load.codes == {200: 24}
    assert _Answers.most == 4
    assert min(load.seconds) >= 0.02
    assert load.p(50) <= load.p(99) <= max(load.seconds) <= load.duration
    assert load.rate == pytest.approx(24 / load.duration)


def test_load_lasts_as_long_as_told_and_pauses(target: Target) -> None:
    fast = send(target, [target.request(b"{}")], concurrency=1, seconds=0.4)
    slow = send(target, [target.request(b"{}")], concurrency=1, seconds=0.4, pause=0.1)
    assert 0.4 <= fast.duration < 2
    assert len(slow.seconds) < len(fast.seconds)


def test_load_that_fails_says_so(target: Target) -> None:
    requests = [target.request(b"{}"), target.request(b"bad")]
    with pytest.raises(WalkthroughError, match=r"answered \{500: 1\} of 2 requests"):
        send(target, requests, concurrency=1, count=2)
    with pytest.raises(WalkthroughError, match="the server closed the connection"):
        send(target, [target.request(b"close")], concurrency=1, count=2)
    with pytest.raises(WalkthroughError, match=r"127\.0\.0\.1:9/"):
        send(Target("http://127.0.0.1:9/"), [b""], concurrency=1, count=1)


def test_measures_take_turns() -> None:
    order: list[str] = []
    found = in_turn(3, a=lambda: order.append("a") or 1, b=lambda: order.append("b") or 2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 1, 1], "b": [2, 2, 2]}


def test_rows_hold_the_median_and_its_target() -> None:
    found = Found()
    found.add("some", "Something", [3.0, 1.0, 2.0], "ms", target="< 2")
    (row,) = found.rows
    assert (row.value, row.low, row.high, row.rounds, row.met) == (2.0, 1.0, 3.0, 3, False)
    assert is_met(80.0, "≥ 80")
    assert is_met(1.0, "") is None
    with pytest.raises(ValueError, match="no target"):
        is_met(1.0, "under 2")
    assert percentile([4, 1, 3, 2], 50) == 2
    assert percentile(range(1, 101), 99) == 99
    numbers = (0.0, 0.01234, 1.234, 12.34, 1234.5, 7)
    assert [text(one) for one in numbers] == ["0", "0.012", "1.23", "12.3", "1,234", "7"]


def test_a_part_is_run_written_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = report.README.read_bytes()
    bench.main(["--quick", "--only", "notebooks", "--results", str(tmp_path)])
    content = json.loads((tmp_path / "notebooks.json").read_text(encoding="utf-8"))
    assert content["quick"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", content["date"])
    assert content["machine"]["cores"] >= 1
    assert "| 01_train_resnet32 |" in capsys.readouterr().out
    assert report.README.read_bytes() == before


def test_a_part_that_takes_too_long_is_ended_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(quick: bool, alone: bool) -> Found:
        threading.Event().wait(20)
        return Found()

    monkeypatch.setattr(notebooks, "measure", hangs)
    monkeypatch.setattr(bench, "NOTEBOOK_SECONDS", 0.05)
    with pytest.raises(SystemExit, match=r"notebooks: not measured within 0\.05 s"):
        bench.main(["--only", "notebooks", "--results", str(tmp_path)])
    assert not list(tmp_path.iterdir())
