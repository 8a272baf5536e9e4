"""alibi's AnchorTabular on credit applications: conditions that hold a prediction fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers import artifacts
from helpers.data import Table
from helpers.data.credit_risk import clauses
from helpers.quiet import quiet_libraries
from helpers.seeds import numpy_state_kept
from helpers.train import forest
from helpers.train.finding import OF_CLAUSE, anchor_features, rows_of_interest
from helpers.train.settings import CREDIT

NAME = "anchor_tabular"
SEED = 0


def build(predictor: Callable[[np.ndarray], np.ndarray], data: Table):
    """Return an `AnchorTabular` that draws from training rows and asks `predictor`."""
    with quiet_libraries(), numpy_state_kept(SEED):
        from alibi.explainers.anchors.anchor_tabular import AnchorTabular

        explainer = AnchorTabular(
            predictor, list(data.feature_names), categorical_names=data.category_map
        )
        return explainer.fit(data.x_train[: CREDIT.sampled_rows], disc_perc=CREDIT.percentiles)


def save(explainer, folder: Path) -> None:
    """Save the explainer without its predictor, of which alibi leaves a copy in the sampler."""
    (sampler,) = explainer.samplers
    predictor, sampler.predictor = sampler.predictor, None
    try:
        explainer.save(folder)
    finally:
        sampler.predictor = predictor


def explain(explainer, row: np.ndarray, threshold: float = CREDIT.threshold, seed: int = SEED):
    """Return the anchor of one application (features,)."""
    with quiet_libraries(), numpy_state_kept(seed):
        return explainer.explain(row, threshold=threshold)


def train(data: Table, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Build, measure on test rows, and save the artefact. Needs the forest's artefact."""
    predictor = artifacts.load(data.name, forest.NAME).predict_proba
    explainer = build(predictor, data)
    return artifacts.save(
        data.name,
        NAME,
        # A fresh one: after a search the explainer holds the search, hundreds of megabytes.
        lambda folder: save(build(predictor, data), folder),
        format="alibi",
        summary=f"AnchorTabular on {data.name}: conditions that hold the prediction fast",
        figures=measure(explainer, predictor, data),
    )


def measure(explainer, predictor: Callable, data: Table) -> dict:
    """Return precision, coverage and size of the anchors, and whether they name what decides."""
    rows = rows_of_interest(data.x_test, predictor(data.x_test).argmax(1), CREDIT.rows_measured)
    precisions, coverages, sizes, seconds, found, irrelevant = [], [], [], [], [], 0
    for row, known in zip(rows, clauses(rows), strict=True):
        started = time.perf_counter()
        explanation = explain(explainer, row)
        seconds.append(time.perf_counter() - started)
        deciding, others = anchor_features(explanation.raw["feature"])
        found.append(bool(OF_CLAUSE[known.argmax()] & deciding))
        irrelevant += bool(others)
        precisions.append(np.max(explanation.precision))
        coverages.append(explanation.coverage)
        sizes.append(len(explanation.anchor))
    return {
        "threshold": CREDIT.threshold,
        "rows_explained": len(rows),
        "found": round(float(np.mean(found)), 4),
        "names_irrelevant": irrelevant,
        "precision_mean": round(float(np.mean(precisions)), 4),
        "coverage_mean": round(float(np.mean(coverages)), 4),
        "conditions_mean": round(float(np.mean(sizes)), 2),
        "seconds_median": round(float(np.median(seconds)), 3),
    }
