"""Panels: a card with a title, and in it lines, a number, a dial, bars or a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.patches import FancyBboxPatch, Rectangle, Wedge

from helpers.dashboards import formats, timeseries
from helpers.dashboards.layout import CHARACTER, Place, fit, fit_exactly, width_of
from helpers.dashboards.model import BAR_GAUGE, GAUGE, ROW, STAT, TABLE, TIMESERIES, Field, Panel
from helpers.dashboards.results import Result, table
from helpers.plots import BLUE, GREY, LIGHT

EDGE = "#e2e8f0"
INK = "#1a202c"
TITLE = 0.26  # inches
PADDING = 0.09
NO_DATA = "no data"
BOLD = 1.2 * CHARACTER
BEFORE_BARS = 0.08  # between the names of bars and the bars
TALLEST_BAR = 300  # Grafana's own default
PIXELS = 100  # of Grafana's in an inch


def draw(place: Place, panel: Panel, results: Sequence[Result], start: float, end: float) -> None:
    """Draw one panel. The axes that hold its data have the panel's title as their label."""
    if panel.kind == ROW:
        _heading(place, panel.title)
        return
    card = place.canvas(f"card: {panel.title}")
    card.add_patch(
        FancyBboxPatch(
            (0.02, 0.02), place.width - 0.04, place.height - 0.04,
            boxstyle="round,pad=0.02,rounding_size=0.06", facecolor="white", edgecolor=EDGE, lw=0.8,
        )
    )  # fmt: skip
    card.text(
        PADDING, place.height - 0.07, fit(panel.title, place.width - 2 * PADDING, 9), va="top",
        fontsize=9, fontweight="bold", color=INK,
    )  # fmt: skip
    inner = place.inside(PADDING, 0.06, PADDING, TITLE)
    with_data = [one for one in results if not all(map(math.isnan, one.series.values))]
    if not with_data:
        axis = inner.canvas(panel.title)
        axis.text(
            inner.width / 2, inner.height / 2, NO_DATA, ha="center", va="center", color=GREY,
            fontsize=10, fontstyle="italic",
        )  # fmt: skip
        return
    if panel.kind == TIMESERIES:
        timeseries.draw(inner, panel, with_data, start, end)
    elif panel.kind == TABLE:
        _table(inner, panel, results)
    else:
        _OF_KIND[panel.kind](inner, panel, with_data)


def _heading(place: Place, title: str) -> None:
    axis = place.canvas(title)
    middle = place.height / 2
    axis.text(0.02, middle, title, va="center", fontsize=10, fontweight="bold", color=BLUE)
    begin = 0.02 + len(title) * CHARACTER * 11.5 + 0.1
    axis.plot([begin, place.width], [middle, middle], color=EDGE, lw=0.8)


def _stat(place: Place, panel: Panel, results: Sequence[Result]) -> None:
    axis = place.canvas(panel.title)
    width = place.width / len(results)
    named = len(results) > 1 or panel.options.get("textMode") in ("name", "value_and_name")
    filled = panel.options.get("colorMode") == "background"
    shown = [formats.text(one.value, panel.field(one.name)) for one in results]
    longest = max(map(len, shown))
    size = min(
        24.0,
        0.8 * width / (BOLD * max(3, longest)),
        72 * place.height * (0.5 if named else 0.7),
    )
    for number, (one, text) in enumerate(zip(results, shown, strict=True)):
        color = formats.color_of(one.value, panel.field(one.name))
        if filled:
            axis.add_patch(
                FancyBboxPatch(
                    (number * width + 0.05, 0.05), width - 0.1, place.height - 0.08,
                    boxstyle="round,pad=0,rounding_size=0.05", facecolor=color, edgecolor="none",
                )
            )  # fmt: skip
        middle = (number + 0.5) * width
        axis.text(
            middle, place.height * (0.6 if named else 0.5), text, ha="center", va="center",
            fontsize=size, fontweight="bold", color="white" if filled else color,
        )  # fmt: skip
        if named:
            axis.text(
                middle, 0.1 * place.height, fit(one.name, width, 8), ha="center", va="bottom",
                fontsize=8, color="white" if filled else GREY,
            )  # fmt: skip


def _range(field: Field, values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a dial or bar; by default 0 or less, and a little more than the largest."""
    low, high = field.settings.get("min"), field.settings.get("max")
    low = min(0.0, *values) if low is None else float(low)
    if high is None:
        high = 1.0 if field.unit == "percentunit" else 1.05 * max(values)
    return low, high if high > low else low + 1.0


def _gauge(place: Place, panel: Panel, results: Sequence[Result]) -> None:
    width = place.width / len(results)
    for number, one in enumerate(results):
        field = panel.field(one.name)
        low, high = _range(field, [one.value])
        share = min(1.0, max(0.0, (one.value - low) / (high - low)))
        dial = Place(place.figure, place.left + number * width, place.bottom, width, place.height)
        axis = dial.axes(panel.title)
        axis.set(xlim=(-1.15, 1.15), ylim=(-0.35, 1.1), aspect="equal")
        axis.axis("off")
        color = formats.color_of(one.value, field)
        axis.add_patch(Wedge((0, 0), 1, 0, 180, width=0.28, facecolor=LIGHT))
        axis.add_patch(Wedge((0, 0), 1, 180 - 180 * share, 180, width=0.28, facecolor=color))
        limits = [*(min(high, max(low, limit)) for limit, _ in field.steps), high]
        for (_, name), begin, end in zip(field.steps, limits, limits[1:], strict=False):
            angles = [180 - 180 * (edge - low) / (high - low) for edge in (end, begin)]
            if angles[0] < angles[1]:
                axis.add_patch(
                    Wedge((0, 0), 1.07, *angles, width=0.04, facecolor=formats.color(name))
                )
        axis.text(
            0, 0.05, formats.text(one.value, field), ha="center", va="center",
            fontsize=min(18.0, 13 * place.height), fontweight="bold", color=color,
        )  # fmt: skip
        name = one.name if len(results) > 1 else ""
        axis.text(0, -0.3, fit(name, width, 8), ha="center", fontsize=8, color=GREY)


def _bar_gauge(place: Place, panel: Panel, results: Sequence[Result]) -> None:
    shown = [formats.text(one.value, panel.field(one.name)) for one in results]
    line = min(place.height / len(results), panel.options.get("maxVizHeight", TALLEST_BAR) / PIXELS)
    size = min(9.0, 72 * line * 0.7)
    left = min(
        0.5 * place.width, max(width_of(one.name, size) for one in results) + BEFORE_BARS + 0.02
    )
    right = max(map(len, shown)) * BOLD * size + 0.12
    axis = place.axes(panel.title, left=left, right=right, bottom=0.02, top=0.02)
    lows, highs = zip(
        *(_range(panel.field(one.name), [r.value for r in results if not math.isnan(r.value)])
          for one in results), strict=True,
    )  # fmt: skip
    low, high = min(lows), max(highs)
    for row, (one, text) in enumerate(zip(results, shown, strict=True)):
        color = formats.color_of(one.value, panel.field(one.name))
        axis.add_patch(Rectangle((low, row - 0.36), high - low, 0.72, facecolor=LIGHT))
        axis.barh(row, min(high, one.value) - low, left=low, height=0.72, color=color)
        axis.text(
            high + 0.06 * (high - low) / max(0.5, place.width - left - right), row, text,
            va="center", fontsize=size, fontweight="bold", color=color,
        )  # fmt: skip
    axis.set(xlim=(low, high), ylim=(place.height / line - 0.5, -0.5), xticks=[])
    names = [fit_exactly(one.name, left - BEFORE_BARS, size) for one in results]
    axis.set_yticks(range(len(results)), names, fontsize=size)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _table(place: Place, panel: Panel, results: Sequence[Result]) -> None:
    axis = place.canvas(panel.title)
    columns, rows = table(panel, results)
    line = min(0.22, max(0.15, place.height / (len(rows) + 1)))
    fitting = max(1, int(place.height / line + 0.01) - 1)
    left_out = len(rows) - fitting
    if left_out > 0:
        rows, left_out = rows[: fitting - 1], left_out + 1
    texts = [[_cell(value, panel.field(name)) for name, value in zip(columns, row, strict=True)]
             for row in rows]  # fmt: skip
    size = min(8.5, 72 * line * 0.62)
    numeric = [
        all(value is None or isinstance(value, float) for value in (row[c] for row in rows))
        for c in range(len(columns))
    ]
    wishes = [
        max([len(name), *(len(text[c]) for text in texts)]) + 2 for c, name in enumerate(columns)
    ]
    widths = [place.width * wish / sum(wishes) for wish in wishes]
    at = place.height - line / 2
    lefts = [sum(widths[:c]) for c in range(len(columns))]
    for c, name in enumerate(columns):
        x, side = _edge(lefts[c], widths[c], numeric[c])
        axis.text(
            x, at, fit(name, widths[c], size), ha=side, va="center", fontsize=size, color=GREY
        )
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), start=1):
        y = place.height - (number + 0.5) * line
        axis.plot([0, place.width], [y + line / 2] * 2, color=EDGE, lw=0.6)
        for c, name in enumerate(columns):
            x, side = _edge(lefts[c], widths[c], numeric[c])
            field = panel.field(name)
            colored = field.custom.get("cellOptions", {}).get("type") == "color-text"
            value = row[c]
            color = (
                formats.color_of(value, field, INK)
                if colored and numeric[c] and value is not None
                else INK
            )
            axis.text(
                x,
                y,
                fit(text[c], widths[c], size),
                ha=side,
                va="center",
                fontsize=size,
                color=color,
            )
    if left_out > 0:
        y = place.height - (len(rows) + 1.5) * line
        axis.text(0, y, f"… and {left_out} more", va="center", fontsize=size, color=GREY)


def _edge(left: float, width: float, numeric: bool) -> tuple[float, str]:
    return (left + width - 0.04, "right") if numeric else (left, "left")


def _cell(value: str | float | None, field: Field) -> str:
    if value is None:
        return "–"
    return formats.text(value, field) if isinstance(value, float) else str(value)


_OF_KIND = {STAT: _stat, GAUGE: _gauge, BAR_GAUGE: _bar_gauge}
