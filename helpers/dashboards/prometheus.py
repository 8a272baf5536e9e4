"""Prometheus' HTTP API, as far as dashboards need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx
import numpy as np

from helpers.dashboards.variables import seconds_of
from helpers.errors import ClientError

TIMEOUT = httpx.Timeout(30.0, connect=5.0)  # seconds
DEFAULT_SCRAPE_INTERVAL = 15.0  # seconds; Grafana's


class QueryError(Exception):
    """Prometheus refuses a query; the message is its own."""


@dataclass(frozen=True)
class Series:
    """One series of an answer.

    Args:
        labels: with `__name__` where it has one.
        times: (n,) seconds since 1970; one of them for an instant query.
        values: (n,); NaN where the series has no sample.
    """

    labels: Mapping[str, str]
    times: np.ndarray
    values: np.ndarray


class Prometheus:
    """A connection to the API at `url`; a context manager."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(timeout=TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def now(self) -> float:
        """Return the time by Prometheus' clock."""
        return float(self._get("query", {"query": "time()"})["result"][0])

    def instant(self, expr: str, at: float | None = None) -> list[Series]:
        """Return the value of each series at a time, now by default.

        Raises:
            QueryError: the query is wrong.
            ClientError: Prometheus does not answer.
        """
        data = self._get("query", {"query": expr} | ({} if at is None else {"time": f"{at:.3f}"}))
        if data["resultType"] == "scalar":
            return [_series({}, [data["result"]])]
        if data["resultType"] != "vector":
            raise QueryError(f"it is a {data['resultType']}, and a vector or scalar is expected")
        return [_series(one["metric"], [one["value"]]) for one in data["result"]]

    def range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """Return each series at start, start + step, …, end; NaN where it has no value.

        Raises:
            QueryError: the query is wrong.
            ClientError: Prometheus does not answer.
        """
        asked = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        times = start + step * np.arange(int((end - start) / step + 1e-6) + 1)
        found = []
        for one in self._get("query_range", asked)["result"]:
            sampled = _series(one["metric"], one["values"])
            places = np.rint((sampled.times - start) / step).astype(int)
            inside = (places >= 0) & (places < len(times))
            values = np.full(len(times), np.nan)
            values[places[inside]] = sampled.values[inside]
            found.append(Series(sampled.labels, times, values))
        return found

    def scrape_interval(self) -> float:
        """Return the longest scrape interval of the targets, in seconds."""
        intervals = [seconds_of(target.get("scrapeInterval", "")) for target in self.targets()]
        return max(intervals, default=0.0) or DEFAULT_SCRAPE_INTERVAL

    def targets(self) -> list[dict[str, Any]]:
        """Return the targets that it scrapes, as the API lists them."""
        return self._get("targets", {"state": "active"}).get("activeTargets", [])

    def _get(self, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        try:
            # A form: some queries here are longer than an address should be.
            if path == "targets":
                response = self._client.get(f"{self.url}/api/v1/{path}", params=asked)
            else:
                response = self._client.post(f"{self.url}/api/v1/{path}", data=asked)
        except httpx.HTTPError as problem:
            raise ClientError(
                f"Prometheus at {self.url} does not answer ({problem or type(problem).__name__}). "
                "Is the stack up?"
            ) from problem
        try:
            answer = response.json()
            status = answer["status"]
        except (ValueError, KeyError, TypeError):
            raise ClientError(
                f"{self.url}/api/v1/{path} answered {response.status_code}, not as Prometheus does: "
                f"{response.text[:100]!r}.",
                response.status_code,
            ) from None
        if status == "success":
            return answer["data"]
        if response.status_code in (400, 422):
            raise QueryError(answer.get("error", "no reason given"))
        raise ClientError(
            f"Prometheus at {self.url} cannot answer: {answer.get('error')}.", response.status_code
        )


def _series(labels: Mapping[str, str], samples: list[list[Any]]) -> Series:
    times = np.array([float(time) for time, _ in samples])
    return Series(labels, times, np.array([float(value) for _, value in samples]))
