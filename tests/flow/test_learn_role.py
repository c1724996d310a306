"""The learn role's loop over a real wire: what it skips, what it reads, what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from kafka import TopicPartition

from learners.checkpoint import CheckpointStore, Fence
from learners.loop import Learner, StepReport
from learners.releasing import Verdict
from schemas import codec
from schemas.errors import SettingsError
from streams.learn import PARTITIONS_EVERY_S, Cadence, LearnRole
from streams.topics import Topics
from tests.flow.conftest import Wire
from tests.learning import MakeLearner, example, frozen_encoder, make_learner

__all__ = ["frozen_encoder", "make_learner"]


class Observer:
    """Keeps what it is told; stops the role when enough was learned."""

    def __init__(self) -> None:
        self.rows = 0
        self.lags: list[tuple[int, int]] = []

    def learned(self, task: str, report: StepReport, *, seconds: float) -> None:
        del task, seconds
        self.rows += report.rows

    def judged(self, task: str, verdict: Verdict) -> None:
        raise AssertionError((task, verdict))

    def checkpointed(self, *, size_bytes: int, at: datetime) -> None:
        """Keep nothing."""

    def lag(self, topic: str, partition: int, messages: int) -> None:
        del topic
        self.lags.append((partition, messages))


class Clock:
    """Real seconds, and those that a test adds."""

    def __init__(self) -> None:
        self.added_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added_s


class Stage:
    """Builds learn roles over the wire."""

    def __init__(self, wire: Wire, redis: redis_client.Redis, folder: Path) -> None:
        self.wire, self.redis, self.folder = wire, redis, folder
        self.observer, self.clock = Observer(), Clock()
        self.skipped: list[str] = []
        self.roles: list[LearnRole] = []

    def role(self, prefix: str, learners: dict[str, Learner], **changes: Any) -> LearnRole:
        from kafka import KafkaConsumer, KafkaProducer

        consumer = KafkaConsumer(
            bootstrap_servers=self.wire.servers,
            group_id=f"{prefix}-learn",
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
        )
        role = LearnRole(
            consumer=consumer,
            producer=KafkaProducer(bootstrap_servers=self.wire.servers),
            topics=Topics(prefix),
            learners=learners,
            releasers={},
            checkpoints=CheckpointStore(self.folder / "checkpoints"),
            fence=Fence(self.redis, f"{prefix}:fence"),
            cadence=Cadence(
                batch_rows=16, max_wait_s=0.05, release_every_s=1.0, checkpoint_every_s=60.0
            ),
            observer=self.observer,
            skipped=self.skipped.append,
            clock_s=self.clock,
            now=lambda: datetime.now(UTC),
            **changes,
        )
        self.roles.append(role)
        return role

    def run_until(self, role: LearnRole, done: Callable[[], bool]) -> None:
        """Run the role; it is stopped when `done`, asked at every fetch, says so."""
        end_s = time.monotonic() + 30.0
        poll = role.consumer.poll

        def look(**arguments: Any) -> Any:
            if done() or time.monotonic() > end_s:
                role.stop()
            return poll(**arguments)

        role.consumer.poll = look
        role.run()
        assert done()


@pytest.fixture
def stage(wire: Wire, redis: redis_client.Redis, tmp_path: Path) -> Iterator[Stage]:
    built = Stage(wire, redis, tmp_path)
    yield built
    for role in built.roles:
        role.consumer.close()
        role.producer.close()


def test_a_foreign_example_is_said_counted_and_skipped_and_the_next_ones_are_learned(
    stage: Stage, wire: Wire, make_learner: MakeLearner, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a label of another kind and a text of white space among good examples
    topics = Topics("foreign")
    good = [example(str(number), "money back", "refund") for number in range(4)]
    wrong = [example("wrong", "money back", ("a", "b")), example("blank", " \n", "refund")]
    wire.send(topics.examples, [("u", row) for row in [good[0], *wrong, *good[1:]]])
    wire.send(topics.examples, [("u", b"{}")])
    role = stage.role("foreign", {"intents": make_learner(held_out_share=0.0)})

    # When the role runs, then it learns what is good
    stage.run_until(role, lambda: stage.observer.rows == 4 and len(stage.skipped) == 3)
    assert stage.skipped == [topics.examples] * 3
    assert "white space" in caplog.text
    assert "label" in caplog.text


def test_a_missing_topic_is_said_with_what_makes_it(stage: Stage, wire: Wire) -> None:
    class Empty:
        """A client of a cluster without topics: the wire's would make them."""

        def partitions_for_topic(self, topic: str) -> set[int]:
            del topic
            return set()

        def close(self) -> None:
            """Close nothing."""

    role = stage.role("absent", {})
    role.consumer.close()
    role.consumer = Empty()
    with pytest.raises(SettingsError, match=r"absent\.examples is not there: `mindstream topics"):
        role.run()


def test_partitions_that_come_later_are_read_from_their_beginning_and_the_others_go_on(
    stage: Stage, wire: Wire
) -> None:
    # Given a role that knows one partition of its topic, and has read it
    topics = Topics("grown")
    rows: list[tuple[str, codec.Contract | bytes]] = [
        (f"user-{number}", example(str(number), "money back", "refund")) for number in range(40)
    ]
    wire.send(topics.examples, rows)
    role = stage.role("grown", {})
    partitions = sorted(role.consumer.partitions_for_topic(topics.examples))
    ends = role.consumer.end_offsets([TopicPartition(topics.examples, n) for n in partitions])
    assert len(partitions) > 1
    seen: list[tuple[int, int]] = []
    only = TopicPartition(topics.examples, 0)
    role._resume()
    role.consumer.assign([only])
    role.consumer.seek(only, ends[only])
    role.positions.clear()
    role.positions[0] = ends[only]
    role._next_partitions_s = stage.clock() + PARTITIONS_EVERY_S
    poll = role.consumer.poll

    def note(**arguments: Any) -> Any:
        polled = poll(**arguments)
        seen.extend((r.partition, r.offset) for records in polled.values() for r in records)
        return polled

    role.consumer.poll = note

    # When a minute has passed, then it reads the others from their first record, and those only
    for _ in range(3):
        role._cycle()
    assert seen == []
    stage.clock.added_s += PARTITIONS_EVERY_S
    expected = {
        (partition.partition, offset)
        for partition, end in ends.items()
        if partition != only
        for offset in range(end)
    }
    end_s = time.monotonic() + 20.0
    while len(seen) < len(expected) and time.monotonic() < end_s:
        role._cycle()
    assert set(seen) == expected
    assert len(seen) == len(expected)


def test_the_lag_is_measured_between_checkpoints(
    stage: Stage, wire: Wire, make_learner: MakeLearner
) -> None:
    topics = Topics("lagging")
    wire.send(
        topics.examples,
        [("u", example(str(number), "money back", "refund")) for number in range(40)],
    )
    role = stage.role("lagging", {"intents": make_learner(held_out_share=0.0)})

    def measured() -> bool:
        stage.clock.added_s += 1.0
        return stage.observer.rows == 40 and bool(stage.observer.lags)

    stage.run_until(role, measured)
    assert max(behind for _, behind in stage.observer.lags) > 0
