"""MAS (Aljundi et al., ECCV 2018, "Memory Aware Synapses").

As `ewc`, but a weight's importance is how much the squared length of the logits depends on it
(equation 3 there): no labels are needed to find it. Avalanche's MASPlugin: time and memory are
flat, and it pads what it keeps when the head grows.
"""

from __future__ import annotations

from typing import Any

from avalanche.training.plugins import MASPlugin

from learners.strategies.base import StrategyConfig
from learners.strategies.finetuning import FineTuning
from learners.strategies.wrapped import WrappedPlugin
from learners.template import StreamTemplate

PENALTY = 1.0


class StreamMAS(MASPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Avalanche's plugin, which takes a loss of exactly 0 (one label so far) for none at all."""

    def before_backward(self, strategy: StreamTemplate, **kwargs: Any) -> None:  # noqa: ANN401
        """Add the penalty, where anything is learned."""
        if strategy.loss != 0.0:
            super().before_backward(strategy, **kwargs)


def memory_aware_synapses(config: StrategyConfig) -> FineTuning:
    """Fine-tune with weights held in place by the outputs' sensitivity.

    Args:
        config: shared by all strategies.
    """
    inner = StreamMAS(lambda_reg=PENALTY * config.strength, alpha=config.decay)
    return FineTuning(config, name="mas", plugin=WrappedPlugin(inner))
