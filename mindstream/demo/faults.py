"""Malformed messages, as broken producers send them.

Owns the kinds of fault; must not know what refuses them. Each is wrong for exactly one reason.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from mindstream.demo.plan import Event

Fields = dict[str, Any]


def _changed(**changes: object) -> Callable[[Fields], bytes]:
    return lambda good: json.dumps({**good, **changes}).encode()


def _without(name: str) -> Callable[[Fields], bytes]:
    return lambda good: json.dumps({k: v for k, v in good.items() if k != name}).encode()


FAULTS: dict[str, Callable[[Fields], bytes]] = {
    "not JSON": lambda good: b"id=" + str(good["id"]).encode() + b"&text=where+is+it",
    "cut off": lambda good: json.dumps(good).encode()[:-9],
    "not UTF-8": lambda good: json.dumps(good).encode().replace(b"parcel", b"par\xffcel"),
    "empty": lambda good: b"",
    "a list": lambda good: json.dumps([good]).encode(),
    "no id": _without("id"),
    "no task": _without("task"),
    "unknown task": _changed(task="cooking"),
    "unknown field": _changed(colour="blue"),
    "text is a number": _changed(text=42),
    "blank text": _changed(text="   "),
    "text too long": _changed(text="a" * 20_001),
    "label is a number": _changed(label=7),
    "wrong version": _changed(version=9),
    "from the future": _changed(time="2999-01-01T00:00:00Z"),
    "from long ago": _changed(time="1970-01-02T00:00:00Z"),
    "time without offset": _changed(time="2026-01-01 00:00"),
    "nested too deeply": lambda good: b'{"id":' + b"[" * 3_000 + b"]" * 3_000 + b"}",
}


def malformed(number: int, *, at_s: float, task: str, draw: random.Random) -> Event:
    """Plan one malformed interaction.

    Args:
        number: which; kinds take turns.
        at_s: when, seconds after the start.
        task: the task that it would be for.
        draw: the source of chance.
    """
    names = list(FAULTS)
    user = f"user-{draw.randrange(40):02d}"
    good: Fields = {
        "id": f"bad-{number:06d}",
        "user": user,
        "task": task,
        "time": "2026-01-01T00:00:00Z",
        "text": f"where is my parcel {draw.randrange(10_000)}",
    }
    return Event(at_s, "interactions", user, raw=FAULTS[names[number % len(names)]](good))
