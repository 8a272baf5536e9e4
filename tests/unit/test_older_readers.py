"""Committed models predict in servers with an older scikit-learn than the one that trained them."""

from __future__ import annotations

import pytest

from helpers import artifacts


@pytest.mark.parametrize(
    ("dataset", "name"), [("breast_cancer", "logistic"), ("tickets", "bag_of_words")]
)
def test_logistic_regressions_have_what_older_ones_look_for(dataset: str, name: str) -> None:
    model = artifacts.load(dataset, name)
    assert model[-1].multi_class == "auto"
    assert "multi_class" not in model[-1].get_params()  # this scikit-learn does not know it
    assert len(model.classes_) == 2  # of more, "auto" would not say the same everywhere
