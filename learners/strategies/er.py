"""Experience replay (Chaudhry et al., 2019, "On Tiny Episodic Memories in Continual Learning").

Each micro-batch from the stream is trained together with as many rows drawn from replay memory, all
with the same weight.
"""

from __future__ import annotations

from learners.strategies.base import StrategyConfig
from learners.strategies.finetuning import FineTuning
from learners.strategies.replaying import ReplayMixing


def experience_replay(config: StrategyConfig) -> FineTuning:
    """Fine-tune with replay.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="er", plugin=ReplayMixing(config))
