"""A Keras model as a plain function from array to array, fast for one image and for many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from helpers.tf import tf


def as_function(model: tf.keras.Model, batch_size: int = 256) -> Callable[[np.ndarray], np.ndarray]:
    """Return `predict(x)`: float32 (n, …) to the model's output (n, …), traced once for any n.

    `model.predict` costs tens of milliseconds a call before it computes anything, which an explainer
    that calls hundreds of times pays hundreds of times.
    """
    shape = [None, *model.input_shape[1:]]
    traced = tf.function(
        lambda x: model(x, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)]
    )

    def predict(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float32)
        if not len(x):  # oneDNN's convolutions refuse an empty batch
            return np.empty((0, *model.output_shape[1:]), np.float32)
        if len(x) <= batch_size:
            return traced(x).numpy()
        parts = [traced(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
        return np.concatenate([part.numpy() for part in parts])

    return predict
