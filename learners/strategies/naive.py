"""Naive fine-tuning: every weight, on the stream alone. The control: it forgets.

Catastrophic forgetting is what McCloskey & Cohen (1989) named. Use it to see the disease, not to
serve.
"""

from __future__ import annotations

from learners.strategies.base import StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin


def naive(config: StrategyConfig) -> FineTuning:
    """Fine-tune without any protection.

    Args:
        config: shared by all strategies; replay is not used.
    """
    return FineTuning(config, name="naive", plugin=StreamPlugin())
