"""AnchorImages: the superpixels that hold a prediction fast, whatever becomes of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from helpers import artifacts
from helpers.quiet import quiet_libraries
from helpers.serving.common.errors import ServingError
from helpers.serving.explain.methods.base import CONFIG_ONLY, Explained, Method, Options
from helpers.serving.payloads import cast, check_shape
from helpers.serving.storage import Location

# The model may not answer yet when the explainer is loaded, and alibi tries it with one image then.
_TWO_CLASSES = np.zeros((1, 2), np.float32)


class AnchorOptions(Options):
    """Options of the search for an anchor, with alibi's defaults; see `AnchorImage.explain`.

    Limits keep a request from asking for a search without end, or for more memory than there is.
    `max_samples_start` is a key of Seldon's that alibi ignores.
    """

    threshold: float = Field(0.95, gt=0, le=1)
    delta: float = Field(0.1, ge=0.001, lt=1)
    tau: float = Field(0.15, ge=0.02, lt=1)
    batch_size: int = Field(100, ge=10, le=1000)
    coverage_samples: int = Field(10_000, ge=1, le=100_000)
    beam_size: int = Field(1, ge=1, le=20)
    stop_on_first: bool = False
    max_anchor_size: int | None = Field(None, ge=1)
    min_samples_start: int = Field(100, ge=1, le=10_000)
    n_covered_ex: int = Field(10, ge=0, le=100)
    binary_cache_size: int = Field(10_000, ge=1, le=100_000, json_schema_extra=CONFIG_ONLY)
    cache_margin: int = Field(1_000, ge=1, le=100_000, json_schema_extra=CONFIG_ONLY)
    verbose: bool = Field(False, json_schema_extra=CONFIG_ONLY)
    verbose_every: int = Field(1, ge=1, json_schema_extra=CONFIG_ONLY)
    max_samples_start: int | None = Field(None, ge=1, json_schema_extra=CONFIG_ONLY)


class AnchorImagesOptions(AnchorOptions):
    """Options of AnchorImages."""

    p_sample: float = Field(0.5, gt=0, lt=1)


class AnchorImages(Method):
    """alibi's AnchorImage.

    Args:
        tf_data_type: float32 unless told otherwise, which is what an image from JSON then has.
        reuse: False leaves alibi's own sampler in place, for comparison.
    """

    options = AnchorImagesOptions

    def __init__(self, tf_data_type: str | None = None, reuse: bool = True) -> None:
        super().__init__(tf_data_type)
        try:
            self.dtype = np.dtype(tf_data_type or "float32")
        except TypeError:
            raise ServingError(f"--tf_data_type {tf_data_type!r} is no type of numbers.") from None
        if self.dtype.kind not in "fiu":
            raise ServingError(f"--tf_data_type {tf_data_type!r}: images are of numbers.")
        self.reuse = reuse
        self.explainer: Any = None

    def load(self, location: Location) -> None:
        """Load the explainer with a stand-in for the model."""
        self.use(artifacts.load(location.dataset, location.name, predictor=lambda x: _TWO_CLASSES))

    def use(self, explainer: Any) -> None:
        """Take an explainer that is already in memory."""
        if type(explainer).__name__ != "AnchorImage":
            raise ServingError(
                f"the artefact holds {type(explainer).__name__}; AnchorImages needs an AnchorImage."
            )
        self.explainer = explainer
        # It warns when no anchor reaches the threshold; the response says so as raw.success.
        logging.getLogger("alibi.explainers.anchors").setLevel(logging.ERROR)

    def connect(self, predict: Callable[[np.ndarray], np.ndarray]) -> None:
        """Try the model with one black image, and give it to the explainer."""
        predict(np.zeros((1, *self.explainer.image_shape), self.dtype))
        self.explainer.reset_predictor(predict)

    def explain(self, instances: np.ndarray, options: Options, seed: int) -> Explained:
        """Explain the first image, (n, height, width, channels)."""
        from helpers.serving.explain.image_sampling import distinct_images

        check_shape(instances, tuple(self.explainer.image_shape))
        image = cast(instances[0], self.dtype)
        chosen = options.model_dump(exclude={"max_samples_start"})
        if options.max_samples_start is not None:
            chosen["max_samples_start"] = options.max_samples_start
        with quiet_libraries(), distinct_images(self.explainer, self.reuse) as drawn:
            explanation = self.explainer.explain(image, **chosen)
        meta = {**explanation.meta, "params": {**explanation.meta["params"], "seed": seed}}
        data = explanation.data
        figures = {
            "precision": float(np.max(data["precision"])),
            "coverage": float(data["coverage"]),
            "size": float(len(data["raw"]["feature"])),
        }
        if drawn.samples:
            figures["samples"] = float(drawn.samples)
        return Explained(meta, data, figures)
