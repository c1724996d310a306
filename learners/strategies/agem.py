"""A-GEM (Chaudhry et al., ICLR 2019, "Efficient Lifelong Learning with A-GEM").

The gradient of the stream's rows is projected, where it would make the loss on rows from memory
worse, to the nearest one that does not (equation 11 there). AdamW comes after the projection.
Avalanche's AGEMPlugin stops with an error once there are more experiences than rows in its sample,
and keeps a buffer each; so the projection is here, over replay memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learners.strategies.anchors import trained
from learners.strategies.base import Arrays, Meta, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin
from learners.strategies.replaying import Draws, grow_beside, pack_rows, row_losses
from learners.template import StreamTemplate


class GradientProjection(StreamPlugin):
    """Projects every gradient away from what would harm memory.

    Args:
        config: shared by all strategies.
    """

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self._wanted = config.replay_rows
        self._kind = config.kind
        self._draws = Draws(config)
        self._reference: dict[str, Tensor] = {}

    def attach(self, owner: FineTuning) -> None:
        """Learn whose gradient it is."""
        self._owner = owner

    def before_training_iteration(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Draw rows from memory and compute their gradient."""
        rows = self._draws.rows(self._wanted, beside=strategy.experience.batch)
        self.replayed = len(rows)
        if not rows:
            return
        packed, targets = pack_rows(self._owner, rows)
        grow_beside(strategy, self._owner)
        logits = strategy.model(packed)
        self._draws.tell(rows, row_losses(self._kind, logits.detach(), targets))
        loss = self._kind.loss(logits, targets)
        names, parameters = zip(*trained(strategy.model), strict=True)
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss, parameters, allow_unused=True
        )
        self._reference = {
            name: gradient
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None
        }

    def after_backward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Project the gradient where it points against that of memory."""
        pairs = [
            (parameter.grad, self._reference[name])
            for name, parameter in strategy.model.named_parameters()
            if parameter.grad is not None and name in self._reference
        ]
        self._reference = {}  # a gradient is as large as the model: not kept between steps
        dot = sum(float((now * past).sum()) for now, past in pairs)
        size = sum(float(past.square().sum()) for _, past in pairs)
        if dot < 0.0 < size:
            for now, past in pairs:
                now.sub_(past, alpha=dot / size)

    def state(self) -> tuple[Arrays, Meta]:
        """Where the draws stand."""
        return {}, self._draws.state()

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up the draws."""
        del arrays
        self._draws.restore(meta)


def averaged_gem(config: StrategyConfig) -> FineTuning:
    """Fine-tune with gradients that do not harm memory.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="agem", plugin=GradientProjection(config))
