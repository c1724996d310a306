"""Labels with few rows: which solve answers for them, and how far their means lift their scores.

Owns the bounds of youth; must not know sums, solves or rings.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import NEVER, Floats
from learners.heads.probes import MIN_PROBES

RIPE_ROWS = 96  # a label with fewer rows is young: its mean lifts it, and only ridges judge it
HALF_MEAN_ROWS = 40.0  # rows at which mean and solve weigh the same; means end at RIPE_ROWS
LIFT_SHARE = 0.25  # of the difference between cosines' and scores' best rivals
LIFT_ROWS = 24  # a label with so many rows shows how cosines and scores compare
LEAD_GROWTH = 1.5  # of a label, or of all rows, until the leading features are solved again


def fresh_labels(counts: Tensor, full_counts: Tensor, *, growth: float = LEAD_GROWTH) -> Tensor:
    """Name the labels that changed since all features were solved.

    Args:
        counts: float64 [labels], rows of each at the newest solve of the leading features.
        full_counts: float64 [at most labels], rows of each at the last solve of all features;
            without any, nothing was solved.
        growth: of a young label's rows by which it changed.

    Returns:
        bool [labels].
    """
    if not len(full_counts):
        return torch.ones(len(counts), dtype=torch.bool)
    before = torch.zeros_like(counts)
    before[: len(full_counts)] = full_counts
    grown = (before < RIPE_ROWS) & (counts >= growth * before)
    return (grown & (counts > before)) | (counts < before)


def any_grown(counts: Tensor, before: Tensor) -> bool:
    """Say whether a label has come, or grown by half, since the leading features were solved.

    Args:
        counts: float64 [labels], rows of each.
        before: float64 [at most labels], at that solve.
    """
    grown = counts[: len(before)] >= LEAD_GROWTH * before.clamp_min(0.5)
    return len(counts) > len(before) or bool(grown.any())


def mean_weights(counts: Tensor, heard: Tensor) -> Tensor:
    """Give the share that a label's mean has in its score: float32 [labels], 0 to 1.

    Args:
        counts: float64 [labels], rows of each.
        heard: bool [labels], labels with rows or a name.
    """
    share = HALF_MEAN_ROWS**2 / (HALF_MEAN_ROWS**2 + counts**2)
    return torch.where((counts < RIPE_ROWS) & heard, share, 0.0).float()


def fit_lift(
    scores: Floats, cosines: Floats, truth: NDArray[np.intp], *, counts: NDArray[np.float64]
) -> float:
    """Find what is added to cosines before they lift scores.

    Cosines to wrong labels' means are larger than a solve's scores of wrong labels. Taking all of
    that away would leave new labels unheard, taking none lets them speak for others' rows.

    Args:
        scores: float32 [rows, labels], of the solve.
        cosines: float32 [rows, labels], to the labels' means.
        truth: column of each row's label.
        counts: float64 [labels], rows of each.

    Returns:
        Usually below 0; 0 while there are too few rows of known labels.
    """
    known = np.flatnonzero(counts[truth] >= LIFT_ROWS)
    if len(known) < MIN_PROBES or scores.shape[1] < 2:
        return 0.0
    best = []
    for values in (scores, cosines):
        rivals = values[known].copy()
        rivals[np.arange(len(known)), truth[known]] = NEVER
        best.append(float(rivals.max(axis=1).mean()))
    return LIFT_SHARE * (best[0] - best[1])
