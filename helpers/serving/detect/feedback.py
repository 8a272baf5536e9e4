"""MetricsServer: compares the truth that feedback brings with what the model answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import FEEDBACK_TYPE, CloudEvent
from helpers.serving.detect import metrics_models
from helpers.serving.detect.completion import PayloadLog
from helpers.serving.detect.metrics_base import as_rows
from helpers.serving.detect.verdict import Metric, Verdict
from helpers.serving.payloads import read_seldon_message

log = logging.getLogger(__name__)


class MetricsServer:
    """Turns feedback into metrics; it has nothing to reply.

    Feedback is `{"truth": {"data": …}, "response": {"data": …}}`, as a SeldonDeployment's
    `/api/v1.0/feedback` takes it. Without a response, the payload log is asked for it by request id.

    Args:
        name: of the metrics server, see `metrics_models`.
        payload_log: where responses are; None if there is no log.
    """

    event_type = f"{FEEDBACK_TYPE}.metrics"

    def __init__(self, name: str, payload_log: PayloadLog | None = None) -> None:
        self.name = name
        self.payload_log = payload_log
        self.model: Any = None

    def load(self) -> None:
        """Import the class and make one instance of it."""
        self.model = metrics_models.make(self.name)

    def process(self, body: Any, headers: Mapping[str, str], event: CloudEvent | None) -> Verdict:
        """Return the metrics that one feedback changes."""
        if not isinstance(body, dict) or body.get("truth") is None:
            raise RequestError(
                400, 'Expected key "truth" in the feedback.', reason="NO_TRUTH_VALUE"
            )
        truth = _array(read_seldon_message(body["truth"], "truth"), "truth")
        if not truth.size:
            raise RequestError(400, "truth holds no value.", reason="NO_TRUTH_VALUE")
        given = _given_metrics(body["truth"])
        request = _message(body, "request")
        response = _message(body, "response")
        if response is None:
            response = _array(self._logged_response(event, len(as_rows(truth))), "response")
        try:
            compared = self.model.transform(truth, response, request)
            metrics = [_as_metric(metric) for metric in _as_list(compared)]
        except Exception as problem:  # a class of the user's own may raise anything
            if not isinstance(problem, ValueError | TypeError | IndexError):
                log.warning("%s failed", self.name, exc_info=problem)
            raise RequestError(
                400,
                f"Truth and response cannot be compared by {self.name}: {problem}.",
                reason="METRICS_SERVER_ERROR",
            ) from problem
        return Verdict(metrics=[*given, *metrics])

    def _logged_response(self, event: CloudEvent | None, rows: int) -> Any:
        if event is None or not event.get("requestid"):
            raise RequestError(
                400,
                "The feedback has neither a response nor, in Ce-Requestid, its request's id.",
                reason="METRICS_SERVER_ERROR",
            )
        if self.payload_log is None:
            raise RequestError(
                400,
                "The feedback has no response, and this server was started without "
                "--elasticsearch_uri to look it up.",
                reason="METRICS_SERVER_ERROR",
            )
        return self.payload_log.response(event, rows)


def _array(values: Any, where: str) -> np.ndarray:
    """Return a message's data, which is a list where it holds text, as an array."""
    try:
        return np.asarray(values)
    except ValueError as problem:
        raise RequestError(
            400, f"{where} is not an array: its instances differ in shape."
        ) from problem


def _message(body: dict, name: str) -> np.ndarray | None:
    """Return the data of the request or response in a feedback; None where it has none."""
    message = body.get(name)
    if not message:
        return None
    if isinstance(message, dict):
        for key in ("predictions", "instances"):  # the tensorflow protocol's
            if "data" not in message and isinstance(message.get(key), list):
                message = {"data": {"ndarray": message[key]}}
        if "data" not in message:
            return None  # a seldon message may hold only `meta`
    return _array(read_seldon_message(message, name), name)


def _given_metrics(truth: dict) -> list[Metric]:
    """Return the metrics that the truth brings itself, as `meta.metrics`."""
    meta = truth.get("meta")
    given = meta.get("metrics") if isinstance(meta, dict) else None
    if not given:
        return []
    try:
        return [_as_metric(metric) for metric in given]
    except (ValueError, TypeError, KeyError) as problem:
        raise RequestError(
            400, f"truth.meta.metrics is not a list of metrics: {problem}."
        ) from problem


def _as_list(compared: Any) -> list:
    metrics = getattr(compared, "metrics", compared)
    return [] if metrics is None else list(metrics)


def _as_metric(metric: Any) -> Metric:
    """Take Seldon's dictionaries for metrics too."""
    if isinstance(metric, Metric):
        return metric
    if not isinstance(metric, Mapping):
        raise ValueError(f"{str(metric)[:60]} is no metric")
    tags = metric.get("tags") or {}
    if not isinstance(tags, Mapping):
        raise ValueError("a metric's tags must be an object")
    return Metric(metric["key"], metric["value"], metric.get("type", "COUNTER"), dict(tags))
