"""A Grafana dashboard's JSON, as far as it is drawn: panels, their queries, how values look."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import DashboardError

ROOT = Path(__file__).resolve().parents[2]

ROW = "row"
TIMESERIES, STAT, GAUGE, BAR_GAUGE, TABLE = "timeseries", "stat", "gauge", "bargauge", "table"
KINDS = (TIMESERIES, STAT, GAUGE, BAR_GAUGE, TABLE, ROW)
COLUMNS = 24  # of Grafana's grid
TRANSFORMATIONS = ("merge", "organize")


@dataclass(frozen=True)
class Target:
    """One query of a panel.

    Args:
        ref: `A`, `B`, …
        expr: PromQL, with variables.
        legend: `{{label}}` stands for a label's value.
    """

    ref: str
    expr: str
    legend: str


@dataclass(frozen=True)
class Field:
    """How one series looks: Grafana's fieldConfig with the overrides that match its name.

    Args:
        settings: `unit`, `decimals`, `min`, `max`, `thresholds`, `mappings`, `color`, ….
        custom: the panel type's own, `fillOpacity`, `stacking`, ….
    """

    settings: Mapping[str, Any]
    custom: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """Grafana's name of the unit; `none` where none is set."""
        return self.settings.get("unit") or "none"

    @property
    def decimals(self) -> int | None:
        """Digits after the point; None for as many as are worth it."""
        return self.settings.get("decimals")

    @property
    def steps(self) -> list[tuple[float, str]]:
        """The thresholds: from which value on, which colour; the first from minus infinity."""
        steps = self.settings.get("thresholds", {}).get("steps", [])
        return [
            (float("-inf") if step.get("value") is None else float(step["value"]), step["color"])
            for step in steps
        ]

    @property
    def fixed_color(self) -> str | None:
        """The colour's name where it is fixed."""
        color = self.settings.get("color", {})
        return color.get("fixedColor") if color.get("mode") == "fixed" else None

    @property
    def by_threshold(self) -> bool:
        """Whether the colour follows the value."""
        return self.settings.get("color", {}).get("mode") == "thresholds"


@dataclass(frozen=True)
class Panel:
    """One panel; x, y, width and height in the units of Grafana's grid."""

    title: str
    kind: str
    x: int
    y: int
    width: int
    height: int
    targets: Sequence[Target]
    defaults: Mapping[str, Any]
    overrides: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    transformations: Sequence[Mapping[str, Any]]

    def field(self, name: str = "") -> Field:
        """Return how the series or column `name` looks."""
        settings = dict(self.defaults)
        custom = dict(settings.pop("custom", {}))
        for override in self.overrides:
            if _matches(override.get("matcher", {}), name):
                for found in override.get("properties", []):
                    key, value = found["id"], found.get("value")
                    if key.startswith("custom."):
                        custom[key.removeprefix("custom.")] = value
                    else:
                        settings[key] = value
        return Field(settings, custom)


@dataclass(frozen=True)
class Dashboard:
    """A dashboard as read from its file.

    Args:
        name: for messages: title and file.
        title: its own.
        panels: in the file's order.
        variables: of its templating, as in the file.
    """

    name: str
    title: str
    panels: Sequence[Panel]
    variables: Sequence[Mapping[str, Any]]


def read(path: str | Path) -> Dashboard:
    """Return the dashboard of a JSON file as Grafana exports it.

    A relative path is looked for in the working directory, then in the repository.

    Raises:
        DashboardError: there is no such file, it is no dashboard, or a panel of it cannot be drawn.
    """
    path = Path(path)
    if not path.exists():
        path = ROOT / path  # an absolute one stays as it is
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise DashboardError(f"The dashboard {path} cannot be read: {problem.strerror}.") from None
    except ValueError as problem:
        raise DashboardError(f"The dashboard {path} is not JSON: {problem}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("panels"), list):
        raise DashboardError(f"{path} is no Grafana dashboard: it has no list `panels`.")
    title = str(content.get("title") or path.stem)
    name = f"{title!r} ({path.name})"
    variables = content.get("templating", {}).get("list", [])
    panels = [_panel(found, name) for found in content["panels"]]
    if not panels:
        raise DashboardError(f"The dashboard {name} has no panels.")
    return Dashboard(name, title, panels, variables)


def _panel(found: Mapping[str, Any], dashboard: str) -> Panel:
    title = str(found.get("title") or f"number {found.get('id', '?')}")
    where = f"Dashboard {dashboard}, panel {title!r}"
    kind = found.get("type")
    if kind not in KINDS:
        raise DashboardError(f"{where}: the type {kind!r} is not drawn; {', '.join(KINDS)} are.")
    place = found.get("gridPos", {})
    try:
        x, y, width, height = (int(place[side]) for side in "xywh")
    except (KeyError, TypeError, ValueError):
        raise DashboardError(f"{where}: gridPos must have whole numbers x, y, w and h.") from None
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > COLUMNS:
        raise DashboardError(f"{where}: gridPos {place} leaves the {COLUMNS} columns of the grid.")
    targets = [_target(t, where) for t in found.get("targets", []) if not t.get("hide")]
    if not targets and kind != ROW:
        raise DashboardError(f"{where}: it has no targets.")
    unknown = {t.get("id") for t in found.get("transformations", [])} - set(TRANSFORMATIONS)
    if unknown:
        raise DashboardError(
            f"{where}: the transformation {min(map(str, unknown))!r} is not drawn; "
            f"{' and '.join(TRANSFORMATIONS)} are."
        )
    config = found.get("fieldConfig", {})
    return Panel(
        title=title,
        kind=kind,
        x=x,
        y=y,
        width=width,
        height=height,
        targets=targets,
        defaults=config.get("defaults", {}),
        overrides=config.get("overrides", []),
        options=found.get("options", {}),
        transformations=found.get("transformations", []),
    )


def _target(found: Mapping[str, Any], where: str) -> Target:
    expr = found.get("expr")
    if not isinstance(expr, str) or not expr.strip():
        raise DashboardError(f"{where}: the target {found.get('refId', '?')} has no `expr`.")
    return Target(str(found.get("refId", "A")), expr, str(found.get("legendFormat") or ""))


def _matches(matcher: Mapping[str, Any], name: str) -> bool:
    wanted = str(matcher.get("options", ""))
    if matcher.get("id") == "byName":
        return wanted == name
    if matcher.get("id") == "byRegexp":
        return re.search(wanted.strip("/"), name) is not None
    return False
