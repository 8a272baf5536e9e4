"""ResNet for 32×32 images: He et al., "Deep residual learning", 2015, section 4.2."""

from __future__ import annotations

from helpers.tf import tf

layers = tf.keras.layers

# Per-channel mean and standard deviation of the 50,000 CIFAR-10 training images, in [0, 1].
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


def _convolve(x: tf.Tensor, filters: int, strides: int, relu: bool = True) -> tf.Tensor:
    """3×3 convolution, batch normalisation and, unless the block adds first, ReLU."""
    x = layers.Conv2D(
        filters, 3, strides, padding="same", use_bias=False, kernel_initializer="he_normal"
    )(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x) if relu else x


def _shortcut(x: tf.Tensor) -> tf.Tensor:
    """Option A of the paper, without weights: every second pixel, and as many zero channels again.

    Built from stock layers only (a pool of size 1 takes every second pixel, a scale of 0 makes the
    zeros), so that the saved model loads where this package is not installed.
    """
    x = layers.AveragePooling2D(pool_size=1, strides=2)(x)
    return layers.Concatenate()([x, layers.Rescaling(0.0)(x)])


def build_resnet(
    n: int = 5,
    classes: int = 10,
    mean: tuple[float, float, float] = CIFAR10_MEAN,
    std: tuple[float, float, float] = CIFAR10_STD,
) -> tf.keras.Model:
    """Return an untrained ResNet of 6n+2 layers: n=5 is ResNet32, about 0.47 M weights.

    The normalisation by `mean` and `std` is part of the model, so that whoever calls it, over HTTP
    too, sends plain pixels.

    Input: float32 (batch, 32, 32, 3) in [0, 1]. Output: float32 (batch, classes), probabilities.
    """
    image = layers.Input((32, 32, 3), name="image")
    # Normalised in float32 even under a mixed policy: bfloat16 has 8 bits, a pixel needs them all.
    x = layers.Rescaling(
        [1 / s for s in std],
        [-m / s for m, s in zip(mean, std, strict=True)],
        dtype="float32",
        name="normalise",
    )(image)
    x = _convolve(x, 16, 1)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(n):
            halves = stage > 0 and block == 0
            y = _convolve(x, filters, strides=2 if halves else 1)
            y = _convolve(y, filters, strides=1, relu=False)
            x = layers.ReLU()(layers.Add()([_shortcut(x) if halves else x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    probabilities = layers.Dense(
        classes, activation="softmax", dtype="float32", name="probabilities"
    )(x)
    return tf.keras.Model(image, probabilities, name=f"resnet{6 * n + 2}")
