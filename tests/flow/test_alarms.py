"""What the watch role found drifted reaches the learner, once, and brings a consolidation on."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Literal

import msgspec
import pytest
from kafka import KafkaConsumer, TopicPartition

from learners.background import Schedule
from learners.localmemory import LocalMemory
from schemas import DriftSignal
from streams.alarms import Alarms
from streams.topics import Topics
from tests.flow.conftest import Wire
from tests.flow.learnstage import Stage, give, slow_half, stage
from tests.small import small_learner

__all__ = ["stage"]


def drift(level: Literal["warning", "drift"], task: str = "intents") -> tuple[str, DriftSignal]:
    signal = DriftSignal(
        task=task,
        time=datetime.now(UTC),
        signal="error",
        detector="adwin",
        level=level,
        statistic=0.4,
        rows=100,
    )
    return task, signal


def test_drift_that_was_found_brings_the_next_consolidation_forward(
    stage: Stage, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # Given a role that consolidated once and is not due again for long
    topics, memory = Topics("worse"), LocalMemory()
    give(wire, topics, memory)
    wire.send(topics.drift, [drift("drift")])  # of a learner before this one
    learner = small_learner("two-speed", held_out_share=0.5)
    schedule = Schedule(rows=10, growth=100.0, drift_rows=10)
    consolidator = slow_half(stage, learner, memory, schedule)
    role = stage.role("worse", {"intents": learner}, consolidators={"intents": consolidator})
    stage.run_until(role, lambda: len(stage.observer.outcomes) == 1)
    assert "says that error drifted" not in caplog.text

    # When what is no drift of its own comes, and then one that is, and more examples
    again = small_learner("two-speed", held_out_share=0.5)
    consolidator = slow_half(stage, again, memory, schedule)
    role = stage.role("worse", {"intents": again}, consolidators={"intents": consolidator})
    wire.send(
        topics.drift,
        [drift("warning"), ("x", b"no signal"), drift("drift", "other"), drift("drift")],
    )
    more = iter([lambda: give(wire, topics, memory, first=40)])

    def consolidated_again() -> bool:
        if consolidator.state()["worse"] and (send := next(more, None)) is not None:
            send()
        return len(stage.observer.outcomes) == 2

    stage.run_until(role, consolidated_again)

    # Then it consolidates for that reason, says what it heard once, and skips what it cannot read
    assert caplog.text.count("intents: adwin says that error drifted (0.400 after 100") == 1
    assert "consolidation starts: error drifted, " in caplog.text
    assert stage.skipped == [topics.drift]

    # And who comes after it does not hear it again, but what came since
    wire.send(topics.drift, [("x", b"no signal either")])
    last = small_learner("two-speed", held_out_share=0.5)
    consolidator = slow_half(stage, last, memory, schedule)
    role = stage.role("worse", {"intents": last}, consolidators={"intents": consolidator})
    stage.run_until(role, lambda: len(stage.skipped) == 2)
    assert last.learned == again.learned
    assert caplog.text.count("says that error drifted") == 1
    assert len(stage.observer.outcomes) == 2


def client(wire: Wire) -> KafkaConsumer:
    return KafkaConsumer(bootstrap_servers=wire.servers, auto_offset_reset="earliest")


def heard(consumer: KafkaConsumer, alarms: Alarms) -> list[int]:
    """Poll until nothing comes any more; give what each signal had for rows."""
    found: list[int] = []
    quiet = 0
    while quiet < 5:
        records = [one for some in consumer.poll(timeout_ms=100).values() for one in some]
        found += [signal.rows for signal in alarms.take(records)]
        quiet = 0 if records else quiet + 1
    return found


def test_where_signals_are_heard_from(wire: Wire) -> None:
    # Given a topic with three signals
    topic = "heard.drift"
    task, one = drift("drift")
    wire.send(topic, [(task, msgspec.structs.replace(one, rows=n)) for n in range(3)])

    def begin(wanted: dict[str, int]) -> list[int]:
        consumer = client(wire)
        alarms = Alarms(consumer, topic)
        partitions = alarms.partitions()
        consumer.assign(partitions)
        alarms.resume(partitions, wanted)
        found = heard(consumer, alarms)
        consumer.close()
        end = {f"{topic}/{p.partition}": alarms.positions[f"{topic}/{p.partition}"] for p in mine}
        assert sum(end.values()) == 3
        return found

    consumer = client(wire)
    mine = Alarms(consumer, topic).partitions()
    ends = {f"{p.topic}/{p.partition}": n for p, n in consumer.end_offsets(mine).items()}
    consumer.close()
    [place] = [name for name, end in ends.items() if end]

    # Then nothing is heard without a place, what came since with one, all of a log made anew, and
    # all of a partition that was added since
    assert begin({}) == []
    assert begin({**ends, place: 1}) == [1, 2]
    assert begin({**ends, place: 9}) == [0, 1, 2]
    assert begin({name: end for name, end in ends.items() if name != place}) == [0, 1, 2]


def test_a_topic_that_is_not_there_is_asked_for_once() -> None:
    class Nowhere:
        """A client of a cluster that has no such topic: the wire would make it."""

        asked = 0

        def partitions_for_topic(self, topic: str) -> None:
            self.asked += 1

        def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
            return dict.fromkeys(partitions, 0)

        end_offsets = beginning_offsets

    client = Nowhere()
    alarms = Alarms(client, "nowhere.drift")
    for _ in range(3):
        assert alarms.partitions() == []
    alarms.resume([TopicPartition("nowhere.examples", 0)], {"nowhere.examples/0": 7})
    assert alarms.positions == {}
    assert client.asked == 1
