"""Scores to what is compared: probabilities, leads and F1.

Owns arithmetic on one batch of scores; must not know heads, rings or calibration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from learners.heads.base import Floats

USUAL_LEAD = 0.7  # of a ridge's best score over the mean score


def unit_of(scores: Floats) -> float:
    """Give the factor after which best scores lead mean scores as a ridge's do.

    So scores of any solve can be lifted by cosines.

    Args:
        scores: float32 [rows, labels].
    """
    lead = scores.max(axis=1) - scores.mean(axis=1)
    return USUAL_LEAD / max(float(lead.mean()), 1e-9) if lead.any() else 1.0


def indicators(truths: Sequence[tuple[int, ...]], labels: int) -> NDArray[np.bool_]:
    """Mark each row's labels: bool [rows, labels]."""
    marked = np.zeros((len(truths), labels), dtype=np.bool_)
    for place, rows in enumerate(truths):
        marked[place, list(rows)] = True
    return marked


def macro_f1(decided: NDArray[np.intp], truth: NDArray[np.intp]) -> float:
    """Average the labels' F1, over labels that are true of any row."""
    scores = []
    for label in np.unique(truth):
        hits = int(np.sum((decided == label) & (truth == label)))
        scores.append(2 * hits / int(np.sum(decided == label) + np.sum(truth == label)))
    return float(np.mean(scores))


def softmax(logits: Floats) -> Floats:
    """Give probabilities that sum to 1: float32 [rows, labels] both."""
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float32)


def sigmoid(logits: Floats) -> Floats:
    """Give a probability of each logit by itself, float32, of the same shape."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60))), np.float32)
