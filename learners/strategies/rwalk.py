"""Riemannian Walk (Chaudhry et al., ECCV 2018).

A weight is held by two importances, each scaled to at most 1: a running mean of its squared
gradient (EWC++, equation 6 there), and a score, how much its way made the loss fall over how far
that way was in terms of the first (equations 7 and 8). Scores are halved with each consolidation.
Theirs adds exemplars where classes are new; here the stream alone trains. Avalanche's RWalkPlugin
ends in NaN: its largest score is 0 when an experience has fewer iterations than its interval, and
it divides by that; so the walk is here, with every divisor kept above 0.
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

PENALTY = 1.0
NEWEST = 0.9  # weight of the newest squared gradient in the running mean
INTERVAL = 10  # iterations between two scores
EPSILON = 1e-8


class RiemannianWalk(StreamPlugin):
    """Holds every weight by Fisher information and score.

    Args:
        config: shared by all strategies.
    """

    holds = True

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self._penalty = Penalty(PENALTY * config.strength)
        self._fisher = PerWeight()
        self._fallen = PerWeight()  # how far the loss fell since the last score
        self._from = PerWeight()  # where the weights were at the last score
        self._scores = PerWeight()
        self._iterations = 0
        self._consolidated = False
        self._before: dict[str, Tensor] = {}

    def attach(self, owner: FineTuning) -> None:
        """Take the pretrained weights for the first anchor."""
        self._model = owner.model
        self._penalty.anchor.copy(owner.model)
        self._from.copy(owner.model)

    def before_backward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Add the penalty, once there are importances."""
        if self._consolidated:
            strategy.loss += self._penalty.loss(strategy.model)

    def before_update(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Remember where every weight stands."""
        self._before = {name: p.detach().clone() for name, p in trained(strategy.model)}

    @torch.no_grad()
    def after_update(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Follow the step: running mean, fall of the loss, and a score when it is time."""
        for name, parameter in trained(strategy.model):
            before = self._before.pop(name)
            gradient = self._penalty.task_gradient(name, parameter)
            fisher = self._fisher.get(name, parameter)
            fisher.mul_(1.0 - NEWEST).add_(gradient.square(), alpha=NEWEST)
            self._fallen.get(name, parameter).sub_(gradient * (parameter - before))
        self._iterations += 1
        if self._iterations % INTERVAL == 0:
            self._score()

    def _score(self) -> None:
        """Add the loss's fall over the way since the last score, weight by weight."""
        for name, parameter in trained(self._model):
            way = (parameter - self._from.get(name, parameter)).square()
            distance = 0.5 * self._fisher.get(name, parameter) * way + EPSILON
            fallen = self._fallen.get(name, parameter)
            self._scores.get(name, parameter).add_(fallen / distance)
        self._fallen.zero()
        self._from.copy(self._model)

    @torch.no_grad()
    def after_training_exp(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Make the penalty of both importances, and anchor where the weights are."""
        self._score()
        largest_fisher = max(self._fisher.largest(), EPSILON)
        largest_score = max(self._scores.largest(), EPSILON)
        for name, parameter in trained(strategy.model):
            score = self._scores.get(name, parameter)
            importance = self._fisher.get(name, parameter) / largest_fisher
            importance += score.clamp(min=0.0) / largest_score
            self._penalty.importance.get(name, parameter).copy_(importance)
            score.mul_(0.5)
        self._penalty.anchor.copy(strategy.model)
        self._consolidated = True

    def state(self) -> tuple[Arrays, Meta]:
        """Importances, anchors and running sums."""
        arrays = {
            **self._penalty.state(),
            **self._fisher.state("fisher."),
            **self._fallen.state("fallen."),
            **self._from.state("from."),
            **self._scores.state("scores."),
        }
        return arrays, {"iterations": self._iterations, "consolidated": self._consolidated}

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._penalty.restore(arrays, self._model)
        self._fisher.restore(arrays, "fisher.", self._model)
        self._fallen.restore(arrays, "fallen.", self._model)
        self._from.restore(arrays, "from.", self._model)
        self._scores.restore(arrays, "scores.", self._model)
        self._iterations = int(meta["iterations"])
        self._consolidated = bool(meta["consolidated"])


def riemannian_walk(config: StrategyConfig) -> FineTuning:
    """Fine-tune with weights held in place by Fisher information and score.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="rwalk", plugin=RiemannianWalk(config))
