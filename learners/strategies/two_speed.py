"""Two speeds: a frozen encoder and an exact additive head.

The fast half of complementary learning systems (McClelland, McNaughton & O'Reilly, 1995) as RanPAC
does it (McDonnell et al., NeurIPS 2023): sums over random features of frozen text features. One
pass, any order, no forgetting; a correction is a subtraction and an addition. The slow half,
consolidation of the encoder, is not in this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from learners.batch import IDS, MASK
from learners.heads.base import ServedHead
from learners.heads.ridge import RidgeHead
from learners.model import Encoder
from learners.strategies.base import Arrays, Meta, StepOutcome, StrategyConfig
from learners.template import MicroBatch, StreamTemplate
from schemas.errors import CheckpointError

SOLVE_EVERY_ROWS = 256
# A release and a label that is new solve too. From 4,096 rows on, solve after every 1/16 of them:
# few solves, for ever.
SOLVE_GROWTH = 16


class FrozenFeatures(nn.Module):
    """The encoder as a module without anything to train.

    Args:
        encoder: answers int64 [rows, 2, tokens] with float32 [rows, width].
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple: its parameters are not this module's

    def forward(self, packed: Tensor) -> Tensor:
        """Give the features of a packed batch, float32 [rows, width]."""
        (encoder,) = self._encoder
        lengths = packed[:, MASK].sum(dim=1).tolist()
        token_ids = [row[:n] for row, n in zip(packed[:, IDS].tolist(), lengths, strict=True)]
        return torch.from_numpy(encoder.encode_tokens(token_ids))


class AdditiveHead(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Adds the features of every forward pass to the head's sums.

    Args:
        head: gains one row of its sums a training example, and a probe row a held-out one.
        kind: names the head rows that a label touches.
    """

    def __init__(self, head: RidgeHead, kind: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.head = head
        self.kind = kind
        self.scores: npt.NDArray[np.float32] | None = None
        self.labels: tuple[str, ...] = ()

    def after_forward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Score every row, then learn those that train and probe with those that are held out."""
        batch: MicroBatch = strategy.experience.batch
        features = strategy.mb_output.numpy()
        self.labels = self.head.solved_labels
        self.scores = self.head.scores(features) if self.labels else None
        held_out = np.array(batch.held_out, dtype=bool)
        rows = [self._rows(label) for label in batch.labels]
        self._probe(features, rows, held_out)
        self._take_back(features, batch, held_out)
        train = np.flatnonzero(~held_out)
        if len(train):
            self.head.add(features[train], [rows[i] for i in train])

    def _rows(self, label: Any) -> tuple[int, ...]:  # noqa: ANN401
        return tuple(self.head.row_of(text) for text in self.kind.label_texts(label))

    def _probe(
        self,
        features: npt.NDArray[np.float32],
        rows: list[tuple[int, ...]],
        held_out: npt.NDArray[np.bool_],
    ) -> None:
        probes = np.flatnonzero(held_out)
        if len(probes):
            self.head.probe(features[probes], [rows[i] for i in probes])

    def _take_back(
        self, features: npt.NDArray[np.float32], batch: MicroBatch, held_out: npt.NDArray[np.bool_]
    ) -> None:
        corrected = [
            i for i, old in enumerate(batch.previous) if old is not None and not held_out[i]
        ]
        if corrected:
            old_rows = [self._rows(batch.previous[i]) for i in corrected]
            self.head.add(features[corrected], old_rows, sign=-1)


class TwoSpeed:
    """The default strategy.

    Args:
        config: shared by all strategies; learning rates and replay are not used here.
    """

    name = "two-speed"
    batch_rows = 128
    trains_encoder = False

    def __init__(self, config: StrategyConfig) -> None:
        self.encoder = config.encoder
        self._head = RidgeHead(
            features=config.encoder.width,
            solver=config.kind.head_solver,
            width=config.projection_width,
            seed=config.seed,
            space_id=config.encoder.space_id,
        )
        self._plugin = AdditiveHead(self._head, config.kind)
        nothing = nn.Parameter(torch.zeros(0))
        self._template = StreamTemplate(
            model=FrozenFeatures(config.encoder),
            optimizer=torch.optim.SGD([nothing], lr=1.0),
            criterion=lambda outputs, _: outputs.new_zeros(()),
            device=torch.device("cpu"),
            plugins=[self._plugin],
        )
        self._rows_since_solve = 0

    @property
    def head(self) -> ServedHead:
        """The additive head."""
        return self._head

    def step(self, batch: MicroBatch) -> StepOutcome:
        """Score, then add, one micro-batch; solve when it is due."""
        self._template.learn(batch, torch.zeros(len(batch.ids)))
        self._rows_since_solve += len(batch.ids)
        due = max(SOLVE_EVERY_ROWS, int(self._head.rows) // SOLVE_GROWTH)
        unheard = len(self._head.labels) > len(self._head.solved_labels)
        if unheard or self._rows_since_solve >= due:
            self.settle()
        return StepOutcome(
            scores=self._plugin.scores, labels=self._plugin.labels, loss=0.0, replayed=0
        )

    def settle(self) -> None:
        """Solve, when anything was added since the last solve."""
        if self._rows_since_solve:
            self._head.solve()
            self._rows_since_solve = 0

    def head_blobs(self) -> dict[str, bytes]:
        """Write the solved head and its projection."""
        return self._head.blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """Sums, probe ring, solution and the count since the last solve."""
        arrays, meta = self._head.state()
        return (
            {f"head.{name}": torch.from_numpy(np.asarray(a)) for name, a in arrays.items()},
            {
                "head": meta,
                "space_id": self.encoder.space_id,
                "precision": self.encoder.precision,
                "rows_since_solve": self._rows_since_solve,
            },
        )

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state of the same encoder.

        Raises:
            CheckpointError: the state belongs to another encoder.
        """
        if meta["space_id"] != self.encoder.space_id:
            raise CheckpointError(
                "the checkpoint was made with another backbone: give this one its own data_dir, "
                "or delete the checkpoint to learn the examples again from Kafka"
            )
        self.encoder.use_precision(meta["precision"])
        head = {
            n.removeprefix("head."): a.numpy() for n, a in arrays.items() if n.startswith("head.")
        }
        self._head.restore(head, meta["head"])
        self._rows_since_solve = int(meta["rows_since_solve"])
