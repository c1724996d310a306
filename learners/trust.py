"""How far scores can be trusted: their expected calibration error, and what chance makes of it.

Owns the bins of one side's scores; must not know who is compared, or what is allowed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

BINS = 15  # of equal width, as Guo et al., ICML 2017


def gaps(scores: Sequence[float], right: Sequence[bool]) -> list[float]:
    """Give each row's share in its bin's gap.

    Args:
        scores: probability that the answer is right, one a row, 0 to 1.
        right: whether it is, one a row.

    Returns:
        One a row, -1 to 1; their mean is the expected calibration error (Guo et al., ICML 2017).

    Example:
        >>> gaps([0.75, 0.75], [True, False])
        [-0.25, 0.75]
    """
    over = [score - truth for score, truth in zip(scores, right, strict=True)]
    bins = [_bin(score) for score in scores]
    sums = _sums(bins, over)
    return [math.copysign(1.0, sums[n]) * gap for n, gap in zip(bins, over, strict=True)]


def error_by_chance(scores: Sequence[float]) -> float:
    """Expect the calibration error of scores that are true; it is 0 only where none doubts.

    Where a bin's n rows are right with probability p each, its gap is sqrt(2 / pi * p (1 - p) / n)
    on average.

    Args:
        scores: one a row, 0 to 1.

    Example:
        >>> error_by_chance([1.0] * 40), round(error_by_chance([0.5] * 40), 3)
        (0.0, 0.063)
    """
    bins = [_bin(score) for score in scores]
    variances = _sums(bins, [score * (1.0 - score) for score in scores])
    expected = [math.sqrt(2 / math.pi * variance) for variance in variances.values()]
    return math.fsum(sorted(expected)) / len(bins) if bins else 0.0


def _sums(bins: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    """Add up the values of every bin."""
    members: defaultdict[int, list[float]] = defaultdict(list)
    for place, value in zip(bins, values, strict=True):
        members[place].append(value)
    return {place: math.fsum(some) for place, some in members.items()}


def _bin(score: float) -> int:
    return max(0, math.ceil(BINS * score) - 1)
