"""Two speeds: a frozen encoder and an exact additive head.

The fast half of complementary learning systems (McClelland, McNaughton & O'Reilly, 1995) as RanPAC
does it (McDonnell et al., NeurIPS 2023): sums over random features of frozen text features. One
pass, any order, no forgetting; a correction is a subtraction and an addition; a label whose meaning
changes starts again from its newest rows. The slow half, consolidation of the encoder, is not in
this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learners.heads.additive import AdditiveHead
from learners.heads.base import ServedHead
from learners.heads.choice import HeadOptions
from learners.heads.linear import SolvedLinear
from learners.model import Encoder
from learners.strategies.base import Arrays, Meta, ReplayedRow, StepOutcome, StrategyConfig
from learners.strategies.head_update import FrozenFeatures, HeadUpdate
from learners.strategies.summed import SummedRows, key_of
from learners.template import MicroBatch, StreamTemplate
from schemas.errors import CheckpointError
from schemas.fields import Label


class TwoSpeed:
    """The default strategy.

    Args:
        config: shared by all strategies; learning rates and replay are not used here.

    Attributes:
        pretrained: the encoder it started from, which every consolidation starts from too.
    """

    name = "two-speed"
    batch_rows = 128
    trains_encoder = False

    def __init__(self, config: StrategyConfig) -> None:
        self.pretrained = config.encoder
        self._build(config)

    def _build(self, config: StrategyConfig) -> None:
        self._config = config
        self.encoder = config.encoder
        self._head = AdditiveHead(
            features=config.encoder.width,
            solver=config.kind.head_solver,
            width=config.projection_width,
            seed=config.seed,
            space_id=config.encoder.space_id,
            options=HeadOptions(
                methods=() if config.head == "auto" else (config.head,),
                metric=config.head_metric,
                name_weight=config.name_weight,
                words=config.words,
            ),
        )
        self._plugin = HeadUpdate(self._head, config)
        self._frozen = FrozenFeatures(config.encoder, config.features)
        nothing = nn.Parameter(torch.zeros(0))
        self._template = StreamTemplate(
            model=self._frozen,
            optimizer=torch.optim.SGD([nothing], lr=1.0),
            criterion=lambda outputs, _: outputs.new_zeros(()),
            device=torch.device("cpu"),
            plugins=[self._plugin],
        )

    @property
    def head(self) -> ServedHead:
        """The additive head."""
        return self._head

    @property
    def additive_head(self) -> AdditiveHead:
        """The same, as what it is."""
        return self._head

    @property
    def judged_head(self) -> ServedHead:
        """The head that never learned a held-out row."""
        return self._head.judged()

    @property
    def drifted(self) -> int:
        """How often a label's meaning was found changed."""
        return sum(self._plugin.renewed.values())

    def renewed_rows(self) -> dict[str, int]:
        """Say how many rows each label has in the sums whose meaning was found changed."""
        rows, index = self._head.counts, {text: n for n, text in enumerate(self._head.labels)}
        return {text: int(rows[index[text]]) for text in self._plugin.renewed}

    def renewals(self) -> dict[str, int]:
        """Say how often each label's meaning was found changed."""
        return dict(self._plugin.renewed)

    def declare(self, labels: Sequence[str]) -> None:
        """Let labels be said by their names alone, before their first example."""
        self._plugin.declare(labels)
        self._head.settle()

    def step(self, batch: MicroBatch) -> StepOutcome:
        """Score, then add, one micro-batch; solve what is due."""
        self._frozen.texts = batch.texts
        self._template.learn(batch, torch.zeros(len(batch.ids)))
        self._head.refresh()
        return StepOutcome(
            scores=self._plugin.scores, labels=self._plugin.labels, loss=0.0, replayed=0
        )

    def settle(self) -> None:
        """Give every row learned so far its effect."""
        self._head.settle()

    def rest(self) -> bool:
        """Do the next thing that is left for idle time; say whether that changed the head."""
        return self._head.rest()

    def on_encoder(
        self,
        encoder: Encoder,
        rows: Iterable[tuple[str, Label]],
        held_out: Iterable[ReplayedRow],
        *,
        classifier: SolvedLinear | None = None,
    ) -> TwoSpeed:
        """Give the same strategy on another encoder, its sums made anew.

        Args:
            encoder: of the same architecture, as a consolidation makes it.
            rows: text and canonical label of everything that is to be in the sums.
            held_out: and of everything that the choice and the calibration are made on.
            classifier: over that encoder's features, which the head may listen to.

        Returns:
            A strategy with the same labels in the same rows; this one stays as it is.
        """
        other = TwoSpeed(replace(self._config, encoder=encoder))
        other.pretrained = self.pretrained
        other._plugin.refill(list(self._head.labels), rows)
        other._plugin.probe(held_out)
        other._plugin.renewed = self.renewals()
        other._head.names.follow(self._head.names)
        if classifier is not None:
            other._head.listen(classifier)
        other._head.solve()
        return other

    def add(self, rows: Iterable[tuple[str, Label]], *, sign: int = 1) -> None:
        """Add rows of text and canonical label to the sums, or take them out, without scoring."""
        self._plugin.add(rows, sign=sign)

    def probe(self, rows: Iterable[ReplayedRow]) -> None:
        """Let the choice and the calibration be made on further rows."""
        self._plugin.probe(rows)

    @property
    def summed(self) -> SummedRows:
        """Which rows are in the sums."""
        return self._plugin.summed

    def forget(self, rows: Sequence[ReplayedRow], *, summed: Sequence[ReplayedRow]) -> None:
        """Take rows out of the sums, and leave nothing of them elsewhere.

        Args:
            rows: of any kind, held-out ones too.
            summed: those of them that are in the sums.
        """
        self.add(((row.text, row.label) for row in summed), sign=-1)
        for row in summed:
            self.summed.remove(row.id)
        keys = [key_of(row.id) for row in rows]
        self._head.erase(keys)
        self._plugin.drift.erase(set(keys))
        self._head.settle()

    def head_blobs(self) -> dict[str, bytes]:
        """Write the solved head and its projection."""
        return self._head.blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """Sums, probe ring, solutions, and what is watched of each label."""
        arrays, meta = self._head.state()
        windows, drift = self._plugin.drift.state()
        rows, summed = self._plugin.summed.state()
        arrays = {**arrays, **windows}
        tensors = {f"head.{name}": torch.from_numpy(np.asarray(a)) for name, a in arrays.items()}
        tensors |= rows
        if self.encoder.space_id != self.pretrained.space_id:  # consolidated: nobody else has it
            tensors |= {f"encoder.{name}": t for name, t in self.encoder.weights().items()}
        return (
            tensors,
            {
                "head": meta,
                "started_from": self.pretrained.space_id,
                "summed": summed,
                "drift": {**drift, "renewed": self.renewals()},
                "space_id": self.encoder.space_id,
                "precision": self.encoder.precision,
            },
        )

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state of the same encoder.

        Raises:
            CheckpointError: the state belongs to another encoder.
        """
        if meta["started_from"] != self.pretrained.space_id:
            raise CheckpointError(
                "the checkpoint was made with another backbone: give this one its own data_dir, "
                "or delete the checkpoint to learn the examples again from Kafka"
            )
        weights = {
            n.removeprefix("encoder."): t for n, t in arrays.items() if n.startswith("encoder.")
        }
        if weights:
            self._build(replace(self._config, encoder=self.encoder.with_weights(weights)))
        self.encoder.use_precision(meta["precision"])
        head = {
            n.removeprefix("head."): a.numpy() for n, a in arrays.items() if n.startswith("head.")
        }
        self._head.restore(head, meta["head"])
        self._plugin.drift.restore(head, meta["drift"])
        self._plugin.summed.restore(arrays, meta["summed"])
        self._plugin.renewed = dict(meta["drift"]["renewed"])
