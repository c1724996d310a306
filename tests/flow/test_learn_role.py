"""The learn role's loop over a real wire: what it skips, what it reads, what it says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition

from learners.background import Consolidator, Schedule
from learners.gate import GateRules
from learners.localmemory import LocalMemory
from learners.loop import Learner
from learners.registry import Registry
from learners.releasing import Releaser
from schemas import codec
from schemas.errors import SettingsError
from streams.learn import PARTITIONS_EVERY_S
from streams.topics import Topics
from tests.flow.conftest import Wire
from tests.flow.learnstage import Stage, give, slow_half, stage
from tests.learning import MakeLearner, example, frozen_encoder, make_learner
from tests.small import small_learner

__all__ = ["frozen_encoder", "make_learner", "stage"]


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


def test_a_consolidation_is_released_checkpointed_and_taken_up(
    stage: Stage, wire: Wire, tmp_path: Path
) -> None:
    # Given examples on the wire and in memory
    topics, memory = Topics("slow"), LocalMemory()
    give(wire, topics, memory)

    def build() -> tuple[Learner, Releaser, Consolidator]:
        learner = small_learner("two-speed", held_out_share=0.5)
        releaser = Releaser(
            learner,
            registry=Registry(str(tmp_path / "releases")),
            memory=memory,
            rules=GateRules(),
            rows=50,
            keep=10,
        )
        return learner, releaser, slow_half(stage, learner, memory, Schedule(rows=10))

    # When the role has learned them, then it consolidates and releases the new encoder
    learner, releaser, consolidator = build()
    space = learner.strategy.encoder.space_id
    role = stage.role(
        "slow",
        {"intents": learner},
        releasers={"intents": releaser},
        consolidators={"intents": consolidator},
    )

    def released() -> bool:
        champion = releaser.champion
        return champion is not None and champion.encoder.space_id not in ("", space)

    stage.run_until(role, released)
    assert [outcome.what for outcome in stage.observer.outcomes] == ["adopted"]
    assert releaser.champion is not None
    assert releaser.champion.encoder.space_id == learner.strategy.encoder.space_id

    # And one that starts from its checkpoint goes on with it, and is not at it again
    again, releaser, consolidator = build()
    role = stage.role(
        "slow",
        {"intents": again},
        releasers={"intents": releaser},
        consolidators={"intents": consolidator},
    )
    cycles = iter(range(5))
    stage.run_until(role, lambda: next(cycles, None) is None)
    assert again.strategy.encoder.space_id == learner.strategy.encoder.space_id != space
    assert len(stage.observer.outcomes) == 1
