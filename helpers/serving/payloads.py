"""The payload of a request or event as an array of numbers, whatever protocol it was written in, and results
as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from helpers.serving.common.errors import RequestError

TENSORFLOW = "tensorflow.http"
SELDON = "seldon.http"
FEEDBACK = "seldonfeedback.http"
V2 = "v2.http"
PROTOCOLS = (TENSORFLOW, SELDON, FEEDBACK, V2)

_V2_TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float32,
    "FP32": np.float32,
    "FP64": np.float64,
}
_TFTENSOR_VALUES = ("float", "double", "int", "int64", "half", "bool", "uint32", "uint64")


def read_rows(body: Any, protocol: str) -> np.ndarray:
    """Return the instances of a request, (n, …) with n ≥ 1, finite numbers.

    Args:
        body: the parsed JSON.
        protocol: tensorflow.http, seldon.http or v2.http.

    Raises:
        RequestError: 400, with what is wrong and where.
    """
    rows, where = _READERS[protocol](_object(body))
    if rows.ndim == 0 or not rows.size:
        raise RequestError(400, f"{where} holds no instance.")
    if not np.isfinite(rows).all():
        raise RequestError(400, f"{where} holds a number that is not finite.")
    return rows


def check_shape(rows: np.ndarray, row_shape: tuple[int, ...] | None) -> None:
    """Refuse rows (n, …) that are not (n, *row_shape); None takes any.

    Raises:
        RequestError: 400, with both shapes.
    """
    if row_shape is not None and rows.shape[1:] != tuple(row_shape):
        takes = ", ".join(["n", *map(str, row_shape)])
        raise RequestError(
            400, f"The instances have the shape {rows.shape}; this server takes ({takes})."
        )


def cast(rows: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Return the rows as another type of number, contiguous.

    Raises:
        RequestError: 400, a number is too large for it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.ascontiguousarray(rows, dtype)
    if not np.isfinite(x).all():
        raise RequestError(400, f"The instances hold numbers beyond {np.dtype(dtype).name}.")
    return x


def write_json(value: Any) -> bytes:
    """Return a result as JSON, numpy arrays and numbers in it written as the float64 they equal."""
    return orjson.dumps(_plain(value), option=orjson.OPT_SERIALIZE_NUMPY, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OSU":
            return _plain(value.tolist())
        exact = value.astype(np.float64) if value.dtype.kind == "f" else value
        return np.ascontiguousarray(exact)
    if isinstance(value, np.floating):
        return float(value)
    return value


def read_seldon_message(message: Any, where: str) -> np.ndarray | list:
    """Return the data of a seldon message: an array, or a list where it holds text.

    Raises:
        RequestError: 400, the message has no data or its data has no array form.
    """
    data = message.get("data") if isinstance(message, dict) else None
    if not isinstance(data, dict):
        raise RequestError(400, f'Expected key "data" with an object in {where}.')
    if "tensor" in data:
        tensor = data["tensor"]
        if not isinstance(tensor, dict) or not {"shape", "values"} <= tensor.keys():
            raise RequestError(400, f'{where}.data.tensor needs "shape" and "values".')
        return _shaped(tensor["values"], tensor["shape"], f"{where}.data.tensor")
    if "ndarray" in data:
        if not isinstance(data["ndarray"], list):
            raise RequestError(400, f"{where}.data.ndarray is not a list.")
        if _is_text(data["ndarray"]):
            return data["ndarray"]
        return _numbers(data["ndarray"], f"{where}.data.ndarray")
    if "tftensor" in data:
        return _tftensor(data["tftensor"], f"{where}.data.tftensor")
    raise RequestError(400, f'{where}.data needs "tensor", "ndarray" or "tftensor".')


def replace_rows(body: dict, protocol: str, keep: np.ndarray, rows: np.ndarray) -> dict:
    """Return a request with only the rows of `keep`, (n,) of bool, in the same protocol."""
    kept = rows[keep]
    if protocol == TENSORFLOW:
        if "instances" in body:
            instances = [row for row, wanted in zip(body["instances"], keep, strict=True) if wanted]
            return {**body, "instances": instances}
        return {**body, "inputs": kept}
    if protocol == V2:
        first = {**body["inputs"][0], "shape": list(kept.shape), "data": kept.ravel()}
        return {**body, "inputs": [first]}
    return {**body, "data": {**_names(body), "ndarray": kept}}


def _names(body: dict) -> dict:
    names = body["data"].get("names")
    return {} if names is None else {"names": names}


def _object(body: Any) -> dict:
    if not isinstance(body, dict):
        raise RequestError(400, f"Expected a JSON object, not {_kind(body)}.")
    return body


def _tensorflow(body: dict) -> tuple[np.ndarray, str]:
    for key in ("instances", "inputs"):
        if key in body:
            return _numbers(_unnamed(body[key]), key), key
    raise RequestError(400, 'Expected key "instances" in the request body.')


def _unnamed(value: Any) -> Any:
    """Return the tensor itself where its only input was given by name."""
    if isinstance(value, dict) and len(value) == 1:
        return next(iter(value.values()))
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, dict) and len(v) == 1 for v in value)
    ):
        return [next(iter(row.values())) for row in value]
    return value


def _seldon(body: dict) -> tuple[np.ndarray, str]:
    rows = read_seldon_message(body, "request")
    if isinstance(rows, list):
        raise RequestError(400, "request.data holds text; this server takes numbers.")
    return rows, "request.data"


def _v2(body: dict) -> tuple[np.ndarray, str]:
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs or not isinstance(inputs[0], dict):
        raise RequestError(400, 'Expected key "inputs" with a list of tensors in the request body.')
    if len(inputs) > 1:
        raise RequestError(400, f"{len(inputs)} inputs were sent; this server takes one.")
    tensor, where = inputs[0], "inputs[0]"
    if not {"shape", "datatype", "data"} <= tensor.keys():
        raise RequestError(400, f'{where} needs "shape", "datatype" and "data".')
    kind = tensor["datatype"]
    if not isinstance(kind, str) or kind not in _V2_TYPES:
        raise RequestError(400, f"{where}.datatype must be one of {', '.join(_V2_TYPES)}.")
    shaped = _shaped(tensor["data"], tensor["shape"], where)
    limits = np.iinfo(_V2_TYPES[kind]) if np.issubdtype(_V2_TYPES[kind], np.integer) else None
    if limits and shaped.size and (shaped.min() < limits.min or shaped.max() > limits.max):
        raise RequestError(400, f"{where}.data does not fit {kind}.")
    with np.errstate(over="ignore", invalid="ignore"):
        return shaped.astype(_V2_TYPES[kind]), where


def read_v2_texts(body: Any) -> list:
    """Return the texts of a v2 request: one tensor of BYTES.

    Raises:
        RequestError: 400, another tensor, or several.
    """
    inputs = body.get("inputs") if isinstance(body, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RequestError(400, 'Expected key "inputs" with one tensor in the request body.')
    if inputs[0].get("datatype") != "BYTES" or not isinstance(inputs[0].get("data"), list):
        raise RequestError(400, "inputs[0] must be a tensor of BYTES, with its texts as data.")
    return inputs[0]["data"]


_READERS: dict[str, Callable[[dict], tuple[np.ndarray, str]]] = {
    TENSORFLOW: _tensorflow,
    SELDON: _seldon,
    V2: _v2,
}


def _numbers(value: Any, where: str) -> np.ndarray:
    if not isinstance(value, list):
        raise RequestError(400, f"{where} is not a list of instances.")
    try:
        array = np.array(value)
    except (ValueError, OverflowError) as problem:
        raise RequestError(
            400, f"{where} is not an array: its instances differ in shape."
        ) from problem
    if array.dtype.kind not in "biuf" and array.size:
        raise RequestError(400, f"{where} holds something else than numbers.")
    return array


def _shaped(values: Any, shape: Any, where: str) -> np.ndarray:
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise RequestError(400, f"{where}.shape must be a list of whole numbers.")
    flat = _numbers(values, where).ravel()
    if len(shape) > 32 or flat.size != math.prod(shape):
        raise RequestError(
            400, f"{where} has {flat.size} values, which do not fill the shape {str(shape)[:80]}."
        )
    return flat.reshape(shape)


def _tftensor(tensor: Any, where: str) -> np.ndarray:
    if not isinstance(tensor, dict):
        raise RequestError(400, f"{where} is not an object.")
    shape = tensor.get("tensor_shape", tensor.get("tensorShape"))
    dims = shape.get("dim", []) if isinstance(shape, dict) else None
    try:
        sizes = [int(dim["size"]) for dim in dims]
    except (TypeError, ValueError, KeyError):
        raise RequestError(
            400, f"{where} needs tensorShape.dim, a list of sizes, and its values."
        ) from None
    for kind in _TFTENSOR_VALUES:
        values = tensor.get(f"{kind}_val", tensor.get(f"{kind}Val"))
        if values is not None:
            return _shaped(values, sizes, where)
    raise RequestError(400, f"{where} has no values, e.g. floatVal.")


def _is_text(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, str)


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", bool: "a truth value", type(None): "null"}.get(
        type(value), "a number"
    )
