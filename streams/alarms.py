"""What the watch role found drifted, as the learn role hears it.

Owns the places of the drift topic's partitions in the learner's own consumer; must not know what is
done about a signal. Signals may be heard twice after a kill: places are as old as the checkpoint.
Learning never waits for this topic: one that is not there when the learner starts is not looked for
again before the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from schemas import DriftSignal, codec
from schemas.errors import MessageError

log = logging.getLogger(__name__)


class Alarms:
    """Reads drift signals among the records of a consumer that is assigned other topics too.

    Args:
        consumer: whose assignment includes `partitions()`.
        topic: of the signals.
        skipped: told the topic of a message that is no signal.

    Attributes:
        positions: next offset by "topic/partition".
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        topic: str,
        *,
        skipped: Callable[[str], None] = lambda topic: None,
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._skipped = skipped
        self.positions: dict[str, int] = {}
        self._there = True
        self._found: list[TopicPartition] = []

    def partitions(self) -> list[TopicPartition]:
        """Give the topic's partitions: as the cluster says at first, then as the client knows.

        The client would ask the cluster for a topic that it does not know, and wait.
        """
        if self._there:
            numbers = self._consumer.partitions_for_topic(self._topic) or ()
            self._found = [TopicPartition(self._topic, number) for number in sorted(numbers)]
            self._there = bool(self._found)
        return self._found

    def resume(self, partitions: Sequence[TopicPartition], wanted: Mapping[str, int]) -> None:
        """Go to where a checkpoint stood.

        Without one, go to the end: older signals met no learner. A partition that a checkpoint of
        this topic does not know was added since: all of it is heard.

        Args:
            partitions: of this topic and others, as they are assigned.
            wanted: offsets by "topic/partition", of this topic and others.
        """
        mine = [partition for partition in partitions if partition.topic == self._topic]
        first = self._consumer.beginning_offsets(mine)
        end = self._consumer.end_offsets(mine)
        known = any(_name(partition) in wanted for partition in mine)
        for partition in mine:
            offset = wanted.get(_name(partition), (first if known else end)[partition])
            if not first[partition] <= offset <= end[partition]:
                log.warning("%s was made anew, or cut: heard from its beginning", _name(partition))
                offset = first[partition]
            self.go_to(partition, offset)

    def go_to(self, partition: TopicPartition, offset: int) -> None:
        """Hear a partition from an offset on."""
        self.positions[_name(partition)] = offset
        self._consumer.seek(partition, offset)

    def take(self, records: Iterable[Any]) -> list[DriftSignal]:
        """Take the signals of a fetch; records of other topics are left alone."""
        signals = []
        for record in records:
            if record.topic != self._topic:
                continue
            place = TopicPartition(record.topic, record.partition)
            self.positions[_name(place)] = record.offset + 1
            try:
                signals.append(codec.decode(DriftSignal, record.value))
            except MessageError as error:
                log.warning("drift:%d:%d: %s", record.partition, record.offset, error.reason)
                self._skipped(record.topic)
        return signals


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}/{partition.partition}"
