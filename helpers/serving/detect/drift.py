"""DriftDetector: collects rows until its window is full, then asks whether they are still the reference."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from helpers import artifacts
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.common.events import DRIFT_TYPE, CloudEvent
from helpers.serving.detect.verdict import GAUGE, Metric, Verdict
from helpers.serving.detect.window import Window
from helpers.serving.payloads import cast, check_shape, read_rows
from helpers.serving.storage import Location

ENV_DRIFT_TYPE_FEATURE = "ALIBI_DETECT_DRIFT_TYPE_FEATURE"
ROWS_AT_ONCE = 256


def drift_type_from_environment() -> str:
    """Return `feature` where ALIBI_DETECT_DRIFT_TYPE_FEATURE is true, else `batch`."""
    return "feature" if os.environ.get(ENV_DRIFT_TYPE_FEATURE, "").upper() == "TRUE" else "batch"


class DriftDetector:
    """Tests windows of exactly `window` rows, one after the other.

    Where the detector encodes its input first (as ours does), rows are encoded as they come and only
    their features are kept: a window of 1,000 images takes 128 kB instead of 12 MB, and an event costs
    the same whether the window is long or short. The window lives in memory: run one replica.

    Args:
        location: the detector's artefact.
        protocol: of the payloads.
        window: rows of a window.
        drift_type: `batch`, one answer for a window, or `feature`, one for each feature.
    """

    event_type = DRIFT_TYPE

    def __init__(
        self, location: Location, protocol: str, window: int, drift_type: str = "batch"
    ) -> None:
        if window < 1:
            raise ServingError(f"--drift_batch_size {window}: a window has at least one row.")
        self.location = location
        self.protocol = protocol
        self.size = window
        self.drift_type = drift_type
        self.detector: Any = None
        self.window: Window | None = None
        self.row_shape: tuple[int, ...] | None = None
        self._encode: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def filled(self) -> int:
        """Rows that wait for the window to fill up."""
        return self.window.filled if self.window else 0

    def load(self) -> None:
        """Load the artefact, checksums first, and encode one row so that the next is quick."""
        import helpers.tf  # noqa: F401  (first, so that TensorFlow says nothing)

        self.use(artifacts.load(self.location.dataset, self.location.name))

    def use(self, detector: Any) -> None:
        """Take a detector that is already in memory."""
        self.detector = detector
        encoder = _encoder_of(detector)
        if encoder is not None:
            from helpers.models.predictor import as_function

            self._encode = as_function(encoder, ROWS_AT_ONCE)
            self.row_shape = tuple(encoder.input_shape[1:])
            features = self._encode(np.zeros((1, *self.row_shape), np.float32))
            self.window = Window(self.size, features.shape[1:], features.dtype)
            # Its x_ref is encoded already; given encoded rows it must not encode them again.
            self.detector = copy.copy(detector)
            self.detector.preprocess_fn = None
        elif getattr(detector, "preprocess_fn", None) is None:
            x_ref = getattr(detector, "x_ref", None)
            self.row_shape = x_ref.shape[1:] if isinstance(x_ref, np.ndarray) else None

    def process(self, body: Any, headers: Mapping[str, str], event: CloudEvent | None) -> Verdict:
        """Take the rows; return the test's result if they fill the window, nothing otherwise.

        One request may fill the window several times. There is one reply to one event: it has the
        last window that drifted, or the last one if none did, and the data of all in order under
        `windows`. The metrics count each.
        """
        rows = read_rows(body, self.protocol)
        if rows.ndim < 2:
            raise RequestError(400, "Each instance must be a list of numbers.")
        check_shape(rows, self.row_shape)
        if self._encode:
            rows = self._encode(cast(rows, np.float32))
            if not np.isfinite(rows).all():  # one such row would spoil the window
                raise RequestError(400, "The instances hold numbers too large to be encoded.")
        if self.window is None:
            self.row_shape = rows.shape[1:]
            self.window = Window(self.size, self.row_shape, np.result_type(rows, np.float32))
        results = [self._test(window) for window in self.window.add(rows)]
        if not results:
            return Verdict()
        metrics = [metric for result in results for metric in _metrics(result["data"])]
        drifted = [result for result in results if np.any(result["data"]["is_drift"])]
        reply = dict((drifted or results)[-1])
        if len(results) > 1:
            reply["windows"] = [result["data"] for result in results]
        return Verdict(reply, metrics)

    def _test(self, window: np.ndarray) -> dict[str, Any]:
        rows = window if self._encode else window.copy()  # the copy: a detector may keep its input
        # Only some detectors test features one by one; the others do not take the argument.
        options = {"drift_type": "feature"} if self.drift_type == "feature" else {}
        result = self.detector.predict(rows, **options)
        data = {name: value for name, value in result["data"].items() if value is not None}
        return {"data": data, "meta": dict(result["meta"])}


def _encoder_of(detector: Any) -> Any:
    """Return the Keras network that `detector` encodes its input with, if that is all it does."""
    preprocess = getattr(detector, "preprocess_fn", None)
    plain = (
        isinstance(preprocess, partial)
        and getattr(preprocess.func, "__name__", "") == "preprocess_drift"
        and "tensorflow" in getattr(preprocess.func, "__module__", "")
        and not preprocess.args
        and preprocess.keywords.get("preprocess_batch_fn") is None
        and preprocess.keywords.get("tokenizer") is None
    )
    encoded = getattr(detector, "x_ref_preprocessed", False) or getattr(
        detector, "preprocess_at_init", False
    )
    if not plain or not encoded or getattr(detector, "update_x_ref", None) is not None:
        return None
    encoder = preprocess.keywords.get("model")
    shape = getattr(encoder, "input_shape", None)
    return encoder if isinstance(shape, tuple) and None not in shape[1:] else None


def _metrics(data: dict[str, Any]) -> list[Metric]:
    metrics = [
        Metric("seldon_metric_drift_counter", int(np.any(data["is_drift"]))),
        Metric("detect_server_windows", 1),  # ours: Seldon's count those that drifted only
    ]
    for name in ("is_drift", "distance", "p_val", "threshold"):
        for index, value in enumerate(np.atleast_1d(data.get(name, []))):
            tags = {"index": str(index)}
            metrics.append(Metric(f"seldon_metric_drift_{name}", float(value), GAUGE, tags))
    return metrics
