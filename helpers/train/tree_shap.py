"""alibi's TreeShap on the forest of credit applications: attributions from the trees themselves."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dill
import numpy as np

from helpers import artifacts
from helpers.data import Table
from helpers.data.credit_risk import clauses
from helpers.quiet import quiet_libraries
from helpers.seeds import numpy_state_kept
from helpers.train import forest as forest_module
from helpers.train.finding import deciding_first, irrelevant_share, rows_of_interest
from helpers.train.settings import CREDIT

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

NAME = "tree_shap"
SEED = 0


def trees_of(forest: RandomForestClassifier) -> dict[str, Any]:
    """Return a forest as plain arrays, in the form that shap takes a model of its own kind."""
    share = 1 / len(forest.estimators_)
    return {
        "input_dtype": np.float32,  # as scikit-learn compares
        "internal_dtype": np.float64,
        "objective": "binary_crossentropy",
        "tree_output": "probability",
        "trees": [
            {
                "children_left": tree.children_left,
                "children_right": tree.children_right,
                "children_default": tree.children_left,
                "features": tree.feature,
                "thresholds": tree.threshold,
                "values": tree.value[:, 0, :] * share,
                # A copy: shap counts background rows in it, and this is the forest's own memory.
                "node_sample_weight": tree.weighted_n_node_samples.copy(),
            }
            for tree in (one.tree_ for one in forest.estimators_)
        ],
    }


def build(forest: RandomForestClassifier, data: Table, background: np.ndarray | None = None):
    """Return a `TreeShap` of the forest's trees.

    With `background` rows (n, features), at most 100, the attributions are those of KernelShap on the
    same rows; without, the trees' own counts stand for them, and interactions can be computed.
    """
    with quiet_libraries(), numpy_state_kept(SEED):
        from alibi.explainers.shap_wrappers import TreeShap

        explainer = TreeShap(
            trees_of(forest),
            feature_names=list(data.feature_names),
            categorical_names=data.category_map,
            seed=SEED,
        )
        return explainer.fit(background)


def save(explainer, folder: Path) -> None:
    """Write what `explainer.save` writes, with the trees in it.

    alibi leaves the model out and has it given again to `load_explainer`. Seldon's explain server gives
    a function that asks the deployed model, which TreeShap cannot use, and fails. So this one keeps its
    trees, and ignores what it is given.
    """
    kept = copy.copy(explainer)
    kept.predictor = None
    kept.reset_predictor = callable  # a built-in that takes one thing and does nothing to it
    kept._explainer = copy.copy(explainer._explainer)
    kept._explainer.link = None  # compiled code, with paths of this machine, that trees do not need
    for name, content in (("meta.dill", kept.meta), ("explainer.dill", kept)):
        with open(folder / name, "wb") as opened:
            dill.dump(content, opened, recurse=True)


def train(data: Table, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Build, measure on test rows, and save the artefact. Needs the forest's artefact."""
    forest = artifacts.load(data.name, forest_module.NAME)
    explainer = build(forest, data)
    rows = rows_of_interest(data.x_test, forest.predict(data.x_test), CREDIT.rows_measured)
    started = time.perf_counter()
    with quiet_libraries():
        explanation = explainer.explain(rows)
    seconds = time.perf_counter() - started
    risk = np.asarray(explanation.shap_values[1])
    error = explanation.expected_value[1] + risk.sum(axis=1) - forest.predict_proba(rows)[:, 1]
    return artifacts.save(
        data.name,
        NAME,
        lambda folder: save(explainer, folder),
        format="alibi-shap",
        summary=f"TreeShap on {data.name}: what each feature adds, computed from the forest's trees",
        figures={
            "trees": len(forest.estimators_),
            "rows_explained": len(rows),
            "deciding_first": deciding_first(risk, clauses(rows)),
            "irrelevant_share": irrelevant_share(risk),
            "additivity_error_max": round(float(np.abs(error).max()), 6),
            "seconds_per_row": round(seconds / len(rows), 5),
        },
    )
