"""Experience replay (Chaudhry et al., 2019, "On Tiny Episodic Memories in Continual Learning").

Each micro-batch from the stream is trained together with as many rows drawn from replay memory.
Memory is Redis, behind `ReplaySource`, and holds the text of everything within a generous cap, not
a few exemplars a class; Avalanche's own buffers never release data on an endless stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from learners.strategies.base import Meta, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin, pad_together
from learners.template import MicroBatch, StreamTemplate


class ReplayMixing(StreamPlugin):
    """Mixes rows from memory into every mini-batch, before the forward pass.

    Args:
        config: names the memory, the number of rows and the seed of the draws.
    """

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = np.random.Generator(np.random.PCG64(config.seed))

    def attach(self, owner: FineTuning) -> None:
        """Learn whose head grows with what memory brings."""
        self.owner = owner

    def before_training_iteration(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Draw, drop what the batch itself holds, and append."""
        batch: MicroBatch = strategy.experience.batch
        draws = self.generator.random(self.config.replay_rows).tolist()
        drawn = self.config.replay.sample(self.config.replay_rows, draws=draws)
        rows = [row for row in drawn if row.id not in batch.ids]
        self.replayed = len(rows)
        if not rows:
            return
        packed, _, tasks = strategy.mbatch
        labels = [*batch.labels, *(row.label for row in rows)]
        tokens = self.owner.encoder.tokenize([row.text for row in rows])
        strategy.mbatch = [
            pad_together(packed, tokens),
            self.owner.targets(labels),
            torch.zeros(len(labels), dtype=tasks.dtype),
        ]

    def state(self) -> Meta:
        """Where the draws stand."""
        return {"draws": self.generator.bit_generator.state}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Take up the draws."""
        self.generator.bit_generator.state = meta["draws"]


def experience_replay(config: StrategyConfig) -> FineTuning:
    """Fine-tune with replay.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="er", plugin=ReplayMixing(config))
