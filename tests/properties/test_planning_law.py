"""Laws of a plan of micro-batches: nothing lost or doubled, within its bounds, none too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.planning import plan


@given(
    lengths=st.lists(st.integers(0, 600), max_size=200),
    max_rows=st.integers(1, 40),
    max_tokens=st.integers(1, 1_000),
)
def test_a_plan_holds_every_row_once_within_its_bounds(
    lengths: list[int], max_rows: int, max_tokens: int
) -> None:
    batches = plan(lengths, max_rows, max_tokens)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= max_tokens
    order = [row for batch in batches for row in batch]
    assert order == sorted(range(len(lengths)), key=lambda row: (lengths[row], row))


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    max_rows=st.integers(1, 20),
    max_tokens=st.integers(1, 300),
)
def test_no_two_neighbouring_batches_would_have_fitted_into_one(
    lengths: list[int], max_rows: int, max_tokens: int
) -> None:
    batches = plan(lengths, max_rows, max_tokens)
    for one, other in zip(batches, batches[1:], strict=False):
        rows = len(one) + 1
        assert rows > max_rows or rows * lengths[other[0]] > max_tokens
