"""kill -9 in the middle of predictions: what was answered is in the payload log, once."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from helpers.client import Client
from helpers.errors import ClientError

SMALL, ALL = 300, 5000


@pytest.mark.parametrize("what", ["detector", "gateway-and-broker"])
@pytest.mark.timeout(180)
def test_nothing_accepted_is_lost(stack, traffic, kills, what, capsys):
    _hurt(stack, traffic(SMALL), kills[what], capsys)


@pytest.mark.faults
@pytest.mark.parametrize("what", ["detector", "model", "payload-log", "gateway-and-broker"])
@pytest.mark.timeout(900)
def test_nothing_accepted_of_5000_is_lost(stack, traffic, kills, what, capsys):
    _hurt(stack, traffic(ALL), kills[what], capsys)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_killed_explainer_costs_no_prediction_and_comes_back(
    stack, traffic, manifest, kills, eventually, capsys
):
    """5,000 predictions while explanations are asked for, which need predictions themselves."""
    stack.apply(manifest("explainers/cifar10-explained.yaml"))
    try:
        stack.wait(timeout=180)
        load = traffic(ALL)
        answered, failed, ended = [], [], threading.Event()
        images = np.random.default_rng(1).random((1000, 32, 32, 3)).astype(np.float32)

        def explain(number: int) -> bool:
            try:
                with Client(stack.url("cifar10"), timeout=60) as client:
                    client.explain(images[number % len(images)])
            except ClientError as problem:
                failed.append(str(problem))
                return False
            answered.append(number)
            return True

        def ask() -> None:
            number = 0
            while not ended.wait(0.2):
                explain(number := number + 1)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        load.run(lambda: kills["explainer"](stack))
        ended.set()
        asking.join(120)
        counted = load.check()
        before = len(answered)
        eventually(lambda: explain(-1), "an explanation after the kill", 120)
        with capsys.disabled():
            print(f"\n{counted}; {before} explanations, {len(failed)} failed")
        assert load.refused == {}
        assert before > 0
    finally:
        stack.apply(manifest("logging/cifar10-logged.yaml"))
        stack.wait(timeout=120)


def _hurt(stack, load, kill, capsys) -> None:
    load.run(lambda: kill(stack))
    counted = load.check()
    with capsys.disabled():
        print(f"\n{counted}")
    assert counted
