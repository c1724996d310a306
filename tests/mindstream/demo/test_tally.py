"""The tally: each count from its own source, first answers only, positions that cover examples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.holdout import is_held_out
from learners.tasks import task_kind
from mindstream.demo.plan import Event, Plan, Truth
from mindstream.demo.staleness import Coverage, Covered, percentile
from mindstream.demo.tally import Tally
from schemas import (
    DeadLetter,
    DriftSignal,
    Example,
    GateReport,
    Interaction,
    ModelRelease,
    Prediction,
)

START = datetime(2026, 1, 2, tzinfo=UTC)
SHARE = 0.05
TRAINING = [f"i{n}" for n in range(100) if not is_held_out(f"i{n}", share=SHARE)]
HELD_OUT = [f"i{n}" for n in range(1_000) if is_held_out(f"i{n}", share=SHARE)]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def tally(truths: dict[str, Truth] | None = None, waves: int = 2) -> Tally:
    known = truths or {name: Truth("a", n % waves) for n, name in enumerate(TRAINING)}
    plan = Plan(
        title="t",
        task="t",
        kind="classify",
        events=(),
        truths=known,
        waves=tuple(f"w{n}" for n in range(waves)),
        exam=(),
    )
    return Tally(
        plan, kind=task_kind("classify"), held_out_share=SHARE, feedback_topic="m.feedback"
    )


def ask(name: str) -> Event:
    return Event(
        0.0, "interactions", "u", Interaction(id=name, user="u", task="t", time=START, text="x")
    )


def answer(name: str, label: str = "a", *, release: str | None = "r1", s: float = 0) -> Prediction:
    return Prediction(
        interaction=name,
        task="t",
        time=at(s),
        status="ok" if release else "no-release",
        label=label if release else None,
        release=release,
    )


def example(name: str, revision: int = 1) -> Example:
    return Example(
        id=name,
        user="u",
        task="t",
        time=START,
        labelled_at=START,
        label="a",
        text="x",
        revision=revision,
    )


def release(number: int, positions: dict[str, int]) -> ModelRelease:
    return ModelRelease(
        task="t",
        version=f"{number:06d}-00000000",
        time=at(number),
        kind="classify",
        strategy="two-speed",
        backbone="b",
        blobs={},
        positions=positions,
        learned=1,
        labels=1,
        gate=GateReport(accepted=True, reason="r", rows=1, challenger=0.5),
    )


def test_only_the_first_answer_counts_and_silence_is_left_out() -> None:
    seen = tally()
    one, two, three, four = TRAINING[:4]
    for name in (one, two, three, four):
        seen.sending(ask(name))
    seen.predicted(answer(one, "a"))
    seen.predicted(answer(two, "b"))
    seen.predicted(answer(two, "a"))
    seen.predicted(answer(three, release=None))
    moment = seen.moment()
    assert moment.accuracy == 0.5
    assert (moment.answered, moment.answers, moment.expected) == (3, 4, 4)
    assert (moment.silent, moment.duplicates) == (1, 1)
    assert [wave.accuracy for wave in moment.waves] == [1.0, 0.0]


def test_an_interaction_sent_twice_may_be_answered_twice() -> None:
    seen = tally()
    for _ in range(2):
        seen.sending(ask(TRAINING[0]))
        seen.predicted(answer(TRAINING[0]))
    moment = seen.moment()
    assert (moment.sent, moment.expected, moment.duplicates) == (2, 1, 0)
    seen.predicted(answer(TRAINING[0]))
    assert seen.moment().duplicates == 1


def test_malformed_messages_are_sent_but_expect_no_answer() -> None:
    seen = tally()
    seen.sending(Event(0.0, "interactions", "u", raw=b"x"))
    seen.predicted(answer("bad-000001"))
    moment = seen.moment()
    assert (moment.sent, moment.expected, moment.answers, moment.answered) == (1, 0, 1, 0)


def test_an_example_given_twice_is_a_duplicate_and_a_correction_is_not() -> None:
    seen = tally()
    for number, (name, revision) in enumerate(
        [(TRAINING[0], 1), (TRAINING[0], 2), (TRAINING[1], 1), (TRAINING[0], 1), (HELD_OUT[0], 1)]
    ):
        seen.joined(example(name, revision), position=("e/0", number))
    moment = seen.moment()
    assert (moment.examples, moment.to_learn, moment.duplicates) == (4, 3, 1)


def test_what_is_unaccounted_is_sent_less_what_the_join_counted() -> None:
    seen = tally()
    for name in TRAINING[:10]:
        seen.sending(ask(name))
    seen.sending(Event(0.0, "feedback", "k"))
    seen.counted({"t": {"joined": 3, "waiting": 2, "repeated": 1, "interactions": 5}, "-": {}})
    assert seen.moment().unaccounted == 4
    seen.counted({"t": {"joined": 9}, "-": {"dead": 1, "feedback": 0}})
    assert seen.moment().unaccounted == 0
    assert seen.moment().behind["ingest"] == 1
    seen.died(
        DeadLetter(data=b"x", reason="r", topic="m.feedback", partition=0, offset=0, time=START)
    )
    assert seen.moment().behind == {"ingest": 0, "serve": 10, "learn": 0}
    assert seen.moment().unread == 10


def test_a_learner_that_starts_anew_never_takes_the_count_back() -> None:
    seen = tally()
    for said in (5, 9, 2, 4):
        seen.learner_said(learned=said, rejected=1)
    assert seen.moment().learned == 13


def test_releases_are_noted_once_and_in_order() -> None:
    seen = tally()
    for number in (1, 2, 2, 3):
        seen.released(release(number, {"e/0": number}))
    seen.drifted(
        DriftSignal(
            task="t",
            time=START,
            signal="error",
            detector="adwin",
            level="drift",
            statistic=0.2,
            rows=9,
        )
    )
    moment = seen.moment()
    assert [r.version[:6] for r in moment.releases] == ["000001", "000002", "000003"]
    assert len(moment.drift) == 1


def test_staleness_counts_from_the_label_to_the_first_answer_of_a_release_that_learned_it() -> None:
    coverage = Coverage()
    for offset in range(4):
        coverage.example(Covered("e/0", offset, at(offset), 0))
    coverage.release("r1", {"e/0": 1})
    coverage.release("r2", {"e/0": 3})
    coverage.answered("r1", at(12))
    coverage.answered("r1", at(10))
    coverage.answered("r2", at(20))
    coverage.answered(None, at(0))
    assert coverage.staleness_s() == [10.0, 19.0, 18.0]  # the fourth is covered by none


def test_a_wave_ends_with_the_first_release_that_knows_nearly_all_of_it() -> None:
    coverage = Coverage()
    for offset in range(40):
        coverage.example(Covered("e/0", offset, START, offset // 20))
    coverage.release("r1", {"e/0": 18})
    coverage.release("r2", {"e/0": 19})
    coverage.release("r3", {"e/0": 40})
    assert [coverage.wave_end(wave) for wave in range(3)] == ["r2", "r3", None]
    assert coverage.covers_all()
    coverage.example(Covered("e/1", 0, START, 1))
    assert not coverage.covers_all()


@given(
    offsets=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=40),
    steps=st.lists(st.tuples(*[st.integers(0, 8)] * 3), min_size=1, max_size=8),
)
def test_staleness_is_what_looking_at_every_pair_gives(
    offsets: list[tuple[int, int]], steps: list[tuple[int, int, int]]
) -> None:
    coverage = Coverage()
    positions = [0, 0, 0]
    history = []
    for number, step in enumerate(steps):
        positions = [p + s for p, s in zip(positions, step, strict=True)]
        history.append((number + 50.0, list(positions)))
        coverage.release(f"r{number}", {f"e/{k}": p for k, p in enumerate(positions)})
        coverage.answered(f"r{number}", at(number + 50.0))
    expected = []
    for partition, offset in offsets:
        coverage.example(Covered(f"e/{partition}", offset, at(offset), 0))
        found = [s for s, reached in history if reached[partition] > offset]
        expected += [found[0] - offset] if found else []
    assert coverage.staleness_s() == pytest.approx(expected)


def test_percentiles_of_nothing_are_nothing() -> None:
    assert percentile([], 0.5) is None
    assert percentile([float(n) for n in range(100)], 0.95) == 95.0
