"""Models of tables: a forest, a scaled logistic regression, and a small network with its encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.data import Table
from helpers.errors import DataError

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import Pipeline

    from helpers.tf import tf


def build_forest(trees: int, depth: int, leaf: int, seed: int) -> RandomForestClassifier:
    """Return an untrained forest that takes rows as a table has them, categories as numbers."""
    from sklearn.ensemble import RandomForestClassifier

    # Every feature at every split: with a random choice of them, a tree splits by an irrelevant
    # feature where no other is on offer, and explanations would name it with good reason.
    return RandomForestClassifier(
        trees, max_depth=depth, min_samples_leaf=leaf, max_features=None, random_state=seed
    )


def build_logistic(strength: float) -> Pipeline:
    """Return an untrained logistic regression on standardised features; `strength` is scikit-learn's C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


@dataclass(frozen=True, eq=False)
class Encoding:
    """Rows of a table as a network takes them: numbers standardised, categories one-hot.

    All zeros is then an applicant of average numbers and of no category: a fair baseline for
    integrated gradients, whose default it is.

    Args:
        mean, scale: of each feature, (features,); 0 and 1 for categories.
        sizes: number of categories of each feature; 0 for a number.
    """

    mean: np.ndarray
    scale: np.ndarray
    sizes: tuple[int, ...]

    @property
    def owners(self) -> np.ndarray:
        """The feature that each encoded column belongs to, (columns,)."""
        return np.repeat(np.arange(len(self.sizes)), [max(1, size) for size in self.sizes])

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Return rows (n, features) as float32 (n, columns).

        Raises:
            DataError: a row is of another length, or has a category that is not there.
        """
        if x.ndim != 2 or x.shape[1] != len(self.sizes):
            raise DataError(f"The rows have the shape {x.shape}; (n, {len(self.sizes)}) is needed.")
        parts = []
        for column, size in enumerate(self.sizes):
            values = x[:, column]
            if not size:
                parts.append(((values - self.mean[column]) / self.scale[column])[:, None])
                continue
            if not np.isin(values, np.arange(size)).all():
                raise DataError(f"Column {column} holds a category other than 0 to {size - 1}.")
            parts.append(np.eye(size)[values.astype(int)])
        return np.concatenate(parts, axis=1).astype(np.float32)

    def collect(self, attributions: np.ndarray) -> np.ndarray:
        """Return attributions of columns (n, columns) as those of features (n, features), summed."""
        collected = np.zeros((len(attributions), len(self.sizes)))
        np.add.at(collected, (slice(None), self.owners), np.asarray(attributions, np.float64))
        return collected


def encoding_of(table: Table) -> Encoding:
    """Return the encoding that the training rows of a table define."""
    sizes = tuple(
        len(table.category_map.get(column, ())) for column in range(len(table.feature_names))
    )
    numbers = np.array([not size for size in sizes])
    return Encoding(
        mean=np.where(numbers, table.x_train.mean(axis=0), 0.0),
        scale=np.where(numbers, table.x_train.std(axis=0), 1.0),
        sizes=sizes,
    )


def build_network(columns: int, classes: int, hidden: tuple[int, ...]) -> tf.keras.Model:
    """Return an untrained network: encoded rows (n, columns) to probabilities (n, classes)."""
    from helpers.tf import tf

    # The smooth activation is for integrated gradients: the sum along the path converges in fewer steps.
    layers = [tf.keras.layers.Dense(size, activation="softplus") for size in hidden]
    return tf.keras.Sequential(
        [
            tf.keras.Input((columns,), name="row"),
            *layers,
            tf.keras.layers.Dense(classes, activation="softmax", name="probabilities"),
        ]
    )
