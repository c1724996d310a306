"""Writes the Overview dashboard of `panels.py`, so that panels look alike and fit the grid.

::

    python deploy/grafana/make_overview.py > deploy/grafana/dashboards/overview.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from panels import ROWS, Panel

SOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24


def dashboard() -> dict[str, Any]:
    """Build the dashboard."""
    return {
        "uid": "mindstream-overview",
        "title": "mindstream: Overview",
        "tags": ["mindstream"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {"list": [_task_variable()]},
        "panels": _panels(),
    }


def _task_variable() -> dict[str, Any]:
    query = "label_values(mindstream_predictions_total, task)"
    return {
        "name": "task",
        "label": "Task",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": "tasks"},
        "definition": query,
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y += 1
        stats = row[0].kind == "stat"
        across = len(row) if stats else (4 if len(row) % 4 == 0 else 3)  # without a hole
        height = 4 if stats else 8
        width = COLUMNS // across
        for number, panel in enumerate(row):
            place = {
                "x": number % across * width,
                "y": y + number // across * height,
                "w": width,
                "h": height,
            }
            panels.append(_panel(panel, number=len(panels) + 1, place=place))
        y += -(-len(row) // across) * height
    return panels


def _panel(panel: Panel, *, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.top is not None:
        defaults["max"] = panel.top
    options: dict[str, Any]
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "auto"}
    else:
        defaults["custom"] = {"fillOpacity": 8, "showPoints": "never", "spanNulls": True}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")
