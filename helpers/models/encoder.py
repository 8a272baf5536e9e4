"""The untrained encoder in front of the drift detector.

Rabanser et al., "Failing loudly", 2019: a randomly initialised encoder reduces the dimension well
enough for a two-sample test, and it cannot have learnt to ignore the drift. The convolutions are those of
alibi-detect's CIFAR-10 example (cd_ks_cifar10), with two changes that decide what a window of 1,000 images
can show:

* the first layer's filters are centred, so that each sums to zero: it answers to edges and texture, which
  blur, noise and pixelation change, instead of to the mean colour, which differs from image to image anyway;
* the features are averaged over the image instead of flattened: where in the image texture was lost does not
  matter, that it was lost does.

With the example's own encoder, pixelation at severity 5 moves no feature's distribution by more than chance.
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

    encoder = tf.keras.Sequential(
        [
            layers.InputLayer((32, 32, 3)),
            convolve(64, 0),
            convolve(128, 1),
            convolve(512, 2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(dimensions, kernel_initializer=initializer(3)),
        ],
        name="untrained_encoder",
    )
    kernel, bias = encoder.layers[0].get_weights()  # kernel: (4, 4, 3, 64)
    kernel -= kernel.mean(axis=(0, 1), keepdims=True)
    encoder.layers[0].set_weights([kernel, bias])
    return encoder
