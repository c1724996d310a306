"""The one factorisation that the solves of the sums share."""

from __future__ import annotations

import torch
from torch import Tensor


def solve_shrunk(a: Tensor, b: Tensor, *, strength: float) -> Tensor:
    """Solve (A + lambda I) w = b, lambda = strength * trace(A) / d.

    Rounding can leave A just off positive definite: lambda is then raised.

    Args:
        a: float64 [d, d], symmetric.
        b: float64 [d, columns].
        strength: over 0.

    Returns:
        float64 [d, columns].
    """
    shift = max(strength * float(a.trace()) / max(len(a), 1), 1e-12)
    while True:  # ends: A is finite, and a large enough lambda makes it definite
        shifted = a.clone()
        shifted.diagonal().add_(shift)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not int(failed):
            return torch.cholesky_solve(b, factor)
        shift = max(10 * shift, 1e-9)
