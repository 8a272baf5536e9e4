"""Sensitive features: their names and values leave the server in no form.

A name becomes `hidden-` and part of its HMAC-SHA256, so the same feature can be followed through responses and
audit trail, and a name cannot be found by trying names. A value becomes null; a sentence or an anchor's
condition that speaks of the feature is replaced. What the tables below do not know is searched for the
instance's sensitive values, and loses whatever equals one.

Attributions stay, at their place in the instance: who knows the order of the model's columns knows which
feature stands there. What a feature is worth to the model can tell of its value, as a prediction can.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from helpers.serving.common.errors import ServingError

TEXT = "AnchorText"  # its features are words

# Rows of an instance's features, whatever they are nested in.
ROWS = frozenset(
    (
        *("instance", "instances", "X", "baselines"),
        *("covered_true", "covered_false", "uncovered_true", "uncovered_false"),
    )
)
# One entry for each feature.
PER_FEATURE = frozenset(("feature_values", "feature_deciles"))
# By a feature's number.
BY_NUMBER = frozenset(("categorical_names", "feature_labels"))
# Numbers that are no feature's value.
RESULTS = frozenset(
    (
        *("shap_values", "shap_interaction_values", "expected_value", "attributions", "deltas"),
        *("importances", "ranked_effect", "predictions", "prediction", "raw_prediction", "loss"),
        *("labels", "target", "precision", "coverage", "mean", "all_precision", "num_preds"),
        *("success", "feature", "positions", "segments", "ale_values", "ale0", "constant_value"),
    )
)
CONDITIONS = frozenset(("anchor", "names"))
# What an explanation itself is made of: no feature's name, also where one is called alike.
STRUCTURE = (
    ROWS
    | PER_FEATURE
    | BY_NUMBER
    | RESULTS
    | CONDITIONS
    | frozenset(
        (
            *("meta", "data", "raw", "params", "name", "type", "explanations", "version", "seed"),
            *("feature_names", "target_names", "link", "reason", "examples", "forward_kwargs"),
        )
    )
)
NOT_SHOWN = "(not shown)"
_SMALL = re.compile(r"-?\d(\.0*)?")  # stands in every other text


class Redaction:
    """Masks the features of a list.

    Args:
        features: their names; of AnchorText the words.
        key: of the masked names.

    Raises:
        ServingError: no name, or an empty one.
    """

    def __init__(self, features: Sequence[str], key: bytes) -> None:
        if not features or not all(name.strip() for name in features):
            raise ServingError("--redact_features needs the names of features.")
        self._key = key
        self._masks = {name.casefold(): self._mask(name) for name in features}
        self._pattern = _any_of(self._masks)

    def _mask(self, name: str) -> str:
        return "hidden-" + self.digest(b"feature", name.casefold().encode())[:16]

    def digest(self, purpose: bytes, data: bytes) -> str:
        """Return a keyed digest: of sensitive data even a hash can be found by trying."""
        return hmac.new(self._key, purpose + b"\0" + data, hashlib.sha256).hexdigest()

    def hides(self, name: Any) -> bool:
        """Whether a feature is sensitive."""
        return isinstance(name, str) and name.casefold() in self._masks

    def names(self, names: Iterable[str]) -> list[str]:
        """Return the names with the sensitive ones masked."""
        return [self._masks.get(str(name).casefold(), str(name)) for name in names]

    def check(self, names: Sequence[str]) -> None:
        """Refuse names that no feature has: a typing error would leave the feature in the open.

        Raises:
            ServingError: which.
        """
        known = {name.casefold() for name in names}
        # The known ones are not listed: this stands in the log.
        for place, name in enumerate(self._masks, 1):
            if name not in known:
                raise ServingError(
                    f"--redact_features: name {place} of {len(self._masks)} is no feature of the "
                    f"explainer, which has {len(names)} named ones. Correct it, or give the "
                    "features' names in --feature_names."
                )

    def check_words(self) -> None:
        """Refuse what is not one word: samples of a text mix its words.

        Raises:
            ServingError: there is one.
        """
        if not all(re.fullmatch(r"\w+", name) for name in self._masks):
            raise ServingError(
                "--redact_features: the features of a text are single words; list each of a phrase."
            )

    def scrub(self, text: str, values: Iterable[Any] = ()) -> str:
        """Return a text, as of an error, without the names and these values."""
        text = self._pattern.sub(lambda found: self._masks[found[0].casefold()], text)
        tokens = _tokens(values)
        return _any_of(tokens).sub(NOT_SHOWN, text) if tokens else text

    def refusal(self, message: str, values: Iterable[Any] = ()) -> str:
        """Return what an error says without the names and values; nothing of one that names a feature."""
        found = self._pattern.search(message)
        if found is None:
            return self.scrub(message, values)
        return f"The request is refused for its value of {self._masks[found[0].casefold()]}."

    def values(self, instances: Any, names: Sequence[str]) -> list[Any]:
        """Return the sensitive values of instances (n, features); of a text there are none."""
        rows = instances.tolist() if hasattr(instances, "tolist") else instances
        hidden = {place for place, name in enumerate(names) if self.hides(name)}
        found = [
            row[place]
            for row in rows
            if isinstance(row, list) and len(row) == len(names)
            for place in hidden
        ]
        # An explainer may have them as float32.
        return found + [float(np.float32(value)) for value in found if isinstance(value, float)]

    def apply(
        self, document: Mapping[str, Any], names: Sequence[str], values: Iterable[Any] = ()
    ) -> dict[str, Any]:
        """Return an explanation without the sensitive features.

        Args:
            document: meta and data, as JSON has them; it stays as it is.
            names: of the features, in the order of the instances' columns.
            values: sensitive ones of the request.
        """
        if document["meta"].get("name") == TEXT:
            return _Words(self).walk(document)
        return _Columns(self, document, names, list(values)).walk(document)


class _Words:
    def __init__(self, redaction: Redaction) -> None:
        self.redaction = redaction

    def walk(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self.walk(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.walk(item) for item in value]
        return self.redaction.scrub(value) if isinstance(value, str) else value


class _Columns:
    def __init__(
        self,
        redaction: Redaction,
        document: Mapping[str, Any],
        names: Sequence[str],
        values: list[Any],
    ) -> None:
        self.redaction = redaction
        self.names = [str(name) for name in names]
        self.hidden = _hidden(redaction, self.names)
        self.values = {value for value in values if isinstance(value, int | float)}
        tokens = _tokens(values)
        self.tokens = _any_of(tokens) if tokens else None
        self.conditions: dict[str, str] = {}
        self._find_conditions(document)
        # "age" must not be found in "band age": the longest name that fits counts.
        known = {name.casefold() for name in self.names} | set(redaction._masks)
        self.known = _any_of(known)

    def _find_conditions(self, value: Any) -> None:
        """Find the conditions of anchors on a sensitive feature, whose text may not name it."""
        if isinstance(value, list):
            for item in value:
                self._find_conditions(item)
        if not isinstance(value, Mapping):
            return
        features, names = value.get("feature"), value.get("names")
        if isinstance(features, list) and isinstance(names, list):
            for index, text in zip(features, names, strict=False):
                if index in self.hidden and isinstance(text, str):
                    self.conditions[text] = f"{self._mask_of(index)} {NOT_SHOWN}"
        for item in value.values():
            self._find_conditions(item)

    def _mask_of(self, index: int) -> str:
        return self.redaction.names([self.names[index]])[0]

    def walk(self, value: Any, key: str = "", scanned: bool = False) -> Any:
        if isinstance(value, Mapping):
            return self._object(value, key, scanned)
        if isinstance(value, list):
            if key in ROWS:
                return self._rows(value)
            return [self.walk(item, key, scanned) for item in value]
        if isinstance(value, str):
            return self._text(value, scanned and key not in CONDITIONS)
        if scanned and value in self.values and not isinstance(value, bool):
            return None
        return value

    def _object(self, value: Mapping[str, Any], key: str, scanned: bool) -> dict[str, Any]:
        if key in BY_NUMBER:
            return {
                name: None if _whole(name) in self.hidden else self.walk(item, name, False)
                for name, item in value.items()
            }
        here = value.get("feature_names")
        hidden = _hidden(self.redaction, here) if isinstance(here, list) else self.hidden
        done = {}
        for name, item in value.items():
            inside = (scanned or name == "data") and name not in RESULTS
            if name in PER_FEATURE and isinstance(item, list):
                done[name] = [None if place in hidden else one for place, one in enumerate(item)]
            else:
                shown = name if name in STRUCTURE else self._text(name, False)
                done[shown] = self.walk(item, name, inside)
        return done

    def _rows(self, value: list[Any]) -> Any:
        if any(isinstance(item, list) for item in value):
            return [self._rows(item) if isinstance(item, list) else None for item in value]
        if len(value) != len(self.names):  # other columns, or a summary: not to be told apart
            return [None] * len(value)
        return [None if place in self.hidden else item for place, item in enumerate(value)]

    def _text(self, text: str, scanned: bool) -> str:
        if text in self.conditions:
            return self.conditions[text]
        for found in self.known.finditer(text):
            if self.redaction.hides(found[0]):
                mask = self.redaction.names([found[0]])[0]
                return mask if found[0] == text else f"{mask} {NOT_SHOWN}"
        if scanned and self.tokens is not None and self.tokens.search(text):
            return NOT_SHOWN
        return text


def _hidden(redaction: Redaction, names: Sequence[Any]) -> set[int]:
    return {place for place, name in enumerate(names) if redaction.hides(name)}


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of some words, the longest first, and no part of a word."""
    longest = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)


def _tokens(values: Iterable[Any]) -> set[str]:
    """Return how values may stand in a text, but for small whole numbers."""
    tokens: set[str] = set()
    for value in values:
        if isinstance(value, str) and len(value) > 2:
            tokens.add(value.casefold())
        elif isinstance(value, int | float) and (abs(value) >= 10 or value % 1):
            tokens |= {repr(value), str(int(value)), f"{value:g}"}
            tokens |= {f"{value:{comma}.{places}f}" for comma in ("", ",") for places in range(7)}
    return {token for token in tokens if not _SMALL.fullmatch(token)}
