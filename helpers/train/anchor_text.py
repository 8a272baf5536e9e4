"""alibi's AnchorText on support tickets: the words that hold a ticket's class."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from helpers import artifacts
from helpers.data import Texts
from helpers.quiet import quiet_libraries
from helpers.seeds import numpy_state_kept
from helpers.train import bag_of_words
from helpers.train.settings import TICKETS

NAME = "anchor_text"
SEED = 0


def build(predictor: Callable[[list[str]], np.ndarray]):
    """Return an `AnchorText` that masks words with UNK and asks `predictor`.

    Masking needs nothing of spaCy but its rules for where a word ends: no model to download, and not
    the table of word probabilities, 18 MB, that alibi would add where there is none.
    """
    with quiet_libraries(), numpy_state_kept(SEED):
        import spacy
        from alibi.explainers.anchors.anchor_text import AnchorText

        nlp = spacy.blank("en")
        nlp.vocab.lookups.add_table("lexeme_prob", {})
        return AnchorText(predictor, sampling_strategy="unknown", nlp=nlp, seed=SEED)


def explain(explainer, text: str, threshold: float = TICKETS.threshold, seed: int = SEED):
    """Return the anchor of one text."""
    with quiet_libraries(), numpy_state_kept(seed):
        return explainer.explain(text, threshold=threshold)


def train(data: Texts, workdir: Path, progress: bool = True) -> artifacts.Artifact:
    """Build, measure on the test texts, and save the artefact. Needs the classifier's artefact."""
    model = artifacts.load(data.name, bag_of_words.NAME)

    def predict(texts: list[str]) -> np.ndarray:
        return model.predict_proba(list(texts))

    return artifacts.save(
        data.name,
        NAME,
        # A fresh one: after a search the explainer holds the search, hundreds of megabytes.
        lambda folder: build(predict).save(folder),
        format="alibi-spacy",
        summary=f"AnchorText on {data.name}: the words that hold the class",
        figures=measure(build(predict), model, data, progress),
    )


def measure(explainer, model: Any, data: Texts, progress: bool = True) -> dict:
    """Return precision, coverage and size of the anchors, and whether their words point to the class."""
    vocabulary, weights = model[0].vocabulary_, model[-1].coef_[0]
    precisions, sizes, seconds, pointing, empty = [], [], [], [], 0
    for text in tqdm(data.x_test, desc="AnchorText, texts", disable=not progress):
        started = time.perf_counter()
        explanation = explain(explainer, text)
        seconds.append(time.perf_counter() - started)
        precisions.append(np.max(explanation.precision))
        sizes.append(len(explanation.anchor))
        if not explanation.anchor:
            empty += 1
            continue
        # A positive weight speaks for class 1.
        known = [
            weights[vocabulary[w.lower()]] for w in explanation.anchor if w.lower() in vocabulary
        ]
        sign = 1 if explanation.raw["prediction"][0] == 1 else -1
        pointing.append(bool(known) and sign * sum(known) > 0)
    return {
        "threshold": TICKETS.threshold,
        "texts_explained": len(data.x_test),
        "empty_anchors": empty,
        "pointing_to_the_class": round(float(np.mean(pointing)), 4),
        "precision_mean": round(float(np.mean(precisions)), 4),
        "words_mean": round(float(np.mean(sizes)), 2),
        "seconds_median": round(float(np.median(seconds)), 3),
    }
