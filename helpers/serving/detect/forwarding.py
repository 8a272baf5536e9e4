"""Events that the detect server sends by itself: inliers, and results to `--reply_url`.

One HTTP response carries one reply event, which is the detector's result. To let a drift detector see only
inliers, the outlier detector sends them to the broker as events of their own type, which the drift detector's
trigger asks for:

    env: FORWARD_INLIERS_URL=http://broker-ingress.knative-eventing.svc.cluster.local/default/default
    trigger of the drift detector: filter.attributes.type = io.seldon.serving.inference.inlier

A request of which every row is an inlier is passed on byte for byte; of others only the inliers are.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson

from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.common.events import CloudEvent
from helpers.serving.payloads import read_rows, replace_rows

ENV_URL = "FORWARD_INLIERS_URL"
ENV_TYPE = "FORWARD_INLIERS_TYPE"
INLIER_TYPE = "io.seldon.serving.inference.inlier"
TIMEOUT = httpx.Timeout(5.0, connect=2.0)  # seconds


class Sender:
    """Posts events to one address; the event that caused them is refused where that fails.

    Args:
        url: where to.
        transport: for tests; the network by default.

    Raises:
        ServingError: the url is none.
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ServingError(f"{url!r} is no http address to send events to.")
        self.url = url
        self._client = httpx.Client(timeout=TIMEOUT, transport=transport, trust_env=False)

    def send(self, event: CloudEvent) -> None:
        """Post one event in binary mode.

        Raises:
            RequestError: 503; who delivered the event that caused this one delivers it again.
        """
        headers, data = event.to_binary()
        try:
            response = self._client.post(self.url, headers=headers, content=data)
        except httpx.HTTPError as problem:
            told = str(problem) or type(problem).__name__
            raise _not_taken(f"{self.url} does not answer: {told}") from problem
        if not response.is_success:
            raise _not_taken(f"{self.url} answered {response.status_code}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class InlierForwarder:
    """Sends the inliers of a request on, as an event that keeps id and extensions.

    Its id is the event's with `-inlier` added: delivered twice, it is still one event.
    """

    def __init__(
        self, sender: Sender, protocol: str, source: str, event_type: str = INLIER_TYPE
    ) -> None:
        self.sender = sender
        self.protocol = protocol
        self.source = source
        self.event_type = event_type

    def forward(self, event: CloudEvent, body: Any, inliers: np.ndarray) -> None:
        """Send the rows of `body` for which `inliers`, (n,) of bool, holds; nothing if none does."""
        if not inliers.any():
            return
        data = event.data
        if not inliers.all():
            rows = read_rows(body, self.protocol)
            kept = replace_rows(body, self.protocol, inliers, rows)
            data = orjson.dumps(kept, option=orjson.OPT_SERIALIZE_NUMPY)
        self.sender.send(
            replace(
                event,
                type=self.event_type,
                source=self.source,
                id=f"{event.id}-inlier",
                data=data,
                datacontenttype="application/json",
            )
        )


def forwarder_from_environment(protocol: str, source: str) -> InlierForwarder | None:
    """Return a forwarder to FORWARD_INLIERS_URL; None where that is not set."""
    url = os.environ.get(ENV_URL, "").strip()
    if not url:
        return None
    return InlierForwarder(Sender(url), protocol, source, os.environ.get(ENV_TYPE) or INLIER_TYPE)


def _not_taken(why: str) -> RequestError:
    return RequestError(
        503, f"The event could not be passed on: {why}.", headers={"retry-after": "1"}
    )
