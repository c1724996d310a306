"""Random features of the additive head, as whole numbers: relu(x P) and a constant.

Owns P and its arithmetic; must not know sums, solves or labels. McDonnell et al., "RanPAC", NeurIPS
2023, section 4; ours adds a constant and rounds features, P and relu(x P) to fixed point. So every
product and every sum of them is a whole number that fits: computed exactly, in any order, on any
machine, and with 8-bit matrix products, several times faster than in floating point.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Floats

CODE_MAX = 127
CODE_STEP = 1 / 32  # value of one step of a code: relu(x P) of a unit row reaches about 4
CONSTANT = 32  # code of the constant feature: 1.0
FIXED_BITS = 14  # features are rounded to multiples of 2**-14
_SPLIT_BITS = 7  # of a feature, kept in the lower of two 8-bit halves
_SHIFT = FIXED_BITS  # from the product's unit, 2**-19, to a code's, 2**-5


class Projection:
    """phi(x) = [1, relu(x P)], in steps of 1/32 up to 127/32.

    Attributes:
        matrix: int8 [features, width], N(0, 1) in steps of 1/32.
        id: SHA-256 over the matrix: sums may be added up exactly when it is equal.
    """

    def __init__(self, matrix: NDArray[np.int8]) -> None:
        self.matrix = np.ascontiguousarray(matrix, dtype=np.int8)
        self.id = hashlib.sha256(
            str(self.matrix.shape).encode() + self.matrix.tobytes()
        ).hexdigest()
        # Column by column in memory, which the product of whole numbers reads twice as fast.
        self._matrix = torch.from_numpy(self.matrix).T.contiguous().T

    @classmethod
    def draw(cls, *, features: int, width: int, seed: int) -> Projection:
        """Draw a projection; the same arguments and numpy version give the same one.

        A narrower one is the left part of a wider one of the same seed.
        """
        generator = np.random.Generator(np.random.PCG64(seed))
        drawn: NDArray[Any] = generator.standard_normal((width, features), dtype=np.float32).T
        return cls(np.clip(np.rint(32 * drawn), -CODE_MAX, CODE_MAX).astype(np.int8))

    @property
    def dimensions(self) -> int:
        """Length of phi: width + 1."""
        return int(self.matrix.shape[1]) + 1

    def codes(self, features: Floats) -> Tensor:
        """Map features to the codes of phi.

        Args:
            features: float32 [rows, features], every magnitude at most 1; what stands behind them
                in a row is not looked at.

        Returns:
            int8 [rows, width + 1], 0 to 127; the constant comes first.
        """
        fixed = fixed_point(features[:, : len(self.matrix)])  # int16 [rows, features]
        rows = len(fixed)
        halves = torch.cat([fixed >> _SPLIT_BITS, fixed & ((1 << _SPLIT_BITS) - 1)])
        # One product of both: P, larger than a processor's caches, is read once.
        high_low = int8_product(halves.to(torch.int8), self._matrix)  # int32 [2 * rows, width]
        product = (high_low[:rows] << _SPLIT_BITS).add_(high_low[rows:])
        product += 1 << (_SHIFT - 1)
        codes = torch.full((rows, self.dimensions), CONSTANT, dtype=torch.int8)
        codes[:, 1:] = (product >> _SHIFT).clamp_(0, CODE_MAX)
        return codes


def fixed_point(features: Floats) -> Tensor:
    """Round features to whole multiples of 2**-14: int16 [rows, features].

    Magnitudes over 127/128 are cut there.
    """
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    bound = (1 << FIXED_BITS) - (1 << _SPLIT_BITS)
    return (x * float(1 << FIXED_BITS)).round_().clamp_(-bound, bound).to(torch.int16)


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply whole-number matrices exactly.

    Args:
        a: int8 [rows, inner], inner at most 131,072 so that 32 bits hold every sum.
        b: int8 [inner, columns].

    Returns:
        int32 [rows, columns].
    """
    try:
        product: Tensor = torch._int_mm(a, b)
    except (AttributeError, RuntimeError, NotImplementedError):  # not in this build of torch
        product = (a.double() @ b.double()).to(torch.int32)
    return product
