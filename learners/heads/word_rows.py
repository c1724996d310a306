"""Rows of words kept as they are, and the weights of words that fit them.

Owns the kept rows and the fit; must not know features, tokens or how scores are weighed. Counts
take every word by itself (`learners.heads.words`), which is best where labels are many and have few
rows each. Where labels are few, the same words come again and again beside each other, and counts
hear them twice: weights that are fitted together say more. They are a ridge over sparse rows, a
label at a time, by LSMR (Fong & Saunders, SIAM Journal on Scientific Computing 33, 2011), which is
stopped early: that shrinks too, most what few rows show (Hansen, Rank-Deficient and Discrete
Ill-Posed Problems, 1998). Their scale is fixed, so that a new fit can take the place of an old one.

Kept rows are a set with counts: the same in any order, and mergeable. What is taken back is gone;
taking back what is not there changes nothing, and writes nothing down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from heapq import nsmallest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import lsmr

from learners.heads.base import Arrays
from learners.heads.words import LEAST_ROWS, WordColumns
from learners.words import BUCKETS

FEW_LABELS = 32  # rows of labels of a head, at most: labels that are gone count too
MOST_ROWS = 32_768  # distinct ones that are fitted; twice as many wait
SHRINKAGE = 0.1  # added to the diagonal of the rows' products, which is 1 at most
CLOSE = 1e-2  # where the fit is stopped
MOST_STEPS = 100
LEAST_SPREAD = 1e-6  # of scores, below which nothing was found
ROW_BYTES = 280  # of a kept row beside its words: Python's objects, as measured

Key = tuple[int, int]


class WordRows:
    """Distinct rows of words of each label, and how often each was added.

    Of more than `MOST_ROWS` those with the smallest hashes are fitted: a random sample, the same
    one in whatever order and parts rows were added. Rows that were let go are not there again when
    others are taken back.

    Attributes:
        is_open: whether rows are kept: they have one label each, and labels are few. Once closed,
            it stays so.
        changed: rows added or taken back since somebody last set it to 0.
        taken: rows taken back since somebody last set it to 0.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.changed = self.taken = 0
        self._words: dict[Key, NDArray[np.int32]] = {}
        self._counts: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def nbytes(self) -> int:
        """Main memory that the rows take, about."""
        return sum(words.nbytes + ROW_BYTES for words in self._words.values())

    @property
    def rows(self) -> int:
        """Rows that are kept, equal ones counted as often as they were added."""
        return sum(self._counts.values())

    def add(
        self, words: NDArray[np.int64], label_rows: Sequence[tuple[int, ...]], *, sign: int = 1
    ) -> None:
        """Keep rows, or take back rows that were kept.

        Args:
            words: int64 [rows, SLOTS], 0 for no word.
            label_rows: rows of the labels that each row has.
            sign: 1 or -1.
        """
        if not self.is_open or not words.any():
            return
        if any(len(labels) != 1 or labels[0] >= FEW_LABELS for labels in label_rows):
            if sign > 0:
                self.close()
            return
        said = words > 0
        ends = np.cumsum(said.sum(axis=1))
        rows = np.split(words[said].astype(np.int32), ends[:-1])
        for row, (label,) in zip(rows, label_rows, strict=True):
            if len(row):
                self._count((_hash(row), label), row, sign)
        if len(self) >= 2 * MOST_ROWS:
            self._keep_some()

    def close(self) -> None:
        """Keep no rows any more."""
        self.is_open = False
        self.changed = self.taken = 0
        self._words.clear()
        self._counts.clear()

    def merge(self, other: WordRows, label_rows: NDArray[np.int64], *, sign: int = 1) -> None:
        """Add the rows of another learner, or take them back.

        Args:
            other: with rows of its own.
            label_rows: int64 [labels], the row here of each of its labels.
            sign: 1 or -1.
        """
        theirs = {key: (key[0], int(label_rows[key[1]])) for key in other._counts}
        if not (other.is_open and all(label < FEW_LABELS for _, label in theirs.values())):
            self.close()
        if not self.is_open:
            return
        for key, mine in theirs.items():
            self._count(mine, other._words[key], sign * other._counts[key])
        if len(self) >= 2 * MOST_ROWS:
            self._keep_some()

    def renew(self, row: int, words: NDArray[np.int64]) -> None:
        """Let a label have its newest rows alone.

        Args:
            row: of the label.
            words: int64 [rows, SLOTS], of its newest rows.
        """
        for key in [key for key in self._counts if key[1] == row]:
            self._count(key, self._words[key], -self._counts[key])
        self.add(words, [(row,)] * len(words))

    def fit(self, labels: int) -> WordColumns:
        """Fit the words of the kept rows, after letting those go that are too many.

        Returns:
            Columns of so many labels, whose scores of the kept rows have a spread of 1; of none
            where nothing can be fitted.
        """
        self._keep_some()
        keys = sorted(self._counts)
        if not keys:
            return WordColumns.empty()
        counts = np.array([self._counts[key] for key in keys], dtype=np.float64)
        owners = np.array([label for _, label in keys])
        lengths = np.array([len(self._words[key]) for key in keys])
        words = np.concatenate([self._words[key] for key in keys])
        heard = np.bincount(words, weights=np.repeat(counts, lengths), minlength=BUCKETS)
        used = np.flatnonzero(heard >= LEAST_ROWS)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        each = np.repeat(np.sqrt(counts / lengths), lengths)
        rows = sparse.csr_matrix((each, words, ends), shape=(len(keys), BUCKETS))[:, used]
        weights = np.zeros((labels, len(used)))
        for label in np.unique(owners):
            own = (owners == label).astype(np.float64)
            centred = np.sqrt(counts) * (own - np.average(own, weights=counts))
            weights[label] = lsmr(
                rows, centred, damp=SHRINKAGE**0.5, atol=CLOSE, btol=CLOSE, maxiter=MOST_STEPS
            )[0]
        spread = float(np.linalg.norm(rows @ weights.T) / np.sqrt(counts.sum() * labels))
        if spread < LEAST_SPREAD:
            return WordColumns.empty()
        found = (weights / spread).astype(np.float16)
        owners, places = np.nonzero(found)
        return WordColumns(
            entries=found[owners, places],
            words=used[places].astype(np.int32),
            ends=np.cumsum(np.bincount(owners, minlength=labels)),
            floors=np.zeros(labels, dtype=np.float32),
            offsets=np.zeros(labels, dtype=np.float32),
        )

    def _count(self, key: Key, words: NDArray[np.int32], count: int) -> None:
        before = self._counts.get(key, 0)
        if count > 0 and not before:
            self._words[key] = words.copy()  # not a view of all the others
        now = max(before + count, 0)
        if now:
            self._counts[key] = now
        elif before:
            del self._counts[key], self._words[key]
        self.changed += abs(now - before)
        self.taken += max(before - now, 0)

    def _keep_some(self) -> None:
        if len(self) > MOST_ROWS:
            kept = set(nsmallest(MOST_ROWS, self._counts))
            self._counts = {key: n for key, n in self._counts.items() if key in kept}
            self._words = {key: words for key, words in self._words.items() if key in kept}

    def state(self) -> Arrays:
        """Give everything, as arrays."""
        keys = sorted(self._counts)
        words = [self._words[key] for key in keys]
        return {
            "word_row_open": np.array([self.is_open]),
            "word_row_words": np.concatenate(words) if words else np.zeros(0, dtype=np.int32),
            "word_row_lengths": np.array([len(row) for row in words], dtype=np.int32),
            "word_row_labels": np.array([label for _, label in keys], dtype=np.int32),
            "word_row_counts": np.array([self._counts[key] for key in keys], dtype=np.int32),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> WordRows:
        """Take up what `state` gave; a state from before rows were kept has none."""
        rows = cls()
        if "word_row_open" not in arrays or not len(arrays["word_row_labels"]):
            rows.is_open = bool(arrays.get("word_row_open", [True])[0])
            return rows
        words, lengths, labels, counts = (
            np.array(arrays[f"word_row_{name}"])
            for name in ("words", "lengths", "labels", "counts")
        )
        for row, label, count in zip(
            np.split(words, np.cumsum(lengths)[:-1]), labels.tolist(), counts.tolist(), strict=True
        ):
            rows._count((_hash(row), label), row, count)
        return rows


def _hash(words: NDArray[np.int32]) -> int:
    return int.from_bytes(blake2b(words.tobytes(), digest_size=8).digest())
