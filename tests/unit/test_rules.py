"""The alerts of manifests/monitoring/rules: valid for Prometheus, and firing when and only when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "manifests/monitoring/rules").glob("*.yaml"))

METRIC = re.compile(r"explain_server_\w+")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="the program `promtool` (of Prometheus) is not installed",
)

MODEL = 'model_name="resnet32"'
ANSWERED = "explain_server_requests_total"
SECONDS = "explain_server_seconds_bucket"
# alert -> series that make it fire, and series that must not; values by the minute, for 60 minutes.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "ExplanationsFail": (
        {f'{ANSWERED}{{{MODEL},code="200"}}': "0+54x60", f'{ANSWERED}{{{MODEL},code="504"}}': "0+6x60"},
        {f'{ANSWERED}{{{MODEL},code="200"}}': "0+54x60", f'{ANSWERED}{{{MODEL},code="400"}}': "0+6x60"},
    ),
    "ExplanationsSlow": (
        {f'{SECONDS}{{{MODEL},le="10"}}': "0+1x60", f'{SECONDS}{{{MODEL},le="+Inf"}}': "0+10x60",
         f'{SECONDS}{{{MODEL},le="30"}}': "0+10x60"},
        {f'{SECONDS}{{{MODEL},le="10"}}': "0+10x60", f'{SECONDS}{{{MODEL},le="+Inf"}}': "0+10x60",
         f'{SECONDS}{{{MODEL},le="30"}}': "0+10x60"},
    ),
    "ExplanationCacheDown": (
        {f'explain_server_cache_up{{{MODEL},level="redis"}}': "0x60"},
        {f'explain_server_cache_up{{{MODEL},level="redis"}}': "1x60"},
    ),
    "ExplanationsUnstable": (
        {f'explain_server_stability_index{{{MODEL},similarity="jaccard"}}': "0.5x60"},
        {f'explain_server_stability_index{{{MODEL},similarity="jaccard"}}': "0.9x60"},
    ),
    "AttributionDrift": (
        {f"explain_server_attribution_drift_is_drift{{{MODEL}}}": "1x60"},
        {f"explain_server_attribution_drift_is_drift{{{MODEL}}}": "0x60"},
    ),
    "ExplanationsNotAudited": (
        {f"explain_server_audit_failures_total{{{MODEL}}}": "0+1x60"},
        {f"explain_server_audit_failures_total{{{MODEL}}}": "3x60"},
    ),
}  # fmt: skip


def groups(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]


def alerts() -> dict[str, dict[str, Any]]:
    return {
        rule["alert"]: rule
        for path in FILES
        for group in groups(path)["groups"]
        for rule in group["rules"]
    }


def promtool(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def test_every_alert_has_a_case_a_severity_and_a_runbook():
    assert alerts().keys() == CASES.keys()
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert rule["annotations"]["summary"], name
        assert rule["annotations"]["runbook"].endswith("."), name


def test_alerts_watch_what_the_dashboards_show():
    """Whose metrics are compared with what the servers expose."""
    dashboards = (ROOT / "manifests/monitoring/dashboards").glob("explanations*.json")
    shown = {name for path in dashboards for name in METRIC.findall(path.read_text())}
    for name, rule in alerts().items():
        assert set(METRIC.findall(rule["expr"])) <= shown, name


@needs_promtool
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_prometheus_takes_the_rules(path, tmp_path):
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(groups(path)))
    checked = promtool("check", "rules", "rules.yml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
@pytest.mark.parametrize("fires", [True, False], ids=["fires", "stays silent"])
@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should(name, fires, tmp_path):
    rule = alerts()[name]
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "one", "rules": [{**rule, "annotations": {}}]}]})
    )
    series = CASES[name][0 if fires else 1]
    labels = {"severity": rule["labels"]["severity"], "model_name": "resnet32"}
    labels |= {"level": "redis"} if name == "ExplanationCacheDown" else {}
    labels |= {"similarity": "jaccard"} if name == "ExplanationsUnstable" else {}
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": one, "values": v} for one, v in series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": "50m",
                        "alertname": name,
                        "exp_alerts": [{"exp_labels": labels}] if fires else [],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    tested = promtool("test", "rules", "test.yml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
