"""AnchorImages: the superpixels that hold a prediction fast, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from helpers import artifacts
from helpers.quiet import quiet_libraries
from helpers.serving.common.errors import ServingError
from helpers.serving.explain.methods import anchors
from helpers.serving.explain.methods.base import Explained, Method
from helpers.serving.payloads import cast, check_shape
from helpers.serving.storage import Location

# The model may not answer yet when the explainer is loaded, and alibi tries it with one image then.
_TWO_CLASSES = np.zeros((1, 2), np.float32)


class AnchorImagesOptions(anchors.AnchorOptions):
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
        anchors.silence_alibi()

    def connect(self, predict: Callable[[np.ndarray], np.ndarray]) -> None:
        """Try the model with one black image, and give it to the explainer."""
        predict(np.zeros((1, *self.explainer.image_shape), self.dtype))
        self.explainer.reset_predictor(predict)

    def explain(self, instances: np.ndarray, options: AnchorImagesOptions, seed: int) -> Explained:
        """Explain images, (n, height, width, channels)."""
        from helpers.serving.explain.image_sampling import distinct_images

        check_shape(instances, tuple(self.explainer.image_shape))
        images = [cast(image, self.dtype) for image in instances]
        chosen = options.arguments() | {"p_sample": options.p_sample}
        try:
            with quiet_libraries(), distinct_images(self.explainer, self.reuse) as drawn:
                explained = anchors.answer(
                    images,
                    options.threshold,
                    seed,
                    lambda image: self.explainer.explain(image, **chosen),
                )
        finally:
            self.explainer.mab = None  # the search, some hundred megabytes
        if drawn.samples:
            explained.figures["samples"] = float(drawn.samples)
        return explained
