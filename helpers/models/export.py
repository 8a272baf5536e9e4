"""Write a Keras model as TensorFlow Serving takes it."""

from __future__ import annotations

from pathlib import Path

from helpers.quiet import quiet_libraries
from helpers.tf import tf


def export_saved_model(
    model: tf.keras.Model,
    folder: Path,
    input_name: str = "image",
    output_name: str = "probabilities",
) -> None:
    """Write `model` as a SavedModel with one signature, serving_default, into `folder`.

    Nothing but the inference function and its weights are kept. The folder is the version folder,
    `<name>/1`.
    """
    module = tf.Module()
    # Its variables, not the model: Keras would save a traced function of every layer beside it.
    module.weights = model.variables

    @tf.function(input_signature=[tf.TensorSpec(model.input_shape, tf.float32, name=input_name)])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {output_name: model(image, training=False)}

    module.serve = serve
    with quiet_libraries():
        tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
