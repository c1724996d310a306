"""Every metric of mindstream in one list: name, kind, unit, labels and help.

Owns the names; must not know who counts. Nothing here is global: each process passes in its own
registry, so that tests and roles in one process never meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

PREFIX = "mindstream_"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
DELAY_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0)
BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the list.

    Attributes:
        name: without the prefix; also the attribute of `Metrics`.
        kind: how Prometheus treats it.
        unit: what is counted or measured.
        labels: label names; never a user or an id.
        help: one sentence for people.
        buckets: upper bounds of a histogram, in the unit.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


def _counter(name: str, unit: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, "counter", unit, labels, text)


def _gauge(name: str, unit: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, "gauge", unit, labels, text)


def _histogram(
    name: str, unit: str, labels: tuple[str, ...], text: str, buckets: tuple[float, ...]
) -> Metric:
    return Metric(name, "histogram", unit, labels, text, buckets)


TASK = ("task",)

TABLE: tuple[Metric, ...] = (
    # ingest
    _counter(
        "interactions_total",
        "interactions",
        ("task", "outcome"),
        "Interactions by what became of them: joined, expired, refused, repeated, dead.",
    ),
    _gauge("interactions_waiting", "interactions", TASK, "Interactions waiting for their label."),
    _counter(
        "feedback_total",
        "messages",
        ("task", "outcome"),
        "Feedback messages by what became of them.",
    ),
    _counter("dead_letters_total", "messages", ("topic",), "Messages that could not be used."),
    # every Faust role
    _counter(
        "messages_skipped_total",
        "messages",
        ("topic",),
        "Messages this role passed over because it cannot read them.",
    ),
    # serve
    _counter(
        "predictions_total", "predictions", ("task", "status"), "Answers given: ok, no-release."
    ),
    _histogram(
        "prediction_latency_seconds",
        "seconds",
        TASK,
        "From an interaction's arrival at the server to its answer.",
        LATENCY_S,
    ),
    _histogram("prediction_batch_rows", "rows", (), "Interactions answered together.", BATCH_ROWS),
    _histogram("prediction_batch_seconds", "seconds", (), "Computing one micro-batch.", LATENCY_S),
    _gauge("prediction_queue_rows", "rows", (), "Interactions that wait for the model."),
    _counter(
        "http_requests_total",
        "requests",
        ("route", "status"),
        "Requests to the HTTP API, by route and status.",
    ),
    _histogram(
        "http_request_seconds", "seconds", ("route",), "From a request to its answer.", LATENCY_S
    ),
    _gauge("release_info", "1", ("task", "version"), "1 for the release that serves."),
    _gauge("release_timestamp_seconds", "seconds since 1970", TASK, "When the release was made."),
    _counter("release_swaps_total", "releases", TASK, "Releases swapped in by this server."),
    _counter("release_refusals_total", "releases", TASK, "Releases this server could not load."),
    # learn, and what it takes from serve
    _counter(
        "features_total",
        "texts",
        ("outcome",),
        "Texts whose features the learner or the gate needed: reused, encoded.",
    ),
    _counter(
        "features_failures_total",
        "calls",
        (),
        "Calls that could not read or write kept features.",
    ),
    _counter("examples_learned_total", "examples", TASK, "Examples learned."),
    _histogram(
        "learn_step_seconds", "seconds", TASK, "One learning step, replay included.", LATENCY_S
    ),
    _counter(
        "gate_decisions_total",
        "candidates",
        ("task", "decision"),
        "Candidates the gate accepted or rejected.",
    ),
    _gauge(
        "gate_score",
        "0 to 1",
        ("task", "model"),
        "Last held-out score: champion, challenger, and best of all so far.",
    ),
    _gauge(
        "gate_slice_score",
        "0 to 1",
        ("task", "slice", "model"),
        "Last score on the oldest and on the newest held-out rows: champion, challenger.",
    ),
    _gauge(
        "gate_calibration_error",
        "0 to 1",
        ("task", "model"),
        "Last expected calibration error on held-out rows: champion, challenger.",
    ),
    _counter(
        "consolidations_total",
        "runs",
        ("task", "outcome"),
        "Consolidations by what became of them: adopted, refused, dropped, failed.",
    ),
    _gauge(
        "consolidation_progress",
        "0 to 1",
        TASK,
        "Share of the steps of the running consolidation that are done; 0 when none runs.",
    ),
    _gauge(
        "consolidation_seconds", "seconds", TASK, "How long the last finished consolidation took."
    ),
    _gauge(
        "consolidation_rows",
        "rows",
        ("task", "what"),
        "Rows of the last consolidation: read, cleaned, dropped and added by rules, trained on.",
    ),
    _gauge("labels", "labels", TASK, "Labels the model knows."),
    _gauge(
        "checkpoint_timestamp_seconds",
        "seconds since 1970",
        (),
        "When the learner last wrote a checkpoint.",
    ),
    _gauge("checkpoint_bytes", "bytes", (), "Size of the last checkpoint."),
    _gauge("replay_rows", "rows", ("task", "part"), "Rows in replay memory: train, held_out."),
    _gauge("replay_bytes", "bytes", TASK, "Text and labels in replay memory."),
    # watch
    _gauge("prequential_accuracy", "0 to 1", TASK, "Share of right answers in the rolling window."),
    _gauge(
        "prequential_agreement",
        "0 to 1",
        TASK,
        "Mean agreement in the rolling window, as the task kind scores it.",
    ),
    _gauge("prequential_macro_f1", "0 to 1", TASK, "Macro-F1 in the rolling window."),
    _gauge("prequential_accuracy_lifetime", "0 to 1", TASK, "Share of right answers so far."),
    _counter(
        "predictions_joined_total", "predictions", TASK, "Predictions scored with their truth."
    ),
    _counter(
        "predictions_unscored_total",
        "predictions",
        TASK,
        "Truths whose prediction was made before any release.",
    ),
    _histogram(
        "label_delay_seconds",
        "seconds",
        TASK,
        "From an interaction to its label.",
        DELAY_S,
    ),
    _counter(
        "drift_signals_total",
        "signals",
        ("task", "signal", "detector", "level"),
        "Warnings and drifts the detectors found.",
    ),
    _gauge(
        "consumer_lag_messages",
        "messages",
        ("topic", "partition"),
        "Messages not yet read by this consumer.",
    ),
)


class Metrics:
    """The process's metrics, one attribute for each row of `TABLE`, under the row's name.

    Args:
        registry: the process's own; the pages show exactly this one.
    """

    interactions_total: Counter
    interactions_waiting: Gauge
    feedback_total: Counter
    dead_letters_total: Counter
    messages_skipped_total: Counter
    predictions_total: Counter
    prediction_latency_seconds: Histogram
    prediction_batch_rows: Histogram
    prediction_batch_seconds: Histogram
    prediction_queue_rows: Gauge
    http_requests_total: Counter
    http_request_seconds: Histogram
    release_info: Gauge
    release_timestamp_seconds: Gauge
    release_swaps_total: Counter
    release_refusals_total: Counter
    features_total: Counter
    features_failures_total: Counter
    examples_learned_total: Counter
    learn_step_seconds: Histogram
    gate_decisions_total: Counter
    gate_score: Gauge
    gate_slice_score: Gauge
    gate_calibration_error: Gauge
    consolidations_total: Counter
    consolidation_progress: Gauge
    consolidation_seconds: Gauge
    consolidation_rows: Gauge
    labels: Gauge
    checkpoint_timestamp_seconds: Gauge
    checkpoint_bytes: Gauge
    replay_rows: Gauge
    replay_bytes: Gauge
    prequential_accuracy: Gauge
    prequential_agreement: Gauge
    prequential_macro_f1: Gauge
    prequential_accuracy_lifetime: Gauge
    predictions_joined_total: Counter
    predictions_unscored_total: Counter
    label_delay_seconds: Histogram
    drift_signals_total: Counter
    consumer_lag_messages: Gauge

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        for row in TABLE:
            setattr(self, row.name, _build(row, registry))

    def text(self) -> bytes:
        """Write all metrics in the Prometheus text format; served as `CONTENT_TYPE`."""
        return generate_latest(self.registry)


def _build(row: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    name = PREFIX + row.name
    if row.kind == "counter":
        return Counter(name, row.help, row.labels, registry=registry)
    if row.kind == "gauge":
        return Gauge(name, row.help, row.labels, registry=registry)
    return Histogram(name, row.help, row.labels, registry=registry, buckets=row.buckets)
