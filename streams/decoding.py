"""Kafka records to contracts, or to dead letters.

Owns what a record must satisfy beyond its contract (size, times) and the shape of a dead letter;
must not know agents, joins or models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from schemas import DeadLetter, codec
from schemas.errors import DecodeError, MessageError
from schemas.times import check_time

T = TypeVar("T")

# What a dead letter keeps of a message: base64 makes it a third longer, and 16 MiB is what the
# topic takes.
KEPT_BYTES = 8 * 1024 * 1024
KEPT_KEY_BYTES = 1024 * 1024
_SHORTENED = "; too long for a dead letter: "


class Record(msgspec.Struct, frozen=True, gc=False):
    """One Kafka record as it came; made once an event, so that it must be cheap.

    Attributes:
        headers: name and value pairs, in order.
        time_ms: the record's Kafka timestamp, milliseconds since 1970.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    time_ms: int

    @property
    def position(self) -> str:
        """Where it stands: `topic:partition:offset`."""
        return f"{self.topic}:{self.partition}:{self.offset}"

    @property
    def time(self) -> datetime:
        """The record's Kafka timestamp."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a message must satisfy beyond its contract.

    Attributes:
        max_bytes: largest value, bytes.
        max_age_s: how far in the past its time may lie, seconds.
        max_ahead_s: how far in the future, seconds.
    """

    max_bytes: int = 1_048_576
    max_age_s: float = 20 * 365 * 86_400.0
    max_ahead_s: float = 300.0
    _oldest: timedelta = field(init=False, repr=False, compare=False)
    _youngest: timedelta = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_oldest", _age(self.max_age_s))
        object.__setattr__(self, "_youngest", -_age(self.max_ahead_s))

    def hold(self, time: datetime, *, now: datetime) -> bool:
        """Say whether a time is within the bounds; both with a time zone."""
        return self._youngest <= now - time <= self._oldest


def _age(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, timedelta.max.total_seconds() // 2))


def record_of(message: Any) -> Record:  # noqa: ANN401
    """Turn a Faust message into a record; a tombstone becomes an empty value."""
    return make_record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=message.headers,
        timestamp_s=message.timestamp,
    )


def records_of(fetched: Iterable[Any]) -> list[Record]:
    """Turn what the consumer's client fetched into records, a few hundred at once."""
    return [
        Record(
            row.topic,
            row.partition,
            row.offset,
            row.key,
            row.value or b"",
            _pairs(row.headers) if row.headers else (),
            row.timestamp if row.timestamp > 0 else 0,
        )
        for row in fetched
    ]


def make_record(
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Mapping[str, bytes] | Iterable[tuple[str, bytes]] | None,
    timestamp_s: float,
) -> Record:
    """Build a record from what a client library hands over; headers may be pairs or a mapping."""
    return Record(
        topic,
        partition,
        offset,
        key,
        value or b"",
        _pairs(headers) if headers else (),
        round(max(0.0, timestamp_s) * 1000),
    )


def _pairs(
    headers: Mapping[str, bytes] | Iterable[tuple[str, bytes]],
) -> tuple[tuple[str, bytes], ...]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple([(str(name), value or b"") for name, value in pairs])


def decode_record(contract: type[T], record: Record, *, limits: Limits, now: datetime) -> T:
    """Decode and check one record.

    Args:
        contract: what the topic carries.
        record: as it came.
        limits: size and time bounds.
        now: the wall clock.

    Returns:
        The validated contract.

    Raises:
        DecodeError: it cannot be used; carries its bytes and a reason for people.
    """
    if len(record.value) > limits.max_bytes:
        raise DecodeError(
            f"too large: {len(record.value):,} bytes, at most {limits.max_bytes:,} are taken",
            record.value,
        )
    message = codec.decode(contract, record.value, record.headers)
    time: datetime | None = getattr(message, "time", None)
    if time is not None and not limits.hold(time, now=now):
        check_time(
            time,
            now=now,
            max_age_s=limits.max_age_s,
            max_ahead_s=limits.max_ahead_s,
            data=record.value,
        )
    return message


def dead_letter(
    record: Record, error: MessageError, *, now: datetime, attempt: int = 1
) -> DeadLetter:
    """Write down a record that cannot be used: complete, or shortened to `KEPT_BYTES`."""
    letter = DeadLetter(
        data=record.value,
        key=record.key,
        reason=error.reason,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        time=now,
        attempt=attempt,
    )
    return shortened(letter, kept_bytes=KEPT_BYTES)


def shortened(letter: DeadLetter, *, kept_bytes: int) -> DeadLetter:
    """Keep the beginning of a dead message's value, and of its key, and say so in the letter.

    Args:
        letter: complete, or shortened before.
        kept_bytes: of the value, at most.

    Returns:
        A letter with the size and the SHA-256 of the complete value; the same letter where nothing
        is too long.
    """
    key = letter.key
    if len(letter.data) <= kept_bytes and len(key or b"") <= KEPT_KEY_BYTES:
        return letter
    size = letter.size if letter.size is not None else len(letter.data)
    reason = letter.reason.partition(_SHORTENED)[0]
    return msgspec.structs.replace(
        letter,
        data=letter.data[:kept_bytes],
        key=None if key is None else key[:KEPT_KEY_BYTES],
        size=size,
        sha256=digest_of(letter),
        reason=f"{reason}{_SHORTENED}{min(size, kept_bytes):,} of {size:,} bytes are kept",
    )


def digest_of(letter: DeadLetter) -> str:
    """Give the SHA-256 of the complete value, in hexadecimal."""
    return letter.sha256 or hashlib.sha256(letter.data).hexdigest()
