"""The JSON that Grafana takes as a dashboard: its classic model, as far as the walkthrough uses it.

Gathered from Grafana's own description of the kind (kinds/dashboard/dashboard_kind.cue) and its migrations, whose last
makes version 42. Grafana itself takes unknown keys and drops them; here they are refused: they are typing errors.
"""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 42  # since Grafana 12.1; older ones read it as it is
# In Grafana 12 and 13; `graph`, `singlestat`, `table-old` and other panels of AngularJS are gone.
PANELS = {"timeseries", "stat", "gauge", "bargauge", "table", "row"}
UNITS = {"none", "short", "s", "bytes", "percentunit", "reqps", "ops"}
COLORS = {"green", "orange", "red", "blue", "purple", "yellow", "grey", "text", "transparent"}

Schema = dict[str, Any]


def closed(required: Schema, optional: Schema | None = None) -> Schema:
    """Return the schema of an object that has no other keys."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def one_of(*values: object) -> Schema:
    return {"enum": list(values)}


def listed(items: Schema, at_least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": at_least}


TEXT = {"type": "string", "minLength": 1}
ANY_TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
NUMBER = {"type": "number"}
SOURCE = closed({"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}})
COLOR = {"type": "string", "enum": sorted(COLORS)}

THRESHOLDS = closed(
    {
        "mode": one_of("absolute", "percentage"),
        "steps": listed(closed({"color": COLOR, "value": {"type": ["number", "null"]}}), 1),
    }
)
MAPPING = closed(
    {
        "type": {"const": "value"},
        "options": {
            "type": "object",
            "additionalProperties": closed({"text": TEXT, "color": COLOR, "index": COUNT}),
        },
    }
)
LINE = closed(
    {
        "drawStyle": one_of("line", "bars", "points"),
        "lineWidth": NUMBER,
        "fillOpacity": {"type": "number", "minimum": 0, "maximum": 100},
        "showPoints": one_of("auto", "always", "never"),
        "spanNulls": {"type": ["boolean", "number"]},
        "lineInterpolation": one_of("linear", "smooth", "stepBefore", "stepAfter"),
        "stacking": closed({"mode": one_of("none", "normal", "percent"), "group": TEXT}),
        "thresholdsStyle": closed({"mode": one_of("off", "line", "dashed", "area")}),
    }
)
CELL = closed({"align": TEXT, "cellOptions": closed({"type": one_of("auto", "color-text")})})
FIELD_COLOR = closed(
    {"mode": one_of("thresholds", "palette-classic", "fixed")}, {"fixedColor": COLOR}
)
OVERRIDE = closed(
    {
        "matcher": closed({"id": one_of("byName", "byRegexp"), "options": TEXT}),
        "properties": listed(closed({"id": TEXT, "value": {}}), 1),
    }
)
REDUCED = closed(
    {"calcs": {"const": ["lastNotNull"]}, "fields": {"const": ""}, "values": {"const": False}}
)
OPTIONS: dict[str, Schema] = {
    "timeseries": closed(
        {
            "legend": closed(
                {
                    "displayMode": one_of("list", "table"),
                    "placement": one_of("bottom", "right"),
                    "showLegend": {"const": True},
                    "calcs": listed(TEXT),
                }
            ),
            "tooltip": closed(
                {"mode": one_of("single", "multi", "none"), "sort": one_of("none", "asc", "desc")}
            ),
        }
    ),
    "stat": closed(
        {
            "reduceOptions": REDUCED,
            "colorMode": one_of("none", "value", "background"),
            "graphMode": one_of("none", "area"),
            "justifyMode": one_of("auto", "center"),
            "orientation": one_of("auto", "horizontal", "vertical"),
            "textMode": one_of("auto", "value", "value_and_name", "name", "none"),
        }
    ),
    "gauge": closed(
        {"reduceOptions": REDUCED, "showThresholdMarkers": FLAG, "showThresholdLabels": FLAG}
    ),
    "bargauge": closed(
        {
            "reduceOptions": REDUCED,
            "orientation": one_of("auto", "horizontal", "vertical"),
            "displayMode": one_of("basic", "gradient", "lcd"),
            "showUnfilled": FLAG,
        },
        {
            "valueMode": one_of("color", "text", "hidden"),
            "sizing": one_of("auto", "manual"),
            "minVizWidth": COUNT,
            "minVizHeight": COUNT,
            "maxVizHeight": COUNT,
        },
    ),
    "table": closed({"showHeader": FLAG, "cellHeight": one_of("sm", "md", "lg")}),
}
CUSTOM = {"timeseries": LINE, "table": CELL}


def panel(kind: str) -> Schema:
    """Return the schema of a panel of this kind."""
    custom = {"custom": CUSTOM[kind]} if kind in CUSTOM else {}
    defaults = closed(
        {"unit": one_of(*sorted(UNITS)), "thresholds": THRESHOLDS, **custom},
        {
            "color": FIELD_COLOR,
            "min": NUMBER,
            "max": NUMBER,
            "decimals": COUNT,
            "mappings": listed(MAPPING),
        },
    )
    return closed(
        {
            "id": {"type": "integer", "minimum": 1},
            "type": {"const": kind},
            "title": TEXT,
            "description": TEXT,
            "datasource": SOURCE,
            "gridPos": closed(
                {
                    "x": {"type": "integer", "minimum": 0, "maximum": 23},
                    "y": COUNT,
                    "w": {"type": "integer", "minimum": 1, "maximum": 24},
                    "h": {"type": "integer", "minimum": 1},
                }
            ),
            "targets": listed(
                closed(
                    {
                        "refId": {"type": "string", "pattern": "^[A-Z]$"},
                        "datasource": SOURCE,
                        "expr": TEXT,
                        # A line without a name of its own is called by its query; a table has columns.
                        "legendFormat": ANY_TEXT if kind == "table" else TEXT,
                        "editorMode": one_of("code", "builder"),
                        "instant": FLAG,
                        "range": FLAG,
                    },
                    {"format": one_of("table", "time_series")},
                ),
                1,
            ),
            "fieldConfig": closed({"defaults": defaults, "overrides": listed(OVERRIDE)}),
            "options": OPTIONS[kind],
        },
        {"transformations": listed(closed({"id": TEXT, "options": {"type": "object"}}))},
    )


CHOICE = closed({"selected": FLAG, "text": TEXT, "value": TEXT})
VARIABLE = {
    "name": TEXT,
    "label": TEXT,
    "current": CHOICE,
    "hide": one_of(0, 1, 2),
    "options": listed({}),
}
VARIABLES: dict[str, Schema] = {
    "datasource": closed(
        {
            **VARIABLE,
            "type": {"const": "datasource"},
            "query": {"const": "prometheus"},
            "refresh": one_of(1),
            "regex": ANY_TEXT,
        },
        {"includeAll": FLAG, "multi": FLAG, "description": TEXT},
    ),
    "query": closed(
        {
            **VARIABLE,
            "type": {"const": "query"},
            "description": TEXT,
            "datasource": SOURCE,
            "query": closed({"query": TEXT, "refId": TEXT}),
            "definition": TEXT,
            "refresh": one_of(1, 2),
            "sort": {"type": "integer", "minimum": 0, "maximum": 8},
            "regex": ANY_TEXT,
            "includeAll": FLAG,
            "multi": FLAG,
        },
        {"allValue": TEXT},
    ),
    "interval": closed(
        {**VARIABLE, "type": {"const": "interval"}, "query": TEXT, "refresh": one_of(2), "auto": FLAG},
        {"description": TEXT, "auto_count": COUNT, "auto_min": TEXT},
    ),
    "textbox": closed({**VARIABLE, "type": {"const": "textbox"}, "query": TEXT}, {"description": TEXT}),
}  # fmt: skip


def by_type(schemas: dict[str, Schema]) -> Schema:
    """Return the schema of objects whose `type` says which of the schemas they follow."""
    cases = [
        {"if": {"properties": {"type": {"const": name}}}, "then": schema}
        for name, schema in schemas.items()
    ]
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": one_of(*schemas)},
        "allOf": cases,
    }


DASHBOARD = closed(
    {
        "id": {"type": "null"},  # Grafana's own; another one's would overwrite what has it
        "uid": {"type": "string", "pattern": "^walkthrough-[a-z-]{1,28}$"},
        "title": TEXT,
        "description": TEXT,
        "tags": listed(TEXT, 1),
        "timezone": one_of("browser", "utc"),
        "editable": FLAG,
        "graphTooltip": one_of(0, 1, 2),
        "time": closed({"from": TEXT, "to": TEXT}),
        "timepicker": closed(
            {}, {"hidden": FLAG, "refresh_intervals": listed(TEXT), "nowDelay": TEXT}
        ),
        "refresh": {"type": "string"},
        "schemaVersion": {"const": SCHEMA_VERSION},
        "version": COUNT,
        "panels": listed(by_type({kind: panel(kind) for kind in OPTIONS}), 1),
        "templating": closed({"list": listed(by_type(VARIABLES), 1)}),
        "annotations": closed({"list": listed({})}),
        "links": listed({}),
    },
    {
        "fiscalYearStartMonth": {"type": "integer", "minimum": 0, "maximum": 11},
        "liveNow": FLAG,
        "preload": FLAG,
        "weekStart": ANY_TEXT,
    },
)
