"""Rows that a strategy keeps by itself, and how they are written into a checkpoint.

Owns a row of token ids and label, a bounded sample of the newest rows, and a store that is balanced
over labels. Must not know models, replay memory or the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learners.batch import IDS, MASK
from learners.strategies.base import Arrays, Meta
from learners.template import MicroBatch
from schemas.fields import Label


@dataclass(frozen=True, slots=True)
class KeptRow:
    """A row as it is trained on.

    Attributes:
        id: of the interaction.
        tokens: ids of its text.
        label: the truth.
    """

    id: str
    tokens: tuple[int, ...]
    label: Label


def rows_of(batch: MicroBatch) -> list[KeptRow]:
    """Take the rows of a micro-batch that may train."""
    lengths = batch.packed[:, MASK].sum(dim=1).tolist()
    ids = batch.packed[:, IDS].tolist()
    return [
        KeptRow(batch.ids[i], tuple(ids[i][: lengths[i]]), batch.labels[i])
        for i in range(len(batch.ids))
        if not batch.held_out[i]
    ]


def write_rows(rows: Iterable[KeptRow]) -> tuple[Arrays, Meta]:
    """Write rows: `tokens` int32 of all rows end to end, `lengths` int64 [rows]; ids and labels."""
    kept = list(rows)
    return (
        {
            "tokens": torch.tensor([t for row in kept for t in row.tokens], dtype=torch.int32),
            "lengths": torch.tensor([len(row.tokens) for row in kept], dtype=torch.int64),
        },
        {
            "ids": [row.id for row in kept],
            "labels": [r.label if isinstance(r.label, str) else list(r.label) for r in kept],
        },
    )


def read_rows(arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> list[KeptRow]:
    """Read what `write_rows` wrote."""
    parts = torch.split(arrays["tokens"], arrays["lengths"].tolist())
    labels = [label if isinstance(label, str) else tuple(label) for label in meta["labels"]]
    return [
        KeptRow(id_, tuple(tokens.tolist()), label)
        for id_, tokens, label in zip(meta["ids"], parts, labels, strict=True)
    ]


class Sampled:
    """A uniform sample of the rows since it was last cleared (reservoir, Vitter 1985, R).

    Args:
        rows: size of the sample.
        seed: of the choice.
    """

    def __init__(self, rows: int, *, seed: int) -> None:
        self.size = rows
        self.rows: list[KeptRow] = []
        self.offered = 0
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def offer(self, rows: Sequence[KeptRow]) -> None:
        """Offer rows in order."""
        for row in rows:
            self.offered += 1
            if len(self.rows) < self.size:
                self.rows.append(row)
            elif self.size:
                place = int(self._generator.integers(self.offered))
                if place < self.size:
                    self.rows[place] = row

    def clear(self) -> None:
        """Start again."""
        self.rows.clear()
        self.offered = 0

    def state(self) -> tuple[Arrays, Meta]:
        """Rows, count and generator."""
        arrays, meta = write_rows(self.rows)
        return arrays, {
            **meta,
            "offered": self.offered,
            "generator": self._generator.bit_generator.state,
        }

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.rows = read_rows(arrays, meta)
        self.offered = int(meta["offered"])
        self._generator.bit_generator.state = meta["generator"]


class BalancedRows:
    """Rows by id, the same number of every label where there is no room for all.

    The greedy balancing sampler of GDumb (Prabhu et al., ECCV 2020, algorithm 1): a row is taken
    while there is room, or while its label has fewer rows than the fullest, which then loses one at
    random. Rows with several labels count by their whole label.

    Args:
        rows: how many are kept; None for all.
        seed: of what is dropped.
    """

    def __init__(self, rows: int | None, *, seed: int) -> None:
        self.size = rows
        self._rows: dict[str, KeptRow] = {}
        self._by_label: dict[Label, list[str]] = {}
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[KeptRow]:
        """All rows, in a fixed order."""
        return list(self._rows.values())

    def offer(self, rows: Sequence[KeptRow]) -> None:
        """Offer rows in order; a row with a known id takes its place."""
        for row in rows:
            if row.id in self._rows:
                self._remove(row.id)
            elif self.size is not None and len(self._rows) >= self.size:
                fullest = max(self._by_label, key=lambda label: (self._count(label), str(label)))
                if self._count(row.label) >= self._count(fullest):
                    continue
                ids = self._by_label[fullest]
                self._remove(ids[int(self._generator.integers(len(ids)))])
            self._rows[row.id] = row
            self._by_label.setdefault(row.label, []).append(row.id)

    def _count(self, label: Label) -> int:
        return len(self._by_label.get(label, ()))

    def _remove(self, id_: str) -> None:
        row = self._rows.pop(id_)
        self._by_label[row.label].remove(id_)
        if not self._by_label[row.label]:
            del self._by_label[row.label]

    def state(self) -> tuple[Arrays, Meta]:
        """Rows and generator."""
        arrays, meta = write_rows(self._rows.values())
        return arrays, {**meta, "generator": self._generator.bit_generator.state}

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._rows, self._by_label = {}, {}
        for row in read_rows(arrays, meta):
            self._rows[row.id] = row
            self._by_label.setdefault(row.label, []).append(row.id)
        self._generator.bit_generator.state = meta["generator"]
