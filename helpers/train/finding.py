"""Whether an explanation of a credit application finds what decides: the rule behind the labels is known."""

from __future__ import annotations

import numpy as np

from helpers.data.credit_risk import DECIDING, FEATURE_NAMES, IRRELEVANT, clauses, rule

# The features of each clause of the rule; a category's late payments and a short employment decide together.
OF_CLAUSE = (
    frozenset({"credit_history"}),
    frozenset({"loan_amount", "income"}),
    frozenset({"credit_history", "employment_years"}),
)


def rows_of_interest(x: np.ndarray, predicted: np.ndarray, rows: int) -> np.ndarray:
    """Return at most so many applications (n, features) that the model finds risky because exactly one clause
    applies: what decides them is not in question."""
    known = clauses(x)
    return x[(known.sum(axis=1) == 1) & (predicted == 1) & (rule(x) == 1)][:rows]


def deciding_first(attributions: np.ndarray, known: np.ndarray) -> float:
    """Return the share of rows whose largest attribution is of a feature of the clause that applies.

    attributions: to the predicted class, (n, features). known: `clauses` of the rows, one true in each.
    """
    first = [FEATURE_NAMES[column] for column in attributions.argmax(axis=1)]
    hits = [name in OF_CLAUSE[row.argmax()] for name, row in zip(first, known, strict=True)]
    return round(float(np.mean(hits)), 4)


def irrelevant_share(attributions: np.ndarray) -> float:
    """Return the share of all attribution, by magnitude, that irrelevant features get."""
    size = np.abs(attributions).sum(axis=0)
    columns = [FEATURE_NAMES.index(name) for name in IRRELEVANT]
    return round(float(size[columns].sum() / size.sum()), 4)


def anchor_features(features: list[int]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the deciding and the irrelevant features of an anchor, `raw["feature"]`."""
    names = frozenset(FEATURE_NAMES[column] for column in features)
    return names & frozenset(DECIDING), names & frozenset(IRRELEVANT)
