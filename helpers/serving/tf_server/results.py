"""Results of the model to the JSON answer of the predict API."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import orjson

from helpers.serving.common.errors import RequestError
from helpers.serving.tf_server.specs import Arrays

_BYTES_SUFFIX = "_bytes"  # outputs called so are binary: base64 in JSON


def write_result(outputs: Arrays, row_form: bool) -> bytes:
    """Return the JSON answer: `predictions` in row form, `outputs` in column form.

    A single output goes without its name. NaN and infinity are written as TensorFlow Serving does,
    as the words NaN, Infinity and -Infinity, which Python's json reads.

    Raises:
        RequestError: 400, row form was asked of outputs that do not share their first axis.
    """
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    single = next(iter(plain.values())) if len(plain) == 1 else None
    if not row_form:
        answer: dict[str, Any] = {"outputs": plain if single is None else single}
    else:
        lengths = {array.shape[0] if array.ndim else None for array in outputs.values()}
        if len(lengths) != 1 or None in lengths:
            raise RequestError(
                400,
                "The model's outputs do not share their first axis: send 'inputs', column form.",
            )
        if single is None:
            rows = range(lengths.pop())
            answer = {"predictions": [{name: plain[name][row] for name in plain} for row in rows]}
        else:
            answer = {"predictions": single}
    if all(np.isfinite(a).all() for a in outputs.values() if a.dtype.kind == "f"):
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(answer, default=lambda value: value.tolist()).encode()


def _plain(name: str, array: np.ndarray) -> Any:
    if array.dtype.kind == "O":
        return _texts(array.tolist(), binary=name.endswith(_BYTES_SUFFIX))
    if array.ndim == 0:
        return array.item()
    return np.ascontiguousarray(array)


def _texts(value: Any, binary: bool) -> Any:
    if isinstance(value, list):
        return [_texts(item, binary) for item in value]
    if binary:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode(errors="replace")
