"""Reads the compacted `models` topic into the releases that serve.

Every server reads all of it from the beginning, without a group: the newest release of each task is
there, however long ago it was made. Owns the background thread and that it never gives up: neither
on a broker that is away, nor because of one release. Must not know what a release is made of.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from schemas import ModelRelease, codec
from schemas.errors import MessageError
from serving.metrics import Metrics
from serving.releases import Releases

log = logging.getLogger(__name__)

POLL_MS = 200
RETRY_FIRST_S = 0.2
RETRY_LAST_S = 5.0


class ModelsReader:
    """A thread that offers every release on the topic, in order, for ever.

    Args:
        make_consumer: builds a kafka-python consumer without a group or a subscription.
        topic: full name of the `models` topic.
        releases: where they are offered.
        metrics: where undecodable ones are counted.
    """

    def __init__(
        self,
        make_consumer: Callable[[], KafkaConsumer],
        *,
        topic: str,
        releases: Releases,
        metrics: Metrics,
    ) -> None:
        self._make_consumer = make_consumer
        self._topic = topic
        self._releases = releases
        self._metrics = metrics
        self._wait_s = RETRY_FIRST_S
        self._stopping = threading.Event()
        self._read_to_end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether all that was on the topic at the start was read, and loaded or refused."""
        return self._read_to_end.is_set() and self._releases.settled

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, and wait for the thread's end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                consumer = self._make_consumer()
                try:
                    self._follow(consumer)
                finally:
                    consumer.close()
            except (KafkaError, OSError) as error:
                self._wait(f"{type(error).__name__}: {error}")
            # A fault here would leave the server on an old release for ever, in silence.
            except Exception:
                log.exception("%s: reading it failed", self._topic)
                self._wait("reading it failed")

    def _wait(self, what: str) -> None:
        log.warning("%s: %s; trying again in %.1f s", self._topic, what, self._wait_s)
        self._stopping.wait(self._wait_s)
        self._wait_s = min(2 * self._wait_s, RETRY_LAST_S)

    def _follow(self, consumer: KafkaConsumer) -> None:
        partitions = self._assign(consumer)
        ends = consumer.end_offsets(partitions) if partitions else {}
        while not self._stopping.is_set():
            for records in consumer.poll(timeout_ms=POLL_MS).values():
                for record in records:
                    self._offer(record)
            self._wait_s = RETRY_FIRST_S
            if not self._read_to_end.is_set() and all(
                consumer.position(partition) >= end for partition, end in ends.items()
            ):
                self._read_to_end.set()

    def _assign(self, consumer: KafkaConsumer) -> list[TopicPartition]:
        """Take all partitions from the beginning; wait for the topic where there is none yet."""
        while not self._stopping.is_set():
            numbers = consumer.partitions_for_topic(self._topic)
            if numbers:
                partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
                consumer.assign(partitions)
                consumer.seek_to_beginning(*partitions)
                return partitions
            self._stopping.wait(RETRY_FIRST_S)
        return []

    def _offer(self, record: Any) -> None:  # noqa: ANN401
        if record.value is None:  # a tombstone: the task is gone from the topic
            return
        try:
            release = codec.decode(ModelRelease, record.value, record.headers)
        except MessageError as error:
            self._metrics.messages_skipped_total.labels(self._topic).inc()
            log.warning(
                "%s:%d:%d is no release: %s",
                self._topic,
                record.partition,
                record.offset,
                error.reason,
            )
            return
        try:
            self._releases.offer(release)
        # Whatever is wrong with one release, those after it must be reached.
        except Exception:
            self._metrics.messages_skipped_total.labels(self._topic).inc()
            log.exception("%s:%d:%d is passed over", self._topic, record.partition, record.offset)
