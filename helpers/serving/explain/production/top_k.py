"""The k largest attributions and the sum of the others, in the place of all of them.

The numbers of an instance add up to what they added up to before:

    "shap_values": [[{"features": [2, 0], "names": ["income", "age"], "values": [0.41, -0.2],
                      "others": {"count": 9, "sum": 0.03}}]]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.serving.explain.production.attributions import largest, name_of

ARRAYS = ("shap_values", "shap_interaction_values", "attributions")


def compress(document: Mapping[str, Any], k: int, names: Sequence[str]) -> dict[str, Any]:
    """Return an explanation with k attributions for each instance and output.

    Args:
        document: meta and data, as JSON has them; it stays as it is.
        k: how many; an instance with no more features keeps all.
        names: of the features, where the explanation has none itself.
    """
    meta, data = document["meta"], dict(document["data"])
    names = data.get("feature_names") or names
    for key in ARRAYS:
        if data.get(key):
            data[key] = [[_compress(row, k, names) for row in output] for output in data[key]]
    raw = data.get("raw")
    if isinstance(raw, Mapping) and isinstance(raw.get("importances"), Mapping):
        ranked = {name: _cut(entry, k) for name, entry in raw["importances"].items()}
        data["raw"] = {**raw, "importances": ranked}
    return {**document, "meta": {**meta, "params": {**meta["params"], "top_k": k}}, "data": data}


def _compress(row: Any, k: int, names: Sequence[str]) -> dict[str, Any]:
    chosen, count, rest = largest(row, k)
    return {
        "features": [index for index, _ in chosen],
        "names": [name_of(index, names) for index, _ in chosen],
        "values": [value for _, value in chosen],
        "others": {"count": count, "sum": rest},
    }


def _cut(entry: Any, k: int) -> Any:
    """Shorten alibi's ranking, whose effects fall already."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("ranked_effect"), list):
        return entry
    effects, names = entry["ranked_effect"], entry.get("names") or []
    rest = effects[k:]
    return {
        **entry,
        "ranked_effect": effects[:k],
        "names": names[:k],
        "others": {"count": len(rest), "sum": math.fsum(rest)},
    }
