"""What words say about labels: counts, and the naive Bayes scores that they give.

Owns the counts of words by label and their scores; must not know features, tokens or how scores are
weighed. Multinomial naive Bayes over the distinct words of a text (McCallum & Nigam, AAAI workshop
1998), smoothed towards the words of all rows (Dirichlet prior: Zhai & Lafferty, SIGIR 2001), so
that a label with few rows says little. Ours divides by the root of a text's number of words, since
neighbouring words repeat each other. Rows of a label that has few score lower than others' do, and
would be lost to the others: a share of the difference is given back (as scores of speakers are
normalised: Auckenthaler, Carey & Lloyd-Thomas, Digital Signal Processing 10, 2000).
A pretrained encoder sees what a text means, counts see which words a label's texts have: their
errors differ, so both together are better than either.

Counts are whole numbers: the same in any order, mergeable, and taken back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from learners.heads.base import Arrays, Floats
from learners.words import BUCKETS, SLOTS

SMOOTHING = 0.05  # of a row, that every known word has from the start
PRIOR_WORDS = 1_000  # and so many words, as they are in all rows
OWN_SHARE = 0.3  # of what a label's own rows lack of the others' scores
HALF_OWN_ROWS = 4  # after the first, at which half of that is believed
LEAST_ROWS = 2  # that have a word, before a release says anything of it
PENDING_WORDS = 1 << 20  # that wait before they are counted


Named = tuple[NDArray[np.int64], Sequence[tuple[int, ...]]]
NO_NAMES: Named = (np.zeros((0, SLOTS), dtype=np.int64), ())


@dataclass(frozen=True)
class WordColumns:
    """Scores of words by label, rounded to half precision.

    One entry for every pair of a label and a word that occurred: what it brings over a word that
    never did. By counts that is log(1 + count / what the word had from the start); by a fit
    (`learners.heads.word_rows`) its weight, and there are neither floors nor offsets.

    Attributes:
        entries: float16 [pairs], label by label.
        words: int32 [pairs].
        ends: int64 [labels], where each label's pairs end.
        floors: float32 [labels], what any word brings: 0 or less, 0 for a label without rows.
        offsets: float32 [labels], what every text with words brings, for labels to be on a par.
    """

    entries: NDArray[np.float16]
    words: NDArray[np.int32]
    ends: NDArray[np.int64]
    floors: Floats
    offsets: Floats

    @classmethod
    def empty(cls) -> WordColumns:
        """Scores of no label."""
        none = np.zeros(0, np.float16), np.zeros(0, np.int32), np.zeros(0, np.int64)
        return cls(*none, np.zeros(0, np.float32), np.zeros(0, np.float32))

    @cached_property
    def _table(self) -> sparse.csr_matrix:
        """Float32 [BUCKETS, labels]."""
        rows = (self.entries.astype(np.float32), self.words, np.append(0, self.ends))
        return sparse.csr_matrix(rows, shape=(len(self.floors), BUCKETS)).T.tocsr()

    def scores(self, words: NDArray[np.int64], *, labels: int) -> Floats:
        """Score texts.

        Args:
            words: int64 [rows, SLOTS], 0 for no word.
            labels: columns of the answer.

        Returns:
            float32 [rows, labels], by counts in nats over the root of words; 0 where nothing is
            known.
        """
        scores = np.zeros((len(words), labels), dtype=np.float32)
        said = words > 0
        lengths = said.sum(axis=1)
        if not len(self.floors) or not lengths.any():
            return scores
        starts = np.concatenate([[0], np.cumsum(lengths)])
        ones = np.ones(int(starts[-1]), dtype=np.float32)
        texts = sparse.csr_matrix((ones, words[said], starts), shape=(len(words), BUCKETS))
        lengths = lengths.astype(np.float32)[:, None]
        likely = (texts @ self._table).toarray() + lengths * self.floors
        likely = likely / np.sqrt(np.maximum(lengths, 1)) + (lengths > 0) * self.offsets
        scores[:, : len(self.floors)] = likely[:, :labels]
        return scores

    def arrays(self) -> Arrays:
        """Everything, as arrays."""
        return {f"word_{name}": getattr(self, name) for name in _ARRAYS}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> WordColumns:
        """Take up what `arrays` gave; arrays from before there were such scores have none."""
        if "word_entries" not in arrays:
            return cls.empty()
        found = {name: np.array(arrays[f"word_{name}"]) for name in _ARRAYS[:-1]}
        even = np.zeros(len(found["floors"]), np.float32)  # of before there were offsets
        return cls(**found, offsets=np.array(arrays.get("word_offsets", even)))


_ARRAYS = ("entries", "words", "ends", "floors", "offsets")


class WordSums:
    """In how many rows of each label, and of all, a word occurs."""

    def __init__(self) -> None:
        self._all = np.zeros(BUCKETS, dtype=np.int32)
        self._counts = sparse.csr_matrix((0, BUCKETS), dtype=np.int32)  # by label
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.int64], int]] = []
        self._waiting = 0

    @property
    def nbytes(self) -> int:
        """Main memory that the counts take, words that wait among them."""
        kept = (self._all, self._counts.data, self._counts.indices, self._counts.indptr)
        waiting = [array for labels, words, _ in self._pending for array in (labels, words)]
        return sum(one.nbytes for one in (*kept, *waiting))

    def add(
        self,
        words: NDArray[np.int64],
        label_rows: Sequence[tuple[int, ...]],
        *,
        sign: int = 1,
    ) -> None:
        """Count the words of rows, or take back what was counted.

        Args:
            words: int64 [rows, SLOTS], 0 for no word.
            label_rows: rows of the labels that each row has.
            sign: 1 or -1.
        """
        if not words.any():
            return
        np.add.at(self._all, words[words > 0], np.int32(sign))
        pairs = [(row, label) for row, labels in enumerate(label_rows) for label in labels]
        places, labels = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        self._pending.append((*_pairs(words[places], labels), sign))
        self._waiting += len(self._pending[-1][0])
        if self._waiting >= PENDING_WORDS:
            self.fold()

    def fold(self) -> None:
        """Bring the counts up to date."""
        if not self._pending:
            return
        labels, words = (np.concatenate([one[n] for one in self._pending]) for n in (0, 1))
        signs = np.repeat([one[2] for one in self._pending], [len(one[0]) for one in self._pending])
        self._pending.clear()
        self._waiting = 0
        self._count(labels, words, signs)

    def _count(self, labels: NDArray[Any], words: NDArray[Any], counts: NDArray[Any]) -> None:
        known = max(self._counts.shape[0], int(labels.max(initial=-1)) + 1)
        self._counts.resize(known, BUCKETS)
        fresh = sparse.csr_matrix(
            (counts.astype(np.int32), (labels, words)), shape=(known, BUCKETS)
        )
        self._counts = self._counts + fresh
        self._counts.eliminate_zeros()
        self._counts.sort_indices()

    def merge(self, other: WordSums, label_rows: NDArray[np.int64], *, sign: int = 1) -> None:
        """Add the counts of another learner, or take them back.

        Args:
            other: with rows of its own.
            label_rows: int64 [labels], the row here of each of its labels.
            sign: 1 or -1.
        """
        self.fold()
        other.fold()
        theirs = other._counts.tocoo()
        self._all += sign * other._all
        self._count(label_rows[theirs.row], theirs.col, sign * theirs.data)

    def renew(self, row: int, words: NDArray[np.int64]) -> None:
        """Let a label have the words of its newest rows alone.

        Args:
            row: of the label.
            words: int64 [rows, SLOTS], of its newest rows, all of them counted.
        """
        self.fold()
        if row < self._counts.shape[0]:
            before = self._counts[[row]].tocoo()
            self._all[before.col] -= before.data
            self._count(before.row + row, before.col, -before.data)
        self.add(words, [(row,)] * len(words))

    def columns(
        self,
        rows: NDArray[np.int64],
        *,
        young: Floats | float = 0.0,
        named: Named = NO_NAMES,
    ) -> WordColumns:
        """Give the scores of the words counted so far.

        Args:
            rows: int64 [labels], how many were counted of each of the first labels.
            young: float32 [labels], 0 to 1, of each label, how much it is to be on a par.
            named: words of labels' names, int64 [named, SLOTS], and rows of the labels; each name
                counts as one row.
        """
        self.fold()
        labels, (names, rows_of) = len(rows), named
        self._counts.resize(max(self._counts.shape[0], labels), BUCKETS)
        counts = self._heard(self._counts[:labels])
        if len(names):
            named_rows = np.array(rows_of, dtype=np.int64).ravel()
            rows = rows + np.bincount(named_rows, minlength=labels)
            owners, words = _pairs(names, named_rows)
            once = (np.ones(len(words), dtype=np.int32), (owners, words))
            counts = counts + sparse.csr_matrix(once, shape=counts.shape)
            counts.sort_indices()
        if not counts.nnz:
            return WordColumns.empty()
        heard = self._all >= LEAST_ROWS
        total = max(int(self._all.sum(where=heard)), 1)
        everywhere = self._all[counts.indices].astype(np.float32)
        everywhere[everywhere < LEAST_ROWS] = 0
        start = np.float32(SMOOTHING) + np.float32(PRIOR_WORDS / total) * everywhere
        known = SMOOTHING * np.count_nonzero(heard) + PRIOR_WORDS
        said = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        found = counts.data.astype(np.float32)
        offsets = np.zeros(labels, dtype=np.float32)
        if np.any(young):
            lacks = _lacks(found, start, counts.indptr, rows=rows, words=said, known=known)
            offsets += young * lacks
        return WordColumns(
            np.log1p(found / start).astype(np.float16),
            counts.indices.astype(np.int32),
            counts.indptr[1:].astype(np.int64),
            np.log(known / (known + said)).astype(np.float32),
            offsets,
        )

    def _heard(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Leave out words that too few rows have, and counts below 0.

        Those are of rows of before words were counted, which were taken back since.
        """
        said = (self._all[counts.indices] >= LEAST_ROWS) & (counts.data > 0)
        ends = np.append(0, np.cumsum(said))[counts.indptr]
        return sparse.csr_matrix((counts.data[said], counts.indices[said], ends), counts.shape)

    def state(self) -> Arrays:
        """Give everything, as arrays."""
        self.fold()
        found, everywhere = self._counts.tocoo(), np.flatnonzero(self._all)
        return {
            "word_labels": found.row.astype(np.int32),
            "word_buckets": found.col.astype(np.int32),
            "word_counts": found.data,
            "word_all_buckets": everywhere.astype(np.int32),
            "word_all_counts": self._all[everywhere],
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> WordSums:
        """Take up what `state` gave; a state from before words were counted has none."""
        sums = cls()
        if "word_counts" in arrays:
            labels, words, counts = (
                np.array(arrays[f"word_{name}"]) for name in ("labels", "buckets", "counts")
            )
            sums._count(labels, words, counts)
            sums._all[arrays["word_all_buckets"]] = arrays["word_all_counts"]
        return sums


def _lacks(
    counts: Floats,
    start: Floats,
    ends: NDArray[np.int32],
    *,
    rows: NDArray[np.int64],
    words: NDArray[np.float64],
    known: float,
) -> Floats:
    """Give a share of what labels' own rows lack of the scores of others': float32 [labels].

    How a label's rows score without themselves is known exactly from its counts: a row has a word
    once, so that for it the word occurred once less.

    Args:
        counts: float32 [pairs], label by label.
        start: float32 [pairs], what each pair's word had from the start.
        ends: int32 [labels + 1], where each label's pairs begin, and end.
        rows: int64 [labels].
        words: float64 [labels], of all its rows.
        known: words that a label has from the start.
    """
    each = np.cumsum(counts * np.log1p((counts - 1) / start), dtype=np.float64)
    without = np.concatenate([[0.0], each])
    a_row = words / np.maximum(rows, 1)
    own = (without[ends[1:]] - without[ends[:-1]]) / np.maximum(rows, 1)
    own += a_row * np.log(known / (known + words - a_row))
    own /= np.sqrt(np.maximum(a_row, 1))
    others = np.where(words > 0, np.maximum(rows - 1, 0), 0)
    share = OWN_SHARE * others / (others + HALF_OWN_ROWS)
    weights = words * (others > 0)
    usual = (own @ weights) / max(float(weights.sum()), 1.0)
    return np.asarray(share * (usual - own), dtype=np.float32)


def _pairs(
    words: NDArray[np.int64], owners: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List the owner of every word, and the word.

    Args:
        words: int64 [rows, SLOTS], 0 for no word.
        owners: int64 [rows].
    """
    said = words > 0
    return np.repeat(owners, said.sum(axis=1)), words[said]
