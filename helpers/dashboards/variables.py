"""A dashboard's variables, put into its queries as Grafana would."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.dashboards.model import Dashboard
from helpers.errors import DashboardError

ALL = "$__all"
_USE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\[\[(\w+)\]\]|\$(\w+)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy])")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


def values(dashboard: Dashboard, given: Mapping[str, object]) -> dict[str, str]:
    """Return the value of every variable: the given one, else the dashboard's own current one.

    Raises:
        DashboardError: a variable is given that the dashboard does not have.
    """
    known = {v["name"]: v for v in dashboard.variables if v.get("type") != "datasource"}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise DashboardError(
            f"The dashboard {dashboard.name} has no variable {unknown[0]!r}; it has "
            f"{', '.join(known) or 'none'}."
        )
    return {
        name: _text(given[name]) if name in given else _current(variable)
        for name, variable in known.items()
    }


def times(seconds: float, step: float, scrape_interval: float) -> dict[str, str]:
    """Return Grafana's own variables for a time range, a step and a scrape interval, in seconds."""
    rate = max(step + scrape_interval, 4 * scrape_interval)
    return {
        "__range": duration(seconds),
        "__range_s": str(max(1, round(seconds))),
        "__range_ms": str(round(1000 * seconds)),
        "__interval": duration(step),
        "__interval_ms": str(round(1000 * step)),
        "__rate_interval": duration(rate),
    }


def substitute(expr: str, variables: Mapping[str, str], where: str) -> str:
    """Return `expr` with `$name`, `${name}` and `[[name]]` replaced.

    Raises:
        DashboardError: a variable has no value; `where` says in which panel.
    """

    def one(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        if name not in variables:
            raise DashboardError(f"{where}: the variable ${name} is defined nowhere.")
        return variables[name]

    return _USE.sub(one, expr)


def substitute_known(text: str, variables: Mapping[str, str]) -> str:
    """Return a title or legend with the variables replaced that have a value."""
    return _USE.sub(lambda found: variables.get(found[1] or found[2] or found[3], found[0]), text)


def duration(seconds: float) -> str:
    """Return a PromQL duration: 90s, or 1500ms where it is not whole."""
    return (
        f"{round(seconds)}s"
        if seconds >= 1 and seconds == round(seconds)
        else (f"{max(1, round(1000 * seconds))}ms")
    )


def seconds_of(text: str) -> float:
    """Return the seconds of a PromQL duration, `1m30s`; 0 where it is none."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def _current(variable: Mapping[str, Any]) -> str:
    current = variable.get("current", {}).get("value")
    if current in (None, "", []):
        current = variable.get("query") if variable.get("type") in ("constant", "textbox") else ALL
    if current == ALL or current == [ALL]:
        return variable.get("allValue") or ".*"
    return _text(current)


def _text(value: object) -> str:
    """Several values become a regular expression, as in Grafana."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value[0] if len(value) == 1 else "(" + "|".join(map(str, value)) + ")"
    return str(value)
