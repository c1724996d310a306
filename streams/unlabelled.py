"""Reads the newest texts without labels from `interactions`, for whoever can learn from them.

Owns which interactions may be used; must not know what they are used for. A read has a consumer of
its own, without a group, and leaves nothing behind: the topic itself is the store, and what its
retention deletes is gone here too. Never used are interactions without consent, those that are held
out by their id, and those that their task cannot read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from learners.holdout import is_held_out
from learners.tasks import TaskKind
from schemas import Interaction, codec
from schemas.errors import MessageError

log = logging.getLogger(__name__)

POLL_MS = 200
PATIENCE_S = 60.0  # of one read; then what came so far is used


class UnlabelledTexts:
    """The newest texts of each task.

    Args:
        make_consumer: builds a kafka-python consumer without a group or a subscription.
        topic: full name of the `interactions` topic.
        kinds: of the tasks.
        held_out_share: share of ids that never trains, 0 to 1.
        rows: texts of a read, at most; of each partition as many messages are read.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        make_consumer: Callable[[], KafkaConsumer],
        *,
        topic: str,
        kinds: Mapping[str, TaskKind],
        held_out_share: float,
        rows: int,
        clock_s: Callable[[], float],
    ) -> None:
        self._make_consumer = make_consumer
        self._topic = topic
        self._kinds = kinds
        self._held_out_share = held_out_share
        self._rows = rows
        self._clock_s = clock_s

    def read(self, task: str) -> list[str]:
        """Read the newest texts of a task, oldest first, no text twice.

        May be called in any thread; takes up to a minute.
        """
        found: dict[str, tuple[int, str]] = {}  # id to arrival, ms, and text
        refused: set[str] = set()
        consumer = self._make_consumer()
        try:
            for record in self._newest(consumer):
                message = self._decoded(record.value)
                if message is None or message.task != task:
                    continue
                if not message.consent:
                    refused.add(message.id)
                elif not is_held_out(message.id, share=self._held_out_share):
                    text = self._text(message)
                    if text is not None:
                        found.setdefault(message.id, (record.timestamp, text))
        finally:
            consumer.close()
        texts = [one for id_, one in found.items() if id_ not in refused]
        texts.sort(key=lambda one: one[0])  # of one moment: in the order of their partition
        newest = list(dict.fromkeys(text for _, text in reversed(texts)))[: self._rows]
        log.info("%s: %d texts without labels to learn from", task, len(newest))
        return newest[::-1]

    def _newest(self, consumer: KafkaConsumer) -> list[Any]:
        """Read the last `rows` records of every partition."""
        numbers = consumer.partitions_for_topic(self._topic) or ()
        partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        if not partitions:
            return []
        consumer.assign(partitions)
        first, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, max(first[partition], ends[partition] - self._rows))
        records: list[Any] = []
        deadline_s = self._clock_s() + PATIENCE_S
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for batch in consumer.poll(timeout_ms=POLL_MS).values():
                records += batch
            if self._clock_s() > deadline_s:
                log.warning("%s: not read to its end within %.0f s", self._topic, PATIENCE_S)
                break
        return records

    def _decoded(self, value: bytes | None) -> Interaction | None:
        """Read an interaction; None where it is none, which is for ingest to say."""
        try:
            return codec.decode(Interaction, value)
        except MessageError:
            return None

    def _text(self, message: Interaction) -> str | None:
        try:
            return self._kinds[message.task].input_text(message.text, message.features)
        except MessageError:
            return None
