"""The additive statistics: whole-number sums over rows, which every solve starts from.

Owns sums, labels' rows, merging and taking back; must not know solves, encoders or tasks. All sums
are whole numbers below 2**53 in float64: exact in one pass, the same to the bit in any order and
any batches, mergeable across learners, subtractable when a row must be unlearned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Arrays, Floats, Meta
from learners.heads.projection import (
    CODE_STEP,
    FIXED_BITS,
    Projection,
    fixed_point,
    int8_product,
)
from learners.heads.word_rows import WordRows
from learners.heads.words import WordSums
from learners.words import word_slots

FORMER_MEANINGS = 256  # that are kept apart in the scatter; each is as long as phi
PANEL = 512  # columns of a Gram matrix that are computed at once: only from the diagonal on
PENDING_ROWS = 4_096  # rows whose products wait: the Gram matrix is written once for all of them


@dataclass(frozen=True, slots=True)
class Moments:
    """What a solve needs, over the first d features of phi.

    Attributes:
        rows: in the sums.
        gram: float64 [d, d], sum over rows of codes times codes; whoever reads it copies.
        step: what one of it is in the mean of phi phi'.
        means: float64 [alive, d], mean of phi of every label, zeros where it has no row.
        counts: float64 [alive], rows of each.
        centres: float64 [alive, d], what stands for each label: its mean, or its mean and its name.
        former: float64 [gone, d], means that labels had before their meaning changed.
        former_counts: float64 [gone].
    """

    rows: float
    gram: Tensor
    step: float
    means: Tensor
    counts: Tensor
    centres: Tensor
    former: Tensor
    former_counts: Tensor

    @property
    def dimensions(self) -> int:
        """Length of phi, as far as it is looked at."""
        return len(self.gram)

    @property
    def second(self) -> Tensor:
        """Mean of phi phi' over rows: float64 [d, d], made anew."""
        return self.gram * self.step

    def single(self) -> Moments:
        """Give the same in float32: half the work, and exact enough where nothing is kept of it."""
        return Moments(
            rows=self.rows,
            gram=self.second.float(),
            step=1.0,
            means=self.means.float(),
            counts=self.counts.float(),
            centres=self.centres.float(),
            former=self.former.float(),
            former_counts=self.former_counts.float(),
        )

    def within(self, *, between: float = 0.0) -> Tensor:
        """Give the scatter within labels: the mean of (phi - mean)(phi - mean)', float64 [d, d].

        Args:
            between: how much of the sum of the centres' outer products is added to it.
        """
        rows = torch.cat([self.means, self.former, *([self.centres] if between else [])])
        weights = torch.cat([self.counts, self.former_counts]) / -self.rows
        weights = torch.nn.functional.pad(weights, (0, len(rows) - len(weights)), value=between)
        return self.second.addmm_(rows.T, weights.unsqueeze(1) * rows)  # once over a large matrix


class AdditiveSums:
    """Sums over rows, by label and over all.

    Args:
        projection: of the features.
        lead: how many of phi's first features have a Gram matrix of their own, for quick solves.
        space_id: of the encoder; sums of different spaces are never mixed.

    Attributes:
        labels: in order of appearance, never re-indexed.
        rows: in the sums, taken-back ones subtracted.
        words: counted beside them, where rows have words.
        word_rows: and kept, while labels are few.
    """

    def __init__(self, projection: Projection, *, lead: int, space_id: str) -> None:
        self.projection = projection
        self.space_id = space_id
        self.labels: list[str] = []
        self.rows = 0
        self.words = WordSums()
        self.word_rows = WordRows()
        d = projection.dimensions
        self.lead = min(lead, d)
        self._index: dict[str, int] = {}
        self._gram = torch.zeros(d, d, dtype=torch.float64)  # sum of code code'
        self._lead_gram = torch.zeros(self.lead, self.lead, dtype=torch.float64)
        self._sums = torch.zeros(0, d, dtype=torch.float64)  # sum of codes, by label
        self._raw = torch.zeros(0, projection.matrix.shape[0], dtype=torch.float64)  # of features
        self._counts = torch.zeros(0, dtype=torch.float64)
        self._former = torch.zeros(0, d, dtype=torch.float64)
        self._former_counts = torch.zeros(0, dtype=torch.float64)
        self._pending: list[Tensor] = []  # codes, not yet in the Gram matrix
        self._lead_pending: list[Tensor] = []

    @property
    def counts(self) -> Tensor:
        """Rows by label: float64 [labels]."""
        return self._counts[: len(self.labels)]

    @property
    def raw_means(self) -> Tensor:
        """Mean feature row by label, zeros where there is none: float64 [labels, features]."""
        counts = self.counts.clamp_min(1).unsqueeze(1)
        return self._raw[: len(self.labels)] / counts / float(1 << FIXED_BITS)

    def raw_mean_without(self, row: int, features: Floats) -> Tensor | None:
        """Give the mean feature row of a label's other rows: float64 [features]; None without any.

        Args:
            row: of the label.
            features: float32 [rows, features], rows of it that are left out.
        """
        count = float(self._counts[row]) - len(features)
        if count < 1:
            return None
        left_out = fixed_point(features[:, : self.features]).double().sum(dim=0)
        return (self._raw[row] - left_out) / (count * float(1 << FIXED_BITS))

    @property
    def nbytes(self) -> int:
        """Main memory that the sums take, rows that wait among them."""
        sums = (self._gram, self._lead_gram, self._sums, self._raw, self._former)
        waiting = (*self._pending, *self._lead_pending)
        words = self.words.nbytes + self.word_rows.nbytes
        return words + sum(one.nbytes for one in (*sums, *waiting))

    @property
    def features(self) -> int:
        """Length of a row's features, behind which its words may stand."""
        return self._raw.shape[1]

    def row_of(self, label: str) -> int:
        """Give the row of a label, a new one when it was never seen."""
        if label not in self._index:
            self._index[label] = len(self.labels)
            self.labels.append(label)
            if len(self.labels) > len(self._counts):
                more = max(64, len(self._counts))
                pad = torch.nn.functional.pad
                self._sums = pad(self._sums, (0, 0, 0, more))
                self._raw = pad(self._raw, (0, 0, 0, more))
                self._counts = pad(self._counts, (0, more))
        return self._index[label]

    def add(
        self,
        features: Floats,
        codes: Tensor,
        label_rows: Sequence[tuple[int, ...]],
        *,
        sign: int = 1,
    ) -> None:
        """Add rows, or take back rows that were added.

        Args:
            features: float32 [rows, features], or with words behind them.
            codes: int8 [rows, width + 1], the projection's of these features.
            label_rows: rows of `labels` that each row has.
            sign: 1 or -1.
        """
        words = word_slots(features, width=self.features)
        self.words.add(words, label_rows, sign=sign)
        self.word_rows.add(words, label_rows, sign=sign)
        features = features[:, : self.features]
        pairs = [(row, label) for row, labels in enumerate(label_rows) for label in labels]
        rows = torch.tensor([row for row, _ in pairs], dtype=torch.int64)
        labels = torch.tensor([label for _, label in pairs], dtype=torch.int64)
        self._sums.index_add_(0, labels, codes[rows].double(), alpha=sign)
        self._raw.index_add_(0, labels, fixed_point(features)[rows].double(), alpha=sign)
        self._counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64), alpha=sign)
        self.rows += sign * len(label_rows)
        if sign > 0:
            self._pending.append(codes)
            self._lead_pending.append(codes[:, : self.lead])
            if sum(map(len, self._pending)) >= PENDING_ROWS:
                self.fold()
        else:
            for piece in _blocks([codes]):
                _add_products(self._gram, piece, sign=-1)
                _add_products(self._lead_gram, piece[:, : self.lead], sign=-1)

    def fold(self) -> None:
        """Bring the Gram matrices up to date."""
        self._fold_lead()
        for block in _blocks(self._pending):
            _add_products(self._gram, block)
        self._pending.clear()

    def _fold_lead(self) -> None:
        for block in _blocks(self._lead_pending):
            _add_products(self._lead_gram, block)
        self._lead_pending.clear()

    def merge(self, other: AdditiveSums, *, sign: int = 1) -> None:
        """Add the sums of another learner, labels joined by text, or take them back.

        Raises:
            ValueError: spaces or projections differ.
        """
        if self.space_id != other.space_id:
            raise ValueError(f"space_id {other.space_id!r} cannot be merged into {self.space_id!r}")
        if self.projection.id != other.projection.id or self.lead != other.lead:
            raise ValueError("sums with different projections cannot be merged")
        rows = torch.tensor([self.row_of(label) for label in other.labels], dtype=torch.int64)
        known = len(rows)
        self.fold()
        other.fold()
        self._gram.add_(other._gram, alpha=sign)
        self._lead_gram.add_(other._lead_gram, alpha=sign)
        self._sums.index_add_(0, rows, other._sums[:known], alpha=sign)
        self._raw.index_add_(0, rows, other._raw[:known], alpha=sign)
        self._counts.index_add_(0, rows, other._counts[:known], alpha=sign)
        self.words.merge(other.words, rows.numpy(), sign=sign)
        self.word_rows.merge(other.word_rows, rows.numpy(), sign=sign)
        self.rows += sign * other.rows
        if len(other._former_counts):
            self._remember_former(other._former, sign * other._former_counts, sign=sign)

    def renew(self, row: int, features: Floats, codes: Tensor) -> None:
        """Let a label mean only its newest rows; older ones stay in the overall scatter.

        Args:
            row: of the label.
            features: float32 [rows, features], or with words behind them, of its newest rows, all
                of them in the sums.
            codes: int8 [rows, width + 1], theirs.
        """
        fresh = codes.double().sum(dim=0)
        self._remember_former(
            (self._sums[row] - fresh).unsqueeze(0),
            (self._counts[row] - len(codes)).unsqueeze(0),
            sign=1,
        )
        self._sums[row] = fresh
        words = word_slots(features, width=self.features)
        self.words.renew(row, words)
        self.word_rows.renew(row, words)
        self._raw[row] = fixed_point(features[:, : self.features]).double().sum(dim=0)
        self._counts[row] = len(codes)

    def _remember_former(self, sums: Tensor, counts: Tensor, *, sign: int) -> None:
        kept = counts.abs() > 0
        self._former = torch.cat([self._former, sign * sums[kept]])
        self._former_counts = torch.cat([self._former_counts, counts[kept]])
        more = len(self._former) - FORMER_MEANINGS
        if more > 0:  # the oldest ones become one
            oldest = self._former[: more + 1].sum(dim=0, keepdim=True)
            self._former = torch.cat([oldest, self._former[more + 1 :]])
            count = self._former_counts[: more + 1].sum(dim=0, keepdim=True)
            self._former_counts = torch.cat([count, self._former_counts[more + 1 :]])

    def moments(self, alive: Tensor, *, lead: bool) -> Moments:
        """Give the moments over the leading features, or over all.

        Args:
            alive: int64 [alive], rows of labels to give means of.
            lead: only the leading features.
        """
        if lead:
            self._fold_lead()
        else:
            self.fold()
        gram, d = (self._lead_gram, self.lead) if lead else (self._gram, len(self._gram))
        rows = float(max(self.rows, 1))
        counts = self._counts[alive]
        former_counts = self._former_counts
        means = self._sums[alive, :d] * (CODE_STEP / counts.clamp_min(1).unsqueeze(1))
        return Moments(
            rows=rows,
            gram=gram,
            step=CODE_STEP**2 / rows,
            means=means,
            counts=counts,
            centres=means,
            former=self._former[:, :d] * (CODE_STEP / former_counts.unsqueeze(1)),
            former_counts=former_counts,
        )

    def state(self) -> tuple[Arrays, Meta]:
        """Give everything, as arrays and JSON values."""
        self.fold()
        known, upper = len(self.labels), torch.triu_indices(*self._gram.shape)
        arrays: Arrays = {
            "gram": _whole(self._gram[upper[0], upper[1]]),
            "sums": _whole(self._sums[:known]),
            "raw_sums": _whole(self._raw[:known]),
            "counts": _whole(self._counts[:known]),
            "former_sums": _whole(self._former),
            "former_counts": _whole(self._former_counts),
            "projection": self.projection.matrix,
            **self.words.state(),
            **self.word_rows.state(),
        }
        return arrays, {
            "labels": list(self.labels),
            "rows": self.rows,
            "lead": self.lead,
            "space_id": self.space_id,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> AdditiveSums:
        """Take up what `state` gave; what follows is the same to the bit."""
        sums = cls(
            Projection(arrays["projection"]), lead=int(meta["lead"]), space_id=meta["space_id"]
        )
        d = sums.projection.dimensions
        upper = torch.triu_indices(d, d)
        sums._gram[upper[0], upper[1]] = _doubles(arrays["gram"])
        sums._gram = sums._gram.triu() + sums._gram.triu(1).T
        sums._lead_gram = sums._gram[: sums.lead, : sums.lead].clone()
        for label in meta["labels"]:
            sums.row_of(label)
        known = len(sums.labels)
        sums._sums[:known] = _doubles(arrays["sums"])
        sums._raw[:known] = _doubles(arrays["raw_sums"])
        sums._counts[:known] = _doubles(arrays["counts"])
        sums._former = _doubles(arrays["former_sums"])
        sums._former_counts = _doubles(arrays["former_counts"])
        sums.rows = int(meta["rows"])
        sums.words = WordSums.restore(arrays)
        sums.word_rows = WordRows.restore(arrays)
        return sums


def _add_products(gram: Tensor, codes: Tensor, *, sign: int = 1) -> None:
    """Add codes' outer products to a Gram matrix, float64 [d, d], in its place.

    It is symmetric: each panel is computed from the diagonal on, and mirrored.
    """
    columns = codes.T.contiguous()  # int8 [d, rows]
    for start in range(0, len(gram), PANEL):
        end = start + PANEL
        part = int8_product(columns[start:end], codes[:, start:].contiguous())
        gram[start:end, start:].add_(part, alpha=sign)
        gram[end:, start:end].add_(part[:, PANEL:].T, alpha=sign)


def _blocks(codes: Sequence[Tensor]) -> Iterator[Tensor]:
    """Cut waiting codes into blocks of up to so many rows.

    Yields:
        int8 [rows, d].
    """
    if codes:
        joined = torch.cat(list(codes))
        for start in range(0, len(joined), PENDING_ROWS):
            yield joined[start : start + PENDING_ROWS]


def _whole(values: Tensor) -> NDArray[Any]:
    """Write whole numbers as int32 where they fit, else as int64."""
    fits = not values.numel() or float(values.abs().max()) < 2**31
    return values.to(torch.int32 if fits else torch.int64).numpy()


def _doubles(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(values)).double()
