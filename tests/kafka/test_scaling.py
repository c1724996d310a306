"""Serve workers come and go under load on a real cluster: 1, 2, 4 and 1 again; nothing is skipped.

One answer an interaction is promised, not exactly one: a worker that leaves may have answered what
it did not acknowledge. The work is divided while there are several.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from learners.model import Encoder
from learners.registry import Registry
from mindstream.clients import make_topics
from mindstream.settings import load_settings
from schemas import Interaction, Prediction, codec
from streams.flow import SERVE_IN_FLIGHT
from streams.topics import Topics
from tests.deployment import Deployment, running
from tests.foundry import Foundry, encoder

__all__ = ["encoder"]

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

WORKERS = ("serve-1", "serve-2", "serve-3", "serve-4")
RATE = 150.0  # rows a second: less than one worker can do on a machine that is not at rest
MAY_REPEAT = SERVE_IN_FLIGHT * 1_024  # what a worker that leaves may have answered in vain
WORDS = ("parcel", "refund", "money", "where", "order", "late", "package", "please")


class Sender:
    """Sends interactions at a rate until it is told to stop.

    Args:
        servers: brokers.
        topic: of interactions.
    """

    def __init__(self, servers: str, topic: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=servers, linger_ms=2, acks="all")
        self._topic = topic
        self._over = threading.Event()
        self.sent: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until the broker has all of it."""
        self._over.set()
        self._thread.join()
        self._producer.flush()
        self._producer.close()

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._over.is_set():
            number = len(self.sent)
            time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
            row = Interaction(
                id=f"i{number}",
                user=f"u{number % 101}",
                task="intents",
                time=datetime.now(UTC),
                text=f"{WORDS[number % 8]} {WORDS[number // 8 % 8]} {number}",
            )
            self._producer.send(self._topic, key=row.user.encode(), value=codec.encode(row))
            self.sent.append(row.id)


class Group:
    """Serve workers of one consumer group.

    Args:
        folder: data and logs of all.
        overrides: settings.
    """

    def __init__(self, folder: Path, overrides: Mapping[str, Any]) -> None:
        self._folder = folder
        self._overrides = overrides
        self._workers: dict[str, tuple[ExitStack, Deployment]] = {}

    def come(self, *names: str) -> None:
        """Start workers, and wait until each is ready."""
        for name in names:
            own = ExitStack()
            started = own.enter_context(running([name], self._folder, self._overrides))
            self._workers[name] = (own, started)
        for name in names:
            self[name].wait(f"{name} is ready", partial(self[name].ready, name), timeout_s=120)

    def go(self, *names: str) -> None:
        """Stop workers in order."""
        for name in names:
            self._workers.pop(name)[0].close()

    def wait_busy(self, *names: str) -> None:
        """Wait until each of some workers has answered something from now on."""
        before = {name: self._answered(name) for name in names}
        for name in names:
            self[name].wait(
                f"{name} answers",
                lambda name=name: self._answered(name) > before[name],  # type: ignore[misc]
                timeout_s=60,
            )

    def __getitem__(self, name: str) -> Deployment:
        """Give the deployment that a worker is."""
        return self._workers[name][1]

    def close(self) -> None:
        """Stop all."""
        self.go(*self._workers)

    def _answered(self, name: str) -> float:
        return sum(
            value
            for (metric, _), value in self[name].metrics(name).items()
            if metric == "mindstream_predictions_total"
        )


@pytest.fixture
def group(broker: str, redis_server: str, tmp_path: Path, encoder: Encoder) -> Iterator[Group]:
    """Make topics and a release, and one worker that answers with it.

    Yields:
        The group.
    """
    name = f"scale-{os.getpid()}"
    overrides = {
        "kafka.servers": broker,
        "kafka.prefix": name,
        "kafka.partitions": 8,
        "kafka.session_timeout_s": 6,
        "redis.url": redis_server,
        "redis.namespace": name,
        "model.engine": "torch",
        "model.precision": "fp32",
        "model.threads": 1,
    }
    settings = load_settings(overrides={"data_dir": str(tmp_path), **overrides})
    make_topics(settings)
    registry = Registry(settings.store_url)
    made = Foundry(registry, encoder, registry.put_blobs(encoder.blobs()), tmp_path).release()
    producer = KafkaProducer(bootstrap_servers=broker)
    producer.send(
        Topics(settings.kafka.prefix).models, key=b"intents", value=codec.encode(made)
    ).get(30)
    producer.close()
    group = Group(tmp_path, overrides)
    try:
        group.come("serve-1")
        yield group
    finally:
        group.close()


def test_workers_come_and_go_and_every_interaction_is_answered(broker: str, group: Group) -> None:
    # When there come to be 2, then 4, then 1 again, while interactions keep coming
    first = group["serve-1"]
    sender = Sender(broker, first.topics.interactions)
    try:
        group.wait_busy("serve-1")
        group.come("serve-2")
        group.wait_busy("serve-1", "serve-2")
        group.come("serve-3", "serve-4")
        group.wait_busy(*WORKERS)
        group.go("serve-2", "serve-3", "serve-4")
        group.wait_busy("serve-1")
    finally:
        sender.stop()

    # Then each has an answer, and hardly any has two
    def answers() -> list[Prediction]:
        values = first.read_all(first.topics.predictions)
        return [codec.decode(Prediction, value) for _, _, value in values]

    first.wait(
        "all are answered",
        lambda: {answer.interaction for answer in answers()} >= set(sender.sent),
        timeout_s=120,
    )
    counts = Counter(answer.interaction for answer in answers())
    assert counts.keys() == set(sender.sent)
    assert counts.total() - len(counts) <= len(WORKERS) * MAY_REPEAT
    assert {answer.status for answer in answers()} == {"ok"}
