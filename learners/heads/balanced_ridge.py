"""Class-balanced ridge: every label weighs the same, however many rows it has.

A = scatter within labels + mean over labels of mu mu'; w = A^-1 mu / labels. The least-squares fit
of one-hot targets when each label's rows are weighted to the same total; after RanPAC (McDonnell et
al., NeurIPS 2023), whose ridge weights rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from learners.heads.cholesky import solve_shrunk
from learners.heads.sums import Moments


class BalancedRidge:
    """One label a row; see `Solve`."""

    def weights(self, moments: Moments, strengths: Sequence[float]) -> list[Tensor]:
        """Solve at every strength: float64 [alive, d] each."""
        share = 1.0 / max(len(moments.centres), 1)
        a = moments.within(between=share)
        targets = moments.centres.T * share
        return [solve_shrunk(a, targets, strength=strength).T for strength in strengths]
