"""The panels of the Overview dashboard: what each asks Prometheus, in which unit.

Owns queries and words; must not know Grafana's format. Every query holds for any number of workers:
what each of them exports alike counts once, what each does itself is summed.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def _shared_rate(metric: str, by: str, legend: str) -> Query:
    """Rate of a counter that every worker exports with the same total: summed, never doubled."""
    rate = f"rate(mindstream_{metric}{{{TASK}}}{RATE})"
    return Query(f"sum by ({by}) (max by (task, {by}) ({rate}))", legend)


def _gauge(metric: str, legend: str = "{{task}}", *, by: str = "task", over: str = "max") -> Query:
    """One line a task, however many workers export it."""
    return Query(f"{over} by ({by}) (mindstream_{metric}{{{TASK}}})", legend)


def _score(metric: str, legend: str = "{{task}}") -> Query:
    """Mean over the watchers: each scores the pairs of its own partitions."""
    return _gauge(metric, legend, over="avg")


def _gained(series: str, span: str, by: str = "") -> str:
    """What a rare counter gained: `increase` alone would miss the event that makes the series."""
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}(({series} unless {series} offset {span}) or increase({series}[{span}]))"


DEAD = f"{_gained('mindstream_dead_letters_total', '$__range')} or vector(0)"
DRIFTS = f'mindstream_drift_signals_total{{level="drift", {TASK}}}'
# A partition that has just moved is exported by both workers: it counts once.
LAG = "sum by (role, topic) (max by (role, topic, partition) (mindstream_consumer_lag_messages))"
RELEASE_AGE = Query(f"time() - min by (task) (mindstream_release_timestamp_seconds{{{TASK}}})")

ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel(
            "Predictions",
            "Predictions made a second, all tasks.",
            "eps",
            (Query(f"sum(rate(mindstream_predictions_total{{{TASK}}}{RATE}))", "predictions"),),
            "stat",
        ),
        Panel(
            "Accuracy",
            "Share of right answers in the rolling window, as served.",
            "percentunit",
            (_score("prequential_accuracy"),),
            "stat",
            1.0,
        ),
        Panel(
            "Age of the release",
            "Since the release that serves was made; of several servers, the one furthest behind.",
            "s",
            (RELEASE_AGE,),
            "stat",
        ),
        Panel(
            "Labels known",
            "Labels that the learner or a server knows.",
            "short",
            (_gauge("labels"),),
            "stat",
        ),
        Panel(
            "Drifts",
            "Drifts (not warnings) found in the range shown.",
            "short",
            (Query(f"{_gained(DRIFTS, '$__range')} or vector(0)", "drifts"),),
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
            "eps",
            (_shared_rate("interactions_total", "outcome", "{{outcome}}"),),
        ),
        Panel(
            "Predictions by status",
            "Answers a second; no-release means that the task has none yet.",
            "eps",
            (_rate("predictions_total", "task, status", "{{task}} {{status}}"),),
        ),
        Panel(
            "Latency of predictions",
            "From arrival at the server to the answer, and the model's part of it.",
            "s",
            (
                *_quantiles("prediction_latency_seconds", 0.5, 0.95, 0.99),
                Query(
                    f"sum(rate(mindstream_prediction_batch_seconds_sum{RATE})) / "
                    f"sum(rate(mindstream_prediction_batch_seconds_count{RATE}))",
                    "mean micro-batch",
                ),
            ),
        ),
        Panel(
            "Rows answered together",
            "Mean size of a micro-batch, which grows with the load, and what waits for the model.",
            "short",
            (
                Query(
                    f"sum(rate(mindstream_prediction_batch_rows_sum{RATE})) / "
                    f"sum(rate(mindstream_prediction_batch_rows_count{RATE}))",
                    "rows",
                ),
                Query("max(mindstream_prediction_queue_rows)", "waiting"),
            ),
        ),
        Panel(
            "HTTP requests",
            "A second, by route and status; other: no route of the API.",
            "eps",
            (_rate("http_requests_total", "route, status", "{{route}} {{status}}", selector=""),),
        ),
        Panel(
            "Latency of HTTP requests",
            "From a request to its answer, Kafka's acknowledgement included; 0: nobody asked.",
            "s",
            tuple(
                Query(
                    f"(histogram_quantile({q}, sum by (le) "
                    f"(rate(mindstream_http_request_seconds_bucket{RATE}))) >= 0) or vector(0)",
                    f"p{q * 100:.0f}",
                )
                for q in (0.5, 0.95, 0.99)
            ),
        ),
    ),
    "Lag and labels": (
        Panel(
            "Lag",
            "Messages not yet read, by role and topic.",
            "short",
            (Query(LAG, "{{role}} {{topic}}"),),
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
            "mps",
            (_shared_rate("feedback_total", "outcome", "{{outcome}}"),),
        ),
    ),
    "Quality": (
        Panel(
            "Accuracy as served",
            "Rolling window, and since the start.",
            "percentunit",
            (
                _score("prequential_accuracy", "{{task}} window"),
                _score("prequential_accuracy_lifetime", "{{task}} so far"),
            ),
            top=1.0,
        ),
        Panel(
            "Macro-F1 and agreement as served",
            "Rolling window. Agreement is the score of the task's kind.",
            "percentunit",
            (
                _score("prequential_macro_f1", "{{task}} macro-F1"),
                _score("prequential_agreement", "{{task}} agreement"),
            ),
            top=1.0,
        ),
        Panel(
            "Held-out score at the gate",
            "Last candidate against the release it would replace.",
            "percentunit",
            (_gauge("gate_score", "{{task}} {{model}}", by="task, model"),),
            top=1.0,
        ),
        Panel(
            "Oldest and newest rows at the gate",
            "The same on the held-out rows that came first, where forgetting shows, and last.",
            "percentunit",
            (
                _gauge(
                    "gate_slice_score",
                    "{{task}} {{slice}} {{model}}",
                    by="task, slice, model",
                ),
            ),
            top=1.0,
        ),
        Panel(
            "Calibration error at the gate",
            "How far scores are from being right so often, on held-out rows; less is better.",
            "percentunit",
            (_gauge("gate_calibration_error", "{{task}} {{model}}", by="task, model"),),
        ),
        Panel(
            "Predictions scored",
            "Predictions that met their truth, a second.",
            "eps",
            (_rate("predictions_joined_total", "task", "{{task}}"),),
        ),
    ),
    "Learning and releases": (
        Panel(
            "Examples learned",
            "A second, each counted once, replay left out; texts whose features serve had kept, or "
            "that were encoded; and calls to Redis for them that failed.",
            "eps",
            (
                _rate("examples_learned_total", "task", "{{task}}"),
                _rate("features_total", "outcome", "features {{outcome}}", selector=""),
                _rate("features_failures_total", "job", "failures of {{job}}", selector=""),
            ),
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
            "Servers by the version they serve: more than one only while a release spreads.",
            "short",
            (_gauge("release_info", "{{task}} {{version}}", by="task, version", over="sum"),),
        ),
        Panel(
            "Labels",
            "Labels the model knows: a step up for each that appeared.",
            "short",
            (_gauge("labels"),),
        ),
        Panel(
            "Consolidation",
            "Share of the running fine-tuning of the encoder that is done.",
            "percentunit",
            (_gauge("consolidation_progress"),),
            top=1.0,
        ),
        Panel(
            "Consolidations",
            "How many there were since the learner started, by what became of them.",
            "short",
            (_gauge("consolidations_total", "{{task}} {{outcome}}", by="task, outcome"),),
        ),
        Panel(
            "Time of a consolidation",
            "From its start in the background until the new encoder was adopted, or not.",
            "s",
            (_gauge("consolidation_seconds"),),
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
                    _gained(
                        f"mindstream_drift_signals_total{{{TASK}}}",
                        "5m",
                        "task, signal, detector, level",
                    ),
                    "{{task}} {{signal}} {{detector}} {{level}}",
                ),
            ),
        ),
        Panel(
            "Replay memory, rows",
            "Rows that train, rows kept for the gate, and those of the last consolidation.",
            "short",
            (
                _gauge("replay_rows", "{{task}} {{part}}", by="task, part"),
                _gauge("consolidation_rows", "{{task}} consolidation: {{what}}", by="task, what"),
            ),
        ),
        Panel(
            "Replay memory, bytes", "Text and labels in Redis.", "bytes", (_gauge("replay_bytes"),)
        ),
        Panel(
            "Dead letters and skipped messages",
            "A second, by topic. Skipped messages are those another role writes to dead letters.",
            "mps",
            (
                _rate("dead_letters_total", "topic", "dead {{topic}}", selector=""),
                _rate("messages_skipped_total", "topic", "skipped {{topic}}", selector=""),
            ),
        ),
    ),
}
