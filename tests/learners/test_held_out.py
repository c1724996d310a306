"""What chance explains between two answers of the same held-out rows."""

from __future__ import annotations

import numpy as np

from learners.heads.held_out import clearly_better


def test_a_small_gain_of_every_row_is_clear_and_a_larger_one_of_a_few_is_not() -> None:
    usual = np.linspace(0.1, 2.0, 200)
    assert clearly_better(usual - np.linspace(0.01, 0.02, 200), usual)
    assert not clearly_better(usual, usual)
    lucky = usual.copy()
    lucky[:3] -= 2.0  # on average twice as much
    assert not clearly_better(lucky, usual)


def test_of_answers_that_differ_by_chance_alone_few_are_clearly_better() -> None:
    random = np.random.default_rng(0)
    found = [clearly_better(random.normal(size=200), random.normal(size=200)) for _ in range(1_000)]
    assert 0.01 < np.mean(found) < 0.04  # one in 44: two standard errors, one side
