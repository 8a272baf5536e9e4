"""The classifier of tumours: a logistic regression, as SKLEARN_SERVER takes it."""

from __future__ import annotations

from pathlib import Path

import joblib

from helpers import artifacts
from helpers.data import Table
from helpers.models.tabular import build_logistic
from helpers.train.older_readers import also_for_older_ones
from helpers.train.settings import CANCER

NAME = "logistic"


def train(data: Table, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Train, measure on the test rows, and save the artefact. `workdir` is not needed."""
    model = also_for_older_ones(build_logistic(CANCER.strength).fit(data.x_train, data.y_train))
    return artifacts.save(
        data.name,
        NAME,
        lambda folder: joblib.dump(model, folder / "model.joblib", compress=3),
        format="scikit-learn",
        summary=f"A logistic regression on {data.name}: malignant or benign",
        figures={
            "test_accuracy": round(float(model.score(data.x_test, data.y_test)), 4),
            "test_rows": len(data.x_test),
        },
    )
