"""Joint training: several epochs over every row there ever was, whenever it settles.

Each time from the pretrained weights: the upper bound that benchmarks compare with. Not for endless
streams: its store, its checkpoint and the time to settle grow with every row.
"""

from __future__ import annotations

from learners.strategies.base import StrategyConfig
from learners.strategies.retraining import Retraining
from learners.strategies.rows import BalancedRows


def joint(config: StrategyConfig) -> Retraining:
    """Keep everything and train on all of it.

    Args:
        config: shared by all strategies; replay memory is not used.
    """
    return Retraining(
        config,
        name="joint",
        store=BalancedRows(None, seed=config.seed),
        due=lambda since, _trained: since > 0,
    )
