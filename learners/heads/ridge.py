"""Random-projection ridge: least squares of label indicators over all rows.

A = mean of phi phi'; w = A^-1 (mean of phi y'). RanPAC (McDonnell et al., NeurIPS 2023), equation
(3). Rows may have any number of labels; frequent labels weigh more.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from learners.heads.cholesky import solve_shrunk
from learners.heads.sums import Moments


class Ridge:
    """Any number of labels a row; see `Solve`."""

    def weights(self, moments: Moments, strengths: Sequence[float]) -> list[Tensor]:
        """Solve at every strength: float64 [alive, d] each."""
        targets = moments.means.T * (moments.counts / moments.rows)
        second = moments.second
        return [solve_shrunk(second, targets, strength=strength).T for strength in strengths]
