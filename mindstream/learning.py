"""Builds the learners of all tasks, and turns what they report into metrics.

Owns which setting goes where in the learn role; imports torch and Avalanche, so only that role
imports it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime

from learners.gate import GateRules
from learners.loop import Learner, StepReport
from learners.model import Encoder
from learners.registry import Registry
from learners.releasing import Releaser, Verdict
from learners.replay import ReplayMemory
from learners.strategies import STRATEGIES, StrategyConfig
from learners.tasks import task_kind
from mindstream.backbone import load_encoder
from mindstream.settings import Settings
from serving.metrics import Metrics

log = logging.getLogger("mindstream")


def make_learners(settings: Settings, memories: Mapping[str, ReplayMemory]) -> dict[str, Learner]:
    """Build a learner a task. Frozen tasks share one encoder; trained ones have their own."""
    make_strategy = STRATEGIES[settings.learn.strategy]
    learners: dict[str, Learner] = {}
    shared: Encoder | None = None
    for name, task in settings.tasks.items():
        kind = task_kind(task.kind)
        encoder = shared or load_encoder(settings)
        strategy = make_strategy(
            StrategyConfig(
                kind=kind,
                encoder=encoder,
                replay=memories[name],
                replay_rows=settings.learn.replay_rows,
                learning_rate=settings.learn.learning_rate,
                head_learning_rate=settings.learn.head_learning_rate,
                projection_width=settings.learn.projection_width,
                head=settings.learn.head,
                head_metric=settings.learn.head_metric,
                name_weight=1.0 if settings.learn.label_names else 0.0,
                consolidate_every=settings.learn.consolidate_every,
                strength=settings.learn.strength,
                decay=settings.learn.decay,
                epochs=settings.learn.epochs,
                stored_rows=settings.learn.stored_rows,
                stored_logits=settings.learn.stored_logits,
                plugin=settings.learn.plugin,
                plugin_arguments=json.loads(settings.learn.plugin_arguments),
                seed=settings.learn.seed,
            )
        )
        shared = None if strategy.trains_encoder else encoder
        learners[name] = Learner(
            name, kind=kind, strategy=strategy, held_out_share=settings.replay.held_out_share
        )
    return learners


def make_releasers(
    settings: Settings, learners: Mapping[str, Learner], memories: Mapping[str, ReplayMemory]
) -> dict[str, Releaser]:
    """Build a releaser a task, all over one registry."""
    registry = Registry(settings.store_url)
    rules = GateRules(
        margin=settings.gate.margin,
        label_loss=settings.gate.label_loss,
        min_label_rows=settings.gate.min_label_rows,
    )
    return {
        name: Releaser(
            learner,
            registry=registry,
            memory=memories[name],
            rules=rules,
            rows=settings.gate.rows,
            keep=settings.store.keep,
        )
        for name, learner in learners.items()
    }


class LearnMetrics:
    """Turns the learn loop's reports into metrics and log lines.

    Args:
        metrics: of this process.
        learners: asked for what they know.
    """

    def __init__(self, metrics: Metrics, learners: Mapping[str, Learner]) -> None:
        self.metrics = metrics
        self.learners = learners

    def learned(self, task: str, report: StepReport, *, seconds: float) -> None:
        """Count a micro-batch."""
        self.metrics.examples_learned_total.labels(task).inc(report.rows)
        self.metrics.learn_step_seconds.labels(task).observe(seconds)
        self.metrics.labels.labels(task).set(len(self.learners[task].labels))

    def judged(self, task: str, verdict: Verdict) -> None:
        """Count a gate decision and say it."""
        report = verdict.report
        decision = "accepted" if report.accepted else "rejected"
        self.metrics.gate_decisions_total.labels(task, decision).inc()
        self.metrics.gate_score.labels(task, "challenger").set(report.challenger)
        if report.champion is not None:
            self.metrics.gate_score.labels(task, "champion").set(report.champion)
        if verdict.release is not None:
            log.info("%s: released %s: %s", task, verdict.release.version, report.reason)
        else:
            log.info("%s: candidate refused: %s", task, report.reason)

    def checkpointed(self, *, size_bytes: int, at: datetime) -> None:
        """Note a checkpoint."""
        self.metrics.checkpoint_timestamp_seconds.set(at.timestamp())
        self.metrics.checkpoint_bytes.set(size_bytes)

    def lag(self, topic: str, partition: int, messages: int) -> None:
        """Note how far behind the loop is."""
        self.metrics.consumer_lag_messages.labels(topic, str(partition)).set(messages)
