"""ER-ACE (Caccia et al., ICLR 2022, "New Insights on Reducing Abrupt Representation Change").

Rows from the stream are compared only with the labels that their own micro-batch holds, so that a
new label does not push the features of old ones aside; rows from memory are compared with every
label. Both losses are means, and are added. With several labels a text, the stream's rows are
neither pulled to nor pushed from a label that the micro-batch does not hold. Avalanche's ER_ACE is
a template with a buffer of its own, which never releases data; so the loss is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from learners.strategies.base import Arrays, Meta, StrategyConfig
from learners.strategies.finetuning import FineTuning, StreamPlugin
from learners.strategies.replaying import ReplayMixing
from learners.tasks.base import TaskKind
from learners.template import MicroBatch, StreamTemplate
from schemas.fields import Label


class AsymmetricLoss(StreamPlugin):
    """Replaces the loss of a mini-batch by the asymmetric one.

    Args:
        config: shared by all strategies.
    """

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self._kind = config.kind
        self._mixing = ReplayMixing(config)

    def attach(self, owner: FineTuning) -> None:
        """Learn whose head has which rows."""
        self._owner = owner
        self._mixing.attach(owner)

    def before_training_iteration(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Mix rows from memory in."""
        self._mixing.before_training_iteration(strategy)
        self.replayed = self._mixing.replayed

    def after_forward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Tell memory what the mixed-in rows' losses are."""
        self._mixing.after_forward(strategy)

    def before_backward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Compute the two losses."""
        batch: MicroBatch = strategy.experience.batch
        live = len(batch.ids)
        logits = strategy.mb_output
        loss = present_loss(self._kind, logits[:live], batch.labels, head=self._owner.labels)
        if self.replayed:
            loss = loss + self._kind.loss(logits[live:], strategy.mb_y[live:])
        strategy.loss = loss

    def state(self) -> tuple[Arrays, Meta]:
        """Where the draws stand."""
        return self._mixing.state()

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up the draws."""
        self._mixing.restore(arrays, meta)


def present_loss(
    kind: TaskKind, logits: Tensor, labels: Sequence[Label], *, head: Sequence[str]
) -> Tensor:
    """Give the kind's loss over the labels that occur among these rows, and no others.

    Args:
        kind: of the task.
        logits: float32 [rows, labels of the head].
        labels: truth of each row.
        head: label of every column.
    """
    present = {text for label in labels for text in kind.label_texts(label)}
    columns = [column for column, text in enumerate(head) if text in present]
    if not columns:
        return logits.sum() * 0.0  # no row has a label: nothing is asked of any
    index = {head[column]: place for place, column in enumerate(columns)}
    targets = kind.targets(labels, index=index).to(logits.device)
    return kind.loss(logits[:, columns], targets)


def er_ace(config: StrategyConfig) -> FineTuning:
    """Fine-tune with replay and the asymmetric loss.

    Args:
        config: shared by all strategies.
    """
    return FineTuning(config, name="er-ace", plugin=AsymmetricLoss(config))
