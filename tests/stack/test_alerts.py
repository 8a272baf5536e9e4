"""Every alert really fires, in the local stack's Prometheus, for the reason that it is there for.

Those of explainers in production fire in test_alerts_explainers.py, all others here; a unit test counts them. The rules
are those of manifests/monitoring/rules, all durations divided (tests/monitoring/firing.py): an hour of feedback cannot
be waited for. Limits and expressions are as they are, and so are the servers and their metrics.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest

from helpers.client import Client, one_hot
from helpers.errors import ClientError
from helpers.stack.local.client import LocalStack
from helpers.traffic import send
from tests.monitoring.firing import evaluated

pytestmark = pytest.mark.timeout(240)

MODEL = "cifar10-default-0-resnet32"
LABELS = {
    "namespace": "walkthrough",
    "deployment_name": "cifar10",
    "predictor_name": "default",
}
EXPLAINER = {
    "namespace": "walkthrough",
    "container": "cifar10-default-explainer",
    "model_name": "resnet32",
}


@pytest.fixture(scope="module", autouse=True)
def good_old_days(stack: LocalStack, rules: list[str]) -> None:
    """Feedback that is right: what the accuracy falls from."""
    with Client(stack.url("cifar10")) as client:
        for _ in range(60):
            client.feedback(truth=one_hot(1), response=one_hot(1))


@contextmanager
def stopped(stack: LocalStack, name: str) -> Iterator[None]:
    """Hold a server up, with SIGSTOP: it keeps its connections and answers nobody."""
    (pid,) = [one.pid for one in stack.status() if one.name == name]
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in a thread until the block ends."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                work()
            except (ClientError, httpx.HTTPError):
                time.sleep(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


def predict_url(stack: LocalStack) -> str:
    return f"{stack.url('cifar10')}/v1/models/resnet32:predict"


def test_a_client_that_sends_what_the_model_does_not_take(stack, fires):
    with httpx.Client(timeout=10, trust_env=False) as http:

        def bad() -> None:
            http.post(predict_url(stack), content=b'{"instances": [[1, 2]]}')
            time.sleep(0.1)

        with meanwhile(bad):
            alert = fires("PredictionsRefused", LABELS | {"severity": "warning"})
    assert alert.value > 0.2
    assert "% of the predictions of cifar10, predictor default" in alert.annotations["description"]


def test_noise_is_outliers_and_drift(stack, client, fires):
    noise = np.random.default_rng(0).random((1100, 32, 32, 3)).astype(np.float32)
    assert send(client, noise, batch=100, concurrency=2).codes() == {200: 11}
    drift = fires("DriftDetected", LABELS | {"severity": "warning"}, 90)
    assert drift.value >= 1
    assert drift.annotations["description"].startswith(("1 windows", "2 windows"))
    share = fires("OutlierShareHigh", LABELS | {"severity": "warning"})
    assert 0.1 < share.value <= 1


def test_feedback_that_is_wrong_all_of_a_sudden(client, fires):
    def wrong() -> None:
        client.feedback(truth=one_hot(2), response=one_hot(3))
        time.sleep(0.05)

    with meanwhile(wrong):
        alert = fires("AccuracyFell", LABELS | {"severity": "critical"})
    assert 0.05 < alert.value <= 1


@contextmanager
def hanging(stack: LocalStack, seconds: float) -> Iterator[None]:
    """Have the model hang for so long, answer what waits, and hang again, until the block ends."""

    def hang() -> None:
        with stopped(stack, MODEL):
            time.sleep(seconds)  # the fault itself
        time.sleep(0.3)

    with meanwhile(hang):
        yield


def test_a_model_that_hangs_slows_predictions(stack, client, images, fires):
    body = client.encode(images[:1])
    with ExitStack() as asking:
        http = asking.enter_context(httpx.Client(timeout=60, trust_env=False))
        for _ in range(6):
            asking.enter_context(meanwhile(lambda: http.post(predict_url(stack), content=body)))
        with hanging(stack, 2.5):
            alert = fires("PredictionsSlow", LABELS | {"severity": "warning"})
    assert alert.value > 1


def test_a_model_that_hangs_slows_explanations(stack, client, images, fires):
    with meanwhile(lambda: client.explain(images[0])), hanging(stack, 5.5):
        alert = fires("ExplanationsSlow", EXPLAINER | {"severity": "warning"}, 90)
    assert alert.value > 5


def test_a_model_that_is_gone(stack, client, images, fires, eventually):
    body = client.encode(images[:1])

    def kill() -> None:
        (pid,) = [one.pid for one in stack.status() if one.name == MODEL]
        if pid is not None:
            os.killpg(pid, signal.SIGKILL)

    with httpx.Client(timeout=60, trust_env=False) as http:

        def ask() -> None:
            """Keep it from coming back, and see what that does to who asks."""
            kill()
            http.post(predict_url(stack), content=body)
            http.post(
                f"{stack.url('cifar10-explainer/default')}/v1/models/resnet32:explain", content=body
            )
            time.sleep(0.1)

        with meanwhile(ask):
            alert = fires("PredictionsFail", LABELS | {"severity": "critical"})
            fires("ExplanationsFail", EXPLAINER | {"severity": "warning"})
    assert alert.value > 0.05
    stack.wait("cifar10", timeout=120)


def test_clients_that_fall_silent(stack, client, images, fires):
    assert send(client, images[:80], concurrency=4).codes() == {200: 80}
    alert = fires("PredictionsStopped", {"deployment_name": "cifar10", "severity": "warning"})
    assert alert.value >= 60
    assert "predictor_name" not in alert.labels


def test_deleted_rules_raise_nothing(stack, rules, eventually):
    assert stack.alerts()
    deleted = stack.delete(*rules)
    assert [one.action for one in deleted] == ["deleted", "deleted"]
    eventually(lambda: not evaluated(stack), "the rules gone")
    assert stack.alerts() == []
