"""A classifier of short texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def build_bag_of_words(strength: float) -> Pipeline:
    """Return an untrained classifier: texts to tf-idf of their words to a logistic regression.

    Stop words are left out, so that an explanation cannot rest on `the`; `strength` is scikit-learn's C.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        TfidfVectorizer(stop_words="english"), LogisticRegression(C=strength, max_iter=1000)
    )
