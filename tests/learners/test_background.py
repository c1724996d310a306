"""Consolidation in the background: when it is due, and what becomes of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from learners.background import Consolidator, Outcome, Schedule
from learners.consolidation import ConsolidationConfig
from learners.gate import GateRules
from learners.localmemory import LocalMemory
from learners.loop import Learner
from learners.rehearsal import ReplayRow
from learners.slow import SlowHalf
from learners.strategies.two_speed import TwoSpeed
from schemas import Example
from tests.learning import example
from tests.small import small_learner

RULES = Schedule(rows=8, growth=2.0, idle_s=5.0, idle_growth=1.5, every_s=100.0, drift_rows=4)
LONG = ConsolidationConfig(epochs=100, batch_rows=1)
Make = Callable[..., Consolidator]


class Clock:
    """Seconds that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Broken(LocalMemory):
    """A memory whose server is away."""

    def rows(self) -> Iterator[ReplayRow]:
        raise ConnectionError("memory is away")


def rows(first: int, count: int) -> list[Example]:
    return [
        example(f"e{n}", f"the {'ab'[n % 2]} {n}", "ab"[n % 2]) for n in range(first, first + count)
    ]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def learner() -> Learner:
    return small_learner("two-speed", held_out_share=0.0)


@pytest.fixture
def make(learner: Learner, clock: Clock) -> Iterator[Make]:
    made: list[Consolidator] = []

    def build(
        memory: LocalMemory | None = None,
        config: ConsolidationConfig = ConsolidationConfig(epochs=1, batch_rows=8),  # noqa: B008 - frozen
        schedule: Schedule = RULES,
    ) -> Consolidator:
        if memory is None:
            memory = LocalMemory()
            memory.offer(
                [
                    ReplayRow(id=one.id, user="u", label=one.label, text=one.text or "")
                    for one in rows(0, 8)
                ]
            )
        built = Consolidator(
            learner,
            lambda: SlowHalf(learner, memory, config=config, rules=GateRules(), held_out_rows=50),
            schedule=schedule,
            clock_s=clock,
        )
        made.append(built)
        return built

    yield build
    for one in made:
        one.stop()


def outcome_of(one: Consolidator) -> Outcome:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        outcome = one.poll()
        if outcome is not None:
            return outcome
        time.sleep(0.01)
    raise AssertionError("no outcome within a minute")


def consolidated(make: Make, learner: Learner) -> Consolidator:
    """One that had its first run, and is not due for long unless something drifts."""
    one = make(schedule=Schedule(rows=8, growth=100.0, drift_rows=4))
    learner.learn(rows(0, 8))
    one.start("the first")
    outcome_of(one)
    return one


def test_it_is_due_when_enough_was_learned_and_never_without_news(
    make: Make, learner: Learner, clock: Clock
) -> None:
    one = make()
    learner.learn(rows(0, 7))
    assert one.due(idle_s=1e6) is None  # too few
    learner.learn(rows(7, 1))
    assert "8 examples learned after 0" in (one.due(idle_s=0.0) or "")
    one.start("it is time")
    assert outcome_of(one).what == "adopted"
    clock.now_s = 1e6
    assert one.due(idle_s=1e6) is None  # nothing was learned since
    learner.learn(rows(8, 3))
    clock.now_s = 1.0
    assert one.due(idle_s=1e6) is None  # too little
    learner.learn(rows(11, 1))
    assert one.due(idle_s=4.0) is None
    assert "nothing came for 5 s" in (one.due(idle_s=5.0) or "")
    clock.now_s = 200.0
    assert "200 s ago" in (one.due(idle_s=0.0) or "")
    learner.learn(rows(12, 4))
    assert "16 examples learned after 8" in (one.due(idle_s=0.0) or "")


def test_a_changed_label_makes_it_due_once_its_new_meaning_has_rows(
    make: Make, learner: Learner
) -> None:
    one = consolidated(make, learner)
    strategy = learner.strategy
    assert isinstance(strategy, TwoSpeed)
    learner.learn(rows(8, 1))
    strategy._plugin.renew(0, strategy.encoder.encode(["the a 8"]))
    one.poll()
    assert one.due(idle_s=0.0) is None
    learner.learn(rows(9, 4))
    assert "1 labels changed" in (one.due(idle_s=0.0) or "")
    one.start("drift")
    outcome_of(one)
    learner.learn(rows(13, 8))
    assert one.due(idle_s=0.0) is None  # answered


def test_answers_that_became_worse_make_it_due_some_examples_after_that_was_first_said(
    make: Make, learner: Learner
) -> None:
    one = consolidated(make, learner)
    learner.learn(rows(8, 1))
    one.note_drift("error")
    learner.learn(rows(9, 3))
    one.note_drift("confidence")
    assert one.due(idle_s=0.0) is None
    again = make(schedule=one.schedule)
    again.restore(one.state())
    learner.learn(rows(12, 1))
    for due in (one, again):  # also when it went through a checkpoint
        assert due.due(idle_s=0.0) == "error drifted, 4 examples ago"
    one.start("drift")
    outcome_of(one)
    learner.learn(rows(13, 8))
    assert one.due(idle_s=0.0) is None  # answered
    one.note_drift("error")
    learner.learn(rows(21, 4))
    patient = make(schedule=Schedule(rows=8, growth=100.0, idle_growth=2.1, drift_rows=4))
    patient.restore(one.state())
    assert one.due(idle_s=0.0) == "error drifted, 4 examples ago"
    assert patient.due(idle_s=0.0) is None  # 25 after 13: too little came since the last one
    off = make(schedule=Schedule(rows=8, growth=100.0, drift_rows=0))
    off.restore(one.state())
    assert off.due(idle_s=0.0) is None


def test_drift_is_not_answered_by_a_run_that_did_not_come_to_its_end(
    make: Make, learner: Learner
) -> None:
    schedule = Schedule(rows=8, growth=100.0, drift_rows=4)
    learner.learn(rows(0, 8))
    for broken, after in ((False, 0), (True, 4)):
        one = make(Broken() if broken else None, LONG, schedule)
        one.restore({"learned": 1, "drifted": 0, "drift_learned": 0})
        one.note_drift("error")
        learner.learn(rows(8 + 8 * broken, 4))
        before = one.state()
        assert one.due(idle_s=0.0) is not None
        one.start("drift")
        assert one.state() == before  # what a checkpoint keeps meanwhile
        if broken:
            assert outcome_of(one).what == "failed"
            assert one.due(idle_s=0.0) is None  # not at once again
        else:
            one.stop()
            assert one.state() == before
        learner.learn(rows(12 + 8 * broken, after))
        assert "error drifted" in (one.due(idle_s=0.0) or "")


def test_a_run_reports_how_far_it_is_and_is_adopted_once(make: Make, learner: Learner) -> None:
    one = make()
    learner.learn(rows(0, 8))
    space = learner.strategy.encoder.space_id
    assert one.progress == (0, 0)
    one.start("it is time")
    assert one.running
    outcome = outcome_of(one)
    assert outcome.what == "adopted"
    assert outcome.report is not None
    assert learner.strategy.encoder.space_id != space
    assert not one.running
    assert one.poll() is None
    assert one.progress == (0, 0)


def test_a_stop_drops_the_run_at_once_and_the_learner_goes_on(make: Make, learner: Learner) -> None:
    one = make(config=LONG)
    learner.learn(rows(0, 8))
    strategy = learner.strategy
    one.start("it is time")
    while one.progress[0] < 2:
        time.sleep(0.01)
    one.stop()
    assert not one.running
    assert learner.strategy is strategy
    assert learner.listeners == []
    assert learner.learn(rows(8, 2)).rows == 2


def test_a_run_that_fails_is_said_and_the_learner_goes_on(
    make: Make, learner: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    one = make(memory=Broken())
    learner.learn(rows(0, 8))
    strategy = learner.strategy
    one.start("it is time")
    outcome = outcome_of(one)
    assert (outcome.what, outcome.reason) == ("failed", "ConnectionError: memory is away")
    assert "consolidation failed" in caplog.text
    assert learner.strategy is strategy
    assert learner.listeners == []


def test_a_schedule_is_taken_up(make: Make, learner: Learner) -> None:
    one = make()
    learner.learn(rows(0, 8))
    one.start("it is time")
    outcome_of(one)
    again = make()
    assert again.due(idle_s=0.0) is not None
    again.restore(one.state())
    assert again.due(idle_s=0.0) is None
    assert again.state() == one.state()
