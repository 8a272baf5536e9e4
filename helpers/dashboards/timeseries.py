"""The panel that shows values over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter, SecondLocator, date2num
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform

from helpers.dashboards import formats
from helpers.dashboards.layout import CHARACTER, Place, fit
from helpers.dashboards.model import Panel
from helpers.dashboards.results import Result
from helpers.plots import GREY

LEFT, BOTTOM = 0.52, 0.2  # inches for the numbers on the axes
LEGEND_LINE = 0.155
LEGEND_ROWS = 4
TEXT = 7.5  # points
_DASHED = {"dash": (0, (4, 2)), "dot": (0, (1, 1.5))}
GRID = "#edf2f7"


def draw(place: Place, panel: Panel, results: Sequence[Result], start: float, end: float) -> None:
    """Draw a line, area, points or bars for each series, thresholds, and the legend below."""
    names, columns, rows = _legend(panel, results, place.width)
    legend_height = rows * LEGEND_LINE + (0.05 if rows else 0)
    axis = place.axes(panel.title, left=LEFT, bottom=BOTTOM + legend_height, right=0.12, top=0.06)
    colors = iter(formats.PALETTE * (1 + len(results) // len(formats.PALETTE)))
    base: np.ndarray | None = None
    handles = []
    for result in results:
        field = panel.field(result.name)
        color = formats.color(field.fixed_color) if field.fixed_color else next(colors)
        values = result.series.values
        if field.custom.get("stacking", {}).get("mode") == "normal":
            below = np.zeros_like(values) if base is None else base
            base = below + np.nan_to_num(values)
            # Where it adds nothing, its line would hide the one below.
            values = np.where(values > 0, base, np.nan) if below.any() else values
            handles.append(_series(axis, result, values, below, color, field.custom))
        else:
            handles.append(_series(axis, result, values, None, color, field.custom))
    _scale(axis, panel, results)
    _thresholds(axis, panel)
    _time_axis(axis, start, end, place.width)
    if rows:
        shown = handles[: rows * columns]
        axis.legend(
            shown, names[: len(shown)], loc="upper left", ncols=columns, fontsize=TEXT,
            bbox_to_anchor=(-LEFT, -BOTTOM - 0.03, place.width, 0),
            bbox_transform=_inches(axis), borderaxespad=0, borderpad=0, handlelength=1.2,
            handletextpad=0.5, columnspacing=1.4, labelspacing=0.28, frameon=False,
        )  # fmt: skip


def _inches(axis: Axes) -> Transform:
    """Return the transform of inches from the lower left corner of the axes."""
    figure = axis.figure
    corner = axis.get_position()
    width, height = figure.get_size_inches()
    return figure.dpi_scale_trans + ScaledTranslation(
        corner.x0 * width, corner.y0 * height, figure.dpi_scale_trans
    )


def _series(
    axis: Axes,
    result: Result,
    values: np.ndarray,
    below: np.ndarray | None,
    color: str,
    custom: Mapping[str, Any],
) -> Any:
    """Return what the legend shows."""
    times = _dates(result.series.times)
    style = custom.get("drawStyle", "line")
    if custom.get("spanNulls") is True:
        held = ~np.isnan(values)
        times, values = times[held], values[held]
        below = None if below is None else below[held]
    width = float(custom.get("lineWidth", 1.5))
    if style == "bars":
        gap = 0.8 * float(np.median(np.diff(times))) if len(times) > 1 else 1e-5
        foot = 0 if below is None else below
        return axis.bar(times, values - foot, gap, bottom=foot, color=color, label=result.name)
    dash = _DASHED.get(custom.get("lineStyle", {}).get("fill", ""), "-")
    after = custom.get("lineInterpolation") == "stepAfter"
    (line,) = axis.plot(
        times, values, color=color, lw=width, ls="" if style == "points" else dash,
        marker="o" if style == "points" or custom.get("showPoints") == "always" else "", ms=2.5,
        label=result.name, drawstyle="steps-post" if after else "default", solid_capstyle="round",
    )  # fmt: skip
    if style == "line":
        alone = _alone(values)
        if alone.any():  # a point between two gaps has no line
            axis.scatter(times[alone], values[alone], color=color, s=7, zorder=3)
    fill = float(custom.get("fillOpacity", 0)) / 100
    if fill and style == "line":
        foot = np.zeros_like(values) if below is None else below
        axis.fill_between(
            times, foot, values, where=~np.isnan(values), color=color, alpha=fill, lw=0,
            step="post" if after else None,
        )  # fmt: skip
    return line


def _alone(values: np.ndarray) -> np.ndarray:
    missing = np.isnan(values)
    before = np.concatenate(([True], missing[:-1]))
    after = np.concatenate((missing[1:], [True]))
    return ~missing & before & after


def _scale(axis: Axes, panel: Panel, results: Sequence[Result]) -> None:
    field = panel.field()
    low, high = axis.get_ylim()
    shown = np.concatenate([r.series.values for r in results])
    if np.nanmax(shown) == np.nanmin(shown):  # a flat line: matplotlib's own margins say nothing
        middle = float(np.nanmax(shown))
        low, high = middle - 0.5 * (abs(middle) or 1), middle + 0.5 * (abs(middle) or 1)
    least, most = field.settings.get("min"), field.settings.get("max")
    low = float(least) if least is not None else low
    high = float(most) if most is not None else high
    if not high > low:
        high = low + (abs(low) or 1.0)
    size, suffix = formats.scale(field.unit, max(abs(low), abs(high)))
    # Round numbers of the unit that is written, not of bytes or seconds.
    steps = [1, 2, 2.5, 5, 10]
    ticks = (
        MaxNLocator(4, steps=steps, integer=field.decimals == 0).tick_values(
            low / size, high / size
        )
        * size
    )
    room = 0.03 * (high - low)  # so that a line at the limit is not cut in half
    ticks = [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9 * abs(high)]
    axis.set_yticks(ticks, [formats.number(tick / size) + suffix for tick in ticks])
    axis.set_ylim(low - room if least is not None else low, high + room)
    axis.tick_params(axis="both", labelsize=TEXT, length=0, colors=GREY)
    axis.grid(axis="y", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color("#cbd5e0")


def _thresholds(axis: Axes, panel: Panel) -> None:
    field = panel.field()
    style = field.custom.get("thresholdsStyle", {}).get("mode", "off")
    low, high = axis.get_ylim()
    steps = field.steps
    for number, (limit, name) in enumerate(steps):
        color = formats.color(name)
        if color == "none":
            continue
        if style.startswith(("line", "dashed")) and low <= limit <= high:
            axis.axhline(limit, color=color, lw=1, ls="--" if "dashed" in style else "-")
        if "area" in style:
            upper = steps[number + 1][0] if number + 1 < len(steps) else high
            axis.axhspan(max(low, limit), min(high, upper), color=color, alpha=0.08, lw=0, zorder=0)


def _time_axis(axis: Axes, start: float, end: float, width: float) -> None:
    first, last = _dates(np.array([start, end]))
    axis.set_xlim(first, last)
    seconds = end - start
    if (
        seconds < 4
    ):  # the automatic one puts marks between seconds, and both then have the same name
        axis.xaxis.set_major_locator(SecondLocator())
    else:
        most = max(3, int(width / 0.75))
        axis.xaxis.set_major_locator(AutoDateLocator(minticks=2, maxticks=most))
    form = "%H:%M:%S" if seconds < 600 else "%H:%M" if seconds < 2 * 86400 else "%m-%d"
    axis.xaxis.set_major_formatter(DateFormatter(form))


def _dates(seconds: np.ndarray) -> np.ndarray:
    """Return matplotlib's dates in local time."""
    offset = datetime.fromtimestamp(float(seconds[0])).astimezone().utcoffset()
    shift = offset.total_seconds() if offset is not None else 0.0
    return date2num(np.datetime64(0, "s")) + (seconds + shift) / 86400


def _legend(panel: Panel, results: Sequence[Result], width: float) -> tuple[list[str], int, int]:
    """Return the names, and in how many columns and rows they fit; no rows for no legend."""
    if panel.options.get("legend", {}).get("showLegend") is False:
        return [], 1, 0
    names = [fit(result.name, 0.8 * width, TEXT) for result in results]
    # A column is as wide as the longest name.
    columns = max(1, int(width / (max(map(len, names)) * CHARACTER * TEXT + 0.36)))
    columns = min(columns, len(names))
    rows = min(LEGEND_ROWS, -(-len(names) // columns))
    if len(names) > rows * columns:
        names[rows * columns - 1] += f"  … and {len(names) - rows * columns} more"
    return names, columns, rows
