"""Records to contracts or dead letters: size, times, and nothing lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Interaction, codec
from schemas.errors import DecodeError, MessageError
from streams.decoding import Limits, Record, dead_letter, decode_record, make_record

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LIMITS = Limits(max_bytes=2_000, max_age_s=86_400.0, max_ahead_s=60.0)


def record(value: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> Record:
    return make_record(
        topic="t", partition=1, offset=7, key=b"u", value=value, headers=headers, timestamp_s=0.0
    )


def interaction(time: datetime) -> bytes:
    return codec.encode(Interaction(id="1", user="u", task="intents", time=time, text="hello"))


def test_a_good_record_is_its_contract() -> None:
    message = decode_record(Interaction, record(interaction(NOW)), limits=LIMITS, now=NOW)
    assert message.text == "hello"


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        (timedelta(seconds=61), "time: 2026-05-01T12:01:01+00:00 is 61 s in the future"),
        (timedelta(days=-2), "time: 2026-04-29T12:00:00+00:00 is 2 days old"),
    ],
)
def test_a_time_out_of_bounds_is_refused_with_the_rule(moved: timedelta, words: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_record(Interaction, record(interaction(NOW + moved)), limits=LIMITS, now=NOW)
    assert words in caught.value.reason


def test_a_record_over_the_size_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(DecodeError, match="too large: 3,000 bytes, at most 2,000") as caught:
        decode_record(Interaction, record(b"x" * 3_000), limits=LIMITS, now=NOW)
    assert caught.value.data == b"x" * 3_000


def test_headers_may_be_pairs_or_a_mapping_and_a_tombstone_is_empty() -> None:
    pairs = make_record(
        topic="t", partition=0, offset=0, key=None, value=None, headers=[("a", b"1")], timestamp_s=0
    )
    mapping = make_record(
        topic="t", partition=0, offset=0, key=None, value=None, headers={"a": b"1"}, timestamp_s=0
    )
    assert pairs == mapping
    assert pairs.value == b""


@given(st.binary(max_size=300))
def test_whatever_the_bytes_a_record_is_a_contract_or_a_dead_letter_with_them(data: bytes) -> None:
    source = record(data)
    try:
        decode_record(Interaction, source, limits=LIMITS, now=NOW)
    except MessageError as error:
        letter = dead_letter(source, error, now=NOW)
        assert (letter.data, letter.key, letter.offset) == (data, b"u", 7)
        assert letter.reason
