"""Short texts with a class each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import numpy as np

from helpers.errors import DataError

TEXTS = ("tickets",)


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts split once and for all into training and test.

    x_train, x_test: texts, none of them empty, none twice
    y_train, y_test: int64 (n,), indices into `class_names`

    Raises:
        DataError: a text is empty or there twice, or has no class.
    """

    name: str
    class_names: tuple[str, ...]
    x_train: tuple[str, ...]
    y_train: np.ndarray
    x_test: tuple[str, ...]
    y_test: np.ndarray

    def __post_init__(self) -> None:
        every = [" ".join(text.lower().split()) for text in (*self.x_train, *self.x_test)]
        if not all(every):
            raise DataError(f"{self.name}: a text is empty.")
        if len(set(every)) != len(every):
            twice = next(text for text in every if every.count(text) > 1)
            raise DataError(f"{self.name}: a text is there twice: {twice[:60]!r}.")
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            if y.shape != (len(x),) or y.dtype != np.int64:
                raise DataError(
                    f"{self.name}: {split} has {len(x)} texts and {y.dtype} classes {y.shape}; "
                    f"int64 ({len(x)},) is needed."
                )
            if len(y) and not 0 <= y.min() <= y.max() < len(self.class_names):
                raise DataError(f"{self.name}: {split} has a class without a name.")

    def __repr__(self) -> str:
        return (
            f"Texts({self.name}: {len(self.x_train)} training and {len(self.x_test)} test texts of "
            f"{len(self.class_names)} classes)"
        )


def load_texts(name: str) -> Texts:
    """Return the texts `name`, one of TEXTS. Nothing is downloaded.

    Raises:
        DataError: the name is unknown, or the file is damaged.
    """
    if name not in TEXTS:
        raise DataError(f"There are no texts {name!r}. Choose one of: {', '.join(TEXTS)}.")
    return import_module(f"helpers.data.{name}").read()
