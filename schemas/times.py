"""How old or how far ahead a message's time may be.

Owns the rule and its words; must not know where the limits come from.
"""

from __future__ import annotations

from datetime import datetime

from schemas.errors import DecodeError

_DAY_S = 86_400.0


def check_time(
    time: datetime, *, now: datetime, max_age_s: float, max_ahead_s: float, data: bytes = b""
) -> None:
    """Refuse a time that lies too far in the past or in the future.

    Args:
        time: of the event, with a time zone.
        now: the wall clock, with a time zone.
        max_age_s: how far in the past it may lie, seconds.
        max_ahead_s: how far in the future, seconds.
        data: the message's bytes, for the error.

    Raises:
        DecodeError: it is out of bounds; names the time, by how much, and the bound.
    """
    age_s = (now - time).total_seconds()
    if age_s < -max_ahead_s:
        raise DecodeError(
            f"time: {time.isoformat()} is {_duration(-age_s)} in the future, "
            f"at most {_duration(max_ahead_s)} are allowed",
            data,
        )
    if age_s > max_age_s:
        raise DecodeError(
            f"time: {time.isoformat()} is {_duration(age_s)} old, "
            f"at most {_duration(max_age_s)} are allowed",
            data,
        )


def _duration(seconds: float) -> str:
    """Write days where they say more than seconds: `45 s`, `3 days`."""
    return f"{seconds / _DAY_S:,.0f} days" if seconds >= 2 * _DAY_S else f"{seconds:,.0f} s"
