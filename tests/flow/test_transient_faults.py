"""A broker that is away for a moment: handlers are called again, and effects happen once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis as redis_client
from aiokafka.errors import KafkaConnectionError
from prometheus_client import CollectorRegistry

from learners.tasks import task_kind
from schemas import DriftSignal, Example, Prediction, codec
from schemas.codec import Contract
from serving.batcher import MicroBatcher
from serving.drift import Adwin
from serving.metrics import Metrics
from serving.pairing import Pairing
from serving.predictor import Predictor
from serving.releases import Releases
from serving.watcher import Watcher
from streams.decoding import Limits, Record
from streams.serve import Serve
from streams.topics import Topics
from streams.watch import Watch
from tests.foundry import interaction
from tests.producing import MemoryApp

THEN = datetime(2026, 1, 2, tzinfo=UTC)
TOPICS = Topics("faults")


class FlakyApp(MemoryApp):
    """Refuses the first batches."""

    def __init__(self, *, refuses: int) -> None:
        super().__init__()
        self.refuses = refuses

    def refuse(self, values: list[bytes]) -> None:
        if self.refuses:
            self.refuses -= 1
            raise KafkaConnectionError("away")


def records(topic: str, messages: list[Contract]) -> list[Record]:
    return [
        Record(topic, 0, offset, None, codec.encode(message), (), 0)
        for offset, message in enumerate(messages)
    ]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def releases(metrics: Metrics) -> Iterator[Releases]:
    """Serve nothing yet.

    Yields:
        Releases that nobody offers anything to.
    """

    def never(release: Any) -> Any:
        raise AssertionError(release)

    served = Releases(never, metrics=metrics, now=lambda: THEN, tasks=frozenset({"intents"}))
    yield served
    served.close()


async def test_predictions_that_could_not_be_sent_are_sent_again_and_counted_once(
    metrics: Metrics, releases: Releases
) -> None:
    predictor = Predictor(
        {"intents": task_kind("classify")}, top=1, now=lambda: THEN, monotonic_s=lambda: 0.0
    )
    batcher = MicroBatcher(predictor, releases.current)
    serve = Serve(
        topics=TOPICS, batcher=batcher, releases=releases, metrics=metrics, limits=Limits()
    )
    app = FlakyApp(refuses=1)
    batch = records(TOPICS.interactions, [interaction(str(number)) for number in range(3)])
    answered = await serve.answer(batch)
    with pytest.raises(KafkaConnectionError):
        await serve.publish(app, answered)  # type: ignore[arg-type]
    await serve.publish(app, answered)  # type: ignore[arg-type]
    answers = [codec.decode(Prediction, value) for _, value in app.sent]
    assert [answer.interaction for answer in answers] == ["0", "1", "2"]
    labels = {"task": "intents", "status": "no-release"}
    assert metrics.registry.get_sample_value("mindstream_predictions_total", labels) == 3


async def test_a_signal_that_could_not_be_sent_is_sent_with_the_next_try_and_once(
    metrics: Metrics, redis: redis_client.Redis
) -> None:
    # Given 300 right answers and 100 wrong ones, and a broker that goes away as drift is found
    watch = Watch(
        topics=TOPICS,
        pairing=Pairing(redis, namespace="faults", ttl_s=60.0, remember_s=60.0),
        watcher=Watcher({"intents": task_kind("classify")}, window=50, detectors={"error": Adwin}),
        metrics=metrics,
    )
    app = FlakyApp(refuses=1)
    answers: list[Contract] = [
        Prediction(
            interaction=str(number),
            task="intents",
            time=THEN,
            status="ok",
            label="refund" if number < 300 else "greeting",
            score=0.5,
            release="000001-0123abcd",
        )
        for number in range(400)
    ]
    truths: list[Contract] = [
        Example(
            id=str(number),
            user="u",
            task="intents",
            time=THEN,
            labelled_at=THEN,
            label="refund",
            text="money back",
        )
        for number in range(400)
    ]
    await watch.handle_predictions(app, records(TOPICS.predictions, answers))  # type: ignore[arg-type]
    batch = records(TOPICS.examples, truths)
    with pytest.raises(KafkaConnectionError):
        await watch.handle_examples(app, batch)  # type: ignore[arg-type]
    assert app.sent == []

    # When the same batch is handled again, and again
    await watch.handle_examples(app, batch)  # type: ignore[arg-type]
    await watch.handle_examples(app, batch)  # type: ignore[arg-type]

    # Then the signals are on the topic once, and no pair was scored twice
    signals = [codec.decode(DriftSignal, value) for topic, value in app.sent]
    assert [signal.level for signal in signals].count("drift") == 1
    assert len({(signal.level, signal.rows) for signal in signals}) == len(signals)
    joined = metrics.registry.get_sample_value(
        "mindstream_predictions_joined_total", {"task": "intents"}
    )
    assert joined == 400
    lifetime = metrics.registry.get_sample_value(
        "mindstream_prequential_accuracy_lifetime", {"task": "intents"}
    )
    assert lifetime == 0.75
