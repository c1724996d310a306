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


class Picky:
    """Stands where releases do; a fault of its own with the first one it is offered."""

    settled = True

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.offered = 0

    def offer(self, release: ModelRelease) -> None:
        self.offered += 1
        if self.offered == 1:
            raise RuntimeError("a damaged release")
        self.taken.append(release.version)


async def test_neither_a_fault_nor_a_damaged_release_stops_the_releases_after_it(
    wire: Wire, foundry: Foundry, caplog: pytest.LogCaptureFixture
) -> None:
    # Given two releases, the first of which cannot be taken, and a client that fails at first
    topic, tried = "faulty.models", list[int]()
    metrics, releases = Metrics(CollectorRegistry()), Picky()

    def connect() -> KafkaConsumer:
        tried.append(1)
        if len(tried) == 1:
            raise ValueError("a fault that is no KafkaError")
        return KafkaConsumer(bootstrap_servers=wire.servers, fetch_max_wait_ms=20)

    wire.send(topic, [("intents", foundry.release()), ("intents", second := foundry.release())])
    reader = ModelsReader(connect, topic=topic, releases=releases, metrics=metrics)  # type: ignore[arg-type]

    # When the reader runs, then the second is taken, and both faults are said with their traceback
    reader.start()
    await eventually(lambda: reader.ready)
    assert releases.taken == [second.version]
    assert reader.alive
    assert "a fault that is no KafkaError" in caplog.text
    assert "a damaged release" in caplog.text
    skipped = metrics.registry.get_sample_value(
        "mindstream_messages_skipped_total", {"topic": topic}
    )
    assert skipped == 1
    reader.stop()
