"""How old or far ahead a time may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DecodeError, MessageError
from schemas.times import check_time

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        (timedelta(seconds=301), "2026-05-01T12:05:01+00:00 is 301 s in the future, at most 300 s"),
        (timedelta(days=-11), "2026-04-20T12:00:00+00:00 is 11 days old, at most 10 days"),
    ],
)
def test_a_time_out_of_bounds_is_refused_with_time_and_bound(moved: timedelta, words: str) -> None:
    with pytest.raises(DecodeError) as caught:
        check_time(NOW + moved, now=NOW, max_age_s=10 * DAY_S, max_ahead_s=300.0, data=b"it")
    assert words in caught.value.reason
    assert caught.value.data == b"it"


@given(
    time=st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-23, minutes=-59))))
)
def test_any_time_passes_or_is_refused(time: datetime) -> None:
    age_s = (NOW - time).total_seconds()
    try:
        check_time(time, now=NOW, max_age_s=DAY_S, max_ahead_s=60.0)
    except MessageError:
        assert not -60.0 <= age_s <= DAY_S
    else:
        assert -60.0 <= age_s <= DAY_S
