"""Rules in which time passes faster: a test cannot wait for the last hour.

Every duration is divided: the windows `[5m]` and `[1d]`, the offsets, `for` and `keep_firing_for`. Nothing else is
changed: neither the limits (5 %, 1 s, 10 requests) nor the expressions. So what is tested is the rule as it is, but for
a world in which everything happens so many times faster: 5 requests in 5 minutes are 5 requests in 5 seconds.

A window must stay longer than two scrapes: with one scrape a second, `[5m]` can be divided by 60 at most.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = r"(?:[0-9]+(?:ms|[smhdw]))+"
_TOKEN = re.compile(
    r"(?P<string>\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`)"
    r"|(?P<comment>\#[^\n]*)"
    r"|(?P<window>\[[^\]]*\])"
    rf"|(?P<offset>\boffset\s+-?)(?P<by>{_DURATION})"
)


def divided(duration: str, factor: float) -> str:
    """Return a duration divided, `5m` by 60 is `5s`; in whole milliseconds where it must be."""
    parts = re.findall(r"([0-9]+)(ms|[smhdw])", duration)
    whole = round(sum(int(number) * _UNITS[unit] for number, unit in parts) / factor)
    if not whole:
        raise ValueError(f"nothing is left of {duration} divided by {factor:g}")
    return f"{whole}ms" if whole % 1000 else f"{whole // 1000}s"


def faster(expr: str, factor: float) -> str:
    """Return a PromQL expression with its windows and offsets divided; strings stay as they are."""

    def one(found: re.Match[str]) -> str:
        if found["window"]:
            return re.sub(_DURATION, lambda inside: divided(inside[0], factor), found[0])
        if found["by"]:
            return found["offset"] + divided(found["by"], factor)
        return found[0]

    return _TOKEN.sub(one, expr)


def scaled(manifest: Mapping[str, Any], factors: Mapping[str, float]) -> dict[str, Any]:
    """Return a PrometheusRule whose groups go faster.

    Args:
        manifest: as in the file.
        factors: by the group's name, or of a single alert or recorded series by its own.
    """
    made = copy.deepcopy(dict(manifest))
    for group in made["spec"]["groups"]:
        for rule in group["rules"]:
            name = rule.get("alert") or rule["record"]
            factor = factors.get(name, factors[group["name"]])
            rule["expr"] = faster(str(rule["expr"]), factor)
            for key in ("for", "keep_firing_for"):
                if key in rule:
                    rule[key] = divided(rule[key], factor)
    return made
