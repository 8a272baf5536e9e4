"""A scikit-learn model behind seldon-core-microservice, as Seldon's SKLEARN_SERVER has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from seldon_core.user_model import SeldonComponent

from helpers import artifacts
from helpers.errors import ArtifactError
from helpers.serving.seldon_model.errors import errors
from helpers.serving.storage import locate

METHODS = ("predict_proba", "predict")


class SKLearnServer(SeldonComponent):
    """`model.joblib` of an artefact.

    Args:
        model_uri: of the artefact, which is checked at once and loaded in the worker.
        method: what a prediction calls, predict_proba or predict.

    Raises:
        ArtifactError: the URI, the artefact or the method is wrong.
    """

    model_error_handler = errors

    def __init__(self, model_uri: str, method: str = "predict_proba") -> None:
        super().__init__()
        if method not in METHODS:
            raise ArtifactError(
                f"The method {method!r} is unknown; there are {', '.join(METHODS)}."
            )
        self._location = locate(model_uri)
        self._method = method
        self._model: Any = None
        artifacts.verify(self._location.dataset, self._location.name)

    def load(self) -> None:
        """Load the model; called once in each worker.

        Raises:
            ArtifactError: it cannot be loaded, or has no such method.
        """
        try:
            self._model = artifacts.load(self._location.dataset, self._location.name)
            getattr(self._model, self._method)
        except (AttributeError, NotImplementedError) as problem:  # the program would take no notice
            raise ArtifactError(f"{self._location} cannot serve: {problem}.") from problem

    def predict(
        self, features: np.ndarray, names: Iterable[str], meta: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Return what the model says to `features`, one row each."""
        return getattr(self._model, self._method)(features)
