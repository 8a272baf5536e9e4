"""Scores of an OutlierVAE without the work that its own `predict` repeats.

`OutlierVAE.score` copies every image `samples` times, encodes all the copies, which have the same code
distribution, and calls Keras layer by layer. Here an image is encoded once and the whole computation is one
traced graph. The random draw is the detector's own: under the same seed the scores are those of
`detector.predict`, up to the rounding of float32.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from helpers.seeds import numpy_state_kept
from helpers.tf import tf

ROWS_AT_ONCE = 64  # images of one pass; the copies of their reconstructions are what takes memory
DRAWS_KEPT = 32  # draws kept for reuse, one for each number of rows
ROWS_OF_KEPT_DRAWS = 64  # larger draws are made anew


def fits(detector: Any) -> bool:
    """Whether `detector` is an OutlierVAE that `VAEScores` computes."""
    try:
        shape = detector.vae.encoder.encoder_net.input_shape
        return (
            type(detector).__name__ == "OutlierVAE"
            and detector.score_type == "mse"
            and isinstance(shape, tuple)
            and None not in shape[1:]
        )
    except AttributeError:
        return False


class VAEScores:
    """Feature and instance scores of an OutlierVAE.

    Args:
        detector: an `OutlierVAE` for which `fits` holds.
        seed: every request is scored from this seed, so that the same request always gets the same
            scores, on every replica and after every retry. None draws anew each time, as Seldon's
            server does: an image near the threshold then gets either answer.
    """

    def __init__(self, detector: Any, seed: int | None) -> None:
        vae = detector.vae
        self.row_shape: tuple[int, ...] = tuple(vae.encoder.encoder_net.input_shape[1:])
        self.samples: int = detector.samples
        self.latent_dim: int = vae.latent_dim
        self.seed = seed
        self._draws: OrderedDict[int, tf.Tensor] = OrderedDict()
        samples, row_shape = self.samples, self.row_shape

        def score(x: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            features = vae.encoder.encoder_net(x, training=False)
            features = tf.reshape(features, (tf.shape(x)[0], -1))
            mean, log_var = vae.encoder.fc_mean(features), vae.encoder.fc_log_var(features)
            code = tf.repeat(mean, samples, axis=0)
            code += tf.repeat(tf.exp(0.5 * log_var), samples, axis=0) * noise
            rebuilt = tf.reshape(vae.decoder(code), (-1, samples, *row_shape))
            feature_score = tf.reduce_mean(tf.square(x[:, None] - rebuilt), axis=1)
            return feature_score, tf.reduce_mean(
                feature_score, axis=list(range(1, 1 + len(row_shape)))
            )

        features_of = vae.encoder.encoder_net.output_shape[1:]
        if any(size is None for size in features_of):
            raise ValueError("the encoder's output has no fixed size")
        vae.encoder.fc_mean.build((None, int(np.prod(features_of))))
        vae.encoder.fc_log_var.build((None, int(np.prod(features_of))))
        self._score = tf.function(
            score,
            input_signature=[
                tf.TensorSpec([None, *row_shape], tf.float32),
                tf.TensorSpec([None, self.latent_dim], tf.float32),
            ],
        )

    def __call__(self, x: np.ndarray, want_features: bool) -> tuple[np.ndarray | None, np.ndarray]:
        """Return feature scores like x, or None if not wanted, and instance scores (n,).

        x: float32 (n, *row_shape).
        """
        noise = self._noise(len(x))
        features, instances = [], []
        for start in range(0, len(x), ROWS_AT_ONCE):
            part = x[start : start + ROWS_AT_ONCE]
            drawn = noise[start * self.samples : (start + len(part)) * self.samples]
            feature_score, instance_score = self._score(part, drawn)
            if want_features:
                features.append(feature_score.numpy())
            instances.append(instance_score.numpy())
        return (np.concatenate(features) if want_features else None), np.concatenate(instances)

    def _noise(self, rows: int) -> tf.Tensor:
        """Return (rows · samples, latent_dim): what the detector's own layer would draw."""
        if self.seed is None:
            return self._draw(rows)
        if rows in self._draws:
            self._draws.move_to_end(rows)
            return self._draws[rows]
        # Both: the layer draws a seed from NumPy and then from TensorFlow.
        with numpy_state_kept(self.seed):
            tf.random.set_seed(self.seed)
            noise = self._draw(rows)
        if rows <= ROWS_OF_KEPT_DRAWS:
            self._draws[rows] = noise
            if len(self._draws) > DRAWS_KEPT:
                self._draws.popitem(last=False)
        return noise

    def _draw(self, rows: int) -> tf.Tensor:
        return tf.keras.backend.random_normal((rows * self.samples, self.latent_dim))
