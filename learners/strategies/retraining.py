"""What the strategies share that train on stored rows from the start, when they settle.

Owns the store, when it is time, and the training from the first weights. Must not know which
rows are worth storing: the store decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learners.batch import collate
from learners.heads.base import ServedHead
from learners.strategies.base import Arrays, Meta, StepOutcome, StrategyConfig
from learners.strategies.finetuning import DRIFT_SHARE, FineTuning, StreamPlugin, only, under
from learners.strategies.rows import BalancedRows, KeptRow, rows_of
from learners.template import MicroBatch


class Retraining:
    """Stores rows as they come; trains a fresh model on all of them when it settles.

    Args:
        config: shared by all strategies.
        name: of the strategy.
        store: which rows are kept.
        due: says, from the rows since the last training, taken tenfold once drift was found, and
            the rows stored then, whether settling trains again.
    """

    def __init__(
        self,
        config: StrategyConfig,
        *,
        name: str,
        store: BalancedRows,
        due: Callable[[int, int], bool],
    ) -> None:
        self.name = name
        self.encoder = config.encoder
        self.batch_rows = FineTuning.batch_rows
        self._tuning = FineTuning(config, name=name, plugin=StreamPlugin())
        self._epochs = config.epochs
        self._store = store
        self._due = due
        self._since = 0  # rows since the last training
        self._trained = 0  # rows of the last training
        self._drifted = False  # as told since then
        self._order = np.random.Generator(np.random.PCG64(config.seed))
        self.trains_encoder = self._tuning.trains_encoder
        arrays, meta = self._tuning.tuned.state()
        self._first = ({name: tensor.detach().clone() for name, tensor in arrays.items()}, meta)

    @property
    def head(self) -> ServedHead:
        """The head of the last training."""
        return self._tuning.head

    def step(self, batch: MicroBatch) -> StepOutcome:
        """Score, then store, one micro-batch."""
        known = tuple(self._tuning.labels)
        scores = None
        if known:
            with torch.inference_mode():
                logits = self._tuning.model(batch.packed.to(self.encoder.device))
            scores = logits.float().cpu().numpy()
        rows = rows_of(batch)
        self._tuning.grow([row.label for row in rows])
        self._store.offer(rows)
        self._since += len(rows)
        return StepOutcome(scores=scores, labels=known, loss=0.0, replayed=0)

    def settle(self) -> None:
        """Train again, when it is time."""
        share = DRIFT_SHARE if self._drifted else 1.0
        if self._since and self._due(round(self._since / share), self._trained):
            self.consolidate()

    def consolidate(self) -> None:
        """Train a fresh model on all stored rows, when there are any."""
        rows = self._store.rows
        if not rows:
            return
        self._tuning.reset(*self._first)
        for _ in range(self._epochs):
            order = self._order.permutation(len(rows)).tolist()
            for start in range(0, len(rows), self.batch_rows):
                chosen = [rows[i] for i in order[start : start + self.batch_rows]]
                self._tuning.step(_batch(chosen))
        self._since, self._trained, self._drifted = 0, len(rows), False

    def note_drift(self) -> None:
        """Train again after a tenth of the rows that would have come before it else."""
        self._drifted = True

    def head_blobs(self) -> dict[str, bytes]:
        """Write the head of the last training."""
        return self._tuning.head_blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """The model of the last training, the store and what came since."""
        tuned, tuned_meta = self._tuning.state()
        stored, stored_meta = self._store.state()
        return (
            {**under("tuning.", tuned), **under("store.", stored)},
            {
                "tuning": tuned_meta,
                "store": stored_meta,
                "since": self._since,
                "trained": self._trained,
                "drifted": self._drifted,
                "order": self._order.bit_generator.state,
            },
        )

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._tuning.restore(only(arrays, "tuning."), meta["tuning"])
        self._store.restore(only(arrays, "store."), meta["store"])
        self._since = int(meta["since"])
        self._trained = int(meta["trained"])
        self._drifted = bool(meta.get("drifted", False))
        self._order.bit_generator.state = meta["order"]


def _batch(rows: list[KeptRow]) -> MicroBatch:
    return MicroBatch(
        packed=collate([row.tokens for row in rows]),
        labels=tuple(row.label for row in rows),
        previous=(None,) * len(rows),
        held_out=(False,) * len(rows),
        ids=tuple(row.id for row in rows),
    )
