"""Writes the Overview dashboard, so that panels look alike and fit the grid.

::

    python deploy/grafana/make_overview.py > deploy/grafana/dashboards/overview.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24
TASK = 'task=~"$task"'
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Query:
    """One line or value: an expression and its legend."""

    expr: str
    legend: str = "{{task}}"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        unit: Grafana's name of the unit; `short` counts things.
        kind: `timeseries` or `stat`.
        top: upper end of the axis, where there is a natural one.
    """

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    top: float | None = None


def _quantiles(metric: str, *quantiles: float) -> tuple[Query, ...]:
    return tuple(
        Query(
            f"histogram_quantile({q}, sum by (le, task) "
            f"(rate(mindstream_{metric}_bucket{{{TASK}}}{RATE})))",
            f"{{{{task}}}} p{q * 100:.0f}",
        )
        for q in quantiles
    )


def _rate(metric: str, by: str, legend: str, *, selector: str = TASK) -> Query:
    chosen = f"{{{selector}}}" if selector else ""
    return Query(f"sum by ({by}) (rate(mindstream_{metric}{chosen}{RATE}))", legend)


def _per_minute(metric: str, by: str, legend: str) -> Query:
    return Query(f"60 * {_rate(metric, by, legend).expr}", legend)


def _gauge(metric: str, legend: str = "{{task}}") -> Query:
    return Query(f"mindstream_{metric}{{{TASK}}}", legend)


DEAD = "sum(increase(mindstream_dead_letters_total[$__range])) or vector(0)"
LAG = "sum by (instance, topic) (mindstream_consumer_lag_messages)"
RELEASE_AGE = Query(f"time() - max by (task) (mindstream_release_timestamp_seconds{{{TASK}}})")

ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Interactions",
            "Predictions made a second, all tasks.",
            "reqps",
            (Query(f"sum(rate(mindstream_predictions_total{{{TASK}}}{RATE}))", "predictions"),),
            "stat",
        ),
        Panel(
            "Accuracy",
            "Share of right answers in the rolling window, as served.",
            "percentunit",
            (_gauge("prequential_accuracy"),),
            "stat",
            1.0,
        ),
        Panel(
            "Age of the release",
            "Since the release that serves was made.",
            "s",
            (RELEASE_AGE,),
            "stat",
        ),
        Panel(
            "Labels known",
            "Labels the model can answer with.",
            "short",
            (_gauge("labels"),),
            "stat",
        ),
        Panel(
            "Drifts",
            "Drifts (not warnings) found in the range shown.",
            "short",
            (
                Query(
                    "sum(increase(mindstream_drift_signals_total"
                    f'{{level="drift", {TASK}}}[$__range])) or vector(0)',
                    "drifts",
                ),
            ),
            "stat",
        ),
        Panel(
            "Dead letters",
            "Messages that could not be used, in the range shown.",
            "short",
            (Query(DEAD, "messages"),),
            "stat",
        ),
    ),
    "Traffic": (
        Panel(
            "Interactions by outcome",
            "What became of interactions. Those neither joined nor ended are waiting.",
            "reqps",
            (_rate("interactions_total", "outcome", "{{outcome}}"),),
        ),
        Panel(
            "Predictions",
            "Answers a second, by status.",
            "reqps",
            (_rate("predictions_total", "task, status", "{{task}} {{status}}"),),
        ),
        Panel(
            "Latency of predictions",
            "From an interaction's arrival at the server to its answer.",
            "s",
            _quantiles("prediction_latency_seconds", 0.5, 0.95, 0.99),
        ),
        Panel(
            "Rows answered together",
            "Mean size of a serving batch: it grows with the load.",
            "short",
            (
                Query(
                    f"sum(rate(mindstream_prediction_batch_rows_sum{RATE})) / "
                    f"sum(rate(mindstream_prediction_batch_rows_count{RATE}))",
                    "rows",
                ),
            ),
        ),
    ),
    "Lag and labels": (
        Panel(
            "Lag",
            "Messages not yet read, by reader and topic.",
            "short",
            (Query(LAG, "{{instance}} {{topic}}"),),
        ),
        Panel(
            "Waiting for a label",
            "Interactions whose label has not come.",
            "short",
            (_gauge("interactions_waiting"),),
        ),
        Panel(
            "Label delay",
            "From an interaction to its label.",
            "s",
            _quantiles("label_delay_seconds", 0.5, 0.95),
        ),
        Panel(
            "Feedback by outcome",
            "Labels and corrections a second.",
            "reqps",
            (_rate("feedback_total", "outcome", "{{outcome}}"),),
        ),
    ),
    "Quality": (
        Panel(
            "Accuracy as served",
            "Rolling window, and since the start.",
            "percentunit",
            (
                _gauge("prequential_accuracy", "{{task}} window"),
                _gauge("prequential_accuracy_lifetime", "{{task}} so far"),
            ),
            top=1.0,
        ),
        Panel(
            "Macro-F1 and agreement as served",
            "Rolling window. Agreement is the score of the task's kind.",
            "percentunit",
            (
                _gauge("prequential_macro_f1", "{{task}} macro-F1"),
                _gauge("prequential_agreement", "{{task}} agreement"),
            ),
            top=1.0,
        ),
        Panel(
            "Held-out score at the gate",
            "Last candidate against the release it would replace.",
            "percentunit",
            (_gauge("gate_score", "{{task}} {{model}}"),),
            top=1.0,
        ),
        Panel(
            "Predictions scored",
            "Predictions that met their truth, a second.",
            "reqps",
            (_rate("predictions_joined_total", "task", "{{task}}"),),
        ),
    ),
    "Learning and releases": (
        Panel(
            "Examples learned",
            "A second.",
            "reqps",
            (_rate("examples_learned_total", "task", "{{task}}"),),
        ),
        Panel(
            "Learning step",
            "Time of one step, replay included.",
            "s",
            _quantiles("learn_step_seconds", 0.5, 0.95),
        ),
        Panel(
            "Gate decisions",
            "Candidates accepted and rejected, a minute.",
            "short",
            (_per_minute("gate_decisions_total", "task, decision", "{{task}} {{decision}}"),),
        ),
        Panel(
            "Age of the release", "A saw: every fall is a release swapped in.", "s", (RELEASE_AGE,)
        ),
        Panel(
            "Swaps",
            "Releases swapped in by servers, a minute.",
            "short",
            (_per_minute("release_swaps_total", "task", "{{task}}"),),
        ),
        Panel(
            "Serving now",
            "The version of every server.",
            "short",
            (_gauge("release_info", "{{task}} {{version}}"),),
        ),
        Panel(
            "Age of the checkpoint",
            "What a crash of the learner would read again.",
            "s",
            (Query("time() - max(mindstream_checkpoint_timestamp_seconds)", "checkpoint"),),
        ),
        Panel(
            "Size of the checkpoint",
            "On disk; flat when all labels are known.",
            "bytes",
            (Query("max(mindstream_checkpoint_bytes)", "checkpoint"),),
        ),
    ),
    "Drift, memory and dead letters": (
        Panel(
            "Drift signals",
            "Warnings and drifts in five minutes, by detector.",
            "short",
            (
                Query(
                    "sum by (task, signal, detector, level) "
                    f"(increase(mindstream_drift_signals_total{{{TASK}}}[5m]))",
                    "{{task}} {{signal}} {{detector}} {{level}}",
                ),
            ),
        ),
        Panel(
            "Replay memory, rows",
            "Rows that train, and rows kept for the gate.",
            "short",
            (_gauge("replay_rows", "{{task}} {{part}}"),),
        ),
        Panel("Replay memory, bytes", "Text and labels.", "bytes", (_gauge("replay_bytes"),)),
        Panel(
            "Dead letters and skipped messages",
            "A second, by topic. Skipped messages are those another role writes to dead letters.",
            "reqps",
            (
                _rate("dead_letters_total", "topic", "dead {{topic}}", selector=""),
                _rate("messages_skipped_total", "topic", "skipped {{topic}}", selector=""),
            ),
        ),
    ),
}


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
        across = len(row) if stats else 4
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
