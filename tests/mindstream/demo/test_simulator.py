"""The simulated support desk: the same for the same seed, and its shares are what it says."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.tasks import task_kind
from mindstream.demo import simulator
from mindstream.demo.faults import FAULTS, malformed
from mindstream.demo.grammar import MAX_WORDS, MIN_WORDS, make_text
from mindstream.demo.plan import Plan
from mindstream.demo.simulator import DESK_S, Desk, simulate
from mindstream.demo.wordings import NAMES, RENAMED, WAVES, WORDINGS
from schemas import Feedback, Interaction, codec
from schemas.errors import MessageError
from streams.decoding import Limits, decode_record, make_record

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return simulate(Desk(seed=3))


def interactions(plan: Plan) -> list[tuple[float, Interaction]]:
    return [(e.at_s, e.message) for e in plan.events if isinstance(e.message, Interaction)]


def feedback(plan: Plan) -> list[tuple[float, Feedback]]:
    return [(e.at_s, e.message) for e in plan.events if isinstance(e.message, Feedback)]


def first_asked_s(plan: Plan) -> dict[str, float]:
    asked: dict[str, float] = {}
    for at_s, message in interactions(plan):
        asked.setdefault(message.id, at_s)
    return asked


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    small = Desk(seed=1, limit=200)
    assert simulate(small) == simulate(small)
    assert simulate(small).events != simulate(Desk(seed=2, limit=200)).events


def test_there_are_four_waves_of_at_least_three_intents_and_twelve_in_all() -> None:
    assert len(WAVES) == 4
    assert min(len(intents) for _, intents in WAVES) >= 3
    names = [intent for _, intents in WAVES for intent in intents]
    assert len(names) == len(set(names)) >= 12
    assert set(names) == set(WORDINGS)
    assert set(RENAMED) == set(NAMES) < set(names)


def test_an_intent_is_not_seen_before_its_wave(plan: Plan) -> None:
    wave_of = {intent: wave for wave, (_, intents) in enumerate(WAVES) for intent in intents}
    assert all(wave_of[str(truth.label)] <= truth.wave for truth in plan.truths.values())
    assert {truth.label for truth in plan.truths.values()} == set(WORDINGS)


def test_events_are_in_order_and_end_with_the_stream(plan: Plan) -> None:
    times = [event.at_s for event in plan.events]
    assert times == sorted(times)
    assert times[0] >= 0.0
    assert times[-1] <= DESK_S


def test_the_shares_are_what_they_say(plan: Plan) -> None:
    count = len(plan.truths)
    asked = first_asked_s(plan)
    messages = {message.id: message for _, message in interactions(plan)}
    first_labels = {m.interaction: (at, m) for at, m in feedback(plan) if m.kind == "label"}
    labelled = [i for i in messages if messages[i].label is not None or i in first_labels]
    assert count == 2_990
    assert 1 - len(labelled) / count == pytest.approx(simulator.UNLABELLED_SHARE, abs=0.01)
    assert len(first_labels) / len(labelled) == pytest.approx(simulator.LATE_SHARE, abs=0.03)
    given = {i: messages[i].label or first_labels[i][1].value for i in labelled}
    wrong = [i for i, label in given.items() if label != plan.truths[i].label]
    assert len(wrong) / len(labelled) == pytest.approx(simulator.WRONG_SHARE, abs=0.01)
    no_consent = [m for m in messages.values() if not m.consent]
    assert len(no_consent) / count == pytest.approx(simulator.NO_CONSENT_SHARE, abs=0.006)
    repeats = len(interactions(plan)) - count
    assert repeats / count == pytest.approx(simulator.REPEATED_SHARE, abs=0.006)
    broken = [event for event in plan.events if event.message is None]
    assert len(broken) == round(simulator.MALFORMED_SHARE * count)
    delays = [at - asked[i] for i, (at, _) in first_labels.items()]
    assert any(delay < 0 for delay in delays)
    assert max(delays) <= simulator.LATE_S
    assert sorted(delays)[len(delays) // 2] > 5.0


def test_a_correction_comes_after_a_wrong_label_and_says_the_truth(plan: Plan) -> None:
    labels = {m.interaction: (at, m.value) for at, m in feedback(plan) if m.kind == "label"}
    corrections = [(at, m) for at, m in feedback(plan) if m.kind == "correction"]
    assert len(corrections) >= 5
    for at_s, message in corrections:
        assert message.value == plan.truths[message.interaction].label
        if message.interaction in labels:
            assert labels[message.interaction][0] <= at_s
            assert labels[message.interaction][1] != message.value


def test_no_two_interactions_or_exam_rows_have_the_same_text(plan: Plan) -> None:
    texts = {message.id: message.text for _, message in interactions(plan)}
    asked = [row.text for row in plan.exam]
    assert len(set(texts.values())) == len(texts)
    assert len(set(asked)) == len(asked)
    assert not set(asked) & set(texts.values())


def test_the_exam_asks_as_much_about_every_intent(plan: Plan) -> None:
    counts = {intent: 0 for intent in WORDINGS}
    for row in plan.exam:
        counts[str(row.label)] += 1
    assert set(counts.values()) == {simulator.EXAM_ROWS}


def test_old_intents_get_new_words_at_two_thirds(plan: Plan) -> None:
    messages = {message.id: message for _, message in interactions(plan)}
    ids = list(plan.truths)
    cut = round(simulator.RELAUNCH * len(ids))

    def named(part: list[str]) -> float:
        mine = [i for i in part if plan.truths[i].label == "reset password"]
        return sum("badge" in str(messages[i].text).lower() for i in mine) / len(mine)

    assert named(ids[:cut]) == 0.0
    assert named(ids[cut:]) > 0.6


def test_forty_users_write(plan: Plan) -> None:
    assert len({message.user for _, message in interactions(plan)}) == 40


@pytest.mark.parametrize("intent", sorted(WORDINGS))
def test_an_intent_has_thousands_of_wordings(intent: str) -> None:
    draw = random.Random(5)
    assert len({make_text(intent, draw) for _ in range(4_000)}) > 2_500


@given(
    intent=st.sampled_from(sorted(WORDINGS)), seed=st.integers(0, 10**6), relaunched=st.booleans()
)
def test_every_text_has_4_to_25_words_and_no_slot_left(
    intent: str, seed: int, relaunched: bool
) -> None:
    text = make_text(intent, random.Random(seed), relaunched=relaunched)
    assert MIN_WORDS <= len(text.split()) <= MAX_WORDS
    assert not set("{}()|") & set(text)


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=list(FAULTS))
def test_every_fault_is_refused_and_without_it_the_message_is_good(number: int) -> None:
    event = malformed(number, at_s=1.0, task="support", draw=random.Random(0))
    record = make_record(
        topic="t",
        partition=0,
        offset=0,
        key=b"",
        value=event.raw,
        headers=None,
        timestamp_s=NOW.timestamp(),
    )
    limits = Limits(max_age_s=3_650 * 86_400.0)
    with pytest.raises(MessageError):  # noqa: PT012 - ingest checks in these steps
        message = decode_record(Interaction, record, limits=limits, now=NOW)
        if message.task != "support":
            raise MessageError("an unknown task")
        task_kind("classify").input_text(message.text, message.features)


def test_every_event_can_be_sent(plan: Plan) -> None:
    for event in plan.events[:500]:
        if event.message is not None:
            sent = codec.encode(msgspec.structs.replace(event.message, time=NOW))
            assert codec.decode(type(event.message), sent).time == NOW
