"""The answers to a panel's queries, with the names that its legend gives them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from helpers.dashboards import variables
from helpers.dashboards.model import ROW, TABLE, TIMESERIES, Dashboard, Panel, Target
from helpers.dashboards.prometheus import Prometheus, QueryError, Series
from helpers.errors import DashboardError
from helpers.metrics import natural

_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Result:
    """One series of a panel.

    Args:
        ref: of the target that asked for it.
        name: in the legend.
        series: labels, times and values; one value but in a time series' panel.
    """

    ref: str
    name: str
    series: Series

    @property
    def value(self) -> float:
        """The last value."""
        return float(self.series.values[-1])


def ask(
    prometheus: Prometheus,
    dashboard: Dashboard,
    given: Mapping[str, object],
    start: float,
    end: float,
    step: float,
) -> list[tuple[Panel, list[Result]]]:
    """Run the queries of every panel.

    Raises:
        DashboardError: a query is wrong or uses an unknown variable; names dashboard and panel.
        ClientError: Prometheus does not answer.
    """
    known = variables.values(dashboard, given)
    known |= variables.times(end - start, step, prometheus.scrape_interval())
    # A variable's own value may use another: a window of $__rate_interval, say.
    known = {
        name: variables.substitute(text, known, f"Dashboard {dashboard.name}, variable ${name}")
        for name, text in known.items()
    }
    # The last point of a line is the end of the range, so that it has what was scraped last.
    first = end - step * math.floor((end - start) / step + 1e-9)
    answers = []
    for panel in dashboard.panels:
        panel = replace(panel, title=variables.substitute_known(panel.title, known))
        results: list[Result] = []
        where = f"Dashboard {dashboard.name}, panel {panel.title!r}"
        for target in panel.targets if panel.kind != ROW else ():
            expr = variables.substitute(target.expr, known, where)
            try:
                if panel.kind == TIMESERIES:
                    found = prometheus.range(expr, first, end, step)
                else:
                    found = prometheus.instant(expr, end)
            except QueryError as problem:
                raise DashboardError(
                    f"{where}, target {target.ref}: Prometheus refuses the query: {problem}\n{expr}"
                ) from problem
            legend = variables.substitute_known(target.legend, known)
            named = [Result(target.ref, _name(legend, one.labels), one) for one in found]
            results += named if _in_order(panel, target) else sorted(named, key=_natural)
        answers.append((panel, results))
    return answers


def _in_order(panel: Panel, target: Target) -> bool:
    """Whether the answer has an order of its own."""
    sorts = target.expr.lstrip().startswith(("topk", "bottomk", "sort"))
    return panel.kind == TABLE or (sorts and panel.kind != TIMESERIES)


def _natural(result: Result) -> list[tuple[int, float, str]]:
    return natural(result.name)


def _name(legend: str, labels: Mapping[str, str]) -> str:
    if legend and legend != "__auto":
        return _LABEL.sub(lambda found: labels.get(found[1], ""), legend)
    inner = ", ".join(f'{k}="{v}"' for k, v in sorted(labels.items()) if k != "__name__")
    return labels.get("__name__", "") + (f"{{{inner}}}" if inner else "") or "value"


def table(
    panel: Panel, results: Sequence[Result]
) -> tuple[list[str], list[list[str | float | None]]]:
    """Return columns and rows: a row for each set of labels, a column for each label and target.

    Columns are called as in Grafana (`Value`, or `Value #A` where there are several targets) until
    the transformation `organize` renames, orders or leaves them out.
    """
    refs = [target.ref for target in panel.targets]
    value_names = {ref: "Value" if len(refs) == 1 else f"Value #{ref}" for ref in refs}
    rows: dict[tuple[tuple[str, str], ...], dict[str, str | float]] = {}
    label_names: list[str] = []
    for result in results:
        labels = {k: v for k, v in result.series.labels.items() if k != "__name__"}
        label_names += [name for name in labels if name not in label_names]
        row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
        row[value_names[result.ref]] = result.value
    columns = label_names + list(value_names.values())
    ordered = [rows[key] for key in sorted(rows, key=lambda key: [natural(v) for _, v in key])]
    shown = {name: name for name in columns}
    for options in (t.get("options", {}) for t in panel.transformations if t["id"] == "organize"):
        hidden = options.get("excludeByName", {})
        places = options.get("indexByName", {})
        renamed = options.get("renameByName", {})
        kept = [name for name in columns if not hidden.get(name)]
        columns = sorted(kept, key=lambda name: places.get(name, len(places)))
        shown = {name: renamed.get(name) or name for name in columns}
    return [shown[name] for name in columns], [
        [row.get(name) for name in columns] for row in ordered
    ]
