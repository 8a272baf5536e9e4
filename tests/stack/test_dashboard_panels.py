"""Every query of every panel of the dashboards has data in a real Prometheus, after traffic like the notebooks'."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from helpers import artifacts, dashboards, data
from helpers.client import Client, one_hot
from helpers.dashboards import model
from helpers.dashboards.prometheus import Prometheus
from helpers.dashboards.results import ask
from helpers.stack.documents import ROOT
from helpers.stack.local.client import LocalStack
from helpers.traffic import send
from tests.monitoring.loans import explain

pytestmark = pytest.mark.timeout(290)

FILES = sorted((ROOT / "manifests/monitoring/dashboards").glob("*.json"))
STEP = 1.0  # seconds between two points: a scrape
BESIDE = (
    "explainers/production-keys.yaml",
    "explainers/production-terms.yaml",
    "monitoring/rules/explanations.yaml",
    "monitoring/rules/serving.yaml",
)
AFTERWARDS = "explainers/production-anchor-tabular.yaml"  # in its place, as in notebook 10


@dataclass
class Walk:
    """What was done, and when.

    Args:
        stack: where.
        started: seconds since 1970; what was there before is left of every line.
        ended: when the last of it had been scraped.
    """

    stack: LocalStack
    started: float
    ended: float = 0.0


@pytest.fixture(scope="module")
def walk(
    stack: LocalStack, everything, tmp_path_factory, manifest, images, eventually
) -> Iterator[Walk]:
    """The stack with explainers in production beside, after requests, errors, feedback and explanations."""
    if stack.prometheus_url is None:
        pytest.skip(stack.prometheus_note)
    if not artifacts.exists("credit_risk", "kernel_shap"):
        pytest.skip("artifacts/credit_risk/kernel_shap is not here")
    cached = tmp_path_factory.mktemp("cached") / "kernel-shap.yaml"
    cached.write_text(with_a_disk(manifest("explainers/production-kernel-shap.yaml")))
    beside = [*map(manifest, BESIDE), cached]
    try:
        stack.apply(*everything, *beside)
        stack.wait(timeout=180)
        dashboards.settle(stack)
        walked = Walk(stack, time.time())
        for number in range(2):  # twice: a rate is between two scrapes
            predict(stack, images, number)
            explain_images(stack, images)
            explain_loans(stack, number)
            dashboards.settle(stack)
        stack.apply(manifest(AFTERWARDS))
        stack.wait("credit-risk", timeout=120)
        for _ in range(2):
            explain_otherwise(stack, eventually)
            dashboards.settle(stack)
        walked.ended = time.time()
        yield walked
    finally:
        stack.delete(*beside)


def with_a_disk(path: Path) -> str:
    """The manifest with one more level of the cache: its Redis is not there, and memory is not timed."""
    manifest = yaml.safe_load(path.read_text())
    explainer = manifest["spec"]["predictors"][0]["explainer"]
    explainer["config"]["cache_disk_folder"] = "/tmp/cache"
    return yaml.safe_dump(manifest)


def predict(stack: LocalStack, images: np.ndarray, number: int) -> None:
    """Single requests, feedback of both kinds, some that are refused; later on, a window of noise."""
    with Client(stack.url("cifar10")) as client:
        assert send(client, images[:30], concurrency=2).ok.all()
        if number:  # fills a window that drifts, and is outliers
            assert send(client, noise(), batch=250, concurrency=1).ok.all()
        for k in range(20):
            answer = (k + (k % 4 == 0)) % 10
            client.feedback(truth=one_hot(k % 10), response=one_hot(answer))
    url = f"{stack.url('cifar10')}/v1/models/resnet32:predict"
    for _ in range(3):
        assert httpx.post(url, content=b"{", timeout=30).status_code == 400


def noise() -> np.ndarray:
    return np.random.default_rng(0).random((1000, 32, 32, 3)).astype(np.float32)


def explain_images(stack: LocalStack, images: np.ndarray) -> None:
    with Client(stack.url("cifar10")) as client:
        for number in range(3):
            client.explain(images[number], seed=number)


def explain_loans(stack: LocalStack, number: int) -> None:
    """Made, then from the cache; in the first round the reference of attributions, then a window."""
    table = data.load_table("credit_risk")
    rows = table.x_test[100:150] if number == 0 else table.x_test[150:180]
    for several in (table.x_test[:1], table.x_test[1:2], rows):
        for _ in range(2):
            assert explain(stack, several).status_code == 200


def explain_otherwise(stack: LocalStack, eventually) -> None:
    """An explanation that is made again under other seeds, and one that is fetched later."""
    table = data.load_table("credit_risk")
    measured = "explain_server_stability_samples_total"
    name = "credit-risk-default-explainer"
    before = stack.metrics(name).value(measured, result="measured")
    assert explain(stack, table.x_test[10:11]).status_code == 200
    accepted = explain(stack, table.x_test[11:12], headers={"prefer": "respond-async"})
    assert accepted.status_code == 202
    place = accepted.url.join(accepted.headers["location"])
    eventually(lambda: httpx.get(place, timeout=30).status_code == 200, "the explanation", 60)
    eventually(
        lambda: stack.metrics(name).value(measured, result="measured") > before,
        "an explanation to be measured",
        90,
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_query_of_every_panel_has_data(walk: Walk, path: Path) -> None:
    dashboard = model.read(path)
    with Prometheus(walk.stack.prometheus_url) as prometheus:
        answers = ask(prometheus, dashboard, {}, walk.started, walk.ended, STEP)
    empty = []
    for panel, results in answers:
        filled = {
            one.ref for one in results if any(math.isfinite(value) for value in one.series.values)
        }
        empty += [
            f"{panel.title} ({target.legend or target.ref})"
            for target in panel.targets
            if target.ref not in filled
        ]
    assert not empty, f"{dashboard.name}: no data: " + "; ".join(empty)
