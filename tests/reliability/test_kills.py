"""kill -9 in the middle of predictions: what was answered is in the payload log, once."""

from __future__ import annotations

import pytest

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


def _hurt(stack, load, kill, capsys) -> None:
    load.run(lambda: kill(stack))
    counted = load.check()
    with capsys.disabled():
        print(f"\n{counted}")
    assert counted
