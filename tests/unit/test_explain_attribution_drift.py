"""Attribution drift: the test, its threshold, and what it holds at most."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from scipy.stats import ks_2samp

from helpers.metrics import Samples
from helpers.serving.common.errors import ServingError
from helpers.serving.explain.production.attribution_drift import (
    AttributionDrift,
    DriftResult,
    DriftSettings,
)

pytestmark = pytest.mark.timeout(120)

LABELS = {"method": "KernelShap", "model_name": "credit"}
NAMES = ("income", "age", "region")


class Watched(AttributionDrift):
    """A drift test with its metrics."""

    def __init__(self, reference: Any = None, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        given = {"reference": 100, "window": 50} | settings
        super().__init__(DriftSettings(**given), self.registry, LABELS, reference)

    def samples(self) -> Samples:
        return Samples.parse(generate_latest(self.registry).decode())

    def value(self, name: str, **labels: str) -> float:
        return self.samples().value(f"explain_server_attribution_drift_{name}", **labels, **LABELS)

    def by_feature(self, name: str) -> dict[str, float]:
        return self.samples().by(f"explain_server_attribution_drift_{name}", "feature")

    def rows(self, values: np.ndarray) -> list[DriftResult]:
        found = (self.add(row(value)) for value in values)
        return [result for result in found if result is not None]


def row(values: np.ndarray) -> dict[str, float]:
    names = NAMES if len(values) == 3 else [f"f{number}" for number in range(len(values))]
    return dict(zip(names, map(float, values), strict=True))


def test_a_window_is_tested_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    reference, window = rng.normal(size=(100, 3)), rng.normal(size=(50, 3))
    window[:, 1] += 2
    drift = Watched(p_val=0.03)
    assert drift.rows(reference) == []
    assert drift.value("reference_ready") == 1
    (result,) = drift.rows(window)
    for place, name in enumerate(NAMES):
        expected = ks_2samp(reference[:, place], window[:, place], method="asymp")
        assert result.distance[name] == pytest.approx(expected.statistic)
        assert result.p_val[name] == pytest.approx(expected.pvalue)
    assert result.is_drift
    assert result.threshold == drift.value("threshold") == pytest.approx(0.01)
    assert drift.value("is_drift") == drift.value("windows", drift="1") == 1
    assert drift.by_feature("distance") == dict(sorted(result.distance.items()))
    assert drift.by_feature("p_val") == dict(sorted(result.p_val.items()))


def test_undrifted_windows_are_called_drifted_no_more_often_than_p_val() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(40):
        drift = Watched(p_val=0.05)
        drift.rows(rng.normal(size=(100, 3)))
        alarms += sum(result.is_drift for result in drift.rows(rng.normal(size=(250, 3))))
    assert alarms <= 20, "200 windows, 10 of which may be expected"


def test_a_threshold_without_bonferroni_would_be_crossed() -> None:
    """p = 0.03 in one of three features: below p_val, above p_val / 3."""
    reference = np.tile(np.linspace(0, 1, 100)[:, None], 3)
    window = np.tile(np.linspace(0, 1, 50)[:, None], 3)
    window[:, 0] = np.linspace(0.24, 1.24, 50)
    drift = Watched(p_val=0.05)
    drift.rows(reference)
    (result,) = drift.rows(window)
    assert 0.05 / 3 < result.p_val["income"] < 0.05
    assert not result.is_drift


def test_windows_do_not_overlap_and_the_last_one_is_shown() -> None:
    rng = np.random.default_rng(2)
    drift = Watched()
    drift.rows(rng.normal(size=(100, 3)))
    assert drift.rows(rng.normal(size=(49, 3)) + 3) == []
    assert drift.value("window_rows") == 49
    assert [result.is_drift for result in drift.rows(rng.normal(size=(51, 3)))] == [True, False]
    assert drift.value("window_rows") == drift.value("is_drift") == 0
    assert (drift.value("windows", drift="0"), drift.value("windows", drift="1")) == (1, 1)


def test_a_reference_may_be_given() -> None:
    rng = np.random.default_rng(3)
    reference = {name: rng.normal(size=80).tolist() for name in NAMES}
    drift = Watched(reference)
    (result,) = drift.rows(rng.normal(size=(50, 3)))
    assert not result.is_drift


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ({}, "needs 20 rows at least"),
        ({"income": [0.0] * 10}, "needs 20 rows at least"),
        ({"income": [0.0] * 30, "age": [0.0] * 31}, "as many for each feature"),
        ({"income": [float("inf")] * 30}, "not a finite number"),
    ],
)
def test_a_reference_that_cannot_be_is_a_sentence(
    reference: Mapping[str, list[float]], sentence: str
) -> None:
    with pytest.raises(ServingError, match=sentence):
        Watched(reference)


def test_labels_and_tests_are_bounded() -> None:
    rng = np.random.default_rng(4)
    drift = Watched(max_features=5)
    scale = np.zeros(200)
    scale[[3, 50, 120, 7, 199]] = 1
    scale[100] = 0.001
    drift.rows(rng.normal(size=(100, 200)) * scale)
    assert drift.value("features_left_out") == 195
    (result,) = drift.rows(rng.normal(size=(50, 200)) * scale)
    assert set(result.p_val) == {"f3", "f7", "f50", "f120", "f199"}
    assert result.threshold == pytest.approx(0.01 / 5)
    assert len(drift.by_feature("p_val")) == 5
    assert drift._rows == []


def test_long_names_stay_apart() -> None:
    drift = Watched()
    names = ["x" * 300 + "a", "x" * 300 + "b", "x" * 99, "x" * 300 + "c"]
    rng = np.random.default_rng(5)
    for values in rng.normal(size=(150, 4)):
        drift.add(dict(zip(names, map(float, values), strict=True)))
    labels = drift.by_feature("p_val")
    assert len(labels) == 4
    assert max(map(len, labels)) <= 110


def test_what_does_not_fit_is_counted_and_left_out() -> None:
    drift = Watched()
    drift.add(row(np.zeros(3)))
    for wrong in (
        {"income": 1.0},
        {"income": 1.0, "age": 1.0, "other": 1.0},
        {"income": float("nan"), "age": 1.0, "region": 1.0},
        {},
    ):
        assert drift.add(wrong) is None
    drift.add({"region": 1.0, "age": 1.0, "income": 1.0})
    assert drift.value("ignored") == 4
    assert drift.value("window_rows") == 2
    huge = Watched()
    huge.add({f"pixel {number}": 0.0 for number in range(10_001)})
    assert (huge.value("ignored"), huge.value("window_rows")) == (1, 0)


def test_after_a_reset_a_new_reference_is_gathered() -> None:
    rng = np.random.default_rng(6)
    drift = Watched()
    drift.rows(rng.normal(size=(149, 3)))
    drift.rows(rng.normal(size=(1, 3)))
    drift.reset()
    assert drift.by_feature("p_val") == {}
    assert drift.value("reference_ready") == drift.value("window_rows") == 0
    other = rng.normal(size=(150, 2)) + 100
    assert [result.is_drift for result in drift.rows(other)] == [False]
    assert set(drift.by_feature("p_val")) == {"f0", "f1"}


def test_constant_attributions_do_not_drift_and_do_not_warn() -> None:
    drift = Watched()
    (result,) = drift.rows(np.zeros((150, 3)))
    assert not result.is_drift
    assert set(result.p_val.values()) == {1.0}


def test_threads_lose_no_row() -> None:
    drift = Watched(window=100)
    rng = np.random.default_rng(7)
    drift.rows(rng.normal(size=(100, 3)))
    results: list[DriftResult] = []

    def add() -> None:
        for values in np.random.default_rng(8).normal(size=(500, 3)):
            found = drift.add(row(values))
            if found is not None:
                results.append(found)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 20
    assert drift.value("window_rows") == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"window": 5}, "window is 5 rows; 20 to 100000"),
        ({"reference": 10**6}, "reference is 1000000 rows"),
        ({"p_val": 1.0}, r"p_val is 1\.0; it lies between 0 and 1"),
        ({"max_features": 0}, "max_features is 0; 1 to 200"),
    ],
)
def test_settings_that_cannot_be_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServingError, match=sentence):
        DriftSettings(**settings)
