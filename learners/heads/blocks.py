"""The solves of an additive head that answer together.

Owns what one solve keeps, and which of them serves and which is judged; must not know sums, or when
they are solved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats
from learners.heads.solved import Columns, SolvedAdditive


@dataclass(frozen=True)
class Block:
    """One solve.

    Attributes:
        columns: its weights.
        constants: float32 [labels], weights of phi's constant.
        counts: float64 [labels], rows of each label at the solve.
        rows: in the sums at the solve.
    """

    columns: Columns
    constants: Floats
    counts: Tensor
    rows: int

    @classmethod
    def empty(cls) -> Block:
        """A solve of nothing."""
        return cls(Columns.empty(), np.zeros(0, np.float32), torch.zeros(0).double(), 0)

    @classmethod
    def of(cls, weights: Tensor, counts: Tensor, rows: int) -> Block:
        """Keep a solve's weights, float32 [labels, d], which are used up."""
        constants = weights[:, 0].clone().numpy()
        return cls(Columns.of(weights), constants, counts, rows)

    def state(self, prefix: str) -> Arrays:
        """Everything but `rows`, as arrays with a prefix before their names."""
        return {
            f"{prefix}weights": self.columns.weights,
            f"{prefix}scales": self.columns.scales,
            f"{prefix}constants": self.constants,
            f"{prefix}counts": self.counts.numpy(),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], prefix: str, rows: int) -> Block:
        """Take up what `state` gave."""
        kept = {name: np.array(arrays[prefix + name]) for name in _BLOCK}
        return cls(
            Columns(kept["weights"], kept["scales"]),
            kept["constants"],
            torch.from_numpy(kept["counts"]),
            int(rows),
        )


_BLOCK = ("weights", "scales", "constants", "counts")


@dataclass(frozen=True)
class Blocks:
    """The newest solves.

    Attributes:
        lead: of the leading features.
        full: of all features.
        refit: the same with the held-out rows among the others: it serves in place of `full` while
            that is there, and is never judged, since no row is left that could judge it. None
            where there is none.
    """

    lead: Block
    full: Block
    refit: Block | None = None

    @classmethod
    def empty(cls) -> Blocks:
        """Solves of nothing."""
        return cls(Block.empty(), Block.empty())

    def with_lead(self, lead: Block) -> Blocks:
        """Give these with a newer solve of the leading features."""
        return replace(self, lead=lead)

    def with_full(self, full: Block) -> Blocks:
        """Give these with a newer solve of all features; a refit was of the older one."""
        return replace(self, full=full, refit=None)

    def with_refit(self, refit: Block | None) -> Blocks:
        """Give these with a solve that learned the held-out rows too, or without one."""
        return replace(self, refit=refit)

    def serving(self, judged: SolvedAdditive) -> SolvedAdditive:
        """Give what serves where these are judged by `judged`: itself without a refit."""
        if self.refit is None:
            return judged
        constants = judged.constants.copy()
        constants[: len(self.full.constants)] += self.refit.constants - self.full.constants
        return judged.with_all(self.refit.columns, constants)

    def state(self) -> tuple[Arrays, list[int]]:
        """Give everything, as arrays and the rows of each solve."""
        arrays = self.lead.state("lead_") | self.full.state("full_")
        rows = [self.lead.rows, self.full.rows]
        if self.refit is not None:
            arrays |= self.refit.state("refit_")
            rows.append(self.refit.rows)
        return arrays, rows

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], rows: Sequence[int]) -> Blocks:
        """Take up what `state` gave."""
        names = ("lead_", "full_", "refit_")
        return cls(*(Block.restore(arrays, *pair) for pair in zip(names, rows, strict=False)))
