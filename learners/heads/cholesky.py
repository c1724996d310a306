"""The one factorisation that the solves of the sums share."""

from __future__ import annotations

import torch
from torch import Tensor


def solve_shrunk(a: Tensor, b: Tensor, *, strength: float) -> Tensor:
    """Solve (A + lambda I) w = b, lambda = strength * trace(A) / d.

    Rounding can leave A just off positive definite: lambda is then raised.

    Args:
        a: float64 [d, d], symmetric; the same again when this returns.
        b: float64 [d, columns].
        strength: over 0.

    Returns:
        float64 [d, columns].
    """
    shift = max(strength * float(a.trace()) / max(len(a), 1), 1e-12)
    diagonal = a.diagonal().clone()
    while True:  # ends: A is finite, and a large enough lambda makes it definite
        a.diagonal().copy_(diagonal + shift)  # in place: a copy of A may be 134 MB
        factor, failed = torch.linalg.cholesky_ex(a)
        a.diagonal().copy_(diagonal)
        if not int(failed):
            return torch.cholesky_solve(b, factor)
        shift = max(10 * shift, 1e-9)
