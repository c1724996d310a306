"""What came of labels: a thread that reads topics of a deployment, and each label's way on them.

Owns when an example, a release and a first answer were read; must not know who sends, or what is
made of it.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from benchmarks.deployment import Deployment
from schemas import Example, ModelRelease, Prediction, codec


@dataclass(slots=True)
class Seen:
    """What came on the topics, with the time at which it was read.

    Attributes:
        examples: interaction id to partition, offset and time.
        releases: place in order, positions and time, as they came.
        answered: place of the answering release to the time of its first prediction.
        predictions: how many came.
    """

    examples: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    releases: list[tuple[int, dict[str, int], float]] = field(default_factory=list)
    answered: dict[int, float] = field(default_factory=dict)
    predictions: int = 0


class Reader:
    """Reads three topics on a thread.

    Args:
        deployed: whose.
    """

    def __init__(self, deployed: Deployment) -> None:
        self.seen = Seen()
        self._topics = deployed.topics
        self.examples = deployed.topics.examples
        self._consumer = Consumer(
            {
                "bootstrap.servers": deployed.servers,
                "log_level": 0,
                "group.id": f"staleness-{os.getpid()}",
                "fetch.wait.max.ms": 5,
                "enable.auto.commit": False,
            }
        )
        topics = (self._topics.examples, self._topics.models, self._topics.predictions)
        self._consumer.assign(
            [
                TopicPartition(topic, number, 0)
                for topic in topics
                for number in self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
            ]
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader")
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(1_000, 0.01):
                if not message.error():
                    self._note(message, time.monotonic())

    def _note(self, message: Any, now_s: float) -> None:  # noqa: ANN401
        value = message.value()
        if message.topic() == self._topics.examples:
            example = codec.decode(Example, value)
            self.seen.examples[example.id] = (message.partition(), message.offset(), now_s)
        elif message.topic() == self._topics.models:
            release = codec.decode(ModelRelease, value)
            self.seen.releases.append((_place(release.version), dict(release.positions), now_s))
        else:
            self.seen.predictions += 1
            prediction = codec.decode(Prediction, value)
            if prediction.release is not None:
                self.seen.answered.setdefault(_place(prediction.release), now_s)


def _place(version: str) -> int:
    return int(version.split("-")[0])


def follow(labelled: dict[str, float], seen: Seen, examples: str) -> list[tuple[float, ...] | None]:
    """Follow every label: seconds to its example, to its release, to the first answer.

    Args:
        labelled: interaction id to the time of sending.
        seen: what was read.
        examples: name of the topic.

    Returns:
        One entry a label; None where its way could not be followed to its end.
    """
    ways: list[tuple[float, ...] | None] = []
    # The reader goes on meanwhile; one call copies a list or a dictionary as it is.
    releases, answered = seen.releases.copy(), list(seen.answered.copy().items())
    for id_, sent_s in labelled.items():
        way: tuple[float, ...] | None = None
        if id_ in seen.examples:
            partition, offset, made_s = seen.examples[id_]
            key = f"{examples}/{partition}"
            knows = [(p, s) for p, places, s in releases if places.get(key, 0) > offset]
            if knows:
                first, released_s = min(knows)
                known = [s for place, s in answered if place >= first]
                if known:
                    way = (made_s - sent_s, released_s - sent_s, min(known) - sent_s)
        ways.append(way)
    return ways
