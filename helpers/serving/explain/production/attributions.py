"""What each feature has to do with the answer, read from an explanation of any method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ATTRIBUTING = ("KernelShap", "IntegratedGradients", "TreeShap")
"""The methods that give each feature a number; the numbers of one instance add up."""

ANCHORS = ("AnchorTabular", "AnchorText", "AnchorImages")
"""The methods that give conditions under which the answer stays."""

Index = int | list[int]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature's part in one answer.

    Args:
        index: its place in the instance; a list where instances have several axes.
        name: its name.
        attribution: its number; None of an anchor's condition.
        value: its value in the instance, None where that is not known or not shown.
        condition: an anchor's condition on it.
    """

    index: Index | None
    name: str
    attribution: float | None
    value: Any = None
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of one instance.

    Args:
        features: attributions by falling size, or an anchor's conditions in their order.
        outcome: the class that is explained; None where the model has one output.
        precision: of an anchor; None of attributions.
    """

    features: tuple[Feature, ...]
    outcome: int | None
    precision: float | None = None


def read(document: Mapping[str, Any], names: Sequence[str]) -> list[Explanation]:
    """Return what an explanation says of each instance; nothing of methods that explain no instance.

    Args:
        document: meta and data, as JSON has them.
        names: of the features, where the explanation has none itself.
    """
    data = document["data"]
    if "shap_values" in data:
        return list(_shap(data, data.get("feature_names") or names))
    if "attributions" in data:
        return list(_gradients(data, names))
    if "anchor" in data:
        return [_anchor(one, names) for one in data.get("explanations") or (data,)]
    return []


def rows(document: Mapping[str, Any], names: Sequence[str]) -> Iterator[dict[str, float]]:
    """Yield the attributions of each instance by feature, of one and the same output.

    The last output of Shapley values: of two classes, the second. Of integrated gradients the
    target's, which are those there are.
    """
    data = document["data"]
    names = data.get("feature_names") or names
    arrays = data.get("shap_values") or data.get("attributions") or []
    if arrays:
        chosen = arrays[-1] if "shap_values" in data else arrays[0]
        for values in chosen:
            yield {
                name_of(index[0] if len(index) == 1 else list(index), names): value
                for index, value in flat(values)
            }


def name_of(index: Index, names: Sequence[str]) -> str:
    """Return a feature's name, made up where it has none."""
    if isinstance(index, int) and index < len(names):
        return str(names[index])
    return f"feature {index}"


def flat(values: Any, index: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield every number of nested lists, and its place."""
    if isinstance(values, list):
        for place, value in enumerate(values):
            yield from flat(value, (*index, place))
    else:
        yield index, 0.0 if values is None else float(values)


def largest(values: Any, count: int | None = None) -> tuple[list[tuple[Index, float]], int, float]:
    """Return the `count` numbers of largest size, how many others there are, and their sum.

    Equal sizes keep the order of the features.
    """
    entries = sorted(flat(values), key=lambda entry: -abs(entry[1]))
    kept = entries if count is None else entries[:count]
    rest = entries[len(kept) :]
    chosen = [(index[0] if len(index) == 1 else list(index), value) for index, value in kept]
    return chosen, len(rest), math.fsum(value for _, value in rest)


def _shap(data: Mapping[str, Any], names: Sequence[str]) -> Iterator[Explanation]:
    outputs = data["shap_values"]
    raw = data.get("raw") or {}
    predictions, instances = raw.get("prediction"), raw.get("instances")
    for row in range(len(outputs[0]) if outputs else 0):
        outcome = _class(predictions, row) if len(outputs) > 1 else None
        chosen = outputs[outcome if outcome is not None and outcome < len(outputs) else 0][row]
        yield Explanation(_features(chosen, names, _row(instances, row)), outcome)


def _gradients(data: Mapping[str, Any], names: Sequence[str]) -> Iterator[Explanation]:
    inputs = data["attributions"]
    instances = data.get("X")
    if not inputs:
        return
    if isinstance(instances, list) and len(instances) == 1 and len(inputs[0]) != 1:
        instances = instances[0]  # one list for each input of the model
    elif _depth(instances) > _depth(inputs[0]):
        instances = instances[0]
    for row, values in enumerate(inputs[0]):
        yield Explanation(
            _features(values, names, _row(instances, row)), _class(data.get("target"), row)
        )


def _anchor(data: Mapping[str, Any], names: Sequence[str]) -> Explanation:
    raw = data.get("raw") or {}
    indices = raw.get("feature") or []
    conditions = raw.get("names")
    instance = raw.get("instance")
    features = []
    for place, index in enumerate(indices):
        if conditions is None or place >= len(conditions):  # an image: its superpixels
            features.append(Feature(index, f"superpixel {index}", None))
            continue
        condition = str(conditions[place])
        told = "positions" in raw  # a text: the condition is the word
        name = condition if told else name_of(index, names)
        value = None if told or not _numbered(instance, index) else instance[index]
        features.append(Feature(index, name, None, value, condition))
    return Explanation(
        tuple(features), _class(raw.get("prediction"), 0), _last(data.get("precision"))
    )


def _features(values: Any, names: Sequence[str], instance: Any) -> tuple[Feature, ...]:
    chosen, _, _ = largest(values)
    return tuple(
        Feature(
            index,
            name_of(index, names),
            value,
            instance[index] if _numbered(instance, index) else None,
        )
        for index, value in chosen
    )


def _numbered(instance: Any, index: Any) -> bool:
    return isinstance(instance, list) and isinstance(index, int) and index < len(instance)


def _row(instances: Any, row: int) -> Any:
    return instances[row] if isinstance(instances, list) and row < len(instances) else None


def _class(predictions: Any, row: int) -> int | None:
    while isinstance(predictions, list):
        if not predictions:
            return None
        predictions, row = predictions[row if row < len(predictions) else 0], 0
    if isinstance(predictions, bool) or not isinstance(predictions, int | float):
        return None
    return int(predictions) if float(predictions).is_integer() else None


def _last(value: Any) -> float | None:
    while isinstance(value, list):
        value = value[-1] if value else None
    return None if value is None else float(value)


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list):
        value = value[0] if value else None
        depth += 1
    return depth
