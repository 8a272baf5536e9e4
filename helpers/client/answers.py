"""What a deployment answers, with what the orchestrator adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one request.

    Args:
        probabilities: float64 (n, classes), one row for each instance sent.
        request_id: `Seldon-Puid`, the id that events, payload log and feedback carry too.
        seconds: from the first byte sent to the last one received, retries included.
        headers: of the response; names in any case.
        response: its JSON.
    """

    probabilities: np.ndarray
    request_id: str
    seconds: float
    headers: Mapping[str, str]
    response: Any

    @property
    def y(self) -> np.ndarray:
        """The same as `probabilities`, for models that answer something else."""
        return self.probabilities

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each instance, (n,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def variant(self) -> str:
        """The predictor that served; "" where the orchestrator does not say."""
        return self.headers.get("seldon-variant", "")

    @property
    def pinned(self) -> bool:
        """Whether the request was pinned to that predictor."""
        return self.headers.get("seldon-variant-pinned") == "true"


@dataclass(frozen=True, eq=False)
class Explanation:
    """The answer of an explainer, as alibi's `Explanation.to_json` writes it.

    Args:
        meta: name and parameters of the method.
        data: what it found, e.g. `anchor`, `segments`, `precision`, `coverage`, `raw`.
        request_id: `Seldon-Puid`.
        seconds: the explanation took, as seen from here.
        content: all of it, JSON byte for byte as the explainer wrote it.
    """

    meta: Mapping[str, Any]
    data: Mapping[str, Any]
    request_id: str
    seconds: float
    content: bytes = b""

    @property
    def seed(self) -> int | None:
        """The seed that was used: sent again it gives the same explanation. None where not told."""
        return self.meta.get("params", {}).get("seed")

    @property
    def precision(self) -> float:
        """Of an anchor; alibi gives an empty anchor's as a list of one."""
        return float(np.ravel(self.data["precision"])[0])

    @property
    def coverage(self) -> float:
        """Of an anchor."""
        return float(np.ravel(self.data["coverage"])[0])
