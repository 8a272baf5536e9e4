"""The classifier of credit applications: a forest, as SKLEARN_SERVER takes it."""

from __future__ import annotations

from pathlib import Path

import joblib

from helpers import artifacts
from helpers.data import Table
from helpers.data.credit_risk import rule
from helpers.models.tabular import build_forest
from helpers.train.settings import CREDIT

NAME = "forest"
SEED = 0


def train(data: Table, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Train, measure on the test rows, and save the artefact. `workdir` is not needed."""
    forest = build_forest(CREDIT.trees, CREDIT.depth, CREDIT.leaf, SEED)
    forest.fit(data.x_train, data.y_train)
    predicted = forest.predict(data.x_test)
    return artifacts.save(
        data.name,
        NAME,
        lambda folder: joblib.dump(forest, folder / "model.joblib", compress=3),
        format="scikit-learn",
        summary=f"A random forest on {data.name}: risk of a loan application",
        figures={
            "test_accuracy": round(float((predicted == data.y_test).mean()), 4),
            "rule_accuracy": round(float((predicted == rule(data.x_test)).mean()), 4),
            "test_rows": len(data.x_test),
            "trees": CREDIT.trees,
        },
    )
