"""A simulated support desk: intents in waves, late and wrong labels, faults, and a relaunch.

Owns the shares and the times; the words are the grammar's. Deterministic by its seed. Must not know
how events are sent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mindstream.demo.faults import malformed
from mindstream.demo.grammar import make_text
from mindstream.demo.plan import Event, ExamRow, Plan, Truth
from mindstream.demo.wordings import RENAMED, WAVES
from schemas import Feedback, Interaction
from schemas.fields import Label

TASK = "support"
DESK_RATE = 46.0
DESK_S = 75.0
USERS = 40
LATE_SHARE = 0.70  # labels that come as feedback; the others are inside the interaction
LATE_S = 20.0
EARLY_SHARE = 0.04  # of the late ones: feedback that is faster than its interaction
EARLY_S = 2.0
WRONG_SHARE = 0.03
CORRECTED_SHARE = 0.34  # of the wrong ones
UNLABELLED_SHARE = 0.02
NO_CONSENT_SHARE = 0.01
REPEATED_SHARE = 0.01
MALFORMED_SHARE = 0.015
CURRENT_SHARE = 0.60  # of a wave's texts are about its new intents, the others about old ones
RENAMED_TRAFFIC = 0.70  # of all texts after the relaunch
WAVE_STARTS = (0.0, 0.17, 0.34, 0.50)  # shares of the stream
RELAUNCH = 2 / 3
TAIL_S = 10.0  # no interactions in the last seconds: their labels are still to come
LABEL_TTL_S = 40.0
EXAM_ROWS = 40  # an intent
WINDOW = 400  # unread messages: on a slow machine the stream slows down with the roles

_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # replaced when an event is sent


@dataclass(frozen=True, slots=True)
class Desk:
    """How much the desk gets.

    Attributes:
        seed: of everything.
        rate: interactions a second.
        duration_s: length of the whole stream, late labels included, seconds.
        limit: interactions at most; None: as many as rate and duration give.
    """

    seed: int = 0
    rate: float = DESK_RATE
    duration_s: float = DESK_S
    limit: int | None = None

    @property
    def interactions(self) -> int:
        """How many distinct, well-formed interactions there are."""
        count = max(1, round(self.rate * self._asking_s))
        return count if self.limit is None else min(count, self.limit)

    @property
    def _asking_s(self) -> float:
        return self.duration_s - min(TAIL_S, 0.15 * self.duration_s)

    @property
    def step_s(self) -> float:
        """Time between two interactions, seconds."""
        return 1 / self.rate


def simulate(desk: Desk) -> Plan:
    """Plan a whole stream.

    Args:
        desk: how much there is; the same desk gives the same plan.
    """
    draw = random.Random(desk.seed)
    events: list[Event] = []
    truths: dict[str, Truth] = {}
    texts: set[str] = set()
    for number in range(desk.interactions):
        share = number / desk.interactions
        wave = sum(share >= start for start in WAVE_STARTS) - 1
        intent = _intent(wave, draw, relaunched=share >= RELAUNCH)
        text = _new_text(intent, draw, texts, relaunched=share >= RELAUNCH)
        name = f"sim-{desk.seed}-{number:06d}"
        truths[name] = Truth(intent, wave)
        at_s = number * desk.step_s
        events += _interaction(name, text, intent, wave=wave, at_s=at_s, desk=desk, draw=draw)
    end_s = desk.interactions * desk.step_s
    for number in range(round(MALFORMED_SHARE * desk.interactions)):
        events.append(malformed(number, at_s=draw.uniform(0, end_s), task=TASK, draw=draw))
    events.sort(key=lambda event: event.at_s)
    return Plan(
        title=f"a support desk: {sum(len(names) for _, names in WAVES)} intents in {len(WAVES)} "
        f"waves, {desk.interactions:,} interactions, a relaunch that renames things at two thirds",
        task=TASK,
        kind="classify",
        events=tuple(events),
        truths=truths,
        waves=tuple(name for name, _ in WAVES),
        exam=tuple(_exam(random.Random(desk.seed + 1), texts)),
        label_ttl_s=LABEL_TTL_S,
        window=WINDOW,
    )


def _intent(wave: int, draw: random.Random, *, relaunched: bool) -> str:
    if relaunched and draw.random() < RENAMED_TRAFFIC:
        return draw.choice(sorted(RENAMED))
    old = [intent for _, intents in WAVES[:wave] for intent in intents]
    if old and draw.random() >= CURRENT_SHARE:
        return draw.choice(old)
    return draw.choice(WAVES[wave][1])


def _new_text(intent: str, draw: random.Random, texts: set[str], *, relaunched: bool) -> str:
    """Write a text that was not written before."""
    while (text := make_text(intent, draw, relaunched=relaunched)) in texts:
        pass
    texts.add(text)
    return text


def _exam(draw: random.Random, texts: set[str]) -> Sequence[ExamRow]:
    """Write the held-back rows, as many an intent, as people write after the relaunch."""
    return [
        ExamRow(_new_text(intent, draw, texts, relaunched=True), intent, wave)
        for wave, (_, intents) in enumerate(WAVES)
        for intent in intents
        for _ in range(EXAM_ROWS)
    ]


def _interaction(
    name: str, text: str, intent: str, *, wave: int, at_s: float, desk: Desk, draw: random.Random
) -> list[Event]:
    """Plan one interaction with its label, its repeat and its correction."""
    label = None if draw.random() < UNLABELLED_SHARE else _label(intent, wave, draw)
    late = label is not None and draw.random() < LATE_SHARE
    user = f"user-{draw.randrange(USERS):02d}"
    message = Interaction(
        id=name,
        user=user,
        task=TASK,
        time=_ANY_TIME,
        text=text,
        label=None if late else label,
        consent=draw.random() >= NO_CONSENT_SHARE,
        context={"channel": draw.choice(("chat", "mail", "app"))},
    )
    events = [Event(at_s, "interactions", user, message)]
    if draw.random() < REPEATED_SHARE:
        events.append(Event(at_s + draw.uniform(0.0, 3.0), "interactions", user, message))
    labelled_s = at_s
    if late and label is not None:
        labelled_s = _labelled_s(at_s, desk, draw)
        events.append(_feedback(labelled_s, name, "label", label))
    if label is not None and label != intent and draw.random() < CORRECTED_SHARE:
        corrected_s = _before_end(max(labelled_s, at_s) + draw.uniform(2.0, 8.0), desk, draw)
        events.append(_feedback(max(corrected_s, labelled_s), name, "correction", intent))
    return events


def _label(intent: str, wave: int, draw: random.Random) -> str:
    """Give the label that a person gives: now and then a wrong one that is known by then."""
    if draw.random() >= WRONG_SHARE:
        return intent
    known = [name for _, names in WAVES[: wave + 1] for name in names if name != intent]
    return draw.choice(known)


def _labelled_s(at_s: float, desk: Desk, draw: random.Random) -> float:
    if draw.random() < EARLY_SHARE:
        return max(0.0, at_s - draw.uniform(0.0, EARLY_S))
    return _before_end(at_s + draw.uniform(0.0, LATE_S), desk, draw, after_s=at_s)


def _before_end(
    due_s: float, desk: Desk, draw: random.Random, *, after_s: float | None = None
) -> float:
    """Move what would come after the stream's end into what is left of it."""
    if due_s < desk.duration_s:
        return due_s
    left_from_s = due_s if after_s is None else after_s
    return draw.uniform(min(left_from_s, desk.duration_s), desk.duration_s)


def _feedback(at_s: float, name: str, kind: str, label: Label) -> Event:
    message = Feedback(
        interaction=name,
        kind="correction" if kind == "correction" else "label",
        time=_ANY_TIME,
        value=label,
    )
    return Event(at_s, "feedback", name, message)
