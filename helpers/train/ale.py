"""alibi's ALE on the tumours: how the model's output moves with each feature, over all rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers import artifacts
from helpers.data import Table
from helpers.quiet import quiet_libraries
from helpers.train import logistic

NAME = "ale"


def build(predictor: Callable[[np.ndarray], np.ndarray], data: Table):
    """Return an `ALE` that asks `predictor`."""
    with quiet_libraries():
        from alibi.explainers.ale import ALE

        return ALE(
            predictor, feature_names=list(data.feature_names), target_names=list(data.class_names)
        )


def effects(explanation) -> np.ndarray:
    """Return by how much the first class's output moves with each feature, (features,)."""
    return np.array([np.ptp(curve[:, 0]) for curve in explanation.ale_values])


def train(data: Table, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Build, measure on the training rows, and save the artefact. Needs the classifier's artefact."""
    predictor = artifacts.load(data.name, logistic.NAME).predict_proba
    explainer = build(predictor, data)
    started = time.perf_counter()
    with quiet_libraries():
        explanation = explainer.explain(data.x_train)
    seconds = time.perf_counter() - started
    moved = effects(explanation)
    return artifacts.save(
        data.name,
        NAME,
        lambda folder: build(predictor, data).save(folder),
        format="alibi",
        summary=f"ALE on {data.name}: how the output moves with each feature",
        figures={
            "rows_explained": len(data.x_train),
            "seconds": round(seconds, 3),
            "largest_effects": {
                data.feature_names[column]: round(float(moved[column]), 4)
                for column in np.argsort(-moved)[:5]
            },
        },
    )
