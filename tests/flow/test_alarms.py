"""What the watch role found drifted reaches the learner, once, and brings a consolidation on."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Literal

import pytest

from learners.background import Schedule
from learners.localmemory import LocalMemory
from schemas import DriftSignal
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

    # And who comes after it does not hear it again
    last = small_learner("two-speed", held_out_share=0.5)
    consolidator = slow_half(stage, last, memory, schedule)
    role = stage.role("worse", {"intents": last}, consolidators={"intents": consolidator})
    cycles = iter(range(5))
    stage.run_until(role, lambda: next(cycles, None) is None)
    assert last.learned == again.learned
    assert caplog.text.count("says that error drifted") == 1
    assert len(stage.observer.outcomes) == 2
