"""The solve of the sums: exact where it matters, whatever the matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learners.heads import cholesky
from learners.heads.cholesky import CLOSE, LARGE, solve_shrunk


def matrix(rows: int, *, spread: float, lowest: float = 0.0) -> Tensor:
    """Make a symmetric matrix with eigenvalues from 1 down to 1 / spread, and one of `lowest`."""
    chance = torch.Generator().manual_seed(rows)
    basis, _ = torch.linalg.qr(torch.randn(rows, rows, generator=chance, dtype=torch.float64))
    values = torch.logspace(0.0, -float(torch.tensor(spread).log10()), rows, dtype=torch.float64)
    values[-1] = lowest or values[-1]
    a: Tensor = basis * values @ basis.T
    a += a.T.clone()
    return a / 2


def shrunk(a: Tensor, strength: float) -> Tensor:
    shift = strength * float(a.trace()) / len(a)
    return a + shift * torch.eye(len(a), dtype=a.dtype)


@pytest.mark.parametrize("columns", [3, 400])  # refined, and all in float64
@pytest.mark.parametrize("spread", [10.0, 1e4, 1e8, 1e12])
def test_a_large_matrix_is_solved_more_exactly_than_half_precision_tells(
    spread: float, columns: int
) -> None:
    a = matrix(LARGE, spread=spread)
    b = torch.randn(LARGE, columns, dtype=torch.float64)
    given = a.clone()
    w = solve_shrunk(a, b, strength=1e-4)
    expected = torch.linalg.solve(shrunk(a, 1e-4), b)
    assert w.dtype == torch.float64
    assert float((w - expected).norm() / expected.norm()) < CLOSE
    assert torch.equal(a, given)


def test_what_float32_cannot_refine_is_solved_in_float64() -> None:
    a, b = matrix(LARGE, spread=1e12), torch.randn(LARGE, 2, dtype=torch.float64)
    assert cholesky._refined(shrunk(a, 1e-8), b) is None
    w = solve_shrunk(a, b, strength=1e-8)
    residual = shrunk(a, 1e-8) @ w - b
    assert float(residual.norm() / b.norm()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [40, LARGE])
def test_a_matrix_that_is_not_definite_is_shrunk_more(rows: int, dtype: torch.dtype) -> None:
    a = matrix(rows, spread=10.0, lowest=-0.01).to(dtype)
    given, b = a.clone(), torch.ones(rows, 1, dtype=dtype)
    w = solve_shrunk(a, b, strength=1e-6)
    assert w.dtype == dtype
    assert bool(w.isfinite().all())
    assert torch.equal(a, given)
