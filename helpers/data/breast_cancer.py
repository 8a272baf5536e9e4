"""scikit-learn's bundled breast cancer table: 569 tumours, 30 measurements of the cell nuclei of each.

Source: Wolberg, Mangasarian, Street and Street, "Breast Cancer Wisconsin (Diagnostic)", UCI, 1995.
"""

from __future__ import annotations

import numpy as np

from helpers.data.tables import Table

SEED = 0
TEST_SHARE = 0.25


def read() -> Table:
    """Return the table; about a quarter of each class is test, always the same."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    data = load_breast_cancer()
    x_train, x_test, y_train, y_test = train_test_split(
        data.data.astype(np.float64),
        data.target.astype(np.int64),
        test_size=TEST_SHARE,
        stratify=data.target,
        random_state=SEED,
    )
    return Table(
        name="breast_cancer",
        feature_names=tuple(str(name) for name in data.feature_names),
        class_names=tuple(str(name) for name in data.target_names),
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
    )
