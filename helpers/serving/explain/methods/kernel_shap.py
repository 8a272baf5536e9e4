"""KernelShap: what each feature adds to the model's output, by asking the model about mixtures with other rows.

Several rows are answered as Seldon's server answers them, by one explanation: `data.shap_values` has an array (n,
features) for each output of the model, its rows in the order of the request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from helpers import artifacts
from helpers.quiet import quiet_libraries
from helpers.serving.common.errors import ServingError
from helpers.serving.explain.methods.base import Explained, Method, Options
from helpers.serving.explain.methods.batches import each, refuse_more_than, with_seed
from helpers.serving.explain.methods.shapley import silence_shap, together
from helpers.serving.payloads import check_shape
from helpers.serving.storage import Location

MOST_INSTANCES = 200  # of one request


class KernelShapOptions(Options):
    """Options of KernelShap. Seldon's server has none for it.

    `nsamples`: coalitions of features to try for each row; None is shap's own choice, all of them for up
    to 11 features.
    """

    nsamples: int | None = Field(None, ge=10, le=20_000)


class KernelShap(Method):
    """alibi's KernelShap, without a choice of features (`l1_reg` off), as Seldon's server has it."""

    options = KernelShapOptions

    def __init__(self, tf_data_type: str | None = None) -> None:
        super().__init__(tf_data_type)
        self.explainer: Any = None
        self.predict: Callable[[np.ndarray], np.ndarray] | None = None

    def load(self, location: Location) -> None:
        """Load the explainer with a stand-in for the model."""
        self.use(
            artifacts.load(
                location.dataset, location.name, predictor=lambda x: np.zeros((len(x), 2))
            )
        )

    def use(self, explainer: Any) -> None:
        """Take an explainer that is already in memory."""
        if type(explainer).__name__ != "KernelShap":
            raise ServingError(
                f"the artefact holds {type(explainer).__name__}; KernelShap needs a KernelShap."
            )
        if explainer.use_groups or explainer.distribute:
            raise ServingError(
                "the artefact groups its features or is distributed; neither is supported."
            )
        self.explainer = explainer
        silence_shap()

    @property
    def background(self) -> np.ndarray:
        """The rows that a row is mixed with, (n, features)."""
        data = self.explainer.background_data
        return np.asarray(getattr(data, "data", data) if not isinstance(data, np.ndarray) else data)

    def connect(self, predict: Callable[[np.ndarray], np.ndarray]) -> None:
        """Try the model with the background rows."""
        predict(self.background)
        self.predict = predict

    def explain(self, instances: np.ndarray, options: KernelShapOptions, seed: int) -> Explained:
        """Explain rows (n, features)."""
        check_shape(instances, self.background.shape[1:])
        refuse_more_than(MOST_INSTANCES, instances)
        rows = np.ascontiguousarray(instances, np.float64)
        chosen = {} if options.nsamples is None else {"nsamples": options.nsamples}
        with quiet_libraries():
            # Anew each time: the expected output is the model's on the background rows, and another
            # model may stand behind the address by now.
            self.predict(self.background)
            self.explainer.reset_predictor(self.predict)
            found = each(
                rows,
                seed,
                lambda row: self.explainer.explain(row[None], l1_reg=False, silent=True, **chosen),
            )
        meta = with_seed(found[0].meta, seed)
        meta["params"].update(options.model_dump())
        return Explained(meta, together([one.data for one in found]))
