"""The alerts of an explainer in production fire too, for the reasons that they are there for; see test_alerts.py.

The explainer is that of manifests/explainers/production-kernel-shap.yaml, with a Redis and the stability index beside.
Each test brings one fault about; together they are in the order in which they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import psutil
import pytest
import yaml

from helpers import artifacts, dashboards
from helpers.data import credit_risk, load_table
from helpers.stack.local.client import LocalStack
from tests.monitoring.firing import evaluated
from tests.monitoring.loans import explain
from tests.redis_server import RedisServer, needs_redis

pytestmark = [pytest.mark.timeout(240), needs_redis]

SERVER = "credit-risk-default-explainer"
LABELS = {"namespace": "walkthrough", "container": SERVER, "model_name": "forest"}
HERE = {
    "ExplanationCacheDown",
    "ExplanationsUnstable",
    "AttributionDrift",
    "ExplanationsNotAudited",
}
LOANS = load_table("credit_risk").x_test
HISTORY = credit_risk.FEATURE_NAMES.index("credit_history")
DEFAULTED = credit_risk.CATEGORIES["credit_history"].index("defaulted")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis of the cache."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module", autouse=True)
def explainer(
    stack: LocalStack, rules: list[str], manifest, tmp_path_factory, cache: RedisServer
) -> Iterator[None]:
    """The explainer, after the reference of attributions and a window like it."""
    if not artifacts.exists("credit_risk", "kernel_shap"):
        pytest.skip("artifacts/credit_risk/kernel_shap is not here")
    content = yaml.safe_load(manifest("explainers/production-kernel-shap.yaml").read_text())
    content["spec"]["predictors"][0]["explainer"]["config"] |= {
        "cache_redis_url": cache.url,
        "stability_share": "1",
        "stability_seeds": "1",
    }
    changed = tmp_path_factory.mktemp("explainer") / "kernel-shap.yaml"
    changed.write_text(yaml.safe_dump(content))
    files = [
        manifest("explainers/production-keys.yaml"),
        manifest("explainers/production-terms.yaml"),
        changed,
    ]
    try:
        stack.apply(*files)
        stack.wait("credit-risk", timeout=120)
        for rows in (LOANS[100:150], LOANS[150:180]):
            assert explain(stack, rows).status_code == 200
        yield
    finally:
        stack.delete(*files)


def measured(stack: LocalStack) -> float:
    """How many explanations have been made again under another seed."""
    return stack.metrics(SERVER).value("explain_server_stability_samples_total", result="measured")


def test_an_explainer_at_work_raises_none_of_them(stack, eventually):
    eventually(lambda: measured(stack) == 2, "both requests measured")
    found = stack.metrics(SERVER)
    assert found.value("explain_server_attribution_drift_windows_total", drift="0") == 1
    assert found.value("explain_server_audit_records_total") == 2
    assert found.value("explain_server_cache_up", level="redis") == 1
    assert found.value("explain_server_stability_index", similarity="spearman") > 0.7
    dashboards.settle(stack)
    seen = datetime.now(UTC)
    eventually(lambda: evaluated(stack)["explanations"] > seen, "the rules evaluated")
    assert not HERE & {one.name for one in stack.alerts()}


def test_applicants_who_are_all_decided_by_the_same_feature(stack, fires):
    rows = LOANS[180:210].copy()
    rows[:, HISTORY] = DEFAULTED
    assert explain(stack, rows).status_code == 200
    alert = fires("AttributionDrift", LABELS | {"severity": "warning"})
    assert alert.value == 1


def test_a_search_that_is_too_coarse(stack, fires, eventually):
    """With ten combinations of features there is little that two seeds agree about."""
    before = measured(stack)
    for count in (5, 10):  # only few wait to be measured, and none is while somebody is served
        for number in range(count - 5, count):
            answer = explain(stack, LOANS[number : number + 1], nsamples=10)
            assert answer.status_code == 200
        due = before + count
        eventually(lambda due=due: measured(stack) >= due, f"{due:g} explanations measured")
    alert = fires(
        "ExplanationsUnstable", LABELS | {"similarity": "spearman", "severity": "warning"}
    )
    assert -1 <= alert.value < 0.7


def test_a_redis_that_is_gone(stack, cache, fires):
    cache.stop()
    answer = explain(stack, LOANS[300:301])
    assert (answer.status_code, answer.headers["x-explanation-source"]) == (200, "made")
    fires("ExplanationCacheDown", LABELS | {"level": "redis", "severity": "warning"})


def test_a_disk_that_takes_no_more_of_the_audit_trail(stack, fires):
    (pid,) = [one.pid for one in stack.status() if one.name == SERVER]
    server = psutil.Process(pid)
    _, hard = server.rlimit(psutil.RLIMIT_FSIZE)
    server.rlimit(psutil.RLIMIT_FSIZE, (1, hard))
    try:
        refused = [explain(stack, LOANS[k : k + 1]) for k in range(310, 313)]
        assert [one.status_code for one in refused] == [503] * 3
        alert = fires("ExplanationsNotAudited", LABELS | {"severity": "critical"})
    finally:
        server.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
    assert alert.value > 0.5
    assert explain(stack, LOANS[310:311]).status_code == 200
