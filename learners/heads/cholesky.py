"""The one factorisation that the solves of the sums share.

LAPACK is scipy's, whose BLAS is the faster one on AMD's processors: torch brings Intel's. Large
matrices of few columns are factored in float32 and refined in float64, until half precision, to
which weights are rounded, is far from telling the difference (iterative refinement; Langou et al.,
"Exploiting the Performance of 32 bit Floating Point Arithmetic in Obtaining 64 bit Accuracy", SC
2006).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from threadpoolctl import ThreadpoolController
from torch import Tensor

FEW = 8  # rows of a matrix for each column: from there on, a second solve costs less than it saves
LARGE = 1_000  # rows of a matrix: below, all of it costs little
CLOSE = 1e-5  # of a solution may still be wrong: a fiftieth of what half precision can tell
MOST_CORRECTIONS = 4

_ROUTINES = {
    torch.float64: (lapack.dpotrf, lapack.dpotrs),
    torch.float32: (lapack.spotrf, lapack.spotrs),
}


def solve_shrunk(a: Tensor, b: Tensor, *, strength: float) -> Tensor:
    """Solve (A + lambda I) w = b, lambda = strength * trace(A) / d.

    Rounding can leave A just off positive definite: lambda is then raised.

    Args:
        a: [d, d], symmetric, float32 or float64; the same again when this returns.
        b: [d, columns], of the same dtype.
        strength: over 0.

    Returns:
        [d, columns], of the same dtype; exact to `CLOSE` where A is large.
    """
    shift = max(strength * float(a.trace()) / max(len(a), 1), 1e-12)
    diagonal = a.diagonal().clone()
    while True:  # ends: A is finite, and a large enough lambda makes it definite
        a.diagonal().copy_(diagonal + shift)  # in place: a copy of A may be 134 MB
        with _blas().limit(limits=torch.get_num_threads()):
            solution = _refined(a, b) if _pays(a, b) else None
            if solution is None:
                solution = _solved(a, b)
        a.diagonal().copy_(diagonal)
        if solution is not None:
            return solution
        shift = max(10 * shift, 1e-9)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(internal_api="openblas")


def _pays(a: Tensor, b: Tensor) -> bool:
    return a.dtype == torch.float64 and len(a) >= LARGE and FEW * b.shape[1] <= len(a)


def _factor(a: Tensor, *, overwrite: bool = False) -> NDArray[Any] | None:
    """Factor a symmetric matrix, in its own place if it may; None where it is not definite."""
    factorise, _ = _ROUTINES[a.dtype]
    columns = a.numpy().T  # as LAPACK wants them; the same numbers
    factor, failed = factorise(columns, lower=1, clean=0, overwrite_a=overwrite)
    return None if failed else factor


def _back(factor: NDArray[Any], b: Tensor) -> Tensor:
    _, substitute = _ROUTINES[b.dtype]
    solution, _ = substitute(factor, b.numpy(), lower=1)
    return torch.from_numpy(np.ascontiguousarray(solution))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply float64 matrices by the same BLAS."""
    return torch.from_numpy(a.numpy() @ b.numpy())


def _solved(a: Tensor, b: Tensor) -> Tensor | None:
    factor = _factor(a)
    return None if factor is None else _back(factor, b)


def _refined(a: Tensor, b: Tensor) -> Tensor | None:
    """Solve by a float32 factor; None where A is too near to singular for that."""
    factor = _factor(a.float(), overwrite=True)
    if factor is None:
        return None
    solution, before = _back(factor, b.float()).double(), 1.0
    for _ in range(MOST_CORRECTIONS):
        correction = _back(factor, (b - _product(a, solution)).float())
        solution += correction
        wrong = float(correction.norm()) / max(float(solution.norm()), 1e-300)  # until now
        if wrong * (wrong / before) <= CLOSE:  # it shrinks by the same factor every time
            return solution
        before = wrong
    return None
