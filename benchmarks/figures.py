"""What a part of the benchmarks hands over: rows with a target, tables, and how both are summed up."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_TARGET = re.compile(r"(<|≥) ([\d.]+)")


@dataclass(frozen=True)
class Row:
    """One figure, and what it is held against.

    Args:
        key: of the figure, e.g. `gateway_latency`; the reason of a missed target stands under it.
        what: the figure in words.
        value: the median of the rounds.
        unit: of value and target.
        limit: what it is compared with, in words and numbers.
        target: `< 2` or `≥ 80`; empty where there is none.
        low, high: the smallest and the largest of the rounds.
        rounds: measurements that value is the median of.
    """

    key: str
    what: str
    value: float
    unit: str
    limit: str = ""
    target: str = ""
    low: float | None = None
    high: float | None = None
    rounds: int = 1

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return is_met(self.value, self.target)


@dataclass(frozen=True)
class Table:
    """More figures than deserve a row each; cells are texts and numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass
class Found:
    """What one part found.

    Args:
        rows: figures, those with targets first.
        tables: details.
        facts: plain numbers that other parts and the report calculate with.
    """

    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        key: str,
        what: str,
        values: float | Sequence[float],
        unit: str,
        *,
        limit: str = "",
        target: str = "",
    ) -> None:
        """Add a row; of several values the median, with the smallest and the largest beside it."""
        many = [values] if isinstance(values, int | float) else list(values)
        middle = statistics.median(many)
        spread = (min(many), max(many)) if len(many) > 1 else (None, None)
        self.rows.append(Row(key, what, middle, unit, limit, target, *spread, len(many)))


def is_met(value: float, target: str) -> bool | None:
    """Return whether a value meets a target such as `< 2` or `≥ 80`; None for an empty one.

    Raises:
        ValueError: the target is neither.
    """
    if not target:
        return None
    found = _TARGET.fullmatch(target)
    if found is None:
        raise ValueError(f"{target!r} is no target: write `< number` or `≥ number`.")
    number = float(found[2])
    return value < number if found[1] == "<" else value >= number


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def in_turn(rounds: int, **measures: Callable[[], Any]) -> dict[str, list[Any]]:
    """Measure everything once in each round, every other round in the opposite order.

    What is compared is so measured side by side: a machine that slows down slows all of it.
    """
    found: dict[str, list[Any]] = {name: [] for name in measures}
    for number in range(rounds):
        names = list(measures) if number % 2 == 0 else list(reversed(measures))
        for name in names:
            found[name].append(measures[name]())
    return found


def text(value: Any) -> str:
    """Return a cell: numbers with about three digits."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}" if abs(value) >= 1 else f"{value:.2g}"
