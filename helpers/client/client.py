"""One deployment, seen from outside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson
from tenacity import RetryCallState, Retrying, retry_if_exception, retry_if_result
from tenacity.stop import stop_after_attempt, stop_after_delay
from tenacity.wait import wait_exponential

from helpers.client.answers import Explanation, Prediction
from helpers.client.protocols import as_instances, as_rows, numbers, protocol_of, write
from helpers.client.refusals import refused, unanswered, unreadable
from helpers.errors import ClientError

ATTEMPTS = 5  # of one request, the first included
LONGEST_PAUSE = 5.0  # seconds, also where Retry-After asks for more
EXPLAIN_SECONDS = 300.0
FEEDBACK_PATH = "/api/v1.0/feedback"

# No answer came, and it is worth another try. A timeout is not: the server is busy already.
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)
# The same for requests that must not count twice: surely nothing has arrived.
_NOT_ARRIVED = (httpx.ConnectError,)


class Client:
    """Asks one SeldonDeployment, over one pool of connections; safe to share between threads.

    A request is tried again when the connection breaks or the answer is 503 with Retry-After, at most
    ATTEMPTS times and no longer than `timeout`. Every failure is a ClientError.

    Args:
        url: of the deployment, `cluster.url("cifar10")`.
        protocol: tensorflow, seldon or v2, as in the manifest.
        model: the graph node's name.
        timeout: seconds for one answer.
        predictor: whose explainer `explain` asks.
        transport: for tests; the network by default.
    """

    def __init__(
        self,
        url: str,
        protocol: str = "tensorflow",
        model: str = "resnet32",
        timeout: float = 30.0,
        *,
        predictor: str = "default",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ClientError(f"{url!r} is no http address; use cluster.url(name).")
        self.url = url.rstrip("/")
        self.protocol = protocol_of(protocol, model)
        self.timeout = timeout
        self.predictor = predictor
        # Not through a proxy of the environment: the stack is on this machine or forwarded to it.
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(5.0, timeout)),
            headers={"content-type": "application/json"},
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def predict(
        self,
        x: Any,
        *,
        request_id: str | None = None,
        skip_logging: bool = False,
        variant: str | None = None,
    ) -> Prediction:
        """Return the model's answer to instances (n, …).

        Args:
            x: one row for each instance, or a list of texts.
            request_id: sent as `Seldon-Puid`; the orchestrator makes one otherwise.
            skip_logging: the request and its answer go to no event broker.
            variant: the predictor that must serve, sent as `Seldon-Variant`; by the traffic split otherwise.

        Raises:
            ClientError: refused or not answered; `status` is the HTTP status, if there is one.
        """
        body = self.encode(x)
        url = self.url + self.protocol.predict_path
        started = time.perf_counter()
        answer = self._send("POST", url, body, _headers(request_id, skip_logging, variant))
        seconds = time.perf_counter() - started
        try:
            content = orjson.loads(answer.content)
            rows = numbers(self.protocol.rows(content))
        except (ValueError, KeyError, TypeError, IndexError) as problem:
            raise unreadable("POST", url, answer) from problem
        return Prediction(
            rows, answer.headers.get("seldon-puid", ""), seconds, answer.headers, content
        )

    def explain(
        self, x: Any, *, seed: int | None = None, threshold: float | None = None, **options: Any
    ) -> Explanation:
        """Return the explainer's answer for one instance or several.

        Args:
            x: a row (features,), an image (height, width, 3), a text, or a batch of any of them; each
                method says in its own way what it answers to a batch.
            seed: makes the explanation repeatable; drawn by the server otherwise.
            threshold: precision that the anchor must have; the manifest's otherwise.
            options: further ones of the method, e.g. `tau=0.2`.

        Raises:
            ClientError: refused or not answered.
        """
        rows = as_instances(x)
        if isinstance(rows, np.ndarray) and rows.ndim in (1, 3):
            rows = rows[None]
        given = {"seed": seed, "threshold": threshold} | options
        parameters = {name: value for name, value in given.items() if value is not None}
        body = write(self.protocol.explain_request(rows, parameters))
        url = f"{self.url}-explainer/{self.predictor}{self.protocol.explain_path}"
        started = time.perf_counter()
        answer = self._send("POST", url, body, {}, timeout=max(EXPLAIN_SECONDS, self.timeout))
        seconds = time.perf_counter() - started
        try:
            content = self.protocol.explanation(answer.content)
            explained = orjson.loads(content)
            meta, data = explained["meta"], explained["data"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as problem:
            raise unreadable("POST", url, answer) from problem
        return Explanation(meta, data, answer.headers.get("seldon-puid", ""), seconds, content)

    def feedback(
        self,
        *,
        truth: Any,
        response: Prediction | Any = None,
        request_id: str | None = None,
        reward: float = 0.0,
        request: Any = None,
    ) -> str:
        """Tell the deployment what would have been right, and return the request id it was filed under.

        With `response` the feedback is complete in itself. Without, it names an earlier request, and the
        metrics server looks the response up in the payload log.

        Args:
            truth: rows (n, …), in the form that the metrics server compares; one-hot for MulticlassOneHot.
            response: rows as the model answered, or the Prediction itself.
            request_id: of the prediction; that of `response` if it is a Prediction.
            reward: for models that learn from it.
            request: the instances that were sent, where a metrics server needs them.

        Raises:
            ClientError: neither `response` nor `request_id`, or refused, or not answered.
        """
        if isinstance(response, Prediction):
            request_id = request_id or response.request_id
            response = response.probabilities
        if response is None and not request_id:
            raise ClientError(
                "Feedback needs the model's `response`, or the `request_id` of the prediction "
                "(prediction.request_id), by which it is looked up in the payload log."
            )
        given = {"request": request, "response": response, "truth": truth}
        body: dict[str, Any] = {"reward": float(reward)}
        for name, value in given.items():
            if value is not None:
                body[name] = {"data": {"ndarray": as_rows(value, name)}}
        url = self.url + FEEDBACK_PATH
        answer = self._send(
            "POST", url, write(body), _headers(request_id, False), again=_NOT_ARRIVED
        )
        return answer.headers.get("seldon-puid", request_id or "")

    def metadata(self) -> dict[str, Any]:
        """Return what the model says of itself: inputs and outputs, their names, types and shapes."""
        return self._get(self.protocol.metadata_path)

    def status(self) -> dict[str, Any]:
        """Return the model's state in its protocol's words; an empty body is an empty dict."""
        return self._get(self.protocol.status_path)

    def ready(self) -> bool:
        """Return whether the deployment can serve: what a readiness probe asks."""
        try:
            return self._http.get(self.url + "/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def encode(self, x: Any) -> bytes:
        """Return the body of a prediction request for instances (n, …) or n texts."""
        return write(self.protocol.request(as_instances(x)))

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._send("GET", self.url + path, b"", {})
        if not answer.content.strip():
            return {}
        try:
            content = orjson.loads(answer.content)
        except orjson.JSONDecodeError as problem:
            raise unreadable("GET", self.url + path, answer) from problem
        return content if isinstance(content, dict) else {"answer": content}

    def _send(
        self,
        method: str,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout: float | None = None,
        again: tuple[type[Exception], ...] = _BROKEN,
    ) -> httpx.Response:
        limit = self.timeout if timeout is None else timeout
        trying = Retrying(
            retry=retry_if_exception(lambda problem: isinstance(problem, again))
            | retry_if_result(_asks_for_another_try),
            wait=_pause,
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(limit),
            retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
        )
        try:
            answer = trying(
                self._http.request, method, url, content=body, headers=headers, timeout=limit
            )
        except httpx.HTTPError as problem:
            raise unanswered(method, url, problem, limit) from problem
        if not answer.is_success:
            raise refused(method, url, answer)
        return answer


_backoff = wait_exponential(multiplier=0.05, max=LONGEST_PAUSE)


def _asks_for_another_try(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and "retry-after" in answer.headers


def _pause(state: RetryCallState) -> float:
    """As long as the server asks, within bounds; after a broken connection ever longer."""
    outcome = state.outcome
    if outcome is not None and not outcome.failed:
        asked = outcome.result().headers.get("retry-after", "")
        if asked.isdigit():
            return min(float(asked), LONGEST_PAUSE)
    return _backoff(state)


def _headers(
    request_id: str | None, skip_logging: bool, variant: str | None = None
) -> dict[str, str]:
    headers = {}
    if variant is not None:
        headers["seldon-variant"] = variant
    if request_id:
        headers["seldon-puid"] = request_id
    if skip_logging:
        headers["seldon-skip-logging"] = "true"
    return headers
