"""The made-up applications: always the same, decided by the rule that they claim, and by nothing else."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from helpers import data
from helpers.data import Table, credit_risk, load_table
from helpers.errors import DataError

TABLE = load_table("credit_risk")
X = np.concatenate([TABLE.x_train, TABLE.x_test])
Y = np.concatenate([TABLE.y_train, TABLE.y_test])


def applicant(**features: float) -> np.ndarray:
    """Return one application that is a low risk but for what is told."""
    usual = {
        "age_band": 1,
        "income": 40_000,
        "credit_history": 0,
        "home_region": 2,
        "loan_amount": 10_000,
        "employment_years": 5,
        "open_accounts": 3,
        "housing": 0,
    }
    assert features.keys() <= usual.keys()
    return np.array([list((usual | features).values())], float)


def test_it_is_always_the_same_table():
    again = load_table("credit_risk")
    assert again.x_train.tobytes() == TABLE.x_train.tobytes()
    assert again.y_test.tobytes() == TABLE.y_test.tobytes()
    # NumPy promises PCG64's bits, not each distribution's: another version may draw other numbers, and
    # then the artefacts have to be made again.
    digest = hashlib.sha256(X.tobytes() + Y.tobytes()).hexdigest()
    assert digest[:16] == "a9ddf942921385c1"


def test_names_and_categories():
    assert TABLE.feature_names == credit_risk.FEATURE_NAMES
    assert {"income", "credit_history", "home_region", "age_band"} <= set(TABLE.feature_names)
    assert {TABLE.feature_names[column] for column in TABLE.category_map} == {
        "age_band",
        "credit_history",
        "home_region",
        "housing",
    }
    for column, values in TABLE.category_map.items():
        assert set(np.unique(TABLE.x_train[:, column])) == set(range(len(values)))
    assert set(credit_risk.DECIDING) | set(credit_risk.IRRELEVANT) == set(TABLE.feature_names)
    told = TABLE.describe(applicant(credit_history=3)[0])
    assert told["credit_history"] == "defaulted"
    assert told["income"] == 40_000.0


@pytest.mark.parametrize(
    ("features", "risk", "clause"),
    [
        ({}, 0, None),
        ({"credit_history": 3}, 1, 0),
        ({"credit_history": 3, "income": 200_000, "loan_amount": 1_000}, 1, 0),
        ({"loan_amount": 24_000}, 0, None),  # exactly the limit
        ({"loan_amount": 24_100}, 1, 1),
        ({"income": 16_000}, 1, 1),
        ({"credit_history": 2}, 0, None),
        ({"credit_history": 2, "employment_years": 1.9}, 1, 2),
        ({"credit_history": 2, "employment_years": 2.0}, 0, None),
        ({"credit_history": 1, "employment_years": 0}, 0, None),
        ({"employment_years": 0}, 0, None),
    ],
)
def test_the_rule(features: dict, risk: int, clause: int | None):
    row = applicant(**features)
    assert credit_risk.rule(row).tolist() == [risk]
    assert np.flatnonzero(credit_risk.clauses(row)[0]).tolist() == (
        [] if clause is None else [clause]
    )


def test_irrelevant_features_do_not_move_the_rule():
    rng = np.random.default_rng(0)
    shuffled = X.copy()
    for name in credit_risk.IRRELEVANT:
        column = TABLE.column(name)
        shuffled[:, column] = rng.permutation(shuffled[:, column])
    np.testing.assert_array_equal(credit_risk.rule(shuffled), credit_risk.rule(X))


@pytest.mark.parametrize("name", credit_risk.IRRELEVANT)
def test_irrelevant_features_know_nothing_of_the_risk(name: str):
    values = X[:, TABLE.column(name)]
    counts = [[np.sum((values == value) & (y == Y)) for value in np.unique(values)] for y in (0, 1)]
    large = np.array(counts)[:, np.min(counts, axis=0) >= 5]
    assert chi2_contingency(large).pvalue > 0.01


@pytest.mark.parametrize("name", credit_risk.DECIDING)
def test_deciding_features_do_know(name: str):
    values = X[:, TABLE.column(name)]
    assert ks_2samp(values[Y == 0], values[Y == 1]).pvalue < 1e-3


def test_noise_is_what_it_says_in_both_parts():
    for x, y in ((TABLE.x_train, TABLE.y_train), (TABLE.x_test, TABLE.y_test)):
        noise = np.mean(credit_risk.rule(x) != y)
        assert noise == pytest.approx(credit_risk.NOISE, abs=0.012)
    assert 0.3 < Y.mean() < 0.45  # neither class is rare
    assert credit_risk.clauses(X).mean(axis=0).min() > 0.05  # and no clause is


def test_no_application_is_in_both_parts():
    both = {row.tobytes() for row in TABLE.x_train} & {row.tobytes() for row in TABLE.x_test}
    assert not both


def test_breast_cancer_is_scikit_learns():
    table = load_table("breast_cancer")
    assert (len(table.x_train), len(table.x_test)) == (426, 143)
    assert table.class_names == ("malignant", "benign")
    assert table.column("worst texture") == 21
    assert abs(table.y_train.mean() - table.y_test.mean()) < 0.01
    assert load_table("breast_cancer").x_test.tobytes() == table.x_test.tobytes()


def test_tables_have_a_loader_of_their_own():
    assert data.TABLES == ("credit_risk", "breast_cancer")
    with pytest.raises(
        DataError, match=r"no table 'wine'\. Choose one of: credit_risk, breast_cancer"
    ):
        load_table("wine")
    with pytest.raises(DataError, match="There is no data set 'credit_risk'"):
        data.load("credit_risk")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x_train": np.zeros((4, 8))}, "rows \\(4, 8\\) and classes \\(4000,\\)"),
        ({"x_test": np.zeros((1000, 8), np.float32)}, "float32 rows"),
        ({"y_test": np.full(1000, 2)}, "a class without a name"),
        ({"x_test": np.full((1000, 8), np.nan)}, "not finite"),
        ({"x_test": np.full((1000, 8), 9.0)}, "a value of age_band that is none of 18-25"),
        ({"feature_names": ("a",) * 8}, "two features have the same name"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(change: dict, said: str):
    with pytest.raises(DataError, match=said):
        dataclasses.replace(TABLE, **change)


def test_a_feature_that_is_not_there_is_named():
    with pytest.raises(DataError, match="no feature 'wealth'; it has age_band, income"):
        TABLE.column("wealth")
    assert repr(TABLE) == (
        "Table(credit_risk: 4,000 training and 1,000 test rows of 8 features, 2 classes)"
    )
    assert isinstance(TABLE, Table)
