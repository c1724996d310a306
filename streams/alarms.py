"""What the watch role found drifted, as the learn role hears it.

Owns the places of the drift topic's partitions in the learner's own consumer; must not know what is
done about a signal. Signals may be heard twice after a kill: places are as old as the checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from schemas import DriftSignal, codec
from schemas.errors import MessageError

log = logging.getLogger(__name__)


class Alarms:
    """Reads drift signals among the records of a consumer that is assigned other topics too.

    Args:
        consumer: whose assignment includes `partitions()`.
        topic: of the signals; where there is none, nothing is heard.
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

    def partitions(self) -> list[TopicPartition]:
        """Give the topic's partitions, as of the client's last refresh."""
        numbers = self._consumer.partitions_for_topic(self._topic) or ()
        return [TopicPartition(self._topic, number) for number in sorted(numbers)]

    def resume(self, wanted: Mapping[str, int]) -> None:
        """Go to where a checkpoint stood; without one, to the end: older signals met no learner.

        Args:
            wanted: offsets by "topic/partition", of this topic and others.
        """
        partitions = self.partitions()
        first = self._consumer.beginning_offsets(partitions)
        end = self._consumer.end_offsets(partitions)
        for partition in partitions:
            offset = wanted.get(_name(partition), end[partition])
            if not first[partition] <= offset <= end[partition]:  # deleted since, or made anew
                offset = first[partition]
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
