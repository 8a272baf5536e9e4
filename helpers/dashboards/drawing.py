"""One figure of a whole dashboard: its panels where Grafana would put them."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from helpers.dashboards import model, panels
from helpers.dashboards.canvas import DashboardFigure
from helpers.dashboards.prometheus import Prometheus
from helpers.dashboards.results import ask
from helpers.errors import DashboardError
from helpers.plots import GREY

if TYPE_CHECKING:
    from helpers.stack.interface import Stack

WIDTH = 10.0  # inches: the width of a notebook
ROW_HEIGHT = 0.29  # inches of one unit of Grafana's grid
HEADER = 0.42
FOOTER = 0.06
GAP = 0.045  # on each side of a panel
POINTS = 240  # of a line, at most
LONGEST_DAYS = 366
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400, 604800)


def draw(
    path: str | Path,
    stack: Stack | None = None,
    *,
    prometheus_url: str | None = None,
    start: datetime | float | None = None,
    end: datetime | float | None = None,
    minutes: float = 15,
    step: float | None = None,
    **variables: object,
) -> Figure | None:
    """Run the queries of a Grafana dashboard and draw its panels.

    Panels of the types timeseries, stat, gauge, bargauge, table and row are drawn. All but timeseries
    show the value at the end of the time range; gaps in a line are times without a value.

    Args:
        path: the dashboard's JSON.
        stack: whose Prometheus is asked.
        prometheus_url: asked instead of the stack's.
        start: of the time range: a datetime, or seconds since 1970; `minutes` before its end by
            default.
        end: of the time range; now by default.
        minutes: length of the time range where there is no `start`.
        step: seconds between two points of a line; by default what gives at most 240.
        variables: values of the dashboard's variables, `deployment="cifar10"`; otherwise those that it
            names as current.

    Returns:
        The figure, which a notebook shows where the call is the last line of a cell. None where there
        is no Prometheus; the sentence that says why is printed.

    Raises:
        DashboardError: the file is no dashboard, a panel cannot be drawn, or a query is wrong.
        ClientError: Prometheus does not answer.
    """
    dashboard = model.read(path)
    url = prometheus_url or (stack.prometheus_url if stack is not None else None)
    if url is None:
        note = stack.prometheus_note if stack is not None else ""
        print(note or "There is no Prometheus to ask: give a stack, or `prometheus_url`.")
        return None
    last = time.time() if end is None else _seconds(end)
    first = last - 60 * minutes if start is None else _seconds(start)
    if not 0 < last - first <= 86400 * LONGEST_DAYS:
        raise DashboardError(
            f"The time range of {dashboard.name} is {last - first:,.0f} s long; it must be more than "
            f"nothing and at most {LONGEST_DAYS} days. Check start, end and minutes."
        )
    if step is None:
        step = next((s for s in _STEPS if (last - first) / s <= POINTS), _STEPS[-1])
    elif not step > 0 or (last - first) / step > 11_000:  # Prometheus' own limit
        raise DashboardError(f"step={step}: it must be positive, with at most 11,000 in the range.")
    with Prometheus(url) as prometheus:
        answers = ask(prometheus, dashboard, variables, first, last, step)
    return _figure(dashboard, answers, first, last)


def _figure(
    dashboard: model.Dashboard, answers: list[tuple[model.Panel, list]], start: float, end: float
) -> Figure:
    rows = max(panel.y + panel.height for panel in dashboard.panels)
    height = HEADER + ROW_HEIGHT * rows + FOOTER
    figure = DashboardFigure(figsize=(WIDTH, height), dpi=100, facecolor="white")
    titles = "; ".join(dict.fromkeys(panel.title for panel in dashboard.panels if panel.title))
    figure.set_label(f"Dashboard {dashboard.title}, with the panels {titles}")
    top = height - 0.05
    figure.text(
        GAP / WIDTH, top / height, dashboard.title, va="top", fontsize=13, fontweight="bold"
    )
    figure.text(
        1 - GAP / WIDTH, (top - 0.04) / height, _range_text(start, end), va="top", ha="right",
        fontsize=8.5, color=GREY,
    )  # fmt: skip
    for panel, results in answers:
        unit = WIDTH / model.COLUMNS
        place = panels.Place(
            figure,
            left=panel.x * unit + GAP,
            bottom=height - HEADER - (panel.y + panel.height) * ROW_HEIGHT + GAP,
            width=panel.width * unit - 2 * GAP,
            height=panel.height * ROW_HEIGHT - 2 * GAP,
        )
        panels.draw(place, panel, results, start, end)
    return figure


def _seconds(moment: datetime | float) -> float:
    seconds = moment.timestamp() if isinstance(moment, datetime) else float(moment)
    if not math.isfinite(seconds):
        raise DashboardError(f"{moment!r} is no time: give a datetime or seconds since 1970.")
    return seconds


def _range_text(start: float, end: float) -> str:
    first, last = (datetime.fromtimestamp(moment).astimezone() for moment in (start, end))
    same_day = first.date() == last.date()
    return (
        f"{first:%Y-%m-%d %H:%M:%S} – {last:{'%H:%M:%S' if same_day else '%Y-%m-%d %H:%M:%S'} %Z}"
    )
