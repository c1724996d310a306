"""Rows from replay memory, for the strategies that learn from them.

Owns the draws and what is left out of them; must not know any strategy. Memory is Redis, behind
`ReplaySource`, and holds the text of everything within a generous cap, not a few exemplars a class;
Avalanche's own buffers never release data on an endless stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learners.batch import collate
from learners.strategies.base import Arrays, Meta, ReplayedRow, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin, pad_together
from learners.tasks.base import TaskKind
from learners.template import MicroBatch, StreamTemplate


class Draws:
    """Draws rows from memory; the same state and the same memory give the same rows.

    Args:
        config: names the memory, and the seed of the draws.
    """

    def __init__(self, config: StrategyConfig) -> None:
        self._replay = config.replay
        self._generator = np.random.Generator(np.random.PCG64(config.seed))

    def rows(self, rows: int, *, beside: MicroBatch) -> list[ReplayedRow]:
        """Draw up to so many rows, without those that the micro-batch itself holds."""
        drawn = self._replay.sample(rows, draws=self._generator.random(rows).tolist())
        return [row for row in drawn if row.id not in beside.ids]

    def tell(self, rows: Sequence[ReplayedRow], losses: Tensor) -> None:
        """Tell memory the finite ones among the losses of drawn rows, float32 [rows]."""
        told = {
            row.id: max(loss, 0.0)
            for row, loss in zip(rows, losses.tolist(), strict=True)
            if math.isfinite(loss)
        }
        if told:
            self._replay.tell(list(told), list(told.values()))

    def state(self) -> Meta:
        """Where the draws stand."""
        return {"draws": self._generator.bit_generator.state}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Take up the draws."""
        self._generator.bit_generator.state = meta["draws"]


class ReplayMixing(StreamPlugin):
    """Mixes rows from memory into every mini-batch, before the forward pass.

    Args:
        config: names the memory, the number of rows and the seed of the draws.

    Attributes:
        rows: what was mixed in: the last rows of the mini-batch, in this order.
    """

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self.rows: list[ReplayedRow] = []
        self._kind = config.kind
        self._wanted = config.replay_rows
        self._draws = Draws(config)

    def attach(self, owner: FineTuning) -> None:
        """Learn whose head grows with what memory brings."""
        self.owner = owner

    def before_training_iteration(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Draw, drop what the batch itself holds, and append."""
        batch: MicroBatch = strategy.experience.batch
        self.rows = self._draws.rows(self._wanted, beside=batch)
        self.replayed = len(self.rows)
        if not self.rows:
            return
        packed, _targets, tasks = strategy.mbatch
        labels = [*batch.labels, *(row.label for row in self.rows)]
        tokens = self.owner.encoder.tokenize([row.text for row in self.rows])
        strategy.mbatch = [
            pad_together(packed, tokens),
            self.owner.targets(labels),
            torch.zeros(len(labels), dtype=tasks.dtype, device=tasks.device),
        ]

    @torch.no_grad()
    def after_forward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Tell memory what the mixed-in rows' losses are."""
        live = len(strategy.experience.batch.ids)
        losses = row_losses(self._kind, strategy.mb_output[live:], strategy.mb_y[live:])
        self._draws.tell(self.rows, losses)

    def state(self) -> tuple[Arrays, Meta]:
        """Where the draws stand."""
        return {}, self._draws.state()

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up the draws."""
        del arrays
        self._draws.restore(meta)


def pack_rows(owner: FineTuning, rows: Sequence[ReplayedRow]) -> tuple[Tensor, Tensor]:
    """Make a batch of rows from memory, growing the head for labels it has not met.

    Returns:
        int64 [rows, 2, tokens] and targets, both where the encoder is.
    """
    targets = owner.targets([row.label for row in rows])
    packed = collate(owner.encoder.tokenize([row.text for row in rows]))
    return packed.to(owner.encoder.device), targets


def grow_beside(strategy: StreamTemplate, owner: FineTuning) -> None:
    """Write the micro-batch's targets again: after the head grew, they may be too narrow."""
    strategy.mbatch[1] = owner.targets(strategy.experience.batch.labels)


def row_losses(kind: TaskKind, logits: Tensor, targets: Tensor) -> Tensor:
    """Give the loss of every row for itself: float32 [rows]."""
    losses = [kind.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(logits))]
    return torch.stack(losses) if losses else logits.new_zeros(0)
