"""AnchorTabular: conditions on features under which a prediction stays, whatever the others are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from helpers import artifacts
from helpers.quiet import quiet_libraries
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.methods import anchors
from helpers.serving.explain.methods.base import Explained, Method
from helpers.serving.payloads import check_shape
from helpers.serving.storage import Location


class AnchorTabular(Method):
    """alibi's AnchorTabular; rows hold numbers, a category as its index."""

    options = anchors.AnchorOptions

    def __init__(self, tf_data_type: str | None = None) -> None:
        super().__init__(tf_data_type)
        self.explainer: Any = None

    def load(self, location: Location) -> None:
        """Load the explainer with a stand-in for the model."""
        self.use(
            artifacts.load(
                location.dataset, location.name, predictor=lambda x: np.zeros((len(x), 2))
            )
        )

    def use(self, explainer: Any) -> None:
        """Take an explainer that is already in memory."""
        if type(explainer).__name__ != "AnchorTabular":
            raise ServingError(
                f"the artefact holds {type(explainer).__name__}; AnchorTabular needs an AnchorTabular."
            )
        if explainer.ohe:
            raise ServingError("the artefact takes one-hot encoded rows, which is not supported.")
        self.explainer = explainer
        anchors.silence_alibi()

    def connect(self, predict: Callable[[np.ndarray], np.ndarray]) -> None:
        """Give the model to the explainer, which tries it with a row of zeros."""
        self.explainer.reset_predictor(predict)

    def explain(
        self, instances: np.ndarray, options: anchors.AnchorOptions, seed: int
    ) -> Explained:
        """Explain rows (n, features)."""
        check_shape(instances, (len(self.explainer.feature_names),))
        rows = np.ascontiguousarray(instances, np.float64)
        self._check_categories(rows)
        try:
            with quiet_libraries():
                return anchors.answer(
                    rows,
                    options.threshold,
                    seed,
                    lambda row: self.explainer.explain(row, **options.arguments()),
                )
        finally:
            self.explainer.mab = None  # the search, some hundred megabytes

    def _check_categories(self, rows: np.ndarray) -> None:
        for column in self.explainer.categorical_features:
            values = self.explainer.feature_values[column]
            strange = rows[~np.isin(rows[:, column], np.arange(len(values))), column]
            if len(strange):
                raise RequestError(
                    400,
                    f"{self.explainer.feature_names[column]} is {strange[0]:g}; a category is its index, "
                    f"a whole number from 0 to {len(values) - 1}.",
                )
