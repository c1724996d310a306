"""The order in which a data set is streamed, its waves, and its labels' delays.

Owns orders and waves; must not know files or Kafka. Deterministic by the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mindstream.demo.dataset import Data, Row
from mindstream.demo.plan import Event, ExamRow, Plan, Truth
from schemas import Feedback, Interaction
from schemas.errors import SettingsError
from schemas.fields import Label

TASK = "demo"
LABELS_A_WAVE = 11  # of a class-incremental stream without domains
PARTS = 4  # waves of any other stream: its quarters
LATE_SHARE = 0.70
LATE_S = 2.0
RATE = 150.0  # interactions a second at most; slower where the roles are
WINDOW = 256  # unread messages: so few that the waves reach the learner one after the other

_ANY_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # replaced when an event is sent

Waves = list[tuple[str, list[Row]]]


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """How a file becomes a stream.

    Attributes:
        name: one of `ORDERS`.
        seed: of every shuffle and delay.
        rate: interactions a second, at most.
    """

    name: str = "file"
    seed: int = 0
    rate: float = RATE


def plan_data(data: Data, order: StreamOrder) -> Plan:
    """Plan the stream of a data set; every row is labelled, most of them a little later.

    Args:
        data: as read.
        order: how to stream it.

    Raises:
        SettingsError: there is no such order, or the file lacks what it needs.
    """
    if order.name not in ORDERS:
        raise SettingsError([f"--order {order.name!r}: must be one of {', '.join(ORDERS)}"])
    draw = random.Random(order.seed)
    waves = ORDERS[order.name](data.stream, draw)
    events: list[Event] = []
    truths: dict[str, Truth] = {}
    for wave, (_, rows) in enumerate(waves):
        for row in rows:
            name = f"row-{row.line:07d}"
            at_s = len(truths) / order.rate
            truths[name] = Truth(row.label, wave)
            events += _events(name, row, at_s=at_s, draw=draw)
    events.sort(key=lambda event: event.at_s)
    by_domain = order.name == "class-incremental" and bool(_domains(data.stream))
    return Plan(
        title=f"{data.name}: {len(truths):,} rows in {len(waves)} waves, "
        f"{len(labels_of(data.stream))} labels, {len(data.exam):,} kept for the exam",
        task=TASK,
        kind=data.kind,
        events=tuple(events),
        truths=truths,
        waves=tuple(name for name, _ in waves),
        exam=tuple(_exam(data.exam, waves, by_domain=by_domain)),
        window=WINDOW,
    )


def labels_of(rows: Sequence[Row]) -> list[str]:
    """List the single labels of rows, in order of appearance."""
    return list(dict.fromkeys(text for row in rows for text in _texts(row.label)))


def _texts(label: Label) -> tuple[str, ...]:
    return (label,) if isinstance(label, str) else label


def _events(name: str, row: Row, *, at_s: float, draw: random.Random) -> list[Event]:
    late = draw.random() < LATE_SHARE
    user = row.user or f"user-{row.line % 997:03d}"
    message = Interaction(
        id=name,
        user=user,
        task=TASK,
        time=_ANY_TIME,
        text=row.text,
        label=None if late else row.label,
    )
    events = [Event(at_s, "interactions", user, message)]
    if late:
        feedback = Feedback(interaction=name, kind="label", time=_ANY_TIME, value=row.label)
        events.append(Event(at_s + draw.uniform(0.0, LATE_S), "feedback", name, feedback))
    return events


def _exam(rows: Sequence[Row], waves: Waves, *, by_domain: bool) -> list[ExamRow]:
    """Give each exam row the wave after which all that it asks about has been streamed."""
    known: dict[str, int] = {}
    for wave, (name, part) in enumerate(waves):
        for label in [name] if by_domain else labels_of(part):
            known.setdefault(label, wave)
    last = len(waves) - 1
    exam = []
    for row in rows:
        asked = (row.domain,) if by_domain else _texts(row.label)
        wave = max((known.get(label, last) for label in asked), default=0)
        exam.append(ExamRow(row.text, row.label, wave))
    return exam


def _in_file_order(rows: Sequence[Row], draw: random.Random) -> Waves:
    del draw
    size = -(-len(rows) // PARTS)
    parts = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    return [(f"part {number}", part) for number, part in enumerate(parts, 1)]


def _shuffled(rows: Sequence[Row], draw: random.Random) -> Waves:
    mixed = list(rows)
    draw.shuffle(mixed)
    return _in_file_order(mixed, draw)


def _by_time(rows: Sequence[Row], draw: random.Random) -> Waves:
    missing = [row.line for row in rows if row.time is None]
    if missing:
        raise SettingsError(
            [
                f"--order time: {len(missing):,} rows have no column 'timestamp', the first in "
                f"line {missing[0]}"
            ]
        )
    return _in_file_order(sorted(rows, key=lambda row: row.time or _ANY_TIME), draw)


def _class_incremental(rows: Sequence[Row], draw: random.Random) -> Waves:
    """Group rows: a domain a wave where the file has domains, else so many labels a wave."""
    domains = _domains(rows)
    if domains:
        waves = [(domain, [row for row in rows if row.domain == domain]) for domain in domains]
    else:
        labels = sorted(labels_of(rows))
        draw.shuffle(labels)
        wave_of = {label: place // LABELS_A_WAVE for place, label in enumerate(labels)}
        grouped: list[list[Row]] = [[] for _ in range(-(-len(labels) // LABELS_A_WAVE))]
        for row in rows:  # a row with several labels comes when all of them may be known
            grouped[max((wave_of[text] for text in _texts(row.label)), default=0)].append(row)
        waves = [(f"wave {number}", part) for number, part in enumerate(grouped, 1)]
    for _, part in waves:
        draw.shuffle(part)
    return [(name, part) for name, part in waves if part]


def _domains(rows: Sequence[Row]) -> list[str]:
    """List the domains, sorted; none when all rows have the same or some have none."""
    domains = sorted({row.domain for row in rows})
    return domains if len(domains) > 1 and "" not in domains else []


ORDERS: dict[str, Callable[[Sequence[Row], random.Random], Waves]] = {
    "file": _in_file_order,
    "shuffled": _shuffled,
    "class-incremental": _class_incremental,
    "time": _by_time,
}
