"""Bodies of the predict API to numpy arrays.

Row form has one entry a row under `instances`, column form whole tensors under `inputs`. Messages
say what TensorFlow Serving's say (tensorflow_serving/util/json_tensor.cc), in our words.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers.serving.common.body import parse_json
from helpers.serving.common.errors import RequestError
from helpers.serving.tf_server.row_reader import RowReader
from helpers.serving.tf_server.specs import Arrays, Signature, TensorSpec

DEFAULT_SIGNATURE = "serving_default"
_BOOLEANS = (b"true", b"false")


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A predict call as it was asked for; `inputs` has an array for every input of `signature`."""

    signature: Signature
    inputs: Arrays
    row_form: bool


class PredictReader:
    """Reads predict bodies for a model's signatures; not for several threads at once."""

    def __init__(self, signatures: Mapping[str, Signature]) -> None:
        self._signatures = signatures
        self._default = signatures.get(DEFAULT_SIGNATURE)
        self._rows = RowReader.for_signature(self._default) if self._default else None

    def read(self, body: bytes) -> PredictRequest:
        """Return what `body` asks for.

        Raises:
            RequestError: 400 and what is wrong: not JSON, ragged, a wrong shape or type, …
        """
        if self._rows is not None:
            array = self._rows.read(body)
            if array is not None:
                return PredictRequest(self._default, {self._rows.name: array}, row_form=True)
        return self._read_any(body)

    def _read_any(self, body: bytes) -> PredictRequest:
        try:
            asked = parse_json(body)
        except RequestError as problem:
            raise RequestError(400, f"JSON Parse error: {problem.message}") from problem
        if not isinstance(asked, dict):
            raise RequestError(400, "The JSON value is not an object with 'instances' or 'inputs'.")
        signature = self._signature(asked.get("signature_name", ""))
        if "instances" in asked and "inputs" in asked:
            raise RequestError(
                400, "Not formatted correctly: only one of 'inputs' or 'instances' may be given."
            )
        strict = any(word in body for word in _BOOLEANS)
        if "instances" in asked:
            return PredictRequest(signature, _rows(asked["instances"], signature, strict), True)
        if "inputs" in asked:
            return PredictRequest(signature, _columns(asked["inputs"], signature, strict), False)
        raise RequestError(400, "Missing 'inputs' or 'instances' key.")

    def _signature(self, name: Any) -> Signature:
        if not isinstance(name, str):
            raise RequestError(400, "'signature_name' key must be a string value.")
        wanted = name or DEFAULT_SIGNATURE
        if wanted not in self._signatures:
            raise RequestError(
                400,
                f'Serving signature name: "{wanted[:80]}" not found in signature def; the model '
                f"has {', '.join(sorted(self._signatures)) or 'none'}.",
            )
        return self._signatures[wanted]


def _rows(instances: Any, signature: Signature, strict: bool) -> dict[str, np.ndarray]:
    if not isinstance(instances, list):
        raise RequestError(400, "Expecting 'instances' to be a list.")
    if not instances:
        raise RequestError(400, "No values in 'instances' array.")
    named = _is_named(instances[0])
    for number, item in enumerate(instances):
        if _is_named(item) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise RequestError(
                400, f"Expecting {expected} but got {got} at item {number} of input list."
            )
    if not named:
        if len(signature.inputs) > 1:
            raise RequestError(
                400,
                "instances is a plain list, but expecting list of objects as the model has the "
                f"inputs {', '.join(signature.inputs)}.",
            )
        (spec,) = signature.inputs.values()
        return {spec.name: _to_array(instances, spec, strict)}
    wanted = set(signature.inputs)
    for number, item in enumerate(instances):
        if set(item) != wanted:
            raise RequestError(
                400,
                f"Failed to process element: {number} of 'instances' list. The JSON object must "
                f"have the keys {', '.join(sorted(wanted))} and no other.",
            )
    return {
        spec.name: _to_array([item[spec.name] for item in instances], spec, strict)
        for spec in signature.inputs.values()
    }


def _columns(inputs: Any, signature: Signature, strict: bool) -> dict[str, np.ndarray]:
    if not _is_named(inputs):
        if len(signature.inputs) > 1:
            raise RequestError(
                400,
                "inputs is a plain value/list, but expecting an object as the model has the "
                f"inputs {', '.join(signature.inputs)}.",
            )
        (spec,) = signature.inputs.values()
        return {spec.name: _to_array(inputs, spec, strict)}
    for name in signature.inputs:
        if name not in inputs:
            raise RequestError(400, f"Missing named input: {name} in 'inputs' object.")
    return {
        spec.name: _to_array(inputs[spec.name], spec, strict) for spec in signature.inputs.values()
    }


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _to_array(value: Any, spec: TensorSpec, strict: bool) -> np.ndarray:
    array = _strings(value, spec) if spec.dtype.kind == "O" else _numbers(value, spec, strict)
    if not spec.takes(array.shape):
        given = "[" + ",".join(map(str, array.shape)) + "]"
        raise RequestError(
            400, f"Input {spec.name} has shape {given}; the model takes {spec.shape_text()}."
        )
    if array.size == 0:
        raise RequestError(400, f"Input {spec.name} has no values.")
    return array


def _numbers(value: Any, spec: TensorSpec, strict: bool) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as problem:
        raise _ragged(spec) from problem
    if array.size == 0:
        return array.astype(spec.dtype)
    kind, wanted = array.dtype.kind, spec.dtype.kind
    allowed = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}.get(wanted, "")
    if kind not in allowed or (strict and wanted != "b" and _has_boolean(value)):
        raise RequestError(
            400,
            f"Input {spec.name} holds {_found(value, kind)}; expected type: {spec.type_name}.",
        )
    if wanted in "iu":
        limits = np.iinfo(spec.dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise RequestError(
                400, f"Input {spec.name} has a number outside the range of {spec.type_name}."
            )
    return finite(array, spec)


def finite(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Return `array` in the type of `spec`.

    Raises:
        RequestError: 400, a number is too large for that type.
    """
    with np.errstate(over="ignore"):
        converted = array.astype(spec.dtype, copy=False)
    if spec.dtype.kind == "f" and not np.isfinite(converted).all():
        raise RequestError(
            400, f"Cannot convert a number of input {spec.name} to {spec.type_name}: too large."
        )
    return converted


def _strings(value: Any, spec: TensorSpec) -> np.ndarray:
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    flat = [value]
    for size in shape:
        if any(not isinstance(part, list) or len(part) != size for part in flat):
            raise _ragged(spec)
        flat = [item for part in flat for item in part]
    array = np.empty(len(flat), dtype=object)
    for number, item in enumerate(flat):
        array[number] = _to_bytes(item, spec)
    return array.reshape(shape)


def _to_bytes(item: Any, spec: TensorSpec) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if _is_base64(item):
        try:
            return base64.b64decode(item["b64"], validate=True)
        except (binascii.Error, ValueError) as problem:
            raise RequestError(
                400, f"Unable to base64 decode a value of {spec.name}: {problem}."
            ) from problem
    if isinstance(item, list):
        raise _ragged(spec)
    raise RequestError(
        400,
        f"Input {spec.name} holds {type(item).__name__} values; expected type: {spec.type_name}.",
    )


def _ragged(spec: TensorSpec) -> RequestError:
    return RequestError(
        400,
        f"Input {spec.name} is ragged: lists at the same level have different lengths; "
        f"the model takes {spec.shape_text()}.",
    )


def _has_boolean(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_boolean, value))
    return isinstance(value, bool)


def _found(value: Any, kind: str) -> str:
    if kind == "O":
        return "null, mixed or nested values"
    if kind == "U":
        return "strings"
    if kind == "b" or _has_boolean(value):
        return "true or false"
    return "numbers with a fraction" if kind == "f" else "whole numbers"
