"""ALE: how the model's output moves with each feature, over all rows of the request together.

It is a global explanation, of the model on these rows: send some hundred of them. There is one answer, whatever
their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from helpers import artifacts
from helpers.quiet import quiet_libraries
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.methods.base import Explained, Method, Options
from helpers.serving.explain.methods.batches import refuse_more_than, with_seed
from helpers.serving.payloads import check_shape
from helpers.serving.storage import Location

MOST_INSTANCES = 10_000  # of one request


class ALEOptions(Options):
    """Options of ALE, as of alibi's `ALE.explain`; Seldon's server has none for it.

    `features`: columns to explain, all by default; `0,3` in the configuration. `min_bin_points`: rows in an
    interval at least.
    """

    features: tuple[int, ...] | None = None
    min_bin_points: int = Field(4, ge=1, le=1000)

    @field_validator("features", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("features")
    @classmethod
    def _columns(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 0 or len(set(value)) != len(value)):
            raise ValueError("columns are whole numbers from 0, each once")
        return value


class ALE(Method):
    """alibi's ALE."""

    options = ALEOptions

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
        if type(explainer).__name__ != "ALE":
            raise ServingError(f"the artefact holds {type(explainer).__name__}; ALE needs an ALE.")
        if explainer.feature_names is None:
            raise ServingError(
                "the artefact does not name its features; make it with feature_names."
            )
        self.explainer = explainer

    def connect(self, predict: Callable[[np.ndarray], np.ndarray]) -> None:
        """Try the model with one row of zeros, and give it to the explainer."""
        predict(np.zeros((1, len(self.explainer.feature_names))))
        self.explainer.reset_predictor(predict)

    def explain(self, instances: np.ndarray, options: ALEOptions, seed: int) -> Explained:
        """Explain the model on rows (n, features)."""
        count = len(self.explainer.feature_names)
        check_shape(instances, (count,))
        refuse_more_than(MOST_INSTANCES, instances)
        if options.features is not None and max(options.features) >= count:
            raise RequestError(
                400, f"parameters.features: there are {count} columns, 0 to {count - 1}."
            )
        with quiet_libraries():
            explanation = self.explainer.explain(
                np.ascontiguousarray(instances, np.float64),
                features=None if options.features is None else list(options.features),
                min_bin_points=options.min_bin_points,
            )
        data = dict(explanation.data)
        for name in ("feature_names", "target_names"):  # arrays of text
            data[name] = [str(one) for one in data[name]]
        return Explained(with_seed(explanation.meta, seed), data)
