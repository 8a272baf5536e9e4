"""The untrained encoder in front of the drift detector.

Rabanser et al., "Failing loudly", 2019: a randomly initialised encoder reduces the dimension well enough for
a two-sample test, and it cannot have learnt to ignore the drift. Layers of alibi-detect's CIFAR-10
example (cd_ks_cifar10).
"""

from __future__ import annotations

from helpers.tf import tf

layers = tf.keras.layers


def build_untrained_encoder(dimensions: int = 32, seed: int = 0) -> tf.keras.Sequential:
    """Return a network from float32 (batch, 32, 32, 3) to (batch, dimensions), weights by `seed`."""

    def initializer(layer: int) -> tf.keras.initializers.Initializer:
        return tf.keras.initializers.GlorotUniform(seed=1000 * seed + layer)

    def convolve(filters: int, layer: int) -> tf.keras.layers.Layer:
        return layers.Conv2D(
            filters,
            4,
            strides=2,
            padding="same",
            activation="relu",
            kernel_initializer=initializer(layer),
        )

    return tf.keras.Sequential(
        [
            layers.InputLayer((32, 32, 3)),
            convolve(64, 0),
            convolve(128, 1),
            convolve(512, 2),
            layers.Flatten(),
            layers.Dense(dimensions, kernel_initializer=initializer(3)),
        ],
        name="untrained_encoder",
    )
