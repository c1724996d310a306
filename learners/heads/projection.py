"""Random features of the additive head: relu(x P) and a constant.

Owns P and its arithmetic; must not know sums, solves or labels. McDonnell et al., "RanPAC", NeurIPS
2023, section 4; ours adds a constant 1, and rounds P to half precision once, so that its blob is
half the size and every copy computes the same.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Floats


class Projection:
    """phi(x) = [relu(x P), 1].

    Attributes:
        matrix: float16 [features, width], drawn from N(0, 1).
        id: SHA-256 over the matrix: sums may be added up exactly when it is equal.
    """

    def __init__(self, matrix: NDArray[np.float16]) -> None:
        self.matrix = np.ascontiguousarray(matrix, dtype=np.float16)
        self.id = hashlib.sha256(
            str(self.matrix.shape).encode() + self.matrix.tobytes()
        ).hexdigest()
        self._float = torch.from_numpy(self.matrix.astype(np.float32))

    @classmethod
    def draw(cls, *, features: int, width: int, seed: int) -> Projection:
        """Draw a projection; the same arguments and numpy version give the same one."""
        generator = np.random.Generator(np.random.PCG64(seed))
        drawn: NDArray[Any] = generator.standard_normal((features, width), dtype=np.float32)
        return cls(drawn.astype(np.float16))

    @property
    def dimensions(self) -> int:
        """Length of phi: width + 1."""
        return int(self.matrix.shape[1]) + 1

    def phi(self, features: Floats) -> Tensor:
        """Map float32 [rows, features] to float32 [rows, width + 1]."""
        x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        phi = torch.ones(len(x), self.dimensions)
        torch.clamp_min(x @ self._float, 0.0, out=phi[:, :-1])
        return phi
