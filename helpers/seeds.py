"""One seed for every generator that a run draws from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def numpy_state_kept(seed: int | None = None) -> Iterator[None]:
    """Put NumPy's global generator back after the block, as it was; seed it inside if asked.

    alibi and alibi-detect draw from it, and their draws are nobody else's business.
    """
    state = np.random.get_state()
    if seed is not None:
        np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
