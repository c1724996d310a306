"""The table of solves: which heads the same sums can become.

Must not know probes, calibration or what is served. Each method is a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from learners.heads.balanced_ridge import BalancedRidge
from learners.heads.lda import StreamingLda
from learners.heads.nearest_mean import NearestMean
from learners.heads.ridge import Ridge
from learners.heads.sums import Moments

Method = Literal["balanced-ridge", "lda", "nearest-mean", "ridge"]
Solver = Literal["class-balanced", "least-squares"]

CANDIDATES: dict[Solver, tuple[Method, ...]] = {
    "class-balanced": ("balanced-ridge", "lda"),
    "least-squares": ("ridge",),
}
"""The solves to choose among, for rows of one label and of several."""


class Solve(Protocol):
    """One way to make a head of the sums."""

    def weights(self, moments: Moments, strengths: Sequence[float]) -> list[Tensor]:
        """Solve at every strength.

        Args:
            moments: of at least one label.
            strengths: share of the mean diagonal that is added to it, over 0.

        Returns:
            float64 [alive, d] a strength; a label's score is the product with phi.
        """
        ...


METHODS: dict[Method, Solve] = {
    "balanced-ridge": BalancedRidge(),
    "lda": StreamingLda(),
    "nearest-mean": NearestMean(),
    "ridge": Ridge(),
}
