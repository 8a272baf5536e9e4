"""Top-k compression: what stays, in which order, and that the sums hold."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest

from helpers.serving.explain.production.attributions import largest
from helpers.serving.explain.production.top_k import compress

NAMES = ["a", "b", "c", "d"]


def shap(values: Any) -> dict[str, Any]:
    return {
        "meta": {"name": "KernelShap", "params": {"seed": 1}},
        "data": {"shap_values": values, "expected_value": [0.5], "feature_names": NAMES},
    }


def test_the_largest_by_size_whatever_the_sign() -> None:
    found = compress(shap([[[0.1, -5.0, 2.0, 0.3]]]), 2, [])
    (entry,) = found["data"]["shap_values"][0]
    assert entry == {
        "features": [1, 2],
        "names": ["b", "c"],
        "values": [-5.0, 2.0],
        "others": {"count": 2, "sum": pytest.approx(0.4)},
    }
    assert found["meta"]["params"] == {"seed": 1, "top_k": 2}
    assert found["data"]["expected_value"] == [0.5]


def test_the_explanation_itself_stays() -> None:
    document = shap([[[1.0, 2.0, 3.0, 4.0]]])
    before = copy.deepcopy(document)
    compress(document, 1, [])
    assert document == before


def test_equal_sizes_keep_the_order_of_the_features() -> None:
    found = compress(shap([[[1.0, -1.0, 1.0, -1.0]]]), 3, [])
    assert found["data"]["shap_values"][0][0]["features"] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_the_numbers_of_each_instance_and_output_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 5)), int(rng.integers(1, 40)))
    values = rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 8, shape)
    k = int(rng.integers(1, 45))
    found = compress(shap(values.tolist()), k, [])["data"]["shap_values"]
    for output, whole in zip(found, values, strict=True):
        for entry, row in zip(output, whole, strict=True):
            assert entry["others"]["count"] + len(entry["values"]) == len(row)
            total = math.fsum([*entry["values"], entry["others"]["sum"]])
            assert total == pytest.approx(math.fsum(row), rel=1e-12, abs=1e-9)
            smallest = min(map(abs, entry["values"]))
            others = np.delete(row, entry["features"])
            assert not len(others) or np.abs(others).max() <= smallest


def test_images_are_numbered_by_all_their_axes() -> None:
    attributions = np.zeros((2, 3, 3, 1))
    attributions[1, 2, 0, 0] = -7.0
    document = {"meta": {"params": {}}, "data": {"attributions": [attributions.tolist()]}}
    found = compress(document, 1, [])["data"]["attributions"][0]
    assert found[1]["features"] == [[2, 0, 0]]
    assert found[1]["values"] == [-7.0]
    assert found[1]["others"] == {"count": 8, "sum": 0.0}


def test_interactions_and_rankings_are_cut_too() -> None:
    document = shap([[[1.0, 2.0, 3.0, 4.0]]])
    document["data"]["shap_interaction_values"] = [[[[1.0, 0.5], [0.5, -3.0]]]]
    document["data"]["raw"] = {
        "importances": {"0": {"ranked_effect": [4.0, 3.0, 2.0, 1.0], "names": list("dcba")}}
    }
    data = compress(document, 2, [])["data"]
    (entry,) = data["shap_interaction_values"][0]
    assert (entry["features"], entry["others"]["sum"]) == ([[1, 1], [0, 0]], 1.0)
    assert data["raw"]["importances"]["0"] == {
        "ranked_effect": [4.0, 3.0],
        "names": ["d", "c"],
        "others": {"count": 2, "sum": 3.0},
    }


def test_a_number_that_json_has_as_null_counts_as_nothing() -> None:
    assert largest([None, 1.0], 1) == ([(1, 1.0)], 1, 0.0)


def test_it_is_json_and_smaller() -> None:
    document = shap(np.random.default_rng(0).random((2, 3, 500)).tolist())
    assert len(json.dumps(compress(document, 5, []))) < len(json.dumps(document)) / 10
