"""Tables: rows of named features, numbers and categories, with a class each."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

from helpers.errors import DataError

TABLES = ("credit_risk", "breast_cancer")


@dataclass(frozen=True, eq=False)
class Table:
    """A table split once and for all into training and test.

    x_train, x_test: float64 (n, features); a category is its index in `category_map`
    y_train, y_test: int64 (n,), indices into `class_names`
    category_map: column of a categorical feature -> its categories, as alibi's explainers take it

    Raises:
        DataError: shapes, types or indices do not fit together.
    """

    name: str
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    category_map: dict[int, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.feature_names)) != len(self.feature_names):
            raise DataError(f"{self.name}: two features have the same name.")
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            if x.shape != (len(y), len(self.feature_names)) or y.ndim != 1:
                raise DataError(
                    f"{self.name}: {split} has rows {x.shape} and classes {y.shape}; "
                    f"(n, {len(self.feature_names)}) and (n,) are needed."
                )
            if x.dtype != np.float64 or y.dtype != np.int64:
                raise DataError(
                    f"{self.name}: {split} has {x.dtype} rows and {y.dtype} classes; float64 and "
                    "int64 are needed."
                )
            if not np.isfinite(x).all():
                raise DataError(f"{self.name}: {split} holds a number that is not finite.")
            if len(y) and not 0 <= y.min() <= y.max() < len(self.class_names):
                raise DataError(f"{self.name}: {split} has a class without a name.")
            for column, categories in self.category_map.items():
                if not np.isin(x[:, column], np.arange(len(categories))).all():
                    raise DataError(
                        f"{self.name}: {split} has a value of {self.feature_names[column]} that is none of "
                        f"{', '.join(categories)}."
                    )

    def __repr__(self) -> str:
        return (
            f"Table({self.name}: {len(self.x_train):,} training and {len(self.x_test):,} test rows "
            f"of {len(self.feature_names)} features, {len(self.class_names)} classes)"
        )

    def column(self, feature: str) -> int:
        """Return the column of a feature.

        Raises:
            DataError: there is none of that name.
        """
        if feature not in self.feature_names:
            raise DataError(
                f"{self.name} has no feature {feature!r}; it has {', '.join(self.feature_names)}."
            )
        return self.feature_names.index(feature)

    def describe(self, row: np.ndarray) -> dict[str, str | float]:
        """Return one row (features,) by name, categories as text."""
        return {
            name: self.category_map[column][int(value)]
            if column in self.category_map
            else float(value)
            for column, (name, value) in enumerate(zip(self.feature_names, row, strict=True))
        }


def load_table(name: str) -> Table:
    """Return the table `name`, one of TABLES. Nothing is downloaded.

    Raises:
        DataError: the name is unknown.
    """
    if name not in TABLES:
        raise DataError(f"There is no table {name!r}. Choose one of: {', '.join(TABLES)}.")
    return import_module(f"helpers.data.{name}").read()
