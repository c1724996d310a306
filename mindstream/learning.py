"""Builds the learners of all tasks, and turns what they report into metrics.

Owns which setting goes where in the learn role; imports torch and Avalanche, so only that role
imports it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial

from prometheus_client import Gauge

from learners.background import Consolidator, Outcome, Schedule
from learners.consolidation import ConsolidationConfig
from learners.curation import Curation, DataRules
from learners.data.adaptation import AdaptationConfig, ObjectiveName, choose_objective
from learners.data.adversarial import ADVERSARIES
from learners.gate import ONE_LOOK, GateRules
from learners.kept import FeatureSource
from learners.loop import Learner, StepReport
from learners.model import Encoder
from learners.registry import Registry
from learners.releasing import Releaser, Verdict
from learners.replay import ReplayMemory
from learners.slow import SlowHalf
from learners.strategies import STRATEGIES, StrategyConfig
from learners.strategies.two_speed import TwoSpeed
from learners.tasks import task_kind
from learners.tuning import TuningConfig
from mindstream.backbone import load_encoder
from mindstream.settings import Settings
from schemas import GateFigures, GateReport
from serving.metrics import Metrics
from streams.unlabelled import UnlabelledTexts

log = logging.getLogger("mindstream")


def make_learners(
    settings: Settings, memories: Mapping[str, ReplayMemory], *, kept: FeatureSource
) -> dict[str, Learner]:
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
                tuning=settings.learn.tuning,
                tuning_rank=settings.learn.tuning_rank,
                virtual_tokens=settings.learn.virtual_tokens,
                learning_rate=settings.learn.learning_rate,
                head_learning_rate=settings.learn.head_learning_rate,
                projection_width=settings.learn.projection_width,
                head=settings.learn.head,
                head_metric=settings.learn.head_metric,
                name_weight=1.0 if settings.learn.label_names else 0.0,
                words=settings.learn.words,
                consolidate_every=settings.learn.consolidate_every,
                strength=settings.learn.strength,
                decay=settings.learn.decay,
                epochs=settings.learn.epochs,
                stored_rows=settings.learn.stored_rows,
                stored_logits=settings.learn.stored_logits,
                plugin=settings.learn.plugin,
                plugin_arguments=json.loads(settings.learn.plugin_arguments),
                seed=settings.learn.seed,
                features=kept,
            )
        )
        shared = None if strategy.trains_encoder else encoder
        learners[name] = Learner(
            name, kind=kind, strategy=strategy, held_out_share=settings.replay.held_out_share
        )
    return learners


def gate_rules(settings: Settings) -> GateRules:
    """Say what a candidate may lose."""
    return GateRules(
        margin=settings.gate.margin,
        label_loss=settings.gate.label_loss,
        slice_loss=settings.gate.slice_loss,
        calibration_loss=settings.gate.calibration_loss,
        min_label_rows=settings.gate.min_label_rows,
    )


def make_releasers(
    settings: Settings,
    learners: Mapping[str, Learner],
    memories: Mapping[str, ReplayMemory],
    *,
    kept: FeatureSource,
) -> dict[str, Releaser]:
    """Build a releaser a task, all over one registry."""
    registry = Registry(settings.store_url)
    return {
        name: Releaser(
            learner,
            registry=registry,
            memory=memories[name],
            rules=gate_rules(settings),
            rows=settings.gate.rows,
            keep=settings.store.keep,
            features=kept,
        )
        for name, learner in learners.items()
    }


_OBJECTIVES: Mapping[str, ObjectiveName] = {"mlm": "masked", "contrastive": "contrastive"}


def consolidation_config(settings: Settings) -> ConsolidationConfig:
    """Say how the slow half trains."""
    rules, data = settings.consolidation, settings.data
    return ConsolidationConfig(
        epochs=rules.epochs,
        batch_rows=rules.batch_rows,
        learning_rate=rules.learning_rate,
        adversarial=ADVERSARIES[data.adversarial],
        adapt_epochs=0 if data.adapt == "off" else data.adapt_epochs,
        adapt=_OBJECTIVES.get(data.adapt, "auto"),
        tuning=TuningConfig(
            method=rules.tuning,
            rank=settings.learn.tuning_rank,
            virtual_tokens=settings.learn.virtual_tokens,
        ),
        blend=rules.blend,
        seed=settings.learn.seed,
    )


def data_rules(settings: Settings) -> DataRules:
    """Say what of memory the slow half trains on."""
    return DataRules(
        clean=settings.data.clean,
        near_duplicates=settings.data.near_duplicates,
        label_noise=settings.data.label_noise,
        pseudo_labels=settings.data.pseudo_labels,
        augment=settings.data.augment,
        back_translate=settings.data.back_translate,
    )


def make_consolidators(
    settings: Settings,
    learners: Mapping[str, Learner],
    memories: Mapping[str, ReplayMemory],
    unlabelled: UnlabelledTexts,
) -> dict[str, Consolidator]:
    """Build a consolidator a task; none where the strategy trains the encoder itself.

    A `back_translate` that cannot be imported is a `SettingsError`, and an adaptation that does not
    fit the encoder an `EncoderError`: both are said now, not when the first one is due.
    """
    rules = settings.consolidation
    if not rules.enabled:
        return {}
    schedule = Schedule(
        rows=rules.rows,
        growth=rules.growth,
        idle_s=rules.idle_s,
        idle_growth=rules.idle_growth,
        every_s=rules.every_s,
        drift_rows=rules.drift_rows,
    )
    config = consolidation_config(settings)
    curation = Curation(data_rules(settings), seed=settings.learn.seed)
    if config.adapt_epochs:
        for learner in learners.values():
            choose_objective(learner.strategy.encoder, AdaptationConfig(objective=config.adapt))
    return {
        name: Consolidator(
            learner,
            partial(
                SlowHalf,
                learner,
                memories[name],
                config=config,
                # Else the learner might go on with what it then may not release.
                rules=replace(gate_rules(settings), unjudged=False, errors=ONE_LOOK),
                held_out_rows=settings.replay.held_out_rows,
                curation=curation,
                unlabelled=partial(unlabelled.read, name),
            ),
            schedule=schedule,
            clock_s=time.monotonic,
        )
        for name, learner in learners.items()
        if isinstance(learner.strategy, TwoSpeed)
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
        best = report.challenger if report.accepted else None  # by itself, if by no other
        best = best if report.best_score is None else report.best_score
        if best is not None:
            self.metrics.gate_score.labels(task, "best").set(best)
        for part, figures in (("oldest", report.oldest), ("newest", report.newest)):
            _set_both(self.metrics.gate_slice_score, (task, part), figures)
        _set_both(self.metrics.gate_calibration_error, (task,), report.calibration)
        said = f"{report.reason}{_other_figures(report)}"
        if verdict.release is not None:
            log.info("%s: released %s: %s", task, verdict.release.version, said)
        else:
            log.info("%s: candidate refused: %s", task, said)

    def consolidating(self, task: str, done: int, steps: int) -> None:
        """Note how far a consolidation is."""
        self.metrics.consolidation_progress.labels(task).set(done / max(steps, 1))

    def consolidated(self, task: str, outcome: Outcome) -> None:
        """Count a consolidation and say what became of it."""
        self.metrics.consolidations_total.labels(task, outcome.what).inc()
        self.metrics.consolidation_seconds.labels(task).set(outcome.seconds)
        if outcome.curated is not None:
            for what, rows in asdict(outcome.curated).items():
                self.metrics.consolidation_rows.labels(task, what).set(rows)
        log.info(
            "%s: consolidation %s after %.0f s: %s%s",
            task,
            outcome.what,
            outcome.seconds,
            outcome.reason,
            f"; {outcome.curated}" if outcome.curated else "",
        )

    def checkpointed(self, *, size_bytes: int, at: datetime) -> None:
        """Note a checkpoint."""
        self.metrics.checkpoint_timestamp_seconds.set(at.timestamp())
        self.metrics.checkpoint_bytes.set(size_bytes)

    def lag(self, topic: str, partition: int, messages: int) -> None:
        """Note how far behind the loop is."""
        self.metrics.consumer_lag_messages.labels(topic, str(partition)).set(messages)


def _set_both(gauge: Gauge, labels: tuple[str, ...], figures: GateFigures | None) -> None:
    """Show what there is of both sides."""
    if figures is None:
        return
    gauge.labels(*labels, "challenger").set(figures.challenger)
    if figures.champion is not None:
        gauge.labels(*labels, "champion").set(figures.champion)


def _other_figures(report: GateReport) -> str:
    """Say the figures that are not in the gate's sentence; nothing where there are none."""
    named = (
        ("oldest", report.oldest),
        ("newest", report.newest),
        ("calibration error", report.calibration),
    )
    said = [
        f"; {name} {figures.challenger:.3f}"
        + ("" if figures.champion is None else f" after {figures.champion:.3f}")
        for name, figures in named
        if figures is not None
    ]
    if report.best_score is not None:
        said.append(f"; the best so far has {report.best_score:.3f}")
    if report.left_out:
        said.append(f"; {report.left_out} rows of changed labels left out")
    return "".join(said)
