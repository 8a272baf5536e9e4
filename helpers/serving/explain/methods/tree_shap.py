"""TreeShap: what each feature adds to the output of an ensemble of trees, computed from the trees themselves.

The artefact holds the trees, so the deployed model is not asked. Several rows are answered by one explanation, as
of KernelShap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from helpers import artifacts
from helpers.errors import ArtifactError
from helpers.quiet import quiet_libraries
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.methods.base import Explained, Method, Options
from helpers.serving.explain.methods.batches import refuse_more_than, with_seed
from helpers.serving.explain.methods.shapley import silence_shap
from helpers.serving.payloads import check_shape
from helpers.serving.storage import Location

MOST_INSTANCES = 1000  # of one request


class TreeShapOptions(Options):
    """Options of TreeShap, as of alibi's `TreeShap.explain`.

    `summarise_result` is a key of Seldon's that has no effect: it needs the places of one-hot encoded
    categories, which cannot be told. With `tree_limit` the attributions add up to the output of fewer trees,
    so additivity is not checked.
    """

    interactions: bool = False
    approximate: bool = False
    check_additivity: bool = True
    tree_limit: int | None = Field(None, ge=1)
    summarise_result: bool = False


class TreeShap(Method):
    """alibi's TreeShap."""

    options = TreeShapOptions
    asks_model = False

    def __init__(self, tf_data_type: str | None = None) -> None:
        super().__init__(tf_data_type)
        self.explainer: Any = None

    def load(self, location: Location) -> None:
        """Load the explainer and its trees."""
        try:
            explainer = artifacts.load(location.dataset, location.name, predictor=None)
        except ArtifactError:
            raise
        except Exception as problem:
            raise ServingError(
                f"the artefact does not hold its trees ({problem}); save it as "
                "helpers.train.tree_shap does."
            ) from problem
        self.use(explainer)

    def use(self, explainer: Any) -> None:
        """Take an explainer that is already in memory."""
        if type(explainer).__name__ != "TreeShap":
            raise ServingError(
                f"the artefact holds {type(explainer).__name__}; TreeShap needs a TreeShap."
            )
        self.explainer = explainer
        silence_shap()

    def connect(self, predict: Any) -> None:
        """The model is in the artefact."""

    def explain(self, instances: np.ndarray, options: TreeShapOptions, seed: int) -> Explained:
        """Explain rows (n, features)."""
        # shap's C code trusts the number of columns.
        used = int(max(tree.features.max() for tree in self.explainer._explainer.model.trees)) + 1
        check_shape(instances, (len(self.explainer.feature_names) or used,))
        refuse_more_than(MOST_INSTANCES, instances)
        chosen = options.model_dump(exclude={"summarise_result"})
        if options.tree_limit is not None:
            chosen["check_additivity"] = False
        with quiet_libraries():
            try:
                explanation = self.explainer.explain(
                    np.ascontiguousarray(instances, np.float64), **chosen
                )
            except NotImplementedError as problem:
                raise RequestError(400, f"This explainer cannot do that: {problem}") from problem
        meta = with_seed(explanation.meta, seed)
        meta["params"].update(options.model_dump())
        return Explained(meta, explanation.data)
