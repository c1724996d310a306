"""A plan's edges."""

from __future__ import annotations

import pytest

from learners.planning import plan


def test_no_rows_need_no_batch() -> None:
    assert plan([], 1, 1) == []


@pytest.mark.parametrize(("rows", "tokens"), [(0, 1), (1, 0)])
def test_a_plan_without_room_is_refused(rows: int, tokens: int) -> None:
    with pytest.raises(ValueError, match=f"max_rows is {rows} and max_tokens {tokens}"):
        plan([1], rows, tokens)
