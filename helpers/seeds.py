"""One seed for every generator that a run draws from."""

from __future__ import annotations

import random

import numpy as np


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and TensorFlow's global generators.

    Not `tf.keras.utils.set_random_seed`: in tf-keras 2.18 it makes every initialiser call
    `randint(1, 1e9)`, and Python 3.12 refuses a float there.
    """
    import tensorflow as tf

    random.seed(seed)
    np.random.seed(seed)
    tf.random.set_seed(seed)
