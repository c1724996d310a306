"""What every strategy offers to the loop.

Owns the interface; knows no strategy, no Kafka and no Redis client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from learners.heads.base import ServedHead
from learners.heads.choice import Metric
from learners.heads.solves import Method
from learners.kept import FeatureSource, NothingKept
from learners.model import Encoder
from learners.tasks.base import TaskKind
from learners.template import MicroBatch
from learners.tuning import Tuning
from schemas.fields import Label

Arrays = dict[str, Tensor]
Meta = dict[str, Any]


class ReplayedRow(Protocol):
    """A row from memory, as a strategy needs it."""

    @property
    def id(self) -> str:
        """Interaction id."""
        ...

    @property
    def text(self) -> str:
        """What the user wrote."""
        ...

    @property
    def label(self) -> Label:
        """The truth."""
        ...


class ReplaySource(Protocol):
    """Where replayed rows come from."""

    def sample(self, rows: int, *, draws: Sequence[float]) -> Sequence[ReplayedRow]:
        """Draw rows; the same draws from the same memory give the same rows."""
        ...

    def tell(self, ids: Sequence[str], losses: Sequence[float]) -> int:
        """Note the last known loss of rows, finite and not negative; answer how many are there."""
        ...


class NoReplay:
    """A memory that is always empty."""

    def sample(self, rows: int, *, draws: Sequence[float]) -> Sequence[ReplayedRow]:
        """Draw nothing."""
        del rows, draws
        return ()

    def tell(self, ids: Sequence[str], losses: Sequence[float]) -> int:
        """Note nothing."""
        del ids, losses
        return 0


@dataclass(frozen=True, slots=True)
class StrategyConfig:
    """What a strategy is built from.

    Attributes:
        kind: of the task.
        encoder: the strategy may train it, if it says so.
        replay: rows from memory.
        replay_rows: rows replayed beside each micro-batch.
        learning_rate: of the encoder, where all of it is trained; `learners.tuning.RATES` says how
            many times that a part of it gets.
        head_learning_rate: of a trained head.
        tuning: how much of the encoder is trained: a method of `learners.tuning`.
        tuning_rank: of `lora` and `adalora`.
        virtual_tokens: of `prefix` and `prompt`.
        projection_width: random features of the additive head.
        head: solve of its sums: a method of `learners.heads.solves`, or `auto` to choose.
        head_metric: what the choice is made for.
        name_weight: rows that a label's own name counts as; 0 turns names off.
        words: whether the two-speed head hears words beside features.
        consolidate_every: examples between two consolidation points; a label that changes its
            meaning brings one sooner, and so does drift that is found outside.
        strength: factor of a strategy's own protection: penalty, distillation; 1 is its default.
        decay: share of old importances that a consolidation keeps, 0 to 1.
        epochs: passes of a strategy that trains on all it has stored.
        stored_rows: rows that such a strategy stores, where it is bounded.
        stored_logits: numbers that a strategy may keep as logits of earlier rows, 4 bytes each.
        plugin: `package.module:Class` of an Avalanche plugin, for the strategy `plugin`.
        plugin_arguments: what that class is built with.
        seed: of everything random.
        features: where features of a frozen encoder may be kept.
    """

    kind: TaskKind
    encoder: Encoder
    replay: ReplaySource
    replay_rows: int = 32
    learning_rate: float = 5e-5
    head_learning_rate: float = 2e-3
    tuning: Tuning = "full"
    tuning_rank: int = 8
    virtual_tokens: int = 16
    projection_width: int = 4096
    head: Method | Literal["auto"] = "auto"
    head_metric: Metric = "log-loss"
    name_weight: float = 1.0
    words: bool = True
    consolidate_every: int = 1_000
    strength: float = 1.0
    decay: float = 0.9
    epochs: int = 3
    stored_rows: int = 2_048
    stored_logits: int = 4_000_000
    plugin: str = ""
    plugin_arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    features: FeatureSource = NothingKept()


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one micro-batch did.

    Attributes:
        scores: float32 [rows, labels], of every row before it was learned, or None when nothing was
            known.
        labels: the labels those columns stand for.
        loss: of the gradient step; 0.0 without one.
        replayed: rows from memory that were mixed in.
    """

    scores: npt.NDArray[np.float32] | None
    labels: tuple[str, ...]
    loss: float
    replayed: int


class Strategy(Protocol):
    """A way to learn from micro-batches without end."""

    name: str
    batch_rows: int
    trains_encoder: bool
    encoder: Encoder

    @property
    def head(self) -> ServedHead:
        """The head as it would serve now."""
        ...

    def step(self, batch: MicroBatch) -> StepOutcome:
        """Score, then learn, one micro-batch."""
        ...

    def settle(self) -> None:
        """Bring the head up to date with everything learned, before it is scored or released."""
        ...

    def head_blobs(self) -> dict[str, bytes]:
        """Write the head as release blobs."""
        ...

    def state(self) -> tuple[Arrays, Meta]:
        """Everything the next step depends on."""
        ...

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state: the next step is bit-identical to the one that would have come."""
        ...


@runtime_checkable
class Rests(Protocol):
    """What a strategy offers beside `Strategy` when it can use idle time."""

    def rest(self) -> bool:
        """Do one thing that is too slow while examples wait; say whether the head changed.

        False: nothing is left to do.
        """
        ...


@runtime_checkable
class Refits(Protocol):
    """What a strategy offers beside `Strategy` when what serves learns the held-out rows too."""

    @property
    def judged_head(self) -> ServedHead:
        """The head that never learned a held-out row: the same, or nearly, otherwise."""
        ...


@runtime_checkable
class Renews(Protocol):
    """What a strategy offers beside `Strategy` when it notices that a label's meaning changed."""

    def renewed_rows(self) -> Mapping[str, int]:
        """Give such labels, each with its rows learned since the change; a few may be older."""
        ...

    def renewals(self) -> Mapping[str, int]:
        """Say how often that was noticed, by label."""
        ...


@runtime_checkable
class Consolidates(Protocol):
    """What a strategy offers beside `Strategy` when it has consolidation points."""

    def consolidate(self) -> None:
        """Take what is known now as what must not be forgotten: every so often, or on drift."""
        ...

    def note_drift(self) -> None:
        """Hear from outside that answers became worse: the next such point comes sooner."""
        ...
