"""Predictions of the deployed model, over HTTP, in its protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from helpers.serving.common.errors import RequestError
from helpers.serving.payloads import SELDON, TENSORFLOW, V2, read_seldon_message

ROWS_AT_ONCE = 256  # rows of one call at most,
NUMBERS_AT_ONCE = 1_000_000  # or this many numbers: some 12 MB of JSON, and servers have limits
TIMEOUT = httpx.Timeout(30.0, connect=2.0)  # seconds
LIMITS = httpx.Limits(max_connections=8, max_keepalive_connections=8, keepalive_expiry=30.0)
# Explanations ask about made-up inputs: a drift detector that saw them would see drift.
HEADERS = {"content-type": "application/json", "seldon-skip-logging": "true"}


class ModelClient:
    """A function from inputs (n, …) to what the model answers, (n, …).

    Args:
        host: `host:port` of the predictor, with a path prefix if it has one.
        protocol: seldon.http, tensorflow.http or v2.http.
        model_name: the model's name, which the tensorflow and v2 protocols put into the path.
        transport: for tests; the network by default.
    """

    def __init__(
        self,
        host: str,
        protocol: str,
        model_name: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.protocol = protocol
        base = host if host.startswith(("http://", "https://")) else f"http://{host}"
        name = quote(model_name, safe="")
        paths = {
            SELDON: "/api/v1.0/predictions",
            TENSORFLOW: f"/v1/models/{name}:predict",
            V2: f"/v2/models/{name}/infer",
        }
        self.url = base.rstrip("/") + paths[protocol]
        self.requests = 0  # sent so far
        self._client = httpx.Client(
            timeout=TIMEOUT, limits=LIMITS, headers=HEADERS, transport=transport, trust_env=False
        )
        # A connection that the model's server closes while it is replaced is worth another try.
        self._attempts = Retrying(
            retry=retry_if_exception_type((httpx.ConnectError, httpx.RemoteProtocolError)),
            stop=stop_after_attempt(3),
            wait=wait_fixed(0.1),
            reraise=True,
        )

    def __call__(self, x: np.ndarray | list) -> np.ndarray:
        """Return the model's answers.

        Raises:
            RequestError: 400, an input is not finite; 503, the model cannot be reached or is not
                ready; 502, its answer is an error or none.
        """
        step = ROWS_AT_ONCE
        if isinstance(x, np.ndarray) and x.dtype.kind == "f":
            if not np.isfinite(x).all():  # a finite image's average colour need not be
                raise RequestError(400, "The instances hold numbers too large to be explained.")
            step = min(step, max(1, NUMBERS_AT_ONCE // max(1, x[0].size)))
        parts = [self._predict(x[start : start + step]) for start in range(0, len(x), step)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _predict(self, x: np.ndarray | list) -> np.ndarray:
        rows = (
            np.ascontiguousarray(x) if isinstance(x, np.ndarray) and x.dtype != object else list(x)
        )
        content = orjson.dumps(_REQUESTS[self.protocol](rows), option=orjson.OPT_SERIALIZE_NUMPY)
        self.requests += 1
        try:
            response = self._attempts(self._client.post, self.url, content=content)
        except httpx.TimeoutException as problem:
            raise _unavailable(f"did not answer within {TIMEOUT.read:g} s") from problem
        except httpx.HTTPError as problem:
            raise _unavailable(f"cannot be reached ({type(problem).__name__})") from problem
        if response.status_code in (429, 503):
            raise _unavailable(f"answered {response.status_code}{_said(response)}")
        if not response.is_success:
            raise RequestError(502, f"The model answered {response.status_code}{_said(response)}.")
        answers = self._read(response)
        if answers.ndim == 0 or len(answers) != len(rows):
            raise RequestError(
                502, f"The model answered {len(rows)} inputs with the shape {answers.shape}."
            )
        return answers

    def _read(self, response: httpx.Response) -> np.ndarray:
        try:
            body = orjson.loads(response.content)
            if self.protocol == TENSORFLOW:
                answers = np.array(_unnamed(body["predictions"]))
            elif self.protocol == V2:
                answers = _tensor(body["outputs"][0])
            else:
                answers = np.asarray(read_seldon_message(body, "response"))
        except (ValueError, KeyError, TypeError, RequestError) as problem:
            raise RequestError(
                502, f"The model's answer is no {self.protocol} response."
            ) from problem
        if answers.dtype.kind not in "biuf" or not np.isfinite(answers).all():
            raise RequestError(502, "The model's answer holds something else than finite numbers.")
        return answers

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _v2_request(rows: np.ndarray | list) -> dict[str, Any]:
    """Return one tensor with the rows, as MLServer's explainers send it."""
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "biuf":
        bits = 8 * rows.dtype.itemsize
        datatype = "BOOL" if rows.dtype.kind == "b" else f"{_V2_KINDS[rows.dtype.kind]}{bits}"
        shape, data, content_type = list(rows.shape), rows.ravel(), "np"
    else:
        shape, data, content_type = [len(rows), 1], [str(row) for row in rows], "str"
        datatype = "BYTES"
    tensor = {"name": "predict", "shape": shape, "datatype": datatype, "data": data}
    return {
        "parameters": {"content_type": content_type},
        "inputs": [{**tensor, "parameters": {"content_type": content_type}}],
    }


_V2_KINDS = {"f": "FP", "i": "INT", "u": "UINT"}
_REQUESTS: dict[str, Callable[[np.ndarray | list], dict[str, Any]]] = {
    SELDON: lambda rows: {"data": {"ndarray": rows}},
    TENSORFLOW: lambda rows: {"instances": rows},
    V2: _v2_request,
}


def _tensor(output: dict[str, Any]) -> np.ndarray:
    """Return an output tensor; MLServer writes labels (n,) in the shape (n, 1)."""
    answers = np.array(output["data"]).reshape(output["shape"])
    is_label = "INT" in output["datatype"] and answers.ndim == 2 and answers.shape[1] == 1
    return answers[:, 0] if is_label else answers


def _unnamed(predictions: Any) -> Any:
    """Return the tensor of a model whose only output comes by name."""
    if isinstance(predictions, list) and predictions and isinstance(predictions[0], dict):
        (name,) = predictions[0]
        return [row[name] for row in predictions]
    return predictions


def _unavailable(why: str) -> RequestError:
    return RequestError(503, f"The model {why}.", headers={"retry-after": "1"})


def _said(response: httpx.Response) -> str:
    """Return what the model's error says, short and in one line."""
    try:
        body = orjson.loads(response.content)
        told = body.get("error") or body.get("status", {}).get("info")
    except (ValueError, AttributeError):
        return ""
    return f": {' '.join(told.split())[:200]}" if isinstance(told, str) and told else ""
