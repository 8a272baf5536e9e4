"""TensorFlow as every module takes it, and one seed for every generator."""

from __future__ import annotations

import logging
import random

import numpy as np

from helpers.seeds import seed_everything
from helpers.tf import tf


def test_tf_keras_is_keras_2_and_tensorflow_logs_only_errors():
    assert tf.keras.layers.Dense.__module__.startswith("tf_keras.")
    assert logging.getLogger("tensorflow").level == logging.ERROR


def test_one_seed_for_every_generator():
    def draw():
        network = tf.keras.Sequential([tf.keras.layers.Dense(3)])
        network.build((None, 2))
        return (
            random.random(),
            np.random.random(),
            tf.random.normal([3]).numpy().tolist(),
            network.get_weights()[0].tolist(),
        )

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert not any(a == b for a, b in zip(draw(), first, strict=True))
