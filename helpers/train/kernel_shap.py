"""alibi's KernelShap on credit applications: what each feature adds to the probabilities."""

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
from helpers.train.finding import deciding_first, irrelevant_share, rows_of_interest
from helpers.train.settings import CREDIT

NAME = "kernel_shap"
SEED = 0


def build(predictor: Callable[[np.ndarray], np.ndarray], data: Table):
    """Return a `KernelShap` that compares with some training rows and asks `predictor`."""
    with quiet_libraries(), numpy_state_kept(SEED):
        from alibi.explainers.shap_wrappers import KernelShap

        explainer = KernelShap(
            predictor,
            link="identity",
            feature_names=list(data.feature_names),
            categorical_names=data.category_map,
            seed=SEED,
        )
        return explainer.fit(data.x_train[: CREDIT.background])


def explain(explainer, rows: np.ndarray, seed: int = SEED):
    """Return the explanation of applications (n, features)."""
    with quiet_libraries(), numpy_state_kept(seed):
        return explainer.explain(rows, l1_reg=False, silent=True)


def train(data: Table, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Build, measure on test rows, and save the artefact. Needs the forest's artefact."""
    predictor = artifacts.load(data.name, forest.NAME).predict_proba
    explainer = build(predictor, data)
    rows = rows_of_interest(data.x_test, predictor(data.x_test).argmax(1), CREDIT.rows_measured)
    started = time.perf_counter()
    explanation = explain(explainer, rows)
    seconds = time.perf_counter() - started
    risk = np.asarray(explanation.shap_values[1])
    error = explanation.expected_value[1] + risk.sum(axis=1) - predictor(rows)[:, 1]
    return artifacts.save(
        data.name,
        NAME,
        explainer.save,
        format="alibi-shap",
        summary=f"KernelShap on {data.name}: what each feature adds to the probabilities",
        figures={
            "background_rows": CREDIT.background,
            "rows_explained": len(rows),
            "deciding_first": deciding_first(risk, clauses(rows)),
            "irrelevant_share": irrelevant_share(risk),
            "additivity_error_max": round(float(np.abs(error).max()), 6),
            "seconds_per_row": round(seconds / len(rows), 3),
        },
    )
