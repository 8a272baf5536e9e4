"""The classifier of support tickets, as SKLEARN_SERVER takes it."""

from __future__ import annotations

from pathlib import Path

import joblib

from helpers import artifacts
from helpers.data import Texts
from helpers.models.text import build_bag_of_words
from helpers.train.older_readers import also_for_older_ones
from helpers.train.settings import TICKETS

NAME = "bag_of_words"


def train(data: Texts, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Train, measure on the test texts, and save the artefact. `workdir` is not needed."""
    from sklearn.model_selection import cross_val_score

    model = build_bag_of_words(TICKETS.strength)
    crossed = cross_val_score(model, data.x_train, data.y_train, cv=5)
    model.fit(data.x_train, data.y_train)
    return artifacts.save(
        data.name,
        NAME,
        lambda folder: joblib.dump(also_for_older_ones(model), folder / "model.joblib", compress=3),
        format="scikit-learn",
        summary=f"Words of {data.name}, counted and weighed: billing or technical",
        figures={
            "test_accuracy": round(float(model.score(data.x_test, data.y_test)), 4),
            "test_texts": len(data.x_test),
            "cross_validated_accuracy": round(float(crossed.mean()), 4),
            "training_texts": len(data.x_train),
        },
    )
