"""Laws of a plan of micro-batches: nothing lost or doubled, within its bounds, and cheap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from learners.planning import BATCH_TOKENS, plan


def cost(lengths: list[int], batches: list[list[int]], each: int = BATCH_TOKENS) -> int:
    """Give what a plan costs, in tokens."""
    return sum(len(b) * max(lengths[row] for row in b) + each for b in batches)


def greedy(lengths: list[int], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Fill every batch as far as it goes."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        room = batches and len(batches[-1]) < max_rows
        if room and (len(batches[-1]) + 1) * lengths[row] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


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


@given(lengths=st.lists(st.integers(1, 130), min_size=1, max_size=64), each=st.integers(0, 3_000))
def test_where_one_batch_could_hold_all_no_other_plan_of_sorted_rows_is_cheaper(
    lengths: list[int], each: int
) -> None:
    # Bounds do not bind, so the cheapest plan is a matter of where sorted rows are parted.
    batches = plan(lengths, len(lengths), len(lengths) * 130, batch_tokens=each)
    rows = sorted(lengths)
    least = [0]
    for end in range(1, len(rows) + 1):
        least.append(min(least[s] + (end - s) * rows[end - 1] + each for s in range(end)))
    assert cost(lengths, batches, each) == least[-1]


@given(lengths=st.lists(st.integers(1, 130), min_size=1, max_size=200))
def test_a_plan_costs_no_more_than_filled_batches_by_much(lengths: list[int]) -> None:
    mine = cost(lengths, plan(lengths, 64, 8_192))
    # Rows of one length are parted evenly and not where the greedy plan would: one batch's worth.
    assert mine <= cost(lengths, greedy(lengths, 64, 8_192)) * 1.05 + BATCH_TOKENS
