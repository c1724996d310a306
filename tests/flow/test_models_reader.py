"""The reader of releases: starts from the beginning, and never gives up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from kafka import KafkaConsumer
from prometheus_client import CollectorRegistry

from learners.released import EncoderCache, ReleasedModel
from schemas import ModelRelease
from serving.metrics import Metrics
from serving.releases import Releases
from streams.models import ModelsReader
from tests.flow.conftest import Wire, eventually, free_port
from tests.foundry import Foundry


async def test_a_reader_waits_for_a_broker_that_is_away_and_then_reads_all_from_the_beginning(
    wire: Wire, foundry: Foundry, caplog: pytest.LogCaptureFixture
) -> None:
    # Given three releases and a tombstone on the topic, and an address where nobody answers
    topic, tried = "reader.models", list[str]()
    encoders, metrics = EncoderCache(device="cpu", precision="fp32"), Metrics(CollectorRegistry())

    def load(release: ModelRelease) -> ReleasedModel:
        return ReleasedModel.load(release, foundry.registry, encoders=encoders)

    def connect() -> KafkaConsumer:
        away = len(tried) < 2
        tried.append(f"127.0.0.1:{free_port()}" if away else wire.servers)
        return KafkaConsumer(
            bootstrap_servers=tried[-1], fetch_max_wait_ms=20, api_version_auto_timeout_ms=500
        )

    releases = Releases(
        load,
        metrics=metrics,
        now=lambda: datetime.now(UTC),
        tasks=frozenset({"intents"}),
    )
    history = [foundry.release() for _ in range(3)]
    wire.send(topic, [("intents", release) for release in history])
    wire.send(topic, [("intents", b"")])
    reader = ModelsReader(connect, topic=topic, releases=releases, metrics=metrics)
    assert not reader.ready
    assert not reader.alive

    # When it starts
    reader.start()
    await eventually(lambda: reader.ready)

    # Then it said so, came back, and the newest serves
    assert len(tried) == 3
    assert "NoBrokersAvailable" in caplog.text
    assert releases.current()["intents"].release.version == history[-1].version

    # and what comes later is taken too
    later = foundry.release()
    wire.send(topic, [("intents", later)])
    await eventually(lambda: releases.current()["intents"].release.version == later.version)
    reader.stop()
    assert not reader.alive
    releases.close()
