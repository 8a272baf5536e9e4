"""IntegratedGradients: gradients of a Keras model summed along the way from a baseline of zeros to the instance.

The artefact holds the model, `model.h5`, so the deployed model is not asked; it is the deployed model only if
both come from the same artefact. Several instances are answered by one explanation, as Seldon's server does:
`data.attributions[0]` is (n, …) in the order of the request.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from helpers import artifacts
from helpers.quiet import quiet_libraries
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.methods.base import Explained, Method, Options
from helpers.serving.explain.methods.batches import with_seed
from helpers.serving.payloads import cast, check_shape
from helpers.serving.storage import Location

MOST_NUMBERS = 50_000_000  # of all points on all ways, 200 MB


class IntegratedGradientsOptions(Options):
    """Options of IntegratedGradients, with Seldon's defaults.

    `layer` is the place of a layer in the model: its output is attributed to, and not the input.
    """

    layer: int | None = None
    method: Literal[
        "gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"
    ] = "gausslegendre"
    n_steps: int = Field(50, ge=2, le=1000)
    internal_batch_size: int = Field(100, ge=1, le=10_000)


class IntegratedGradients(Method):
    """alibi's IntegratedGradients of the class that the model predicts."""

    options = IntegratedGradientsOptions
    asks_model = False

    def __init__(self, tf_data_type: str | None = None) -> None:
        super().__init__(tf_data_type)
        self.model: Any = None

    def load(self, location: Location) -> None:
        """Load the model."""
        # Here, after the service has prepared alibi: only its module of this method is imported then.
        import helpers.tf  # noqa: F401

        kind = artifacts.describe(location.dataset, location.name).format
        if kind != "keras":
            raise ServingError(
                f"the artefact is of the format {kind}; IntegratedGradients needs a Keras model, `model.h5`."
            )
        self.use(artifacts.load(location.dataset, location.name))

    def use(self, model: Any) -> None:
        """Take a model that is already in memory."""
        if not isinstance(model.input_shape, tuple):
            raise ServingError(
                "the model takes several inputs; IntegratedGradients here takes one."
            )
        self.model = model

    def connect(self, predict: Any) -> None:
        """The model is in the artefact."""

    def explain(
        self, instances: np.ndarray, options: IntegratedGradientsOptions, seed: int
    ) -> Explained:
        """Explain instances (n, …) as the model takes them."""
        from alibi.explainers.integrated_gradients import IntegratedGradients as Alibis

        check_shape(instances, tuple(self.model.input_shape[1:]))
        if instances.size * options.n_steps > MOST_NUMBERS:
            raise RequestError(
                400, "The instances are too many for so many steps; send fewer at a time."
            )
        x = cast(instances, self.model.inputs[0].dtype.as_numpy_dtype)
        with quiet_libraries():
            explainer = Alibis(
                self.model,
                layer=self._layer(options.layer),
                method=options.method,
                n_steps=options.n_steps,
                internal_batch_size=options.internal_batch_size,
            )
            target = self.model(x).numpy().argmax(axis=1)
            explanation = explainer.explain(x, baselines=None, target=target)
        meta = with_seed(explanation.meta, seed)
        meta["params"]["layer"] = options.layer
        return Explained(meta, explanation.data)

    def _layer(self, place: int | None) -> Any:
        if place is None:
            return None
        count = len(self.model.layers)
        if not -count <= place < count:
            raise RequestError(400, f"parameters.layer is {place}; the model has {count} layers.")
        return self.model.layers[place]
