"""An explanation in sentences: for each feature its business term, its attribution, and what it means.

The sentences are templates of a table, a YAML file that whoever knows the business writes:

    outcomes: {0: refused, 1: granted}      # the classes; without it, their numbers
    sentences:                              # any of SENTENCES, in place of the one there
      raises: "{feature} of {value} {unit} speaks for “{outcome}” ({attribution:+.2f})."
    features:
      income: {term: Yearly income, unit: EUR}
      home_region: {term: Region, values: {0: north, 1: south}}
      credit_history: {term: Credit history, lowers: "Late payments speak against “{outcome}”."}

What a template may hold in braces stands in PLACEHOLDERS; a number takes a format, as `{value:,.0f}`.
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from helpers.serving.common.errors import ServingError
from helpers.serving.explain.production.attributions import Explanation, Feature
from helpers.serving.explain.production.keys import ENVIRONMENT

PLACEHOLDERS = (
    *("feature", "value", "unit", "attribution", "outcome"),
    *("condition", "precision", "count"),
)
MOST = 10  # features that get a sentence where top_k is not set
BYTES = 1_000_000  # of a table
NEUTRAL = 1e-12  # an attribution of this size or less is rounding


class Sentences(BaseModel):
    """A sentence for each case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    raises: str = "{feature} ({value}) speaks for “{outcome}” ({attribution:+.3g})."
    lowers: str = "{feature} ({value}) speaks against “{outcome}” ({attribution:+.3g})."
    neutral: str = "{feature} ({value}) makes no difference."
    hidden: str = "A feature that is not shown counts with {attribution:+.3g}."
    others: str = "{count} other features together count with {attribution:+.3g}."
    holds: str = "It matters that {condition}."
    hidden_holds: str = "A feature that is not shown matters."
    anchor: str = "With these conditions it is “{outcome}” in {precision:.0%} of similar cases."
    empty: str = "It is “{outcome}” in nearly all similar cases, whatever is changed."

    @field_validator("*")
    @classmethod
    def _template(cls, text: str) -> str:
        return check_template(text)


class Row(BaseModel):
    """What the table says of one feature."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    term: str = ""
    unit: str = ""
    values: dict[int, str] = Field(default_factory=dict)
    raises: str = ""
    lowers: str = ""
    neutral: str = ""
    holds: str = ""

    @field_validator("raises", "lowers", "neutral", "holds")
    @classmethod
    def _template(cls, text: str) -> str:
        return check_template(text)


class Table(BaseModel):
    """The table of templates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcomes: dict[int, str] = Field(default_factory=dict)
    sentences: Sentences = Sentences()
    features: dict[str, Row] = Field(default_factory=dict)

    def check(self, names: Sequence[str]) -> None:
        """Refuse rows for features that there are not.

        Raises:
            ServingError: which.
        """
        unknown = set(self.features) - set(names)
        if unknown:
            raise ServingError(
                f"--people_template: its row {min(unknown)!r} is no feature of the explainer."
            )


class _Shown:
    """A value in a sentence: a number takes any format, what is none ignores it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __format__(self, form: str) -> str:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        if form:
            return format(value, form)
        return f"{value:.0f}" if value == int(value) else f"{value:.6g}"


_SAMPLES = {
    **dict.fromkeys(PLACEHOLDERS, "x"),
    "value": _Shown(1.5),
    "attribution": 0.5,
    "precision": 0.5,
    "count": 2,
}


def check_template(text: str) -> str:
    """Return a template that can be filled.

    Raises:
        ValueError: what is wrong with it.
    """
    for _, field, form, conversion in string.Formatter().parse(text):
        if field is None:
            continue
        if field not in PLACEHOLDERS:  # nor an attribute or an item of one
            raise ValueError(f"{{{field}}} is none of {', '.join(PLACEHOLDERS)}")
        if conversion or "{" in (form or ""):
            raise ValueError(f"{{{field}}} takes a plain format, as {{value:.2f}}")
    text.format_map(_SAMPLES)
    return text


def read_table(path: str) -> Table:
    """Return the table in a file, or in a variable of the environment.

    Args:
        path: of the file, or `env:<NAME>`: an explainer of Seldon's operator gets no volumes, but
            variables from a ConfigMap.

    Raises:
        ServingError: it cannot be read, or a template cannot be filled.
    """
    where = f"--people_template: {path}"
    try:
        if path.startswith(ENVIRONMENT):
            name = path.removeprefix(ENVIRONMENT)
            if name not in os.environ:
                raise ServingError(
                    f"{where}: the environment has no {name}; give the container a ConfigMap by that name."
                )
            text = os.environ[name]
        else:
            file = Path(path)
            if file.stat().st_size > BYTES:
                raise ServingError(f"{where} has more than {BYTES:,} bytes; that is no table.")
            text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except OSError as problem:
        raise ServingError(f"{where} cannot be read: {problem.strerror or problem}.") from problem
    except (yaml.YAMLError, UnicodeError, RecursionError) as problem:
        told = " ".join(str(problem).split())[:200]
        raise ServingError(f"{where} is no YAML: {told}") from problem
    try:
        return Table.model_validate(content or {})
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        reason = first["msg"].removeprefix("Value error, ")
        raise ServingError(f"{where}: {place}: {reason}.") from problem


def for_people(
    explanations: Sequence[Explanation],
    table: Table,
    most: int | None = None,
    masked: frozenset[str] | set[str] = frozenset(),
) -> list[dict[str, Any]]:
    """Return the response for people, an object for each instance.

    Args:
        explanations: what the response says otherwise, redacted already.
        table: the templates.
        most: features that get a sentence; the others get one together.
        masked: the names that stand for sensitive features.
    """
    return [_instance(one, table, most or MOST, masked) for one in explanations]


def _instance(
    explanation: Explanation, table: Table, most: int, masked: frozenset[str] | set[str]
) -> dict[str, Any]:
    number = explanation.outcome
    outcome = str(number) if number is not None else "the outcome"
    if number is not None:
        outcome = table.outcomes.get(number, outcome)
    elif len(table.outcomes) == 2 and {0, 1} == table.outcomes.keys():
        outcome = table.outcomes[1]  # one output of two classes is that of the second
    told = {"outcome": outcome, "precision": explanation.precision}
    is_anchor = explanation.precision is not None
    features = explanation.features if is_anchor else explanation.features[:most]
    entries = [_feature(one, table, masked, told) for one in features]
    done: dict[str, Any] = {"outcome": outcome, "features": entries}
    if is_anchor:
        template = table.sentences.anchor if features else table.sentences.empty
        done["sentence"] = template.format_map(_filled(told))
    elif rest := explanation.features[most:]:
        others = {"count": len(rest), "attribution": sum(one.attribution or 0.0 for one in rest)}
        sentence = table.sentences.others.format_map(_filled(told | others))
        done["others"] = {**others, "sentence": sentence}
    return done


def _feature(
    feature: Feature, table: Table, masked: frozenset[str] | set[str], told: Mapping[str, Any]
) -> dict[str, Any]:
    sentences = table.sentences
    if feature.name in masked:
        template = sentences.hidden_holds if feature.condition else sentences.hidden
        filled = _filled({**told, "feature": feature.name, "attribution": feature.attribution})
        return _entry(feature.name, feature, template.format_map(filled))
    row = table.features.get(feature.name, Row())
    term = row.term or feature.name
    if feature.attribution is None:
        template = row.holds or sentences.holds
    elif abs(feature.attribution) <= NEUTRAL:
        template = row.neutral or sentences.neutral
    elif feature.attribution > 0:
        template = row.raises or sentences.raises
    else:
        template = row.lowers or sentences.lowers
    condition = feature.condition or term
    if row.term:
        condition = condition.replace(feature.name, term)
    filled = _filled(
        {
            **told,
            "feature": term,
            "value": _value(feature.value, row),
            "unit": row.unit,
            "attribution": feature.attribution,
            "condition": condition,
        }
    )
    return _entry(term, feature, template.format_map(filled))


def _entry(term: str, feature: Feature, sentence: str) -> dict[str, Any]:
    return {"feature": term, "attribution": feature.attribution, "sentence": sentence}


def _value(value: Any, row: Row) -> Any:
    if row.values and isinstance(value, int | float) and float(value).is_integer():
        value = row.values.get(int(value), value)
    return "unknown" if value is None else value


def _filled(told: Mapping[str, Any]) -> dict[str, _Shown]:
    return {name: _Shown("") for name in PLACEHOLDERS} | {
        name: _Shown("" if value is None else value) for name, value in told.items()
    }
