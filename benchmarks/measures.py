"""What is measured of a learner: pure functions over its answers."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

Matrix = Sequence[Sequence[float | None]]
"""Accuracy by task (row) and group (column); None where a group was not tested."""

BINS = 15


def forgetting(matrix: Matrix) -> float | None:
    """Give the mean over groups of their best accuracy minus their last.

    Groups that were tested once, or not at the end, have nothing to forget and are left out.

    Example:
        >>> forgetting([[1.0, None], [0.75, 1.0]])
        0.25
    """
    lost = []
    for column in zip(*matrix, strict=True):
        seen = [value for value in column if value is not None]
        if len(seen) > 1 and column[-1] is not None:
            lost.append(max(seen) - seen[-1])
    return sum(lost) / len(lost) if lost else None


def calibration_error(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Give the expected calibration error over 15 equal bins (Guo et al., ICML 2017).

    Args:
        scores: float64 [rows], probability of each answer.
        right: bool [rows], whether it was right.

    Example:
        >>> calibration_error(np.array([0.75] * 4), np.array([True, True, True, False]))
        0.0
    """
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    error = 0.0
    for number in range(BINS):
        mine = bins == number
        if mine.any():
            error += float(mine.mean() * abs(scores[mine].mean() - right[mine].mean()))
    return error


def area_under_curve(known: NDArray[np.float32], unknown: NDArray[np.float32]) -> float:
    """Give the chance that an unknown input looks more unknown than a known one, ties half.

    That is the area under the receiver operating characteristic.

    Example:
        >>> area_under_curve(np.float32([0, 1]), np.float32([1, 2]))
        0.875
    """
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left")
    up_to = np.searchsorted(ordered, unknown, side="right")
    return float((below + up_to).mean() / 2 / len(known))


def middle(values: Sequence[float | None]) -> float | None:
    """Give the median, with None as more than any number.

    Example:
        >>> middle([1, 3, None]), middle([1, None, None])
        (3.0, None)
    """
    found = median([float("inf") if value is None else float(value) for value in values or [None]])
    return None if found == float("inf") else found


def memory_mb() -> float:
    """Give what this process holds in main memory, MB; where Linux's files lack, its peak."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
