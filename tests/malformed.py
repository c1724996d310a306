"""Malformed messages of many kinds, each with a word that its refusal must say.

Every kind is wrong for one reason. Serial numbers make each message's key its own, and its bytes
too where the kind leaves room for it (`empty` and `null` do not), so that a dead letter can be
matched with what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count as count_up
from itertools import islice
from typing import Any, Literal

from schemas.fields import MAX_ID_CHARS, MAX_LABEL_CHARS, MAX_TEXT_CHARS

MEGABYTE = 1_000_000
DEPTH = 2_000
Refuser = Literal["codec", "record", "task"]
Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Malformed:
    """One message that must end in dead letters.

    Attributes:
        kind: name of what is wrong.
        topic: without the prefix: `interactions` or `feedback`.
        key: Kafka key.
        data: Kafka value.
        headers: Kafka headers.
        word: what the reason must contain.
        refuser: who notices: the codec, the record's limits, or the task.
    """

    kind: str
    topic: str
    key: bytes
    data: bytes
    headers: tuple[Header, ...]
    word: str
    refuser: Refuser


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind: how a good message's fields become malformed bytes, and who says what of it."""

    word: str
    damage: Callable[[dict[str, Any]], bytes]
    refuser: Refuser = "codec"
    topic: str = "interactions"
    headers: tuple[Header, ...] = field(default=())


def encoded(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def changed(**changes: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda good: encoded({**good, **changes})


def without(*names: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda good: encoded({k: v for k, v in good.items() if k not in names})


def text_as(raw: bytes) -> Callable[[dict[str, Any]], bytes]:
    """Put raw bytes where the text's JSON would stand."""
    return lambda good: encoded({**good, "text": "@"}).replace(b'"@"', raw)


def moved(**by: float) -> Callable[[dict[str, Any]], bytes]:
    def damage(good: dict[str, Any]) -> bytes:
        time = datetime.fromisoformat(good["time"]) + timedelta(**by)
        return encoded({**good, "time": time.isoformat()})

    return damage


def naive(good: dict[str, Any]) -> bytes:
    return encoded({**good, "time": good["time"].partition("+")[0]})


FAULTS: dict[str, Fault] = {
    "empty": Fault("empty", lambda good: b""),
    "null": Fault("object", lambda good: b"null"),
    "array": Fault("array", lambda good: json.dumps([good]).encode()),
    "string": Fault("object", lambda good: json.dumps(f"hello {good['id']}").encode()),
    "not JSON": Fault("JSON", lambda good: f"id={good['id']}&text=hi".encode()),
    "XML": Fault("JSON", lambda good: f"<event id='{good['id']}'/>".encode()),
    "cut off": Fault("ends too early", lambda good: encoded(good)[:-7]),
    "two in one": Fault("trailing", lambda good: encoded(good) + b"\n" + encoded(good)),
    "byte order mark": Fault("byte order mark", lambda good: b"\xef\xbb\xbf" + encoded(good)),
    "UTF-16": Fault("UTF-8", lambda good: encoded(good).decode().encode("utf-16")),
    "bad UTF-8": Fault("UTF-8", text_as(b'"caf\xe9"')),
    "half a surrogate pair": Fault("surrogate", text_as(b'"\\ud83d!"')),
    "NaN": Fault("NaN", text_as(b"NaN")),
    "control character": Fault("JSON", text_as(b'"a\x00b"')),
    "infinite number": Fault("features", text_as(b'"hi", "features": {"x": 1e999}')),
    "huge integer": Fault("features", text_as(b'"hi", "features": {"x": ' + b"9" * 400 + b"}")),
    "deep nesting": Fault(
        "features", text_as(b'"hi", "features": {"x": ' + b"[" * DEPTH + b"]" * DEPTH + b"}")
    ),
    "deep objects": Fault("text", text_as(b'{"a": ' * DEPTH + b"1" + b"}" * DEPTH)),
    "missing id": Fault("id", without("id")),
    "missing user": Fault("user", without("user")),
    "missing time": Fault("time", without("time")),
    "unknown field": Fault("colour", changed(colour="blue")),
    "null id": Fault("id", changed(id=None)),
    "number as id": Fault("id", changed(id=17)),
    "empty id": Fault("id", changed(id="")),
    "too long id": Fault(str(MAX_ID_CHARS), changed(id="i" * (MAX_ID_CHARS + 1))),
    "number as text": Fault("text", changed(text=42)),
    "empty text": Fault("text", changed(text="")),
    "too long text": Fault(str(MAX_TEXT_CHARS), changed(text="t" * (MAX_TEXT_CHARS + 1))),
    "number as label": Fault("label", changed(label=7)),
    "object as label": Fault("label", changed(label={"intent": "x"})),
    "too long label": Fault(str(MAX_LABEL_CHARS), changed(label="l" * (MAX_LABEL_CHARS + 1))),
    "nested features": Fault("features", changed(features={"a": {"b": 1}})),
    "text as consent": Fault("consent", changed(consent="yes")),
    "wrong version": Fault("version", changed(version=2)),
    "newer contract": Fault("version", changed(sentiment="new field", version=2)),
    "naive time": Fault("timezone", naive),
    "number as time": Fault("time", changed(time=1_700_000_000)),
    "no such time": Fault("time", changed(time="2026-02-30T00:00:00Z")),
    "task name in capitals": Fault("task", changed(task="INTENTS")),
    "another id in the headers": Fault(
        "ce_id", encoded, headers=(("ce_id", b"another"), ("ce_specversion", b"1.0"))
    ),
    "another type in the headers": Fault(
        "ce_type", encoded, headers=(("ce_type", b"mindstream.feedback"),)
    ),
    "bad UTF-8 in the headers": Fault("header", without("id"), headers=(("ce_id", b"\xff"),)),
    "feedback of no kind": Fault("kind", changed(kind="applause"), topic="feedback"),
    "feedback on nothing": Fault("interaction", without("interaction"), topic="feedback"),
    "interaction as feedback": Fault(
        "field", lambda good: encoded({**good, "text": "hi"}), topic="feedback"
    ),
    "5 MB": Fault("large", changed(text="x" * 5 * MEGABYTE), "record"),
    "future time": Fault("future", moved(days=400), "record"),
    "ancient time": Fault("old", moved(days=-365 * 900), "record"),
    "unknown task": Fault("task", changed(task="cooking"), "task"),
    "no text": Fault("text", without("text"), "task"),
    "blank text": Fault("text", changed(text=" \n\t "), "task"),
    "blank label": Fault("label", changed(label="  "), "task"),
    "list as label": Fault("label", changed(label=["a", "b"]), "task"),
    "number as label in feedback": Fault("label", changed(value=4.5), "task", topic="feedback"),
    "label absent from feedback": Fault("label", without("value"), "task", topic="feedback"),
}
SMALL = tuple(kind for kind in FAULTS if kind != "5 MB")


def malformed(
    kind: str, *, serial: int, now: datetime, task: str = "intents", label: str = "greeting"
) -> Malformed:
    """Make one malformed message.

    Args:
        kind: one of `FAULTS`.
        serial: makes its bytes its own.
        now: the event's time, in UTC; good, unless the kind is about time.
        task: a task of kind `classify`, so that only the kind's own fault is one.
        label: a label the message may carry.
    """
    fault = FAULTS[kind]
    id_ = f"malformed-{serial:07d}"
    good: dict[str, Any]
    if fault.topic == "feedback":
        key = id_
        good = {"interaction": id_, "kind": "label", "value": label}
    else:
        key = f"user-{serial:07d}"
        good = {"id": id_, "user": key, "task": task, "text": f"hello, message {serial}"}
    return Malformed(
        kind=kind,
        topic=fault.topic,
        key=key.encode(),
        data=fault.damage({**good, "time": now.isoformat()}),
        headers=fault.headers,
        word=fault.word,
        refuser=fault.refuser,
    )


def corpus(
    rows: int,
    *,
    now: datetime,
    kinds: tuple[str, ...] = tuple(FAULTS),
    first_serial: int = 0,
    task: str = "intents",
    big: int = 20,
) -> Iterator[Malformed]:
    """Give malformed messages, kinds taking turns.

    Args:
        rows: how many.
        now: time of the events, UTC.
        kinds: which, in this order.
        first_serial: serial number of the first.
        task: a `classify` task of the deployment.
        big: at most so many of the kind `5 MB`; after them its turns are left out.
    """

    def turns() -> Iterator[Malformed]:
        bigs = 0
        for turn in count_up():
            kind = kinds[turn % len(kinds)]
            if kind == "5 MB":
                bigs += 1
                if bigs > big:
                    continue
            yield malformed(kind, serial=first_serial + turn, now=now, task=task)

    return islice(turns(), rows)
