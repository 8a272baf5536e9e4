"""The closing cell of the notebooks."""

from __future__ import annotations

import numpy as np
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from helpers.checks import MIME_TYPE, Checks
from helpers.errors import CheckError


@pytest.fixture
def check():
    return Checks()


@pytest.fixture
def shown(monkeypatch):
    """Return the list of what `done` displays."""
    publisher = CapturingDisplayPublisher()
    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "display_pub", publisher)
    return publisher.outputs


def test_shows_a_table_and_counts(check, shown):
    check("train[1] is a truck", np.bool_(True))
    check("accuracy", np.float32(0.93481), at_least=0.925)
    check("latent size", np.int64(48), equal=48)
    check.done()
    data = shown[0]["data"]
    assert data[MIME_TYPE] == {"passed": 3, "failed": 0}
    assert data["text/plain"].splitlines() == [
        "claim                measured  wanted",
        "train[1] is a truck  yes       yes      ✓",
        "accuracy             0.9348    ≥ 0.925  ✓",
        "latent size          48        48       ✓",
    ]
    assert "<td" in data["text/html"]


def test_a_claim_that_fails_is_shown_then_raised(check, shown):
    check("a < b", True)
    check("accuracy", 0.92496, at_least=0.925)
    with pytest.raises(
        CheckError, match=r"1 of 2 checks failed: accuracy: 0\.92496, wanted ≥ 0\.925"
    ):
        check.done()
    assert shown[0]["data"][MIME_TYPE] == {"passed": 1, "failed": 1}
    assert "✗" in shown[0]["data"]["text/plain"]


@pytest.mark.parametrize(
    ("measured", "bound", "holds"),
    [
        (5, {"at_least": 5}, True),
        (4.99, {"at_least": 5}, False),
        (0, {"at_most": 0}, True),
        (1e-9, {"at_most": 0}, False),
        (0.5, {"between": (0.5, 1)}, True),
        (1.01, {"between": (0.5, 1)}, False),
        (1.05, {"equal": 1, "tolerance": 0.1}, True),
        (1.2, {"equal": 1, "tolerance": 0.1}, False),
        (0, {"equal": 0}, True),
        (float("inf"), {"equal": float("inf")}, True),
        (float("inf"), {"at_most": 1}, False),
        (float("nan"), {"at_least": 0}, False),
        (float("nan"), {"at_most": 0}, False),
        (np.float32("nan"), {"between": (0, 1)}, False),
        (float("nan"), {"equal": 0, "tolerance": 1}, False),
    ],
)
def test_bounds(check, shown, measured, bound, holds):
    check("claim", measured, **bound)
    if holds:
        check.done()
    else:
        with pytest.raises(CheckError):
            check.done()


@pytest.mark.parametrize(
    ("measured", "bound", "message"),
    [
        (1, {}, "needs True or False, not int"),
        (np.array([True]), {}, "needs True or False, not ndarray"),
        (None, {}, "needs True or False, not NoneType"),
        (True, {"at_least": 0}, "one real number, not for bool"),
        (np.array([0.5]), {"at_least": 0}, "one real number, not for ndarray"),
        (0.5, {"at_least": np.array([0])}, "one real number, not for ndarray"),
        (0.5, {"at_least": float("nan")}, "compared with NaN"),
        (0.5, {"at_least": 0, "at_most": 1}, "one bound, not at_least and at_most"),
        (0.5, {"between": (1, 0)}, "is empty"),
        (0.5, {"at_least": 0, "tolerance": 0.1}, "tolerance goes with equal="),
    ],
)
def test_a_check_that_is_written_wrongly(check, measured, bound, message):
    with pytest.raises(CheckError, match=message):
        check("claim", measured, **bound)


def test_no_check_at_all(check):
    with pytest.raises(CheckError, match="Nothing to check"):
        check.done()


def test_claims_are_text_not_markup(check, shown):
    check("a < b & c", True)
    check.done()
    assert "a &lt; b &amp; c" in shown[0]["data"]["text/html"]
