"""`make bench`, explanations: every method and artefact is found, and measured over HTTP."""

from __future__ import annotations

import sys

import pytest

from benchmarks.parts.explain import BATCH, cases, measure_case
from benchmarks.servers import Servers
from helpers import artifacts
from helpers.errors import WalkthroughError
from helpers.serving.explain.methods import METHODS

pytestmark = pytest.mark.timeout(180)


def test_every_method_is_measured_on_a_committed_artefact() -> None:
    found = cases()
    assert {case.method for case in found} == set(METHODS)
    for case in found:
        assert artifacts.exists(case.dataset, case.explainer)
        assert case.model is None or artifacts.exists(case.dataset, case.model)
    assert {case.method for case in cases(["TreeShap", "ALE"])} == {"TreeShap", "ALE"}
    assert [case.rows for case in found if case.explainer == "network"] == [1, BATCH, BATCH]


def test_what_is_measured_is_what_the_server_counts() -> None:
    (case,) = cases(["KernelShap"])
    series = measure_case(case, requests=4, seconds=20)
    assert len(series.made.seconds) == len(series.cached) == 4
    assert max(series.cached) < min(series.made.seconds)
    # The background rows, the row, and all coalitions of the features, some hundred to a request.
    assert 5 <= series.made.calls <= 30
    assert series.made.drawn > series.made.predicted > 20
    assert series.without is not None
    assert series.without.predicted == series.without.drawn == series.made.drawn
    assert len(series.paired) >= 3


def test_a_server_that_ends_is_a_sentence() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such artefact')"]
    with Servers() as servers:
        started = servers.spawn("none", command, servers.port())
        with pytest.raises(WalkthroughError, match="none ended: no such artefact"):
            servers.wait(started)
