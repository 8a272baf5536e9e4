"""The three protocols: paths, bodies, and the rows of an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import orjson

from helpers.errors import ClientError

_V2_TYPES = {"f": "FP", "i": "INT", "u": "UINT"}


def write(value: Any) -> bytes:
    """Return a body as JSON; arrays in it are written with the digits of their own precision."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def as_rows(x: Any, name: str = "x") -> np.ndarray:
    """Return `x` as numbers that JSON can carry, contiguous and of the type they had.

    Raises:
        ClientError: not an array of numbers, or one of them is NaN or infinite.
    """
    try:
        rows = np.ascontiguousarray(x)
        if rows.dtype.kind not in "biuf":
            raise TypeError(f"its type is {rows.dtype}")
        small = rows.dtype.kind == "f" and rows.dtype.itemsize not in (4, 8)
        rows = rows.astype(np.float32 if small else rows.dtype.newbyteorder("="), copy=False)
    except (TypeError, ValueError) as problem:
        raise ClientError(
            f"{name} is not an array of numbers ({problem}), and nothing was sent. Rows of different "
            "shapes go in requests of their own."
        ) from problem
    if not np.isfinite(rows).all():
        raise ClientError(
            f"{name} holds NaN or infinity, which JSON cannot carry; nothing was sent. Clean it first."
        )
    return rows


def as_instances(x: Any) -> np.ndarray | list[str]:
    """Return instances as JSON can carry them: texts as a list, one text as a list of one, numbers as
    `as_rows` returns them.

    Raises:
        ClientError: as `as_rows`.
    """
    if isinstance(x, str):
        return [x]
    if isinstance(x, list | tuple) and x and all(isinstance(one, str) for one in x):
        return list(x)
    return as_rows(x)


def one_hot(labels: Any, classes: int = 10) -> np.ndarray:
    """Return labels (n,) as rows (n, classes) with a 1 at the label, float64."""
    return np.eye(classes)[np.atleast_1d(labels)]


class Protocol(ABC):
    """How one protocol speaks to the model called `model`."""

    def __init__(self, model: str) -> None:
        self.model = model

    predict_path: str
    explain_path: str
    metadata_path: str
    status_path: str

    @abstractmethod
    def request(self, rows: np.ndarray | list[str]) -> dict[str, Any]:
        """Return the body that carries rows (n, …) or n texts."""

    @abstractmethod
    def rows(self, answer: Any) -> Any:
        """Return the rows in an answer.

        Raises:
            KeyError, TypeError, IndexError: it has none.
        """

    def explain_request(
        self, rows: np.ndarray | list[str], parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the body of a request for an explanation."""
        body = self.request(rows)
        return body | {"parameters": parameters} if parameters else body

    def explanation(self, content: bytes) -> bytes:
        """Return the explanation in an answer's body, JSON as the explainer wrote it.

        Raises:
            ValueError, KeyError, TypeError, IndexError, AttributeError: there is none.
        """
        return content


class Tensorflow(Protocol):
    """TensorFlow Serving's REST API, in its row form."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.predict_path = f"/v1/models/{model}:predict"
        self.explain_path = f"/v1/models/{model}:explain"
        self.metadata_path = f"/v1/models/{model}/metadata"
        self.status_path = f"/v1/models/{model}"

    def request(self, rows: np.ndarray | list[str]) -> dict[str, Any]:
        return {"instances": rows}

    def rows(self, answer: Any) -> Any:
        return answer["predictions"]


class Seldon(Protocol):
    """Seldon's own protocol, with `data.ndarray`."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.predict_path = "/api/v1.0/predictions"
        self.explain_path = "/api/v1.0/explain"
        self.metadata_path = "/api/v1.0/metadata"
        self.status_path = "/api/v1.0/health/status"

    def request(self, rows: np.ndarray | list[str]) -> dict[str, Any]:
        return {"data": {"ndarray": rows}}

    def rows(self, answer: Any) -> Any:
        data = answer["data"]
        if "tensor" in data:
            return np.reshape(data["tensor"]["values"], data["tensor"]["shape"])
        return data["ndarray"]


class V2(Protocol):
    """The open inference protocol, one tensor in and one out."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.predict_path = f"/v2/models/{model}/infer"
        self.explain_path = self.predict_path
        self.metadata_path = f"/v2/models/{model}"
        self.status_path = f"/v2/models/{model}/ready"

    def request(self, rows: np.ndarray | list[str]) -> dict[str, Any]:
        if isinstance(rows, list):
            tensor = {"name": "predict", "shape": [len(rows), 1], "datatype": "BYTES"}
            as_text = {"content_type": "str"}  # or MLServer hands the model bytes
            return {
                "parameters": as_text,
                "inputs": [tensor | {"data": rows, "parameters": as_text}],
            }
        kind, bits = rows.dtype.kind, 8 * rows.dtype.itemsize
        datatype = "BOOL" if kind == "b" else f"{_V2_TYPES[kind]}{bits}"
        tensor = {"name": "predict", "shape": rows.shape, "datatype": datatype}
        return {"inputs": [tensor | {"data": rows.ravel()}]}

    def rows(self, answer: Any) -> Any:
        tensor = answer["outputs"][0]
        return np.reshape(tensor["data"], tensor["shape"])

    def explain_request(
        self, rows: np.ndarray | list[str], parameters: dict[str, Any]
    ) -> dict[str, Any]:
        # Where MLServer's explainers look for them.
        body = self.request(rows)
        if not parameters:
            return body
        told = body.get("parameters", {}) | {"explain_parameters": parameters}
        return body | {"parameters": told}

    def explanation(self, content: bytes) -> bytes:
        return orjson.loads(content)["outputs"][0]["data"][0].encode()


PROTOCOLS: dict[str, type[Protocol]] = {"tensorflow": Tensorflow, "seldon": Seldon, "v2": V2}


def protocol_of(name: str, model: str) -> Protocol:
    """Return the protocol called `name`.

    Raises:
        ClientError: there is none.
    """
    if name not in PROTOCOLS:
        raise ClientError(f"There is no protocol {name!r}; use one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name](model)


def numbers(rows: Any) -> np.ndarray:
    """Return an answer's rows as float64.

    Raises:
        ValueError, TypeError: they are not numbers, or differ in length.
    """
    if not isinstance(rows, list | np.ndarray):
        raise TypeError(f"rows of numbers are expected, not {type(rows).__name__}")
    return np.asarray(rows, np.float64)
