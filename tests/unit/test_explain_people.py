"""Sentences for people: which template, what it is filled with, and tables that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.serving.common.errors import ServingError
from helpers.serving.explain.production.attributions import Explanation, Feature, read
from helpers.serving.explain.production.people import (
    Table,
    check_template,
    for_people,
    read_table,
)


def told(*features: Feature, table: Any = None, most: int | None = None, **more: Any) -> dict:
    given = {"outcome": 1, **more}
    masked = given.pop("masked", frozenset())
    explanation = Explanation(features, **given)
    (person,) = for_people([explanation], Table.model_validate(table or {}), most, masked)
    return person


def test_the_sign_chooses_the_sentence() -> None:
    table = {
        "outcomes": {1: "granted"},
        "sentences": {"raises": "+{feature}", "lowers": "-{feature}", "neutral": "0{feature}"},
        "features": {"c": {"term": "C of all", "lowers": "own: {feature} {attribution:.1f}"}},
    }
    person = told(
        Feature(0, "a", 2.0), Feature(2, "c", -1.0), Feature(3, "d", -0.5), Feature(1, "b", 0.0),
        table=table,
    )  # fmt: skip
    assert person["outcome"] == "granted"
    assert [entry["sentence"] for entry in person["features"]] == [
        "+a", "own: C of all -1.0", "-d", "0b",
    ]  # fmt: skip
    assert [entry["feature"] for entry in person["features"]] == ["a", "C of all", "d", "b"]
    assert [entry["attribution"] for entry in person["features"]] == [2.0, -1.0, -0.5, 0.0]


@pytest.mark.parametrize(
    ("value", "template", "row", "expected"),
    [
        (52000.0, "{value} {unit}", {"unit": "EUR"}, "52000 EUR"),
        (52000.5, "{value:,.0f}", {}, "52,000"),
        (0.123456789, "{value}", {}, "0.123457"),
        (2.0, "{value}", {"values": {2: "rents"}}, "rents"),
        (3.0, "{value:.1f}", {"values": {2: "rents"}}, "3.0"),
        ("{unit}", "{value}", {"unit": "x"}, "{unit}"),  # a value is never a template
        ("north", "{value:,.2f}", {}, "north"),
        (None, "{value}", {}, "unknown"),
    ],
)
def test_values_are_shown_as_the_table_says(
    value: Any, template: str, row: dict, expected: str
) -> None:
    table = {"sentences": {"raises": template}, "features": {"a": row}}
    person = told(Feature(0, "a", 1.0, value), table=table)
    assert person["features"][0]["sentence"] == expected


def test_the_others_have_one_sentence_and_everything_adds_up() -> None:
    values = [5.0, -4.0, 3.0, 2.0, -1.0]
    person = told(*(Feature(i, str(i), value) for i, value in enumerate(values)), most=2)
    assert len(person["features"]) == 2
    assert person["others"]["count"] == 3
    assert person["others"]["attribution"] == 4.0
    assert "3 other features" in person["others"]["sentence"]


def test_one_output_of_two_classes_is_that_of_the_second() -> None:
    outcomes = {"outcomes": {0: "no", 1: "yes"}}
    assert told(Feature(0, "a", 1.0), table=outcomes, outcome=None)["outcome"] == "yes"
    assert told(Feature(0, "a", 1.0), outcome=None)["outcome"] == "the outcome"


def test_an_anchor_s_conditions_and_an_empty_one() -> None:
    table = {"features": {"income": {"term": "Yearly income"}}}
    feature = Feature(1, "income", None, 5.0, "income > 3.00")
    person = told(feature, table=table, precision=0.97)
    assert person["features"][0]["sentence"] == "It matters that Yearly income > 3.00."
    assert person["sentence"] == "With these conditions it is “1” in 97% of similar cases."
    empty = told(precision=0.99)
    assert empty["features"] == []
    assert "nothing" in empty["sentence"] or "whatever is changed" in empty["sentence"]


def test_a_masked_feature_has_no_value_and_no_term() -> None:
    table = {"features": {"income": {"term": "Yearly income"}}}
    masked = frozenset({"hidden-1"})
    person = told(Feature(1, "hidden-1", 2.0, 73911.0), table=table, masked=masked)
    assert "73911" not in str(person)
    assert person["features"][0] == {
        "feature": "hidden-1",
        "attribution": 2.0,
        "sentence": "A feature that is not shown counts with +2.",
    }
    anchor = Feature(1, "hidden-1", None, None, "hidden-1 (not shown)")
    person = told(anchor, table=table, masked=masked, precision=1.0)
    assert person["features"][0]["sentence"] == "A feature that is not shown matters."


@pytest.mark.parametrize(
    "template",
    ["{}", "{0}", "{who}", "{value.x}", "{value[x]}", "{value!s}", "{value:{unit}}", "{", "}", "{value:Q}"],
)  # fmt: skip
def test_templates_that_cannot_be_filled(template: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (each says something else)
        check_template(template)


def test_a_table_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("# " + "x" * 1_000_001)
    with pytest.raises(ServingError, match="1,000,000"):
        read_table(str(tmp_path / "t.yaml"))


def test_an_empty_table_has_all_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("")
    assert read_table(str(tmp_path / "t.yaml")) == Table()


# What is read of explanations


def test_the_predicted_class_is_told_of_several_outputs() -> None:
    data = {
        "shap_values": [[[1.0, 2.0]], [[-3.0, -1.0]]],
        "feature_names": ["a", "b"],
        "raw": {"prediction": [1], "instances": [[7.0, 8.0]]},
    }
    (found,) = read({"meta": {}, "data": data}, [])
    assert found.outcome == 1
    assert found.features == (Feature(0, "a", -3.0, 7.0), Feature(1, "b", -1.0, 8.0))


def test_one_output_has_no_class() -> None:
    data = {"shap_values": [[[1.0, 2.0]]], "raw": {"prediction": [0], "instances": [[7.0, 8.0]]}}
    (found,) = read({"meta": {}, "data": data}, ["x", "y"])
    assert (found.outcome, found.features[0].name) == (None, "y")


def test_gradients_of_rows_and_of_images() -> None:
    rows = {
        "attributions": [[[1.0, 2.0], [4.0, 3.0]]],
        "X": [[5.0, 6.0], [7.0, 8.0]],
        "target": [0, 1],
    }
    first, second = read({"meta": {}, "data": rows}, ["a", "b"])
    assert first.features[0] == Feature(1, "b", 2.0, 6.0)
    assert (second.outcome, second.features[0]) == (1, Feature(0, "a", 4.0, 7.0))
    image = {"attributions": [[[[1.0], [2.0]]]], "X": [[[5.0], [6.0]]], "target": [3]}
    (found,) = read({"meta": {}, "data": image}, [])
    assert found.features[0] == Feature([1, 0], "feature [1, 0]", 2.0)


def test_anchors_of_rows_texts_images_and_batches() -> None:
    table = {
        "anchor": ["b > 1"],
        "precision": 0.9,
        "raw": {"feature": [1], "names": ["b > 1"], "instance": [4.0, 5.0], "prediction": [0]},
    }
    (found,) = read({"meta": {}, "data": table}, ["a", "b"])
    assert found == Explanation((Feature(1, "b", None, 5.0, "b > 1"),), 0, 0.9)
    text = {
        "anchor": ["late"],
        "precision": [0.8],
        "raw": {"feature": [3], "names": ["late"], "positions": [9], "instance": "it is late"},
    }
    (found,) = read({"meta": {}, "data": text}, [])
    assert found.features == (Feature(3, "late", None, None, "late"),)
    image = {"anchor": [[0.0]], "precision": 1.0, "raw": {"feature": [2, 4], "prediction": [7]}}
    (found,) = read({"meta": {}, "data": image}, [])
    assert [feature.name for feature in found.features] == ["superpixel 2", "superpixel 4"]
    both = read({"meta": {}, "data": {**table, "explanations": [table, text]}}, ["a", "b"])
    assert [one.precision for one in both] == [0.9, 0.8]


def test_a_global_explanation_is_of_no_instance() -> None:
    assert read({"meta": {}, "data": {"ale_values": [[1.0]]}}, ["a"]) == []


def test_a_table_comes_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMS", "outcomes: {0: refused}")
    assert read_table("env:TERMS").outcomes == {0: "refused"}
    monkeypatch.setenv("TERMS", "outcomes: [")
    with pytest.raises(ServingError, match=r"people_template: env:TERMS is no YAML"):
        read_table("env:TERMS")
    monkeypatch.delenv("TERMS")
    with pytest.raises(ServingError, match=r"the environment has no TERMS; .* ConfigMap"):
        read_table("env:TERMS")
