"""The closing cell of a notebook: every claim that the prose makes, measured once more.

    check = Checks()
    check("train[1] is a truck", prediction == "truck")
    check("accuracy on the test images", accuracy, at_least=0.925)
    check.done()

`done` shows a table and raises CheckError if a claim does not hold.
"""

from __future__ import annotations

import html
import math
import numbers
from dataclasses import dataclass

from helpers.errors import CheckError

MIME_TYPE = "application/vnd.walkthrough.checks+json"
HEADINGS = ("claim", "measured", "wanted", "")


@dataclass(frozen=True)
class Check:
    """One claim: what was measured, what was wanted, and whether it holds."""

    claim: str
    measured: str
    wanted: str
    holds: bool


class Checks:
    """Collects the checks of one notebook; call it for each claim, then `done`."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    def __call__(
        self,
        claim: str,
        measured,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        between: tuple[float, float] | None = None,
        equal: float | None = None,
        tolerance: float = 0.0,
    ) -> None:
        """Note whether a claim holds; nothing is raised before `done`.

        Args:
            claim: what the prose says, in a few words.
            measured: a boolean without a bound, a real number with exactly one. NaN never holds.
            at_least: the smallest value that is good.
            at_most: the largest.
            between: both, (smallest, largest).
            equal: the value wanted, up to `tolerance` above or below.
            tolerance: goes with `equal`.

        Raises:
            CheckError: the check itself is written wrongly, for example an array as `measured`.
        """
        bounds = {"at_least": at_least, "at_most": at_most, "between": between, "equal": equal}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        if len(given) > 1:
            raise CheckError(f"{claim}: give one bound, not {' and '.join(given)}.")
        if tolerance and equal is None:
            raise CheckError(f"{claim}: tolerance goes with equal=.")
        if not given:
            self._checks.append(_boolean(claim, measured))
        else:
            self._checks.append(_number(claim, measured, *given.popitem(), tolerance))

    def done(self) -> None:
        """Show the table of all checks.

        Raises:
            CheckError: a claim does not hold, or there was none to check.
        """
        from IPython.display import display

        if not self._checks:
            raise CheckError("Nothing to check: call check(claim, measured) before done().")
        failed = [check for check in self._checks if not check.holds]
        bundle = {
            MIME_TYPE: {"passed": len(self._checks) - len(failed), "failed": len(failed)},
            "text/html": _html_table(self._checks),
            "text/plain": _text_table(self._checks),
        }
        display(bundle, raw=True)
        if failed:
            wrong = "; ".join(f"{c.claim}: {c.measured}, wanted {c.wanted}" for c in failed)
            raise CheckError(f"{len(failed)} of {len(self._checks)} checks failed: {wrong}")


def _boolean(claim: str, measured) -> Check:
    if not _is_bool(measured):
        raise CheckError(
            f"{claim}: without a bound the check needs True or False, not "
            f"{type(measured).__name__}. Compare it first, or give at_least=, at_most=, "
            "between= or equal=."
        )
    return Check(claim, "yes" if measured else "no", "yes", bool(measured))


def _number(claim: str, measured, kind: str, bound, tolerance: float) -> Check:
    limits = bound if kind == "between" else (bound,)
    for value in (measured, *limits, tolerance):
        if _is_bool(value) or not isinstance(value, numbers.Real):
            raise CheckError(
                f"{claim}: a bound is for one real number, not for {type(value).__name__}."
            )
    if any(math.isnan(limit) for limit in (*limits, tolerance)):
        raise CheckError(f"{claim}: nothing can be compared with NaN.")
    match kind:
        case "at_least":
            wanted, holds = f"≥ {_short(bound)}", measured >= bound
        case "at_most":
            wanted, holds = f"≤ {_short(bound)}", measured <= bound
        case "between":
            low, high = bound
            if low > high:
                raise CheckError(f"{claim}: between={bound} is empty; write (smallest, largest).")
            wanted, holds = f"{_short(low)} to {_short(high)}", low <= measured <= high
        case _:
            spread = f" ± {_short(tolerance)}" if tolerance else ""
            wanted = f"{_short(bound)}{spread}"
            holds = measured == bound or abs(measured - bound) <= tolerance
    # In full where it fails: 0.92496 must not be shown as 0.925, wanted ≥ 0.925.
    return Check(claim, _short(measured) if holds else str(measured), wanted, bool(holds))


def _is_bool(value) -> bool:
    # np.bool_ by name: this module needs no NumPy.
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


def _short(value) -> str:
    """Four significant digits; integers in full."""
    return f"{value}" if isinstance(value, numbers.Integral) else f"{float(value):.4g}"


def _rows(checks: list[Check]) -> list[tuple[str, str, str, str]]:
    return [(c.claim, c.measured, c.wanted, "✓" if c.holds else "✗") for c in checks]


def _text_table(checks: list[Check]) -> str:
    rows = [HEADINGS, *_rows(checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _html_table(checks: list[Check]) -> str:
    head = "".join(f'<th style="text-align:left">{text}</th>' for text in HEADINGS)
    rows = (
        "".join(f'<td style="text-align:left">{html.escape(text)}</td>' for text in row)
        for row in _rows(checks)
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
