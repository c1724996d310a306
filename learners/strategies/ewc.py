"""Online EWC (Schwarz et al., ICML 2018, "Progress & Compress", section 3.2).

At a consolidation point the squared gradients of the task's loss, over a sample of the experience,
join the weights' importances, of which a share is kept; from then on a weight pays for leaving its
place in proportion to its importance. Avalanche's EWCPlugin in its online mode: time and memory are
flat, and it pads what it keeps when the head grows. (Its other mode keeps every experience.)
"""

from __future__ import annotations

from avalanche.training.plugins import EWCPlugin

from learners.strategies.base import StrategyConfig
from learners.strategies.finetuning import FineTuning
from learners.strategies.wrapped import WrappedPlugin

PENALTY = 1_000.0


def online_ewc(config: StrategyConfig) -> FineTuning:
    """Fine-tune with weights held in place by Fisher information.

    Args:
        config: shared by all strategies.
    """
    inner = EWCPlugin(PENALTY * config.strength, mode="online", decay_factor=config.decay)
    return FineTuning(config, name="ewc", plugin=WrappedPlugin(inner))
