"""Redaction: names and values in every place where an explanation may hold them."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from helpers.serving.common.errors import ServingError
from helpers.serving.explain.production.redaction import NOT_SHOWN, Redaction

NAMES = ["age", "income", "age_band", "mean income"]
ROW = [31.0, 73911.27, 4.0, 5.5]
KEY = b"k" * 32


def redaction(*features: str) -> Redaction:
    return Redaction(features or ("income",), KEY)


MASK = redaction().names(["income"])[0]


def document(data: dict[str, Any], name: str = "KernelShap", **meta: Any) -> dict[str, Any]:
    return {"meta": {"name": name, "params": {"seed": 4}, **meta}, "data": data}


def applied(data: dict[str, Any], *features: str, **meta: Any) -> dict[str, Any]:
    one = redaction(*features)
    return one.apply(document(data, **meta), NAMES, one.values(np.array([ROW]), NAMES))["data"]


def test_the_mask_is_keyed_and_the_same_for_every_spelling() -> None:
    assert redaction().names(["income", "INCOME"]) == [MASK, MASK]
    assert MASK.startswith("hidden-")
    assert Redaction(["income"], b"z" * 32).names(["income"]) != [MASK]
    assert redaction("age").names(["age"]) != [MASK]


def test_it_leaves_what_it_is_given() -> None:
    given = document({"raw": {"instance": ROW}, "feature_names": NAMES})
    before = copy.deepcopy(given)
    redaction().apply(given, NAMES, ROW)
    assert given == before


def test_columns_of_rows_become_null_however_they_are_nested() -> None:
    found = applied(
        {
            "X": [[ROW, ROW]],
            "baselines": [[0.0, 1.0, 2.0, 3.0]],
            "raw": {
                "instance": ROW,
                "instances": [ROW],
                "examples": [{"covered_true": [ROW, ROW], "covered_false": []}],
            },
        }
    )
    masked = [31.0, None, 4.0, 5.5]
    assert found["X"] == [[masked, masked]]
    assert found["baselines"] == [[0.0, None, 2.0, 3.0]]
    assert found["raw"]["instance"] == masked
    assert found["raw"]["instances"] == [masked]
    assert found["raw"]["examples"] == [{"covered_true": [masked, masked], "covered_false": []}]


def test_rows_of_other_columns_are_masked_whole() -> None:
    assert applied({"X": [[1.0, 2.0, 73911.27]]})["X"] == [[None, None, None]]
    assert applied({"raw": {"instance": 73911.27}})["raw"] == {"instance": None}


def test_attributions_and_results_stay() -> None:
    data = {
        "shap_values": [[[0.1, 73911.27, 0.2, 0.3]]],  # equal by chance: a result is not a value
        "expected_value": [73911.27],
        "raw": {"prediction": [1], "raw_prediction": [73911.27]},
    }
    assert applied(data) == data


def test_what_no_table_knows_is_searched_for_the_value() -> None:
    found = applied(
        {
            "new_key": {
                "deep": [1.0, 73911.27, float(np.float32(73911.27)), "is 73911.27 EUR", "x"]
            },
            "raw": {"other": [[73911.27]]},
        }
    )
    assert found["new_key"]["deep"] == [1.0, None, None, NOT_SHOWN, "x"]
    assert found["raw"]["other"] == [[None]]


def test_names_in_lists_texts_and_keys() -> None:
    found = applied(
        {
            "feature_names": NAMES,
            "categorical_names": {"1": ["low", "high"], "2": ["young", "old"]},
            "raw": {"importances": {"0": {"ranked_effect": [1.0], "names": ["income"]}}},
            "income": 1,
            "reason": "It is about Income, more or less.",
        }
    )
    assert found["feature_names"] == ["age", MASK, "age_band", "mean income"]
    assert found["categorical_names"] == {"1": None, "2": ["young", "old"]}
    assert found["raw"]["importances"]["0"]["names"] == [MASK]
    assert MASK in found
    assert found["reason"] == f"{MASK} {NOT_SHOWN}"


def test_a_name_inside_of_another_is_not_its_name() -> None:
    texts = ["age > 30", "age_band = 4", "mean income > 5", "income > 50000", "30 < age <= 40"]
    raw = {"names": texts, "feature": [0, 2, 3, 1, 0]}
    assert applied({"raw": raw}, "age")["raw"]["names"] == [
        f"{redaction('age').names(['age'])[0]} {NOT_SHOWN}",
        "age_band = 4",
        "mean income > 5",
        "income > 50000",
        f"{redaction('age').names(['age'])[0]} {NOT_SHOWN}",
    ]
    assert applied({"raw": raw})["raw"]["names"][2] == "mean income > 5"


def test_a_condition_that_does_not_name_its_feature_is_found_by_its_number() -> None:
    raw = {"feature": [1, 0], "names": ["> 70000", "age > 30"]}
    found = applied({"anchor": ["> 70000", "age > 30"], "raw": raw}, name="AnchorTabular")
    assert found["anchor"] == [f"{MASK} {NOT_SHOWN}", "age > 30"]
    assert found["raw"]["names"] == found["anchor"]


def test_the_instances_of_a_batch_are_all_masked() -> None:
    one = {
        "anchor": ["income > 7"],
        "raw": {"feature": [1], "names": ["income > 7"], "instance": ROW},
    }
    found = applied({**one, "explanations": [one, one]}, name="AnchorTabular")
    for each in (found, *found["explanations"]):
        assert each["anchor"] == [f"{MASK} {NOT_SHOWN}"]
        assert each["raw"]["instance"][1] is None
    assert "income" not in json.dumps(found)


def test_curves_of_ale_lose_the_values_of_their_feature() -> None:
    """Their order is that of `feature_names`, which may be some of the features."""
    data = {
        "feature_names": ["mean income", "income"],
        "feature_values": [[1.0, 2.0], [70000.0, 80000.0]],
        "feature_deciles": [[1.0], [73911.27]],
        "ale_values": [[[0.1]], [[0.2]]],
    }
    found = applied(data, name="ALE")
    assert found["feature_names"] == ["mean income", MASK]
    assert found["feature_values"] == [[1.0, 2.0], None]
    assert found["feature_deciles"] == [[1.0], None]
    assert found["ale_values"] == data["ale_values"]


def test_words_of_a_text_are_masked_wherever_they_stand() -> None:
    data = {
        "anchor": ["Invoice"],
        "raw": {
            "names": ["Invoice"],
            "feature": [1],
            "instance": "My invoice, the INVOICE; invoices too",
            "examples": [{"covered_true": ["UNK invoice UNK"]}],
        },
    }
    one = redaction("invoice")
    mask = one.names(["invoice"])[0]
    found = one.apply(document(data, "AnchorText"), [])["data"]
    assert found["anchor"] == [mask]
    assert found["raw"]["instance"] == f"My {mask}, the {mask}; invoices too"
    assert found["raw"]["examples"] == [{"covered_true": [f"UNK {mask} UNK"]}]
    with pytest.raises(ServingError, match="single words"):
        redaction("ms meier").check_words()


def test_a_feature_that_is_called_as_a_part_of_every_explanation() -> None:
    """The parts stay, and its values go."""
    names = ["coverage", "data"]
    one = Redaction(names, KEY)
    raw = {"instance": [7.5, 8.5], "names": ["coverage > 7.00"], "feature": [0]}
    given = document({"anchor": ["coverage > 7.00"], "coverage": 0.5, "raw": raw}, "AnchorTabular")
    found = one.apply(given, names, [7.5, 8.5])
    assert found["data"]["coverage"] == 0.5
    assert found["data"]["raw"]["instance"] == [None, None]
    assert found["data"]["anchor"] == [f"{one.names(['coverage'])[0]} {NOT_SHOWN}"]
    text = Redaction(["name", "raw"], KEY).apply(
        document({"anchor": ["name"], "raw": {"instance": "the raw name"}}, "AnchorText"), []
    )
    assert text["meta"]["name"] == "AnchorText"
    assert "name" not in text["data"]["raw"]["instance"]


def test_errors_are_scrubbed() -> None:
    one = redaction()
    values = one.values(np.array([ROW]), NAMES)
    for text in (
        "73911.27 is bad",
        "73911.3 is bad",
        "not 73911, please",
        "-73911.27",
        "73,911.27",
    ):
        found = one.refusal(text, values)
        assert NOT_SHOWN in found
        assert "911" not in found
    assert (
        one.refusal("Income is 7, above 3.") == f"The request is refused for its value of {MASK}."
    )
    assert one.refusal("age is 7, above 3.") == "age is 7, above 3."


def test_sensitive_names_must_be_features() -> None:
    redaction("Income", "AGE").check(NAMES)
    with pytest.raises(ServingError, match="name 2 of 2") as told:
        redaction("age", "salary").check(NAMES)
    assert "salary" not in str(told.value)
    for nothing in ([], [" "]):
        with pytest.raises(ServingError):
            Redaction(nothing, KEY)


def test_a_keyed_digest_differs_by_purpose_and_key() -> None:
    digests = {
        redaction().digest(b"a", b"x"),
        redaction().digest(b"b", b"x"),
        Redaction(["income"], b"z" * 32).digest(b"a", b"x"),
    }
    assert len(digests) == 3
