"""Numbers with Grafana's units, its colours, and the texts that values are mapped to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from matplotlib.colors import is_color_like

from helpers.dashboards.model import Field
from helpers.plots import BLUE, GREY, ORANGE

GREEN, RED, YELLOW, PURPLE, TEAL, PINK = (
    "#2f855a",
    "#c53030",
    "#d69e2e",
    "#6b46c1",
    "#319795",
    "#b83280",
)
PALETTE = (BLUE, ORANGE, TEAL, PURPLE, YELLOW, PINK, GREEN, "#63b3ed", "#9c4221", GREY)
_NAMED = {
    "blue": BLUE,
    "orange": ORANGE,
    "green": GREEN,
    "red": RED,
    "yellow": YELLOW,
    "purple": PURPLE,
    "text": "#1a202c",
    "transparent": "none",
}
_SHADE = re.compile(r"^(super-light|light|semi-dark|dark)-")

_SECONDS = ((86400, " d"), (3600, " h"), (60, " min"), (1, " s"), (1e-3, " ms"), (1e-6, " µs"))
_BINARY = tuple(
    (1024**n, f" {p}B") for n, p in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki"), (0, ""))
)
_DECIMAL = tuple((1000**n, f" {p}B") for n, p in ((4, "T"), (3, "G"), (2, "M"), (1, "k"), (0, "")))
_SHORT = ((1e9, " Bil"), (1e6, " Mil"), (1e3, " K"), (1, ""))
_SCALES: Mapping[str, tuple[tuple[float, str], ...]] = {
    "s": _SECONDS,
    "ms": tuple((1e3 * size, suffix) for size, suffix in _SECONDS),
    "bytes": _BINARY,
    "decbytes": _DECIMAL,
    "short": _SHORT,
    "none": ((1, ""),),
    "percentunit": ((0.01, "%"),),
    "percent": ((1, "%"),),
    "reqps": ((1e3, "K req/s"), (1, " req/s")),
    "ops": ((1e3, "K ops/s"), (1, " ops/s")),
}


def scale(unit: str, largest: float) -> tuple[float, str]:
    """Return what to divide by, and what to write behind, where `largest` is the largest number.

    A unit that is not known is written behind, as Grafana does.
    """
    steps = _SCALES.get(unit, ((1, " " + unit.removeprefix("suffix:").strip()),))
    fitting = [step for step in steps if abs(largest) >= step[0]]
    if not fitting and (largest == 0 or unit not in ("s", "ms")):
        return next((step for step in steps if step[0] == 1), steps[-1])
    return fitting[0] if fitting else steps[-1]


def text(value: float, field: Field, largest: float | None = None) -> str:
    """Return a value with its unit, or what it is mapped to.

    Args:
        value: NaN becomes a dash.
        field: unit, decimals and mappings.
        largest: takes the unit's scale of this number, so that a column of them agrees.
    """
    mapped = mapping(value, field).get("text")
    if mapped:
        return str(mapped)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size, suffix = scale(field.unit, value if largest is None else largest)
    return number(value / size, field.decimals) + suffix


def number(value: float, decimals: int | None = None) -> str:
    """Return a number with so many decimals; by default with about three significant digits."""
    if decimals is None:
        if value == 0 or (value == round(value) and abs(value) < 1e6):
            return f"{value:,.0f}".replace("-", "−")
        if abs(value) < 1e-3:
            return f"{value:.2g}".replace("-", "−")
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        shown = f"{value:,.{digits}f}"
        shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    else:
        shown = f"{value:,.{decimals}f}"
    return shown.replace("-", "−")


def color(name: str) -> str:
    """Return matplotlib's colour for one of Grafana's; grey for what neither knows."""
    plain = _SHADE.sub("", name)
    if plain in _NAMED:
        return _NAMED[plain]
    return name if is_color_like(name) else GREY


def color_of(value: float, field: Field, default: str = BLUE) -> str:
    """Return the colour of a value: mapped, by threshold, fixed, or `default`."""
    mapped = mapping(value, field).get("color")
    if mapped:
        return color(mapped)
    if field.by_threshold and not math.isnan(value):
        passed = [name for limit, name in field.steps if value >= limit]
        if passed:
            return color(passed[-1])
    return color(field.fixed_color) if field.fixed_color else default


def mapping(value: float, field: Field) -> Mapping[str, str]:
    """Return the `text` and `color` that a value is mapped to; empty where it is not."""
    for found in field.settings.get("mappings", []):
        kind, options = found.get("type"), found.get("options", {})
        if kind == "value":
            for key, result in options.items():
                if key == number(value, None).replace(",", "") or _same(key, value):
                    return result
        elif kind == "range":
            low, high = options.get("from"), options.get("to")
            if (low is None or value >= low) and (high is None or value <= high):
                return options.get("result", {})
        elif kind == "special" and math.isnan(value) and "nan" in str(options.get("match")):
            return options.get("result", {})
    return {}


def _same(key: str, value: float) -> bool:
    try:
        return float(key) == value
    except ValueError:
        return False
