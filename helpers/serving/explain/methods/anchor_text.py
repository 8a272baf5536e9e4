"""AnchorText: the words that hold a text's class, whichever others are masked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from helpers import artifacts
from helpers.quiet import quiet_libraries
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.lean_alibi import hidden
from helpers.serving.explain.methods import anchors
from helpers.serving.explain.methods.base import CONFIG_ONLY, Explained, Method
from helpers.serving.payloads import TENSORFLOW, V2, read_seldon_message, read_v2_texts
from helpers.serving.storage import Location

MOST_CHARACTERS = 10_000  # of one text
MOST_WORDS = 200


class AnchorTextOptions(anchors.AnchorOptions):
    """Options of AnchorText.

    `sample_proba` is the share of words to mask; None leaves the artefact's own. `use_unk`, `top_n` and
    `temperature` are keys of Seldon's for sampling by similar words, which needs a model of the language:
    they are known, and have no effect on masking.
    """

    stop_on_first: bool = True
    sample_proba: float | None = Field(None, gt=0, le=1)
    use_unk: bool = Field(True, json_schema_extra=CONFIG_ONLY)
    top_n: int | None = Field(None, ge=1, json_schema_extra=CONFIG_ONLY)
    temperature: float | None = Field(None, gt=0, json_schema_extra=CONFIG_ONLY)

    @field_validator("use_unk")
    @classmethod
    def _only_masking(cls, value: bool) -> bool:
        if not value:
            raise ValueError("words are masked with UNK; leave it out or set it to true")
        return value


class AnchorText(Method):
    """alibi's AnchorText with the sampling strategy `unknown`."""

    options = AnchorTextOptions

    def __init__(self, tf_data_type: str | None = None) -> None:
        super().__init__(tf_data_type)
        self.explainer: Any = None
        self.sample_proba = 0.5

    def load(self, location: Location) -> None:
        """Load the explainer with a stand-in for the model; language models stay out of sight."""
        # A module that is imported already cannot be hidden, and need not be.
        with quiet_libraries(), hidden("tensorflow", "torch", "transformers"):
            from alibi.explainers.anchors import anchor_text

        # alibi looks for it there, and would import every other explainer on the way.
        sys.modules["alibi.explainers"].AnchorText = anchor_text.AnchorText
        self.use(
            artifacts.load(
                location.dataset, location.name, predictor=lambda x: np.zeros((len(x), 2))
            )
        )

    def use(self, explainer: Any) -> None:
        """Take an explainer that is already in memory."""
        from helpers.serving.explain.text_sampling import MaskSampler

        if type(explainer).__name__ != "AnchorText":
            raise ServingError(
                f"the artefact holds {type(explainer).__name__}; AnchorText needs an AnchorText."
            )
        if explainer.sampling_strategy != "unknown":
            raise ServingError(
                f"the artefact samples by {explainer.sampling_strategy}; AnchorText here masks words, the "
                "sampling strategy `unknown`."
            )
        explainer.perturbation = MaskSampler(explainer.model, dict(explainer.perturb_opts))
        self.sample_proba = explainer.perturb_opts["sample_proba"]
        self.explainer = explainer
        anchors.silence_alibi()

    def connect(self, predict: Callable[[list[str]], np.ndarray]) -> None:
        """Give the model to the explainer, which tries it with two words."""
        self.explainer.reset_predictor(predict)

    def read(self, body: Any, protocol: str) -> list[str]:
        """Return the texts of a request: a list of texts, or of lists with one text each.

        Raises:
            RequestError: 400.
        """
        where = {TENSORFLOW: "instances", V2: "inputs[0].data"}.get(protocol, "data.ndarray")
        if protocol == TENSORFLOW:
            given = body.get("instances") if isinstance(body, dict) else None
        elif protocol == V2:
            given = read_v2_texts(body)
        else:
            given = read_seldon_message(body, "request")
        if not isinstance(given, list) or not given:
            raise RequestError(400, f"Expected a list of texts in {where}.")
        texts = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in given]
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise RequestError(400, f"{where} holds something else than texts with words.")
            if len(text) > MOST_CHARACTERS:
                raise RequestError(
                    400, f"A text has {len(text)} characters; {MOST_CHARACTERS} are the most."
                )
        return texts

    def explain(self, instances: list[str], options: AnchorTextOptions, seed: int) -> Explained:
        """Explain texts."""
        for text in instances:
            words = len(self.explainer.model.make_doc(text))
            if words > MOST_WORDS:
                raise RequestError(400, f"A text has {words} words; {MOST_WORDS} are the most.")
        share = self.sample_proba if options.sample_proba is None else options.sample_proba
        self.explainer.perturbation.perturb_opts["sample_proba"] = share
        try:
            with quiet_libraries():
                explained = anchors.answer(
                    instances,
                    options.threshold,
                    seed,
                    lambda text: self.explainer.explain(text, **options.arguments()),
                )
        finally:
            self.explainer.mab = None  # the search, some hundred megabytes
        explained.meta["params"].update(options.arguments(), sample_proba=share)
        return explained
