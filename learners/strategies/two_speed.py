"""Two speeds: a frozen encoder and an exact additive head.

The fast half of complementary learning systems (McClelland, McNaughton & O'Reilly, 1995) as RanPAC
does it (McDonnell et al., NeurIPS 2023): sums over random features of frozen text features. One
pass, any order, no forgetting; a correction is a subtraction and an addition; a label whose meaning
changes starts again from its newest rows. The slow half, consolidation of the encoder, is not in
this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from learners.batch import IDS, MASK
from learners.heads.additive import AdditiveHead
from learners.heads.base import ServedHead
from learners.heads.choice import HeadOptions
from learners.heads.class_drift import ClassDrift
from learners.heads.names import words_of
from learners.kept import FeatureSource, features_of
from learners.model import Encoder
from learners.strategies.base import Arrays, Meta, StepOutcome, StrategyConfig
from learners.template import MicroBatch, StreamTemplate
from schemas.errors import CheckpointError
from schemas.fields import Label

REFILL_ROWS = 1_024


class FrozenFeatures(nn.Module):
    """The encoder as a module without anything to train.

    Args:
        encoder: answers int64 [rows, 2, tokens] with float32 [rows, width].
        kept: where features of a text may be; those that are not there are kept from then on.

    Attributes:
        texts: of the rows that come next; none where they are not known.
    """

    def __init__(self, encoder: Encoder, kept: FeatureSource) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple: its parameters are not this module's
        self._kept = kept
        self.texts: Sequence[str] = ()

    def forward(self, packed: Tensor) -> Tensor:
        """Give the features of a packed batch, float32 [rows, width]."""
        (encoder,) = self._encoder
        lengths = packed[:, MASK].sum(dim=1).tolist()
        token_ids = [row[:n] for row, n in zip(packed[:, IDS].tolist(), lengths, strict=True)]
        if len(self.texts) != len(token_ids):
            return torch.from_numpy(encoder.encode_tokens(token_ids))
        return torch.from_numpy(
            features_of(encoder, self.texts, kept=self._kept, token_ids=token_ids, keep=True)
        )


class HeadUpdate(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Adds the features of every forward pass to the head's sums.

    Args:
        head: gains one row of its sums a training example, and a probe row a held-out one.
        config: the kind names the head rows that a label touches; the encoder reads new names.
    """

    def __init__(self, head: AdditiveHead, config: StrategyConfig) -> None:
        super().__init__()
        self.head = head
        self.kind = config.kind
        self.encoder = config.encoder
        self.kept = config.features
        self.drift = ClassDrift(config.encoder.width)
        self.renewed: dict[str, int] = {}  # how often, by label
        self.watches_drift = config.kind.head_solver == "class-balanced"
        self.scores: npt.NDArray[np.float32] | None = None
        self.labels: tuple[str, ...] = ()

    def after_forward(self, strategy: StreamTemplate, **_: Any) -> None:  # noqa: ANN401
        """Score every row, then learn those that train and probe with those that are held out."""
        batch: MicroBatch = strategy.experience.batch
        features = strategy.mb_output.numpy()
        codes = self.head.codes(features)
        self.labels = self.head.solved_labels
        self.scores = self.head.scores(features, codes=codes) if self.labels else None
        held_out = np.array(batch.held_out, dtype=bool)
        known = len(self.head.labels)
        rows = [self._rows(label) for label in batch.labels]
        self._name(self.head.labels[known:], first_row=known)
        probes = np.flatnonzero(held_out)
        if len(probes):
            self.head.probe(features[probes], [rows[i] for i in probes], codes=codes[probes])
        self._take_back(features, batch, held_out)
        train = np.flatnonzero(~held_out)
        if len(train):
            self.head.add(features[train], [rows[i] for i in train], codes=codes[train])
            self._watch(features, rows, [int(i) for i in train if batch.previous[i] is None])

    def refill(
        self,
        labels: Sequence[str],
        rows: Iterable[tuple[str, Label]],
        held_out: Iterable[tuple[str, Label]],
    ) -> None:
        """Fill an empty head: labels in their order, then rows, then probes."""
        for label in labels:
            self.head.row_of(label)
        self._name(labels)
        self.add(rows)
        self.probe(held_out)

    def add(self, rows: Iterable[tuple[str, Label]], *, sign: int = 1) -> None:
        """Add rows of text and label to the sums, or take them out."""
        for piece in batched(rows, REFILL_ROWS):
            features, labels = self._read(piece)
            self.head.add(features, labels, sign=sign)

    def probe(self, rows: Iterable[tuple[str, Label]]) -> None:
        """Let the choice and the calibration be made on rows of text and label too."""
        for piece in batched(rows, REFILL_ROWS):
            self.head.probe(*self._read(piece))

    def _read(
        self, rows: Sequence[tuple[str, Label]]
    ) -> tuple[npt.NDArray[np.float32], list[tuple[int, ...]]]:
        """Give features, float32 [rows, width], and head rows; labels that are new get theirs."""
        known = len(self.head.labels)
        labels = [self._rows(label) for _, label in rows]
        self._name(self.head.labels[known:], first_row=known)
        texts = [text for text, _ in rows]
        return features_of(self.encoder, texts, kept=self.kept), labels

    def declare(self, labels: Sequence[str]) -> None:
        """Let labels be said by their names alone, before they have any row."""
        rows = [self.head.row_of(label) for label in labels]
        self._name(labels, rows=rows, declared=True)

    def _rows(self, label: Any) -> tuple[int, ...]:  # noqa: ANN401
        return tuple(self.head.row_of(text) for text in self.kind.label_texts(label))

    def _name(
        self,
        labels: Sequence[str],
        *,
        first_row: int = 0,
        rows: Sequence[int] = (),
        declared: bool = False,
    ) -> None:
        """Read the names of labels that mean something."""
        places = rows or range(first_row, first_row + len(labels))
        named = [(row, words_of(label)) for row, label in zip(places, labels, strict=True)]
        readable = [(row, words) for row, words in named if words is not None]
        if not readable or self.head.names.weight <= 0:
            return
        features = self.encoder.encode([words for _, words in readable])
        for (row, _), name in zip(readable, features, strict=True):
            self.head.name(row, name, declared=declared)

    def _take_back(
        self, features: npt.NDArray[np.float32], batch: MicroBatch, held_out: npt.NDArray[np.bool_]
    ) -> None:
        corrected = [
            i for i, old in enumerate(batch.previous) if old is not None and not held_out[i]
        ]
        if corrected:
            old_rows = [self._rows(batch.previous[i]) for i in corrected]
            self.head.add(features[corrected], old_rows, sign=-1)

    def _watch(
        self,
        features: npt.NDArray[np.float32],
        rows: list[tuple[int, ...]],
        train: Sequence[int],
    ) -> None:
        """Let labels whose meaning changed start again from their newest rows."""
        if not self.watches_drift or self.scores is None:
            return
        said = self.scores.argmax(axis=1)
        for i in train:
            (label,) = rows[i]
            if label >= len(self.labels):
                continue  # new: it could not be said
            changed = self.drift.observe(label, features[i], hit=bool(said[i] == label))
            if changed is None:
                changed = self.drift.suspicious(label)
            if changed is not None and self.head.contradicts(label, changed):
                self._suspect_others(label, changed)
                self.renew(label, changed)
                self.drift.restart(label)

    def _suspect_others(self, label: int, features: npt.NDArray[np.float32]) -> None:
        """Look closer at the label that a changed label's rows are taken for."""
        others = self.head.scores(features).argmax(axis=1)
        others = others[others != label]
        if len(others):
            self.drift.suspect(int(np.bincount(others).argmax()))

    def renew(self, label: int, features: npt.NDArray[np.float32]) -> None:
        """Let a row of the head mean only its newest rows, float32 [rows, width], all in sums."""
        text = self.head.labels[label]
        self.renewed[text] = self.renewed.get(text, 0) + 1
        self.head.renew(label, features)


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
    def drifted(self) -> int:
        """How often a label's meaning was found changed."""
        return sum(self._plugin.renewed.values())

    def renewed_rows(self) -> dict[str, int]:
        """Say how many rows each label has in the sums whose meaning was found changed."""
        rows, index = self._head.counts, {text: n for n, text in enumerate(self._head.labels)}
        return {text: int(rows[index[text]]) for text in self._plugin.renewed}

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
        """Solve all features while nothing else waits; say whether that changed the head."""
        if self._head.is_ripe:
            return False
        self._head.solve()
        return True

    def on_encoder(
        self,
        encoder: Encoder,
        rows: Iterable[tuple[str, Label]],
        held_out: Iterable[tuple[str, Label]],
    ) -> TwoSpeed:
        """Give the same strategy on another encoder, its sums made anew.

        Args:
            encoder: of the same architecture, as a consolidation makes it.
            rows: text and canonical label of everything that is to be in the sums.
            held_out: and of everything that the choice and the calibration are made on.

        Returns:
            A strategy with the same labels in the same rows; this one stays as it is.
        """
        other = TwoSpeed(replace(self._config, encoder=encoder))
        other.pretrained = self.pretrained
        other._plugin.refill(list(self._head.labels), rows, held_out)
        other._plugin.renewed = dict(self._plugin.renewed)
        other._head.names.follow(self._head.names)
        other._head.solve()
        return other

    def add(self, rows: Iterable[tuple[str, Label]], *, sign: int = 1) -> None:
        """Add rows of text and canonical label to the sums, or take them out, without scoring."""
        self._plugin.add(rows, sign=sign)

    def probe(self, rows: Iterable[tuple[str, Label]]) -> None:
        """Let the choice and the calibration be made on further rows of text and label."""
        self._plugin.probe(rows)

    def head_blobs(self) -> dict[str, bytes]:
        """Write the solved head and its projection."""
        return self._head.blobs()

    def state(self) -> tuple[Arrays, Meta]:
        """Sums, probe ring, solutions, and what is watched of each label."""
        arrays, meta = self._head.state()
        windows, drift = self._plugin.drift.state()
        arrays = {**arrays, **windows}
        tensors = {f"head.{name}": torch.from_numpy(np.asarray(a)) for name, a in arrays.items()}
        if self.encoder.space_id != self.pretrained.space_id:  # consolidated: nobody else has it
            tensors |= {f"encoder.{name}": t for name, t in self.encoder.weights().items()}
        return (
            tensors,
            {
                "head": meta,
                "started_from": self.pretrained.space_id,
                "drift": {**drift, "renewed": dict(self._plugin.renewed)},
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
        self._plugin.renewed = dict(meta["drift"]["renewed"])


def batched(rows: Iterable[tuple[str, Label]], most: int) -> Iterator[Sequence[tuple[str, Label]]]:
    """Cut rows into pieces.

    Yields:
        Up to `most` rows.
    """
    source = iter(rows)
    while piece := list(islice(source, most)):
        yield piece
