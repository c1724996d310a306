"""Which solve answers for a label that grew since all features were solved."""

from __future__ import annotations

import numpy as np
import pytest

from learners.heads.additive import AdditiveHead
from learners.heads.solves import Solver

FEATURES, TAUGHT, YOUNG = 16, 300, 20


def grown_by(solver: Solver, more: int) -> list[bool]:
    """Say, for an old, a young and a new label, whether the leading features answer for it."""
    one = AdditiveHead(features=FEATURES, solver=solver, width=128, seed=1)
    for label in ("old", "young"):
        one.row_of(label)
    x = np.random.default_rng(1).standard_normal((TAUGHT + more + 1, FEATURES)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows = [(int(n < YOUNG),) for n in range(TAUGHT)] + [(1,)] * more
    one.add(x[:TAUGHT], rows[:TAUGHT])
    one.solve()
    one.add(x[TAUGHT:], [*rows[TAUGHT:], (one.row_of("new"),)])
    one._solutions.solve_lead()
    return [bool(fresh) for fresh in one._solutions.judged.fresh]


@pytest.mark.parametrize(
    ("solver", "more", "fresh"),
    [
        ("class-balanced", YOUNG // 2, True),
        ("class-balanced", YOUNG // 2 - 1, False),
        ("least-squares", 2 * YOUNG, True),
        ("least-squares", 2 * YOUNG - 1, False),
    ],
)
def test_the_leading_features_answer_for_a_young_label_once_it_grew_and_for_a_new_one(
    solver: Solver, more: int, fresh: bool
) -> None:
    assert grown_by(solver, more) == [False, fresh, True]
