"""Pickled models for readers with an older scikit-learn: the servers of a cluster have their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def also_for_older_ones(model: Pipeline) -> Pipeline:
    """Have a fitted pipeline that ends in a logistic regression predict in scikit-learn 1.5 to 1.7 too.

    Their `predict_proba` reads the parameter `multi_class`, which 1.8 has removed; MLServer 1.7's image has at
    most 1.7. For two classes "auto" says there what 1.8 computes; their own default, "deprecated", means the same.

    Args:
        model: changed in place.
    """
    model[-1].multi_class = "auto"
    return model
