"""GDumb (Prabhu et al., ECCV 2020, "A Simple Approach that Questions Our Progress").

Stores rows greedily, the same number of every label, and trains a fresh model from the pretrained
weights on them when it is asked for one: a baseline that nothing can make forget but its small
store. It is asked before every candidate for a release, so it trains only after the stream brought
`consolidate_every` rows, or, while they are fewer, as many as it was trained on, and a tenth of
that once drift was found; between two trainings it serves what it has. A training takes `epochs`
passes over at most `stored_rows` rows in one go. Avalanche's GDumbPlugin keeps a buffer that never
releases data; so the store is here.
"""

from __future__ import annotations

from learners.strategies.base import StrategyConfig
from learners.strategies.retraining import Retraining
from learners.strategies.rows import BalancedRows


def gdumb(config: StrategyConfig) -> Retraining:
    """Store greedily, learn dumbly.

    Args:
        config: shared by all strategies; replay memory is not used.
    """
    return Retraining(
        config,
        name="gdumb",
        store=BalancedRows(config.stored_rows, seed=config.seed),
        due=lambda since, trained: since >= min(config.consolidate_every, trained),
    )
