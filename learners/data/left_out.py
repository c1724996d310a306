"""Scores of labelled rows by a model that has not learned from them: ridge, each row left out.

Owns one solve over features at rest and its leave-one-out identity; must not know texts, encoders,
memory or what the scores are for.

The score of a row under the ridge of all other rows needs no second solve: it is the ridge's own,
corrected by the row's leverage (Allen, "The relationship between variable selection and data
augmentation and a method for prediction", Technometrics 1974). The strength of the ridge is the one
of a grid with the least error on rows left out, as Allen's PRESS has it. Ours differs: rows are
weighted so that every label has the same weight in all; else a frequent label would be preferred to
a rare one whose rows are right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # in units of the mean diagonal of the second moments
_MOST_LEVERAGE = 0.999  # a row beyond it has no others to be judged by


class LeftOutRidge:
    """Ridge from features to labels, one label a row.

    Costs a pass over all rows and an eigendecomposition of [features + 1, features + 1].

    Args:
        features: float32 [rows, features], one row at least.
        columns: the label of each row, 0 to `labels` - 1.
        labels: how many there are; one without rows scores 0.

    Attributes:
        left_out: float32 [rows, labels]: about 1 for the label that the other rows say, 0 for the
            others.
        strength: the one that was chosen, in the units of `STRENGTHS`.

    Raises:
        ValueError: there are no rows, or not one label a row.

    Examples:
        >>> x = np.float32([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]])
        >>> ridge = LeftOutRidge(x, [0, 0, 1, 1, 1, 1], labels=2)  # the third label is wrong
        >>> ridge.left_out.argmax(axis=1).tolist()
        [0, 0, 0, 1, 1, 1]
    """

    def __init__(
        self, features: NDArray[np.float32], columns: Sequence[int], *, labels: int
    ) -> None:
        if not len(features) or len(features) != len(columns):
            raise ValueError(
                f"{len(features)} rows of features and {len(columns)} labels: at least one, and as "
                "many, needed"
            )
        mine = np.asarray(columns, dtype=np.int64)
        rows = np.bincount(mine, minlength=labels)
        weights = (len(mine) / np.count_nonzero(rows) / rows[mine]).astype(np.float32)  # [rows]
        x = _with_bias(features)
        second = (x * weights[:, None]).T.astype(np.float64) @ x
        values, vectors = np.linalg.eigh(second)
        turned = x @ vectors.astype(np.float32)  # [rows, features + 1]
        cross = np.zeros((turned.shape[1], labels))  # sum of weighted features by label
        for label in range(labels):
            chosen = mine == label
            cross[:, label] = weights[chosen] @ turned[chosen]
        unit = float(values.mean())
        best = np.inf
        for strength in STRENGTHS:
            inverse = 1.0 / (np.maximum(values, 0.0) + strength * unit)
            solved = inverse[:, None] * cross  # [features + 1, labels]
            leverage = weights * (np.square(turned) @ inverse)  # [rows]
            left_out = _left_out(turned @ solved, leverage, mine)
            error = _error(left_out, mine, weights)
            if error < best:
                best = error
                self.strength = strength
                self.left_out: NDArray[np.float32] = left_out.astype(np.float32)
                self._weights = (vectors @ solved).astype(np.float32)

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score rows that were not among those it was made of: float32 [rows, labels]."""
        scores: NDArray[np.float32] = _with_bias(features) @ self._weights
        return scores


def _with_bias(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.hstack([features, np.ones((len(features), 1), dtype=np.float32)])


def _left_out(
    scores: NDArray[np.float64], leverage: NDArray[np.float64], mine: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Take each row's own part out of its score: (score - h y) / (1 - h)."""
    own = np.minimum(leverage, _MOST_LEVERAGE)
    scores[np.arange(len(mine)), mine] -= own
    scores /= (1.0 - own)[:, None]
    return scores


def _error(
    left_out: NDArray[np.float64], mine: NDArray[np.int64], weights: NDArray[np.float32]
) -> float:
    """Give the weighted squared error against label indicators."""
    squared = np.square(left_out).sum(axis=1)  # of the others; then (s - 1)^2 in place of s^2
    return float(weights @ (squared - 2.0 * left_out[np.arange(len(mine)), mine] + 1.0))
