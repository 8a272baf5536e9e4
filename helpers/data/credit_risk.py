"""Made-up loan applications with a known rule behind the risk: what an explanation ought to find is known.

The rule, on the four features in DECIDING: the risk is high (class 1) for an applicant
    A. whose credit history is `defaulted`,
    B. who asks for more than LARGE_LOAN of a year's income, or
    C. whose credit history is `late payments`, after less than SHORT_EMPLOYMENT years in the job.
Everybody else is a low risk (class 0). Then NOISE of the labels, in training and test alike, are turned around:
no classifier can be right more often than 1 - NOISE.

The other features are IRRELEVANT by construction: drawn without a look at the deciding ones or at the risk. Two of
them, `home_region` and `age_band`, are such as no lender may decide by; an explanation that names them is wrong,
or the model is.

Drawn with NumPy's PCG64 from SEED; no real person is in it.
"""

from __future__ import annotations

import numpy as np

from helpers.data.tables import Table

SEED = 7
TRAIN_ROWS, TEST_ROWS = 4000, 1000
NOISE = 0.02
LARGE_LOAN = 0.6
SHORT_EMPLOYMENT = 2.0

CLASS_NAMES = ("low risk", "high risk")
CATEGORIES = {
    "age_band": ["18-25", "26-35", "36-50", "51-65", "over 65"],
    "credit_history": ["clean", "no history", "late payments", "defaulted"],
    "home_region": ["north", "east", "south", "west"],
    "housing": ["rents", "owns", "with family"],
}
FEATURE_NAMES = (
    "age_band",
    "income",
    "credit_history",
    "home_region",
    "loan_amount",
    "employment_years",
    "open_accounts",
    "housing",
)
DECIDING = ("income", "credit_history", "loan_amount", "employment_years")
IRRELEVANT = tuple(name for name in FEATURE_NAMES if name not in DECIDING)
CATEGORY_MAP = {FEATURE_NAMES.index(name): values for name, values in CATEGORIES.items()}

_HISTORY = CATEGORIES["credit_history"]
_LATE, _DEFAULTED = float(_HISTORY.index("late payments")), float(_HISTORY.index("defaulted"))


def draw(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return applications, float64 (rows, features)."""
    columns = {
        "age_band": rng.choice(5, rows, p=[0.14, 0.26, 0.30, 0.20, 0.10]),
        "income": np.clip(rng.lognormal(np.log(42_000), 0.45, rows), 12_000, 200_000).round(-2),
        "credit_history": rng.choice(4, rows, p=[0.45, 0.15, 0.25, 0.15]),
        "home_region": rng.choice(4, rows),
        "loan_amount": np.clip(rng.lognormal(np.log(13_000), 0.65, rows), 1_000, 90_000).round(-2),
        "employment_years": rng.gamma(1.6, 3.2, rows).clip(0, 40).round(1),
        "open_accounts": rng.poisson(3.0, rows).clip(0, 12),
        "housing": rng.choice(3, rows, p=[0.5, 0.35, 0.15]),
    }
    return np.column_stack([columns[name] for name in FEATURE_NAMES]).astype(np.float64)


def clauses(x: np.ndarray) -> np.ndarray:
    """Return which of the clauses A, B and C hold, bool (n, 3), for applications (n, features)."""
    value = {name: x[:, FEATURE_NAMES.index(name)] for name in DECIDING}
    return np.column_stack(
        [
            value["credit_history"] == _DEFAULTED,
            value["loan_amount"] > LARGE_LOAN * value["income"],
            (value["credit_history"] == _LATE) & (value["employment_years"] < SHORT_EMPLOYMENT),
        ]
    )


def rule(x: np.ndarray) -> np.ndarray:
    """Return the risk before noise, int64 (n,), of applications (n, features)."""
    return clauses(x).any(axis=1).astype(np.int64)


def read() -> Table:
    """Return the 5,000 applications, always the same."""
    rng = np.random.default_rng(SEED)
    x = draw(TRAIN_ROWS + TEST_ROWS, rng)
    y = rule(x) ^ (rng.random(len(x)) < NOISE)
    return Table(
        name="credit_risk",
        feature_names=FEATURE_NAMES,
        class_names=CLASS_NAMES,
        x_train=x[:TRAIN_ROWS],
        y_train=y[:TRAIN_ROWS],
        x_test=x[TRAIN_ROWS:],
        y_test=y[TRAIN_ROWS:],
        category_map={column: list(values) for column, values in CATEGORY_MAP.items()},
    )
