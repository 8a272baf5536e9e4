"""What detectors said about requests that were sent: waits for it, with a limit.

    sent = traffic.send(client, x)
    verdicts = answers(cluster, OUTLIER, sent.request_ids)  # one dict each, in order
    verdicts[0]["data"]["is_outlier"]

A detector works beside the model: when the prediction is there, its verdict may not be yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httpx

from helpers.errors import StackError
from helpers.serving.common.events import DRIFT_TYPE, OUTLIER_TYPE
from helpers.serving.common.polling import WaitError, wait_for

if TYPE_CHECKING:
    from helpers.stack.interface import Stack

OUTLIER = OUTLIER_TYPE
DRIFT = DRIFT_TYPE
NEWEST = 1000  # events that one question to the broker can answer
SECONDS = 120.0


def answers(
    stack: Stack,
    type: str,
    request_ids: Sequence[str],
    *,
    count: int | None = None,
    seconds: float = SECONDS,
) -> list[dict[str, Any]]:
    """Return what a detector answered to requests, as soon as it has, in the order of `request_ids`.

    Args:
        stack: whose broker is asked.
        type: of the answers, OUTLIER or DRIFT.
        request_ids: of the requests, `Seldon-Puid`; at most 1,000.
        count: how many of them are answered at least; by default all. A drift detector answers only
            the request that fills its window.
        seconds: the limit.

    Raises:
        StackError: not answered in time; says how many were.
    """
    place = {request_id: number for number, request_id in enumerate(request_ids)}
    wanted = len(place) if count is None else count
    if not place or len(place) > NEWEST:
        raise StackError(f"{len(place)} requests: ask for the answers to 1 to {NEWEST} of them.")
    found: dict[str, dict[str, Any]] = {}

    def enough() -> bool:
        for event in stack.events(type=type, limit=NEWEST, data=True):
            request_id = event["attributes"].get("requestid", "")
            if request_id in place:
                found[request_id] = event["data"]
        return len(found) >= wanted

    try:
        wait_for(enough, f"{wanted} events of type {type}", seconds=seconds, first=0.1)
    except WaitError as problem:
        raise StackError(
            f"{len(found)} of {wanted} answers of type {type} came within {seconds:g} s. "
            "`python -m helpers.stack status` shows whether the detector is ready, and its log says "
            "what it is busy with."
        ) from problem
    return [found[request_id] for request_id in sorted(found, key=place.__getitem__)]


def logged(
    stack: Stack, request_ids: Sequence[str], part: str = "outlier", *, seconds: float = SECONDS
) -> list[dict[str, Any]]:
    """Return the payload log's document of each request (of one instance) once it holds `part`.

    Args:
        stack: whose payload logger is asked.
        request_ids: `Seldon-Puid` of each.
        part: request, response, outlier, drift or feedback.
        seconds: the limit.

    Raises:
        StackError: a document is not there in time, or has no such part.
    """
    url = stack.url("payload-logger")
    with httpx.Client(trust_env=False, timeout=10.0) as client:

        def document(request_id: str) -> dict[str, Any] | None:
            answer = client.get(f"{url}/v1/requests/{request_id}")
            if not answer.is_success:
                return None
            return next(
                (
                    one["_source"]
                    for one in answer.json()["documents"]
                    if part in one["_source"]
                ),
                None,
            )  # fmt: skip

        documents = []
        for request_id in request_ids:
            try:
                found = wait_for(
                    lambda wanted=request_id: document(wanted),
                    f"the payload log of {request_id}",
                    seconds=seconds,
                    errors=(httpx.HTTPError,),
                )
            except WaitError as problem:
                raise StackError(
                    f"The payload log has no {part} of the request {request_id} after {seconds:g} s. "
                    "Are the payload logger and its trigger applied?"
                ) from problem
            documents.append(found)
    return documents
