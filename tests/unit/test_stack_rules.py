"""PrometheusRule objects on the local stack: what is refused, which files they become, who is told."""

from __future__ import annotations

import asyncio
import http.server
import json
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.errors import ManifestError, StackError
from helpers.serving.broker.broker import Broker
from helpers.serving.broker.retention import Limits
from helpers.serving.common.metrics import new_registry
from helpers.serving.gateway.routes import Routes
from helpers.stack import alerts
from helpers.stack.documents import Document
from helpers.stack.interface import ServerStatus
from helpers.stack.local import prometheus, rules
from helpers.stack.local.cluster import Cluster
from helpers.stack.local.resources import PrometheusRule, parse
from helpers.stack.local.rules import RuleFiles
from helpers.stack.local.spec import ServerSpec

needs_promtool = pytest.mark.skipif(
    rules.shutil.which("promtool") is None, reason="the program `promtool` is not installed"
)


def manifest(name: str = "one", *more: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a PrometheusRule with one alert, changed, and more rules."""
    rule = {
        "alert": "Down",
        "expr": "up == 0",
        "for": "5m",
        "annotations": {"summary": "{{ $labels.pod }} is down"},
    } | changes
    rule = {key: value for key, value in rule.items() if value is not None}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name, "namespace": "walkthrough"},
        "spec": {"groups": [{"name": "g", "rules": [rule, *more]}]},
    }


def rule_of(content: dict[str, Any]) -> PrometheusRule:
    found = parse(Document("rules.yaml", content))
    assert isinstance(found, PrometheusRule)
    return found


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"record": "a:b"}, r"rules\[0\]: give alert or record, one of them"),
        ({"alert": None}, r"rules\[0\]: give alert or record"),
        (
            {"alert": None, "record": "a:b"},
            "a:b is recorded: for and keep_firing_for are of alerts",
        ),
        ({"for": "5 minutes"}, r"for: a duration is written as 30s, 5m or 1h30m, not '5 minutes'"),
        ({"for": ""}, "for: a duration is written"),
        (
            {"severity": "x"},
            r"severity: the local stack does not support this field; .*annotations",
        ),
        ({"labels": {"severity": 1}}, "severity: must be text"),
    ],
)
def test_what_the_operator_would_refuse(changes, told):
    with pytest.raises(ManifestError, match=rf"rules\.yaml, PrometheusRule: .*{told}"):
        rule_of(manifest(**changes))


def test_two_groups_of_one_name():
    content = manifest()
    content["spec"]["groups"] *= 2
    with pytest.raises(ManifestError, match="two groups are called 'g'"):
        rule_of(content)


@needs_promtool
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"expr": "sum(up"}, r"rule Down: could not parse expression: 1:7: .*unclosed"),
        (
            {"annotations": {"summary": "{{ $value | no }}"}},
            r'rule Down: annotation "summary".*"no"',
        ),
        ({"labels": {"a-b": "c"}}, r"rule Down: invalid label name: a-b\.$"),
        ({"alert": None, "record": "a b", "for": None, "annotations": None}, "rule a b: .*name"),
    ],
)
def test_what_prometheus_would_refuse_names_file_and_rule(changes, told, tmp_path):
    files = RuleFiles(tmp_path)
    asyncio.run(files.check(rule_of(manifest()), "rules.yaml"))
    with pytest.raises(ManifestError, match=rf"^rules\.yaml, PrometheusRule: group g, {told}"):
        asyncio.run(files.check(rule_of(manifest(**changes)), "rules.yaml"))


def test_files_are_those_of_the_objects_and_prometheus_is_told_of_changes(tmp_path, monkeypatch):
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(rules.os, "kill", lambda pid, number: told.append((pid, number)))
    ready = [
        ServerStatus("other", "stack", "ready", pid=1),
        ServerStatus("prometheus", "stack", "ready", pid=7),
    ]
    files = RuleFiles(tmp_path / "rules")

    files.write([])
    files.load(ready)
    assert not told, "nothing has changed"

    recorded = {"record": "a:b", "expr": 1, "labels": {"x": "y"}}
    first, second = rule_of(manifest("one", recorded)), rule_of(manifest("two"))
    files.write([first, second])
    files.load([ServerStatus("prometheus", "stack", "starting", pid=7)])
    assert not told, "SIGHUP ends one that has not begun to listen for it"
    files.load(ready)
    files.load(ready)
    files.write([first, second])
    files.load(ready)
    assert told == [(7, signal.SIGHUP)]
    names = sorted(path.name for path in (tmp_path / "rules").iterdir())
    assert names == ["walkthrough.one.rules.yml", "walkthrough.two.rules.yml"]
    written = yaml.safe_load((tmp_path / "rules" / names[0]).read_text())
    assert written == manifest("one", recorded)["spec"]

    files.write([second])
    files.load(ready)
    assert len(told) == 2
    assert [path.name for path in (tmp_path / "rules").iterdir()] == names[1:]


def test_a_prometheus_that_ended_meanwhile_is_no_error(tmp_path, monkeypatch):
    def gone(pid: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(rules.os, "kill", gone)
    files = RuleFiles(tmp_path)
    files.write([rule_of(manifest())])
    files.load([ServerStatus("prometheus", "stack", "ready", pid=7)])


def test_the_files_of_rules_are_in_the_configuration(tmp_path):
    text = prometheus.configuration(
        "http://127.0.0.1:1/", "token", rules=tmp_path, scrape_interval="3s"
    )
    found = yaml.safe_load(text)
    assert found["rule_files"] == [f"{tmp_path}/*.rules.yml"]
    assert found["global"]["evaluation_interval"] == "3s"
    assert "rule_files" not in yaml.safe_load(prometheus.configuration("http://x/", "token"))


class Supervisor:
    """One that runs nothing but says that Prometheus is ready."""

    def apply(self, spec: ServerSpec) -> None:
        """Nothing."""

    def remove(self, name: str) -> None:
        """Nothing."""

    def status(self) -> list[ServerStatus]:
        return [ServerStatus("prometheus", "stack", "ready", pid=7)]


def cluster(folder: Path, events: str = "broker") -> Cluster:
    broker = Broker(folder / events, new_registry(), Limits())
    made = Cluster(
        Supervisor(), Routes(), broker, "127.0.0.1:1", "127.0.0.1:2",
        folder / "objects.json", RuleFiles(folder / "rules"),
    )  # fmt: skip
    made.run_beside(ServerSpec("prometheus", "stack", ("prometheus",)))
    return made


def test_apply_and_delete(tmp_path, monkeypatch):
    told: list[int] = []
    monkeypatch.setattr(rules.os, "kill", lambda pid, number: told.append(pid))
    monkeypatch.setattr(prometheus, "find_prometheus", lambda: Path("/usr/bin/prometheus"))

    async def run() -> None:
        made = cluster(tmp_path)
        document = Document("rules.yaml", manifest())
        (applied,) = await made.apply([document])
        assert str(applied) == "prometheusrule/one created"
        assert (tmp_path / "rules/walkthrough.one.rules.yml").exists()
        (applied,) = await made.apply([document])
        assert applied.action == "unchanged"
        assert told == [7]
        with pytest.raises(ManifestError, match=r"rules\.yaml, PrometheusRule"):
            await made.apply([Document("rules.yaml", manifest(expr="sum(up", alert=None))])
        assert made.status()[0].waits_for == ()

        again = cluster(tmp_path, "broker-2")  # a daemon that was started again
        await again.restore()
        assert [str(one) for one in again.objects.values()] == ["PrometheusRule/one"]
        (deleted,) = await again.delete([document])
        assert str(deleted) == "prometheusrule/one deleted"
        assert list((tmp_path / "rules").iterdir()) == []
        assert told == [7, 7]

    asyncio.run(run())


def test_without_prometheus_rules_are_taken_and_the_note_says_what_is_left_out(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(prometheus, "find_prometheus", lambda: None)
    monkeypatch.setattr(rules.shutil, "which", lambda name: None)
    monkeypatch.setattr(rules.os, "kill", lambda *_: None)
    (applied,) = asyncio.run(cluster(tmp_path).apply([Document("rules.yaml", manifest())]))
    assert str(applied) == (
        "prometheusrule/one created (not evaluated: the program `prometheus` is not on PATH, so there "
        "are neither its alerts nor its recorded series)"
    )


# What Prometheus says of its alerts


@pytest.fixture
def answers():
    """Return (url, content): a server that answers every request with the bytes in `content`."""
    content: list[bytes] = [b""]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/v1/alerts" else 404)
            self.send_header("content-length", str(len(content[0])))
            self.end_headers()
            self.wfile.write(content[0])

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", content
        server.shutdown()


def test_alerts_have_names_labels_state_value_and_time(answers):
    url, content = answers
    found = [
        {
            "labels": {"alertname": name, "severity": "warning", "pod": "a"},
            "annotations": {"summary": "a is down"},
            "state": state,
            "activeAt": "2026-11-22T06:00:01.123456789Z",
            "value": value,
        }
        for name, state, value in (("B", "pending", "+Inf"), ("A", "firing", "2.5e-01"))
    ]
    content[0] = json.dumps({"status": "success", "data": {"alerts": found}}).encode()
    first, second = alerts.read(f"{url}/")
    assert (first.name, first.state, first.value) == ("A", "firing", 0.25)
    assert first.labels == {"severity": "warning", "pod": "a"}
    assert first.annotations == {"summary": "a is down"}
    assert first.since == datetime(2026, 11, 22, 6, 0, 1, 123456, UTC)
    assert (second.name, second.value) == ("B", float("inf"))


def test_no_alerts_to_read(answers):
    url, content = answers
    content[0] = b'{"status": "success", "data": {"alerts": []}}'
    assert alerts.read(url) == []
    content[0] = b"<html>"
    with pytest.raises(StackError, match="does not answer as Prometheus does"):
        alerts.read(url)
    with pytest.raises(StackError, match="does not tell its alerts"):
        alerts.read("http://127.0.0.1:1")
