from __future__ import annotations

import torch

from learners.batch import IDS, MASK, collate


def test_rows_are_padded_to_the_longest_and_masked() -> None:
    packed = collate([[5, 6, 7], [8]])
    assert packed.dtype == torch.int64
    assert packed[:, IDS].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert packed[:, MASK].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_row_without_tokens_keeps_one_place_so_that_its_mean_is_finite() -> None:
    assert collate([[], [1]])[:, MASK].sum(dim=1).tolist() == [1, 1]
