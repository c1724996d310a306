"""From scores to probabilities that can be trusted, and how unknown an input looks.

Owns the numbers of one calibration and their use; `learners.heads.probes` fits them. Temperature
scaling (Guo et al., ICML 2017) and, for the largest probability, Platt's logistic fit (1999). An
input is unknown when its best score and its best cosine to a mean are both low for known inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from learners.heads.base import Floats, Meta

FIRST_SCALE = 12.0
QUANTILES = 201


@dataclass(frozen=True)
class Calibration:
    """The numbers of one calibration.

    Attributes:
        scale: factor from scores to logits.
        threshold: probability from which a label of several is said.
        slope: of the largest probability's logit; 1 changes nothing.
        offset: of the largest probability's logit; 0 changes nothing.
        lift: what is added to cosines to means before they lift scores.
        trust: what a score loses for every logit that trained columns like its label less.
        words: what a score gains for every nat that words like its label more, by their counts.
        fit: what a score gains for what the fit of words says of its label.
        score_mean: of known inputs' best scores; with their spread, and the cosines' likewise.
        known_quantiles: float32 [QUANTILES], of how known held-out rows look; empty before there
            are any.
    """

    scale: float = FIRST_SCALE
    threshold: float = 0.5
    slope: float = 1.0
    offset: float = 0.0
    lift: float = 0.0
    trust: float = 0.0
    words: float = 0.0
    fit: float = 0.0
    score_mean: float = 0.0
    score_spread: float = 1.0
    cosine_mean: float = 0.0
    cosine_spread: float = 1.0
    known_quantiles: Floats = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    def correct(self, probabilities: Floats) -> Floats:
        """Correct the largest probability of each row; the others share what is left.

        Args:
            probabilities: float32 [rows, labels], rows that sum to 1.

        Returns:
            float32 [rows, labels]; which label is largest does not change.
        """
        if probabilities.shape[1] < 2 or (self.slope, self.offset) == (1.0, 0.0):
            return probabilities
        rows = np.arange(len(probabilities))
        best = probabilities.argmax(axis=1)
        top = np.clip(probabilities[rows, best].astype(np.float64), 1e-7, 1 - 1e-7)
        logit = self.slope * np.log(top / (1 - top)) + self.offset
        # no less than an equal share, so that it stays the largest
        wanted = np.maximum(1 / (1 + np.exp(-logit)), 1.0 / probabilities.shape[1])
        rest = (1 - wanted) / (1 - top)
        corrected = probabilities * rest[:, None]
        runner_up = np.partition(corrected, -2, axis=1)[:, -2]
        keep = wanted <= runner_up  # a cut so deep that another would win: leave the row
        corrected[rows, best] = wanted
        corrected[keep] = probabilities[keep]
        return np.asarray(corrected, dtype=np.float32)

    def known(self, scores: Floats, cosines: Floats) -> Floats:
        """Say how known inputs look: float32 [rows], higher is more known."""
        if scores.shape[1] == 0:
            return np.full(len(scores), -np.inf, dtype=np.float32)
        z_score = (scores.max(axis=1) - self.score_mean) / self.score_spread
        z_cosine = (cosines.max(axis=1) - self.cosine_mean) / self.cosine_spread
        return np.asarray(z_score + z_cosine, dtype=np.float32)

    def unknown(self, scores: Floats, cosines: Floats) -> Floats:
        """Give the share of known inputs that looked more known: float32 [rows], 0 to 1.

        0.95 and more is said of five in a hundred known inputs. Before there are any to compare
        with, 1/2.
        """
        if not len(self.known_quantiles):
            return np.full(len(scores), 0.5, dtype=np.float32)
        known = self.known(scores, cosines)
        shares = np.linspace(0.0, 1.0, len(self.known_quantiles))
        below = np.interp(known, self.known_quantiles, shares)
        return np.asarray(1.0 - below, dtype=np.float32)

    def meta(self) -> Meta:
        """The numbers, as JSON values."""
        return {name: getattr(self, name) for name in _NUMBERS}

    @classmethod
    def restore(cls, known_quantiles: Floats, meta: Mapping[str, Any]) -> Calibration:
        """Take up what `meta` gave."""
        numbers = {name: float(meta[name]) for name in _NUMBERS if name in meta}
        return cls(**numbers, known_quantiles=known_quantiles.astype(np.float32))


_NUMBERS = (
    "scale",
    "threshold",
    "slope",
    "offset",
    "lift",
    "trust",
    "words",
    "fit",
    "score_mean",
    "score_spread",
    "cosine_mean",
    "cosine_spread",
)
