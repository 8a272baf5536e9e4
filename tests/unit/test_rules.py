"""The rules of manifests/monitoring/rules: valid for Prometheus, and firing when and only when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.exposition import exposed, metric_names
from tests.monitoring.rule_cases import CASES, STEPS

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "manifests/monitoring/rules").glob("*.yaml"))
RUNBOOKS = ROOT / "manifests/monitoring/README.md"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="the program `promtool` (of Prometheus) is not installed",
)


def spec(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]


def rules() -> list[dict[str, Any]]:
    return [rule for path in FILES for group in spec(path)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def group_of(alert: str) -> dict[str, Any]:
    """Return the group that has an alert, all its rules without annotations."""
    (found,) = (
        group
        for path in FILES
        for group in spec(path)["groups"]
        if any(rule.get("alert") == alert for rule in group["rules"])
    )
    kept = [
        {key: value for key, value in rule.items() if key != "annotations"}
        for rule in found["rules"]
        if "record" in rule or rule["alert"] == alert
    ]
    return found | {"rules": kept}


def promtool(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def test_every_alert_has_cases_in_which_it_fires_and_in_which_it_does_not():
    assert alerts().keys() == CASES.keys()
    for name, cases in CASES.items():
        assert {bool(case.fires) for case in cases} == {True, False}, name
        assert len({case.what for case in cases}) == len(cases), name


def test_every_alert_says_how_bad_it_is_what_happened_and_what_to_do():
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        told = rule["annotations"]
        assert told.keys() == {"summary", "description", "runbook"}, name
        assert "$value" in told["description"], f"{name}: the description has no value"
        assert "$labels.namespace" in told["description"], name
        assert told["description"].endswith("."), name
        assert told["runbook"].endswith("."), name
        assert "\n" not in told["runbook"], f"{name}: a runbook is one line"
        assert "$value" not in told["summary"], f"{name}: notifications are grouped by it"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    text = RUNBOOKS.read_text(encoding="utf-8")
    sections = set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert sections == alerts().keys()


def test_every_alert_is_made_to_fire_in_a_prometheus():
    tests = "".join(path.read_text() for path in sorted((ROOT / "tests/stack").glob("test_*.py")))
    assert set(re.findall(r'\bfires\(\s*"(\w+)"', tests)) == alerts().keys()


def whole(expr: str) -> str:
    """Return an expression, followed by those of the recorded series that it is made of."""
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    inside = [recorded[name] for name in recorded if name in metric_names(expr)]
    return "\n".join([expr, *map(whole, inside)])


def test_alerts_tell_deployments_apart():
    for name, rule in alerts().items():
        by = re.search(r"by \((namespace, [^)]*)\)", whole(rule["expr"]))
        assert by, f"{name} does not say whose namespace it is about"
        assert re.search("deployment_name|container", by[1]), name


def test_rules_ask_for_metrics_that_servers_expose():
    known = exposed() | {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        unknown = metric_names(rule["expr"]) - known
        assert not unknown, f"{rule.get('alert') or rule['record']}: {sorted(unknown)}"


def test_names_of_recorded_series_have_level_metric_and_operation():
    names = [rule["record"] for rule in rules() if "record" in rule]
    assert names
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"(predictor|explainer):[a-z_0-9]+:[a-z_0-9]+", name), name


@needs_promtool
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_prometheus_takes_the_rules(path, tmp_path):
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(spec(path)))
    checked = promtool("check", "rules", "rules.yml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_and_only_when_it_should(name, tmp_path):
    group = group_of(name)
    severity = alerts()[name]["labels"]
    step = f"{STEPS.get(name, 1)}m"
    tests = [
        {
            "name": case.what,
            "interval": step,
            "input_series": [{"series": one, "values": v} for one, v in case.series.items()],
            "alert_rule_test": [
                {
                    "eval_time": f"{case.at}m",
                    "alertname": name,
                    "exp_alerts": [{"exp_labels": case.fires | severity}] if case.fires else [],
                }
            ],
        }
        for case in CASES[name]
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [group]}))
    test = {"rule_files": ["rules.yml"], "evaluation_interval": step, "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test, sort_keys=False))
    tested = promtool("test", "rules", "test.yml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
