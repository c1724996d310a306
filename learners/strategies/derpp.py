"""DER++ (Buzzega et al., NeurIPS 2020, "Dark Experience for General Continual Learning").

Rows from memory are trained on their label and held, by squared error, to the logits that the model
gave when they came by (equation 6 there). Theirs draws two batches from one buffer; here one draw
serves both terms: rows come from replay memory, their logits from a bounded store in this process,
keyed by id. A row without stored logits is replayed for its label alone, and a label that came
later than the logits is left out of the comparison. Avalanche's DER keeps a buffer that never
releases data; so the loss is here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from learners.strategies.base import Arrays, Meta, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin
from learners.strategies.replaying import ReplayMixing
from learners.template import MicroBatch, StreamTemplate

ALPHA = 0.3  # weight of the logits' squared error
BETA = 1.0  # weight of the replayed rows' labels


class LogitStore:
    """Logits by id: of the rows that came by, or were asked for, most recently.

    A row that has left replay memory is asked for no more, so that its logits go first.

    Args:
        numbers: how many numbers are kept at most, over all rows.
    """

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers
        self._logits: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logits)

    def get(self, id_: str) -> Tensor | None:
        """Give the logits of a row, float32 [labels known then], or None."""
        found = self._logits.get(id_)
        if found is not None:
            self._logits.move_to_end(id_)
        return found

    def offer(self, ids: Sequence[str], logits: Tensor) -> None:
        """Offer rows, float32 [rows, labels]; a known id takes its newest logits."""
        for id_, row in zip(ids, logits.cpu(), strict=True):
            self._logits[id_] = row.clone()
            self._logits.move_to_end(id_)
        room = max(1, self.numbers // max(1, logits.shape[1]))
        while len(self._logits) > room:
            self._logits.popitem(last=False)

    def state(self) -> tuple[Arrays, Meta]:
        """Logits end to end, their lengths, and ids, the oldest first."""
        logits = list(self._logits.values())
        return (
            {
                "logits": torch.cat(logits) if logits else torch.zeros(0),
                "lengths": torch.tensor([len(row) for row in logits], dtype=torch.int64),
            },
            {"ids": list(self._logits)},
        )

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        parts = torch.split(arrays["logits"], arrays["lengths"].tolist())
        rows = zip(meta["ids"], parts, strict=True)
        self._logits = OrderedDict((id_, row.clone()) for id_, row in rows)


class DarkReplay(StreamPlugin):
    """Replaces the loss of a mini-batch by labels and logits of the past.

    Args:
        config: shared by all strategies.
    """

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self.store = LogitStore(config.stored_logits)
        self._kind = config.kind
        self._alpha = ALPHA * config.strength
        self._mixing = ReplayMixing(config)

    def attach(self, owner: FineTuning) -> None:
        """Learn whose head grows with what memory brings."""
        self._mixing.attach(owner)

    def before_training_iteration(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Mix rows from memory in."""
        self._mixing.before_training_iteration(strategy)
        self.replayed = self._mixing.replayed

    def after_forward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Tell memory what the mixed-in rows' losses are."""
        self._mixing.after_forward(strategy)

    def before_backward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Compute the three terms, then store the logits of what is new."""
        batch: MicroBatch = strategy.experience.batch
        live = len(batch.ids)
        logits, targets = strategy.mb_output, strategy.mb_y
        loss = self._kind.loss(logits[:live], targets[:live])
        if self.replayed:
            replayed = logits[live:]
            loss = loss + BETA * self._kind.loss(replayed, targets[live:])
            loss = loss + self._alpha * self._distance(replayed)
        strategy.loss = loss
        self.store.offer(batch.ids, logits[:live].detach())

    def _distance(self, logits: Tensor) -> Tensor:
        """Give the mean squared error to the stored logits; 0 where none are stored."""
        errors = []
        for row, now in zip(self._mixing.rows, logits, strict=True):
            then = self.store.get(row.id)
            if then is not None and len(then):
                errors.append((now[: len(then)] - then.to(now.device)).square().mean())
        return torch.stack(errors).mean() if errors else logits.new_zeros(())

    def state(self) -> tuple[Arrays, Meta]:
        """Stored logits, and where the draws stand."""
        arrays, meta = self.store.state()
        return arrays, {"store": meta, "mixing": self._mixing.state()[1]}

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.store.restore(arrays, meta["store"])
        self._mixing.restore({}, meta["mixing"])


def dark_experience_replay(config: StrategyConfig) -> FineTuning:
    """Fine-tune with replay of labels and logits.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="derpp", plugin=DarkReplay(config))
