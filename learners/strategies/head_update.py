"""The additive head inside the stream's template: what each micro-batch does to it.

Owns the order of a step of `two-speed`: features, scores from before, probes, corrections, rows,
and what is watched of each label; must not know when the head is solved, or how its state is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from learners.batch import IDS, MASK
from learners.heads.additive import AdditiveHead
from learners.heads.class_drift import ClassDrift
from learners.heads.names import words_of
from learners.kept import FeatureSource, rows_of
from learners.model import Encoder
from learners.strategies.base import ReplayedRow, StrategyConfig
from learners.strategies.summed import SummedRows, key_of
from learners.template import MicroBatch, StreamTemplate
from schemas.fields import Label

REFILL_ROWS = 1_024
Row = TypeVar("Row")


class FrozenFeatures(nn.Module):
    """The encoder, and the words, as a module without anything to train.

    Args:
        encoder: answers int64 [rows, 2, tokens] with float32 [rows, row_width].
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
        """Give what a head reads of a packed batch, float32 [rows, row_width]."""
        (encoder,) = self._encoder
        lengths = packed[:, MASK].sum(dim=1).tolist()
        token_ids = [row[:n] for row, n in zip(packed[:, IDS].tolist(), lengths, strict=True)]
        if len(self.texts) != len(token_ids):
            return torch.from_numpy(encoder.read_tokens(token_ids))
        return torch.from_numpy(
            rows_of(encoder, self.texts, kept=self._kept, token_ids=token_ids, keep=True)
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
        self.drift = ClassDrift(config.encoder.row_width)
        self.summed = SummedRows()
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
            self.head.probe(
                features[probes],
                [rows[i] for i in probes],
                codes=codes[probes],
                keys=[key_of(batch.ids[i]) for i in probes],
            )
        self._take_back(features, batch)
        train = np.flatnonzero(~held_out)
        if len(train):
            self.head.add(features[train], [rows[i] for i in train], codes=codes[train])
            fresh = [int(i) for i in train if batch.previous[i] is None]
            self._watch(features, rows, {i: key_of(batch.ids[i]) for i in fresh})

    def refill(
        self,
        labels: Sequence[str],
        rows: Iterable[tuple[str, Label]],
    ) -> None:
        """Fill an empty head: labels in their order, then rows."""
        for label in labels:
            self.head.row_of(label)
        self._name(labels)
        self.add(rows)

    def add(self, rows: Iterable[tuple[str, Label]], *, sign: int = 1) -> None:
        """Add rows of text and label to the sums, or take them out."""
        for piece in batched(rows, REFILL_ROWS):
            features, labels = self._read(piece)
            self.head.add(features, labels, sign=sign)

    def probe(self, rows: Iterable[ReplayedRow]) -> None:
        """Let the choice and the calibration be made on rows too."""
        for piece in batched(rows, REFILL_ROWS):
            features, labels = self._read([(row.text, row.label) for row in piece])
            self.head.probe(features, labels, keys=[key_of(row.id) for row in piece])

    def _read(
        self, rows: Sequence[tuple[str, Label]]
    ) -> tuple[npt.NDArray[np.float32], list[tuple[int, ...]]]:
        """Give float32 [rows, row_width], and head rows; labels that are new get theirs."""
        known = len(self.head.labels)
        labels = [self._rows(label) for _, label in rows]
        self._name(self.head.labels[known:], first_row=known)
        texts = [text for text, _ in rows]
        return rows_of(self.encoder, texts, kept=self.kept), labels

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
        features = self.encoder.read([words for _, words in readable])
        for (row, _), name in zip(readable, features, strict=True):
            self.head.name(row, name, declared=declared)

    def _take_back(self, features: npt.NDArray[np.float32], batch: MicroBatch) -> None:
        corrected = self.summed.corrected(batch.ids, batch.previous, batch.held_out, batch.labels)
        if corrected:
            self.drift.erase({key_of(batch.ids[i]) for i in corrected})
            old_rows = [self._rows(batch.previous[i]) for i in corrected]
            self.head.add(features[corrected], old_rows, sign=-1)

    def _watch(
        self,
        features: npt.NDArray[np.float32],
        rows: list[tuple[int, ...]],
        train: Mapping[int, int],
    ) -> None:
        """Let labels whose meaning changed start again from their newest rows.

        Args:
            features: float32 [rows, row_width], of the micro-batch.
            rows: of the head, one a row.
            train: places of rows that were learned for the first time, and their keys.
        """
        if not self.watches_drift or self.scores is None:
            return
        said = self.scores.argmax(axis=1)
        for i, key in train.items():
            (label,) = rows[i]
            if label >= len(self.labels):
                continue  # new: it could not be said
            hit, heir = bool(said[i] == label), self.drift.heir(label)  # an alarm ends suspicion
            changed = self.drift.observe(label, features[i], hit=hit, key=key)
            if changed is None:
                changed = self.drift.suspicious(label)
            if changed is not None and self.head.contradicts(label, changed, heir=heir):
                self._suspect_others(label, changed)
                self.renew(label, changed, keys=self.drift.keys(label, len(changed)))
                self.drift.restart(label)

    def _suspect_others(self, label: int, features: npt.NDArray[np.float32]) -> None:
        """Look closer at the label that a changed label's rows are taken for."""
        others = self.head.scores(features).argmax(axis=1)
        others = others[others != label]
        if len(others):
            self.drift.suspect(int(np.bincount(others).argmax()), heir=label)

    def renew(
        self, label: int, features: npt.NDArray[np.float32], *, keys: Sequence[int] = ()
    ) -> None:
        """Let a row of the head mean only its newest rows, with keys, all of them in the sums.

        Args:
            label: the row.
            features: float32 [rows, row_width], of its newest rows.
            keys: theirs.
        """
        text = self.head.labels[label]
        self.renewed[text] = self.renewed.get(text, 0) + 1
        self.summed.renew(text, keys)
        self.head.renew(label, features)


def batched(rows: Iterable[Row], most: int) -> Iterator[list[Row]]:
    """Cut rows into pieces.

    Yields:
        Up to `most` rows.
    """
    source = iter(rows)
    while piece := list(islice(source, most)):
        yield piece
