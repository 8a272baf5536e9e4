"""Seldon's log documents: one for each item of a batch, gathered from the parts of a request.

A document has `RequestId`, `ServingEngine`, the `Ce-*` fields, `@timestamp`, and under `request`,
`response`, `outlier`, `drift` and `feedback` what came of it. `instance` is the item's own row,
`payload` the message as it would have been for this item alone: Seldon's logger repeated the whole
batch in every item.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from helpers.serving.payload_log.parts import Part

ENGINES = {"inference-log-seldon": "seldon", "inference-log-inferenceservice": "inferenceservice"}


def item_id(request_id: str, items: int, number: int) -> str:
    """The document's id: the request id, with `-item-<number>` where there are several."""
    return f"{request_id}-item-{number}" if items > 1 else request_id


def gather(parts: Iterable[Part]) -> dict[str, dict[str, Any]]:
    """Return the documents of one request in one index, by id, whatever order its parts came in.

    Where two events of one kind differ, the later one counts.
    """
    ordered = sorted(parts, key=lambda part: part.at)
    items = max((part.items for part in ordered), default=0) or 1
    documents: dict[str, dict[str, Any]] = {}
    for part in ordered:
        _add(documents, part, items, orjson.loads(part.data))
    return documents


def alone(part: Part, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what one part is in documents, where nothing is known of the others.

    Args:
        part: whose.
        content: its data, parsed.
    """
    documents: dict[str, dict[str, Any]] = {}
    _add(documents, part, part.items or 1, content)
    return documents


def _add(
    documents: dict[str, dict[str, Any]], part: Part, items: int, content: dict[str, Any]
) -> None:
    for number, share in _split(part, items, content):
        document = documents.setdefault(item_id(part.request_id, items, number), _head(part))
        if part.kind == "request":
            document["@timestamp"] = part.time
            document["Ce-Modelid"] = part.model
        document[part.kind] = {**share, "ce-time": part.time, "ce-source": part.source}


def count_items(kind: str, content: dict[str, Any]) -> int:
    """How many items a batch has; 0 where the part belongs to the request as a whole."""
    if kind == "outlier":
        rows = _dict(content, "data").get("is_outlier")
        return len(rows) if isinstance(rows, list) else 0
    if kind in ("request", "response"):
        rows = _rows(content)
        return 0 if rows is None else len(rows)
    return 0


def _head(part: Part) -> dict[str, Any]:
    engine = next((name for start, name in ENGINES.items() if part.index.startswith(start)), "")
    return {
        "RequestId": part.request_id,
        "ServingEngine": engine,
        "Ce-Namespace": part.namespace,
        "Ce-Inferenceservicename": part.deployment,
        "Ce-Endpoint": part.endpoint,
        "Ce-Modelid": part.model,
        "@timestamp": part.time,
    }


def _split(part: Part, items: int, content: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Return (number of the item, its share of the part's content)."""
    if part.kind == "outlier":
        return _split_outlier(content)
    if part.kind == "feedback":
        return _split_feedback(content, items)
    if part.kind == "drift":  # of a window; it ends with the last item
        return [(items - 1, content)]
    rows = _rows(content)
    if rows is None:
        return [(0, {"payload": content, **_whole(content)})]
    names = _names(content)
    data_type = _data_type(rows)
    return [
        (
            number,
            {
                "instance": row,
                "dataType": data_type,
                "payload": _narrowed(content, number, row),
                **_elements(names, row),
            },
        )
        for number, row in enumerate(rows)
    ]


def _split_outlier(content: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    data = _dict(content, "data")
    rows = data["is_outlier"]
    shares = []
    for number, row in enumerate(rows):
        own = dict(data, is_outlier=row)
        for score in ("feature_score", "instance_score"):
            scores = own.get(score)
            if isinstance(scores, list) and len(scores) == len(rows):
                own[score] = scores[number]
        shares.append((number, dict(content, data=own)))
    return shares


def _split_feedback(content: dict[str, Any], items: int) -> list[tuple[int, dict[str, Any]]]:
    """Give each item its own truth where there is one for each; else the whole to each."""
    shares = []
    for number in range(items):
        own = dict(content)
        for message in ("request", "response", "truth"):
            rows = _rows(content[message]) if isinstance(content.get(message), dict) else None
            if rows is not None and len(rows) == items > 1:
                own[message] = _narrowed(content[message], number, rows[number])
        shares.append((number, own))
    return shares


def _whole(content: dict[str, Any]) -> dict[str, Any]:
    for name, data_type in (("strData", "text"), ("binData", "image"), ("jsonData", "json")):
        if name in content:
            return {"instance": content[name], "dataType": data_type}
    return {"instance": content, "dataType": "json"}


def _rows(content: dict[str, Any]) -> list[Any] | None:
    """Return the rows of a message of any protocol; None where it has no batch dimension."""
    for name in ("instances", "predictions"):
        if isinstance(content.get(name), list):
            return content[name]
    data = content.get("data")
    if isinstance(data, dict):
        if isinstance(data.get("ndarray"), list):
            return data["ndarray"]
        tensor = data.get("tensor")
        if isinstance(tensor, dict):
            return _reshaped(tensor.get("values"), tensor.get("shape"))
    for name in ("inputs", "outputs"):
        value = content.get(name)
        if isinstance(value, dict):  # TensorFlow Serving, by column
            return _by_column(value)
        if isinstance(value, list):
            first = value[0] if value else None
            if isinstance(first, dict) and "data" in first and "shape" in first:  # v2
                return _reshaped(first["data"], first["shape"])
            return value
    return None


def _by_column(columns: dict[str, Any]) -> list[Any] | None:
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if len(lengths) != 1 or lengths == {-1}:
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _reshaped(values: Any, shape: Any) -> list[Any] | None:
    """Cut flat values into rows of `shape`; None where the two do not fit."""
    if not isinstance(values, list) or not isinstance(shape, list) or not shape:
        return None
    if not all(type(length) is int and length > 0 for length in shape):
        return None
    if math.prod(shape) != len(values):
        return values if len(values) == shape[0] else None  # nested already
    for length in reversed(shape[1:]):
        values = [values[at : at + length] for at in range(0, len(values), length)]
    return values


def _narrowed(content: dict[str, Any], number: int, row: Any) -> dict[str, Any]:
    """Return the message as it would be for this item alone."""
    for name in ("instances", "predictions"):
        if isinstance(content.get(name), list):
            return dict(content, **{name: [row]})
    data = content.get("data")
    if isinstance(data, dict):
        own = {name: value for name, value in data.items() if name not in ("ndarray", "tensor")}
        return dict(content, data=dict(own, ndarray=[row]))
    for name in ("inputs", "outputs"):
        value = content.get(name)
        if isinstance(value, dict):
            return dict(content, **{name: {key: [part] for key, part in row.items()}})
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return dict(content, **{name: [_narrow_tensor(tensor, number) for tensor in value]})
        if isinstance(value, list):
            return dict(content, **{name: [row]})
    return content


def _narrow_tensor(tensor: Any, number: int) -> Any:
    rows = _reshaped(tensor.get("data"), tensor.get("shape")) if isinstance(tensor, dict) else None
    if rows is None or number >= len(rows):
        return tensor
    return dict(tensor, shape=[1, *tensor["shape"][1:]], data=_flat(rows[number]))


def _flat(row: Any) -> list[Any]:
    flat = [row]
    while flat and isinstance(flat[0], list):
        flat = [value for part in flat for value in part]
    return flat


def _data_type(rows: list[Any]) -> str:
    """Seldon's rule: by the number of dimensions, batch included, and the first value."""
    dimensions, value, width = 1, rows[0] if rows else None, 0
    while isinstance(value, list):
        dimensions += 1
        width = width or len(value)
        value = value[0] if value else None
    if dimensions > 3:
        return "image"
    if dimensions > 2 or width > 1 or isinstance(value, dict):
        return "tabular"
    return "number" if isinstance(value, int | float) else "text"


def _names(content: dict[str, Any]) -> list[str]:
    names = _dict(content, "data").get("names")
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else []


def _elements(names: list[str], row: Any) -> dict[str, Any]:
    if not names or not isinstance(row, list) or len(names) != len(row):
        return {}
    return {"names": names, "elements": dict(zip(names, row, strict=True))}


def _dict(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}
