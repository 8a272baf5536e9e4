"""Each distinct input is predicted once in an explanation, however often it is asked for.

Perturbation draws the same inputs again and again: with 5 superpixels there are 32 different images, and an
anchor search asks for thousands. Two inputs are the same here when their bytes are, so the answers are exactly
those that the model would give again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

BYTES = 64 * 2**20  # of inputs remembered in one explanation


@dataclass(slots=True)
class Usage:
    """What one explanation asked of the model.

    Args:
        calls: requests to the model.
        samples: inputs that the explainer asked about.
        distinct: inputs that the model was asked about.
    """

    calls: int = 0
    samples: int = 0
    distinct: int = 0


class ReusedPredictions:
    """A prediction function that remembers its answers until the next explanation begins.

    Args:
        predict: from inputs (n, …), an array or a list of texts, to answers (n, …).
        reuse: False asks every time, for comparison.
    """

    def __init__(self, predict: Callable[[Any], np.ndarray], reuse: bool = True) -> None:
        self._predict = predict
        self.reuse = reuse
        self.usage = Usage()
        self.in_time: Callable[[], None] | None = None  # raises when the explanation's time is over
        self._answers: dict[Any, np.ndarray] = {}
        self._held = 0

    def begin(self) -> None:
        """Forget all answers: another model may stand behind the same address by now."""
        self.usage = Usage()
        self._answers = {}
        self._held = 0

    def __call__(self, x: Any) -> np.ndarray:
        """Return the answers to x in its order."""
        if self.in_time is not None:
            self.in_time()
        self.usage.samples += len(x)
        if not self.reuse:
            return self._ask(x)
        keys = _keys(x)
        new: dict[Any, int] = {}  # each key that is not known, and where it stands first
        for row, key in enumerate(keys):
            if key not in self._answers and key not in new:
                new[key] = row
        if not new:
            return np.stack([self._answers[key] for key in keys])
        rows = list(new.values())
        asked = x if len(rows) == len(keys) else _take(x, rows)
        answers = dict(zip(new, self._ask(asked), strict=True))
        found = np.stack([answers[key] if key in answers else self._answers[key] for key in keys])
        self._keep(answers)
        return found

    def _ask(self, x: Any) -> np.ndarray:
        # A model client says how many requests it has sent: many inputs take several.
        before = getattr(self._predict, "requests", None)
        self.usage.distinct += len(x)
        try:
            return self._predict(x)
        finally:
            self.usage.calls += 1 if before is None else self._predict.requests - before

    def _keep(self, answers: dict[Any, np.ndarray]) -> None:
        self._held += sum(len(key) + answer.nbytes for key, answer in answers.items())
        if self._held > BYTES:
            self._answers, self._held = {}, 0
        self._answers |= answers


def _keys(x: Any) -> list[Any]:
    if isinstance(x, np.ndarray) and x.dtype != object:
        return [row.tobytes() for row in x]
    return [str(item) for item in x]


def _take(x: Any, rows: list[int]) -> Any:
    return x[rows] if isinstance(x, np.ndarray) else [x[row] for row in rows]
