"""Streaming linear discriminant analysis: Gaussian labels with one covariance.

w = S^-1 mu, bias = -mu' S^-1 mu / 2, S the scatter within labels, shrunk. Hayes & Kanan, "Lifelong
Machine Learning with Deep Streaming LDA", CVPR Workshops 2020; ours solves from exact sums instead
of a running covariance, and leaves priors to calibration.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learners.heads.cholesky import solve_shrunk
from learners.heads.sums import Moments


class StreamingLda:
    """One label a row; see `Solve`."""

    def weights(self, moments: Moments, strengths: Sequence[float]) -> list[Tensor]:
        """Solve at every strength: float64 [alive, d] each, the bias in the constant's place."""
        scatter = moments.within()[1:, 1:].contiguous()
        means = moments.centres[:, 1:].T.contiguous()  # [d - 1, alive]
        found = []
        for strength in strengths:
            w = solve_shrunk(scatter, means, strength=strength)
            bias = -0.5 * (means * w).sum(dim=0, keepdim=True)
            found.append(torch.cat([bias, w]).T)
        return found
