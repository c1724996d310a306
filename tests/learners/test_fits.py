"""Fits on held-out rows: many rows show what is best, and a few do not lead astray."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from learners.heads.base import Floats
from learners.heads.probes import best_threshold, fit_prior
from learners.heads.scoring import softmax

PRIOR = np.log(np.array([2.0, 0.7, 0.3]))


def skewed(rows: int, *, share: float, spread: float = 0.5) -> tuple[Floats, NDArray[np.intp]]:
    """Draw rows of which softmax(4 * score + share * prior) says how likely each label is."""
    random = np.random.default_rng(rows)
    scores = random.normal(0, spread, (rows, len(PRIOR))).astype(np.float32)
    likely = softmax((4 * scores + share * PRIOR).astype(np.float32)).cumsum(axis=1)
    return scores, (random.random((rows, 1)) > likely[:, :-1]).sum(axis=1)


def of_several(rows: int, *, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Draw probabilities that are right, and labels by them."""
    random = np.random.default_rng(seed)
    probabilities = random.beta(0.3, 2.0, (rows, 6)).astype(np.float32)
    return probabilities, random.random(probabilities.shape) < probabilities


def f1(probabilities: Floats, truth: NDArray[np.bool_], threshold: float) -> float:
    said = probabilities >= threshold
    return 2 * int((said & truth).sum()) / (int(said.sum()) + int(truth.sum()))


def liked_best(probabilities: Floats, truth: NDArray[np.bool_]) -> float:
    return max((f1(probabilities, truth, at / 40), at / 40) for at in range(2, 39))[1]


def test_many_rows_show_which_share_of_the_prior_is_right() -> None:
    for share in (0.0, 0.5, 1.0):
        scale, found = fit_prior(*skewed(20_000, share=share), PRIOR)
        assert found == share
        assert abs(scale - 4) < 0.2


def test_a_few_rows_hardly_move_the_share_of_the_prior_from_a_half() -> None:
    scores, truth = skewed(24, share=1.0)
    assert fit_prior(scores, truth, PRIOR)[1] in (0.5, 0.75)
    assert fit_prior(scores, scores.argmax(axis=1), PRIOR)[1] == 0.5  # they say nothing of it


def test_the_threshold_is_the_best_where_probabilities_are_right() -> None:
    probabilities, truth = of_several(50_000, seed=1)
    threshold, best = best_threshold(probabilities, truth)
    assert threshold == 0.5 * best
    assert f1(probabilities, truth, threshold) > best - 0.002


def test_a_few_rows_give_a_better_threshold_than_the_one_they_like_best() -> None:
    everything = of_several(50_000, seed=1)
    ours, theirs = [], []
    for seed in range(2, 42):
        few = of_several(40, seed=seed)
        ours.append(f1(*everything, best_threshold(*few)[0]))
        theirs.append(f1(*everything, liked_best(*few)))
    assert np.mean(ours) > np.mean(theirs) + 0.005
    assert min(ours) > min(theirs) + 0.02


def test_where_nothing_is_said_and_nothing_true_the_threshold_is_a_half() -> None:
    assert best_threshold(np.zeros((3, 2), np.float32), np.zeros((3, 2), bool)) == (0.5, 1.0)
    assert best_threshold(np.zeros((3, 2), np.float32), np.ones((3, 2), bool)) == (0.05, 0.0)
