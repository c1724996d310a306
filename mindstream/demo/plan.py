"""What a demo streams and asks: events in order, the truth of each, and the exam.

Owns the shapes that simulator and data sets fill and that producer, tally and exam read; must not
know where a text comes from or how an event is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas import Feedback, Interaction
from schemas.fields import Label


@dataclass(frozen=True, slots=True)
class Event:
    """One message to send.

    Attributes:
        at_s: when, seconds after the start of the stream.
        topic: where to, without the prefix.
        key: the message key.
        message: what to send, its time set anew when it is sent; None for raw bytes.
        raw: the bytes of a malformed message.
    """

    at_s: float
    topic: Literal["interactions", "feedback"]
    key: str
    message: Interaction | Feedback | None = None
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of an interaction that can be answered.

    Attributes:
        label: what it really is, whatever label is sent for it.
        wave: the part of the stream it belongs to, from 0.
    """

    label: Label
    wave: int


@dataclass(frozen=True, slots=True)
class ExamRow:
    """A row that is never streamed.

    Attributes:
        wave: the wave in which all that it asks about is known.
    """

    text: str
    label: Label
    wave: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole demo stream.

    Attributes:
        title: one line for people.
        task: its name.
        kind: its task kind.
        events: by `at_s`.
        truths: interaction id to truth, for every interaction that is not malformed.
        waves: name of each wave.
        exam: held-back rows.
        label_ttl_s: how long an interaction waits for its label, seconds; None: as the settings
            say.
        window: messages that may be unread at any time, at most.
    """

    title: str
    task: str
    kind: Literal["classify", "multilabel"]
    events: tuple[Event, ...]
    truths: Mapping[str, Truth]
    waves: tuple[str, ...]
    exam: tuple[ExamRow, ...]
    label_ttl_s: float | None = None
    window: int = 2_000
