"""The ledger: bounded memory of what has been learned."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.ledger import Ledger


@given(
    rows=st.integers(1, 6),
    smaller=st.integers(1, 6),
    ids=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 2)), max_size=40),
    cut=st.integers(0, 40),
)
def test_it_knows_exactly_the_newest_pairs_saved_or_not(
    rows: int, smaller: int, ids: list[tuple[str, int]], cut: int
) -> None:
    ledger, newest, total = Ledger(rows), deque[tuple[str, int]](maxlen=rows), 0
    everything = [(id_, revision) for id_ in "abcdefgh" for revision in (1, 2)]
    for n, pair in enumerate(ids):
        if n == cut:  # a restart, into a ledger of another size
            state = ledger.state()
            ledger = Ledger(smaller)
            ledger.restore(state, total=total)
            newest = deque(newest, maxlen=smaller)
            assert ledger.state().tolist() == state.tolist()[-smaller:]
        assert ledger.add(*pair) == (pair not in newest)
        if pair not in newest:
            newest.append(pair)
            total += 1
        assert {each for each in everything if ledger.seen(*each)} == set(newest)
        assert (ledger.total, len(ledger)) == (total, len(newest))


def test_its_state_is_eight_bytes_a_pair() -> None:
    ledger = Ledger(1000)
    for n in range(1500):
        ledger.add(str(n), 1)
    assert ledger.state().dtype == torch.uint64
    assert list(ledger.state().shape) == [1000]


@pytest.mark.parametrize(
    "state",
    [torch.zeros(3), torch.zeros(2, 2, dtype=torch.uint64), torch.zeros(4).to(torch.uint64)],
)
def test_what_is_no_state_is_refused(state: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"a ledger's state is uint64 \[pairs\] of 3 at most"):
        Ledger(10).restore(state, total=3)


def test_a_ledger_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="rows is 0"):
        Ledger(0)
