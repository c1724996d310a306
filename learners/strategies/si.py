"""Synaptic Intelligence (Zenke et al., ICML 2017).

A weight's importance is how much its own way made the loss fall since the last consolidation point,
over the square of the way it went (equations 3 to 5 there): a running sum, no pass over data. An
endless stream has no last task, so a share of the old importances is kept at each consolidation
instead of all. Avalanche's SynapticIntelligencePlugin lets importances go below zero without bound,
which pushes weights away instead of holding them, and fails when a head grows inside an experience;
so the sums are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learners.strategies.anchors import Penalty, PerWeight, trained
from learners.strategies.base import Arrays, Meta, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin
from learners.template import StreamTemplate

PENALTY = 0.1
DAMPING = 1e-3  # xi of equation 5: keeps a weight that hardly moved from an infinite importance


class PathIntegral(StreamPlugin):
    """Holds every weight in proportion to what its way was worth.

    Args:
        config: shared by all strategies.
    """

    holds = True

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self._decay = config.decay
        self._penalty = Penalty(PENALTY * config.strength)
        self._path = PerWeight()
        self._before: dict[str, Tensor] = {}
        self._consolidated = False

    def attach(self, owner: FineTuning) -> None:
        """Take the pretrained weights for the first anchor."""
        self._model = owner.model
        self._penalty.anchor.copy(owner.model)

    def before_backward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Add the penalty, once there are importances."""
        if self._consolidated:
            strategy.loss += self._penalty.loss(strategy.model)

    def before_update(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Remember where every weight stands."""
        self._before = {name: p.detach().clone() for name, p in trained(strategy.model)}

    @torch.no_grad()
    def after_update(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Add what the step was worth: the task's gradient times the way, weight by weight."""
        for name, parameter in trained(strategy.model):
            before = self._before.pop(name)
            gradient = self._penalty.task_gradient(name, parameter)
            self._path.get(name, parameter).sub_(gradient * (parameter - before))

    @torch.no_grad()
    def after_training_exp(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Turn the sums into importances, and anchor where the weights are."""
        for name, parameter in trained(strategy.model):
            way = (parameter - self._penalty.anchor.get(name, parameter)).square() + DAMPING
            worth = self._path.get(name, parameter).clamp(min=0.0)
            self._penalty.importance.get(name, parameter).mul_(self._decay).add_(worth / way)
        self._path.zero()
        self._penalty.anchor.copy(strategy.model)
        self._consolidated = True

    def state(self) -> tuple[Arrays, Meta]:
        """Importances, anchors and running sums."""
        arrays = {**self._penalty.state(), **self._path.state("path.")}
        return arrays, {"consolidated": self._consolidated}

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._penalty.restore(arrays, self._model)
        self._path.restore(arrays, "path.", self._model)
        self._consolidated = bool(meta["consolidated"])


def synaptic_intelligence(config: StrategyConfig) -> FineTuning:
    """Fine-tune with weights held in place by the worth of their way.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="si", plugin=PathIntegral(config))
