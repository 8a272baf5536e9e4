"""The response that a feedback event lacks, fetched from the payload log by its request id."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import orjson

from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.common.events import CloudEvent

TIMEOUT = httpx.Timeout(5.0, connect=2.0)  # seconds
MISSING = "unknown"


class PayloadLog:
    """Reads documents of the payload log, ours or Elasticsearch: `GET /<index>/_doc/<request id>`.

    Args:
        url: its address.
        transport: for tests; the network by default.
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ServingError(f"--elasticsearch_uri {url!r} is no http address.")
        self.url = url.rstrip("/")
        self._client = httpx.Client(timeout=TIMEOUT, transport=transport, trust_env=False)

    def response(self, event: CloudEvent, rows: int) -> np.ndarray | list:
        """Return the model's response to the request that the feedback event names.

        The feedback can come before the log has the response: 503 then, and the broker delivers it
        again a little later.

        Args:
            event: the feedback event, with a `requestid`.
            rows: rows of the truth: a response to several instances is logged in as many documents.

        Raises:
            RequestError: 400 without a request id, 503 while the log has no response to it.
        """
        request_id = event.get("requestid")
        if not request_id:
            raise RequestError(
                400, "The feedback has neither a response nor, in Ce-Requestid, its request's id."
            )
        index = _index(event)
        whole = self._read(index, request_id)
        if whole is not None:
            return whole
        items = []
        for row in range(rows):
            item = self._read(index, f"{request_id}-item-{row}")
            if item is None:
                raise RequestError(
                    503,
                    f"The payload log has no response to the request {request_id[:80]!r} (yet).",
                    headers={"retry-after": "1"},
                )
            items.append(item)
        return items

    def _read(self, index: str, document: str) -> Any:
        """Return the logged response of one document; None if there is none."""
        url = f"{self.url}/{quote(index, safe='')}/_doc/{quote(document, safe='')}"
        try:
            answer = self._client.get(url)
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
            logged = orjson.loads(answer.content)["_source"].get("response")
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise RequestError(
                503,
                f"The payload log at {self.url} does not answer as one: {type(problem).__name__}.",
                headers={"retry-after": "1"},
            ) from problem
        if not isinstance(logged, dict):
            return None
        if logged.get("instance") is not None:
            return logged["instance"]
        payload = logged.get("payload")
        return payload.get("predictions") if isinstance(payload, dict) else None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _index(event: CloudEvent) -> str:
    """Return the name of the index that Seldon's request logger writes this deployment's events to."""
    namespace = event.get("namespace") or os.environ.get("SELDON_DEPLOYMENT_NAMESPACE")
    deployment = event.get("inferenceservicename") or os.environ.get("SELDON_DEPLOYMENT_ID")
    predictor = event.get("endpoint") or os.environ.get("PREDICTOR_ID")
    return "-".join(
        [
            "inference-log-seldon",
            namespace or f"{MISSING}-namespace",
            deployment or f"{MISSING}-inferenceservice",
            predictor or f"{MISSING}-endpoint",
        ]
    )
