"""The two halves of the variational autoencoder behind the outlier detector.

The layers are those of alibi-detect's own CIFAR-10 example (od_vae_cifar10) but for one 1×1 convolution
that narrows the encoder's features from 8,192 to 512. `OutlierVAE` puts two dense layers on them, and
without it a detector of 256 latent dimensions would weigh 30 MB; the example's 1,024 weigh 90 MB.
"""

from __future__ import annotations

from helpers.tf import tf

layers = tf.keras.layers


def build_encoder(precision: str = "float32") -> tf.keras.Sequential:
    """Return the encoder net: float32 (batch, 32, 32, 3) to features (batch, 4, 4, 32).

    `OutlierVAE` flattens the features and adds the two dense layers for mean and log variance.
    `precision` is the Keras policy of the layers: float32 or, to train faster, mixed_bfloat16.
    """
    return tf.keras.Sequential(
        [
            layers.InputLayer((32, 32, 3)),
            layers.Conv2D(64, 4, strides=2, padding="same", activation="relu", dtype=precision),
            layers.Conv2D(128, 4, strides=2, padding="same", activation="relu", dtype=precision),
            layers.Conv2D(512, 4, strides=2, padding="same", activation="relu", dtype=precision),
            layers.Conv2D(32, 1, dtype=precision, name="narrow"),
        ],
        name="encoder_net",
    )


def build_decoder(latent_dim: int, precision: str = "float32") -> tf.keras.Sequential:
    """Return the decoder net: latent vectors (batch, latent_dim) to images (batch, 32, 32, 3)."""
    return tf.keras.Sequential(
        [
            layers.InputLayer((latent_dim,)),
            layers.Dense(4 * 4 * 128, dtype=precision),
            layers.Reshape((4, 4, 128)),
            layers.Conv2DTranspose(
                256, 4, strides=2, padding="same", activation="relu", dtype=precision
            ),
            layers.Conv2DTranspose(
                64, 4, strides=2, padding="same", activation="relu", dtype=precision
            ),
            layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="sigmoid"),
        ],
        name="decoder_net",
    )
