"""Maximally interfered retrieval (Aljundi et al., NeurIPS 2019).

Of a few times as many rows from memory, those are replayed whose loss a step on the stream's rows
alone would raise most (ER-MIR, section 3.1 there). Theirs steps by plain SGD; AdamW's steps have a
size near the learning rate whatever the gradient's, and so does the step that is tried here.
Avalanche's MIRPlugin keeps a buffer that never releases data, and copies the model; so the choice
is here, over replay memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learners.strategies.anchors import trained
from learners.strategies.base import Arrays, Meta, ReplayedRow, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin
from learners.strategies.replaying import Draws, grow_beside, pack_rows, row_losses
from learners.template import StreamTemplate

CANDIDATES = 3  # rows drawn for each row replayed
EPSILON = 1e-12


class InterferedReplay(StreamPlugin):
    """Adds the loss of the rows from memory that the micro-batch would harm most.

    Args:
        config: shared by all strategies.
    """

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self._wanted = config.replay_rows
        self._kind = config.kind
        self._draws = Draws(config)
        self._rows: list[ReplayedRow] = []
        self._candidates: tuple[Tensor, Tensor] | None = None

    def attach(self, owner: FineTuning) -> None:
        """Learn whose head grows with what memory brings."""
        self._owner = owner

    def before_training_iteration(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Draw the candidates: before the forward pass, since the head may grow with them."""
        drawn = self._draws.rows(CANDIDATES * self._wanted, beside=strategy.experience.batch)
        rows = self._rows = list({row.id: row for row in drawn}.values())
        self.replayed = min(len(rows), self._wanted)
        self._candidates = None
        if rows:
            self._candidates = pack_rows(self._owner, rows)
            grow_beside(strategy, self._owner)

    def before_backward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Choose, and add the loss of the chosen."""
        if self._candidates is None:
            return
        packed, targets = self._candidates
        stepped = self._stepped(strategy)
        with torch.no_grad():
            now = row_losses(self._kind, strategy.model(packed), targets)
            after = torch.func.functional_call(strategy.model, stepped, (packed,))
            harm = row_losses(self._kind, after, targets) - now
        self._draws.tell(self._rows, now)
        chosen = harm.argsort(descending=True, stable=True)[: self.replayed]
        strategy.loss += self._kind.loss(strategy.model(packed[chosen]), targets[chosen])

    def _stepped(self, strategy: StreamTemplate) -> dict[str, Tensor]:
        """Give the parameters as a step on the stream's rows alone would leave them."""
        rates = {
            parameter: group["lr"]
            for group in strategy.optimizer.param_groups
            for parameter in group["params"]
        }
        names, parameters = zip(*trained(strategy.model), strict=True)
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            strategy.loss, parameters, retain_graph=True, allow_unused=True
        )
        return {
            name: parameter.detach()
            - rates[parameter] * gradient / gradient.square().mean().sqrt().clamp(min=EPSILON)
            for name, parameter, gradient in zip(names, parameters, gradients, strict=True)
            if gradient is not None
        }

    def state(self) -> tuple[Arrays, Meta]:
        """Where the draws stand."""
        return {}, self._draws.state()

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up the draws."""
        del arrays
        self._draws.restore(meta)


def interfered_replay(config: StrategyConfig) -> FineTuning:
    """Fine-tune with replay of what is harmed most.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="mir", plugin=InterferedReplay(config))
