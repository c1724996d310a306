"""The watch role over a real wire and a real Redis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import faust
import pytest
import redis as redis_client
from prometheus_client import CollectorRegistry

from learners.tasks import task_kind
from schemas import DriftSignal, Example, Prediction
from serving.drift import Adwin, PageHinkley
from serving.metrics import CONTENT_TYPE, Metrics
from serving.pairing import Pairing
from serving.watcher import Watcher
from streams.flow import watch_flow
from streams.topics import Topics
from streams.watch import Watch
from tests.flow.conftest import Launch, Wire, eventually

THEN = datetime(2026, 1, 2, tzinfo=UTC)
RELEASE = "000007-0123abcd"


def prediction(number: int, *, right: bool, ok: bool = True) -> Prediction:
    return Prediction(
        interaction=f"i{number}",
        task="intents",
        time=THEN,
        status="ok" if ok else "no-release",
        label=("refund" if right else "greeting") if ok else None,
        score=0.9 if ok else None,
        release=RELEASE if ok else None,
    )


def example(number: int, *, revision: int = 1, label: str = "refund") -> Example:
    return Example(
        id=f"i{number}",
        user=f"u{number % 5}",
        task="intents",
        time=THEN,
        labelled_at=THEN + timedelta(seconds=30),
        label=label,
        text="my money back",
        revision=revision,
    )


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "stock"])
async def test_watching_scores_each_pair_once_and_signals_drift(
    wire: Wire, launch: Launch, redis: redis_client.Redis, *, fast: bool
) -> None:
    # Given 600 answers of which the last 200 are wrong, 10 made before any release, with truths
    # that come in another order, twice, and with corrections; and bytes that are no message
    topics = Topics(f"watch-flow-{fast}")
    metrics = Metrics(CollectorRegistry())
    watch = Watch(
        topics=topics,
        pairing=Pairing(redis, namespace="flow", ttl_s=600.0, remember_s=600.0),
        watcher=Watcher(
            {"intents": task_kind("classify")},
            window=100,
            detectors={"error": Adwin, "confidence": PageHinkley},
        ),
        metrics=metrics,
    )
    answers = [prediction(n, right=n < 400, ok=n >= 10) for n in range(600)]
    truths = [example(n) for n in range(600)]
    corrections = [example(n, revision=2, label="greeting") for n in range(0, 600, 7)]

    def attach(app: faust.App) -> None:
        watch_flow(app, watch, metrics)

    def joined() -> float:
        value = metrics.registry.get_sample_value(
            "mindstream_predictions_joined_total", {"task": "intents"}
        )
        return value or 0.0

    wire.send(topics.predictions, [("x", b"{not json"), *((a.interaction, a) for a in answers)])
    wire.send(topics.examples, [("u", example(10_000)), *((t.user, t) for t in truths[::2])])
    async with launch(f"watch-flow-{fast}", attach, fast=fast) as role:
        # When half of the truths come, then all, with repeats and corrections
        await eventually(lambda: joined() == 295)
        again = [*truths, *corrections]
        wire.send(topics.examples, [(t.user, t) for t in again])
        wire.send(topics.predictions, [(a.interaction, a) for a in answers[:300]])
        await eventually(lambda: joined() >= 590)
        marker = example(20_000)  # behind all others of its user, so that those have been read
        wire.send(topics.examples, [(marker.user, marker)])
        await eventually(lambda: redis.exists("flow:pair:i20000"))

        # Then every pair was scored once, by its first label
        _, content_type, text = await role.page("/metrics")
        assert content_type == CONTENT_TYPE
        assert 'mindstream_predictions_joined_total{task="intents"} 590.0' in text
        assert 'mindstream_predictions_unscored_total{task="intents"} 10.0' in text
        assert f'mindstream_messages_skipped_total{{topic="{topics.predictions}"}} 1.0' in text
        lifetime = metrics.registry.get_sample_value(
            "mindstream_prequential_accuracy_lifetime", {"task": "intents"}
        )
        assert lifetime == 390 / 590
        # and the drift was said, on the topic, with the release that answered
        drifts = await eventually(
            lambda: [s for s in wire.read(topics.drift, DriftSignal) if s.level == "drift"]
        )
        assert {(s.task, s.signal, s.detector, s.release) for s in drifts} == {
            ("intents", "error", "adwin", RELEASE)
        }
        assert await role.json("/readyz") == (
            200,
            {"status": "ok", "checks": {"partitions-assigned": True}},
        )
