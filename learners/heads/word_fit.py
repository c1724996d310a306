"""When words are fitted: for the first time, again, and no more.

Owns the newest fit and what it was made of; must not know how rows are kept or fitted, or how
scores are weighed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learners.heads.base import Meta
from learners.heads.word_rows import WordRows
from learners.heads.words import WordColumns

FIRST_ROWS = 50  # for each label, before words are fitted: fewer say little
CHANGE = 0.5  # of the rows whose words were fitted, until they are fitted again
IDLE_CHANGE = 0.1
LABEL_GROWTH = 2.0  # or of a label's rows, from the next on
LABEL_ROWS = 64


class WordFit:
    """The newest fit of words.

    Attributes:
        columns: of the fit; of no label where there is none.
    """

    def __init__(self) -> None:
        self.columns = WordColumns.empty()
        self._rows = 0  # that were fitted; 0 lets any change be reason for another fit
        self._counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # of labels at that time

    def is_due(self, kept: WordRows, counts: Tensor, *, idle: bool = False) -> bool:
        """Whether words are to be fitted, or, where no rows are kept any more, their fit goes.

        Args:
            kept: rows of words.
            counts: float64 [labels], rows of each label in the sums.
            idle: nothing waits for it.
        """
        if not len(kept):
            return len(self.columns.floors) > 0
        rows = counts.numpy()
        if not len(self.columns.floors) and kept.rows < FIRST_ROWS * np.count_nonzero(rows):
            return False
        before = np.zeros(len(rows))
        before[: len(self._counts)] = self._counts
        grown = (rows >= LABEL_ROWS) & (rows >= LABEL_GROWTH * before)
        change = IDLE_CHANGE if idle else CHANGE
        return bool(grown.any()) or kept.changed >= max(change * self._rows, 1)

    def make(self, kept: WordRows, counts: Tensor) -> None:
        """Fit the words of the kept rows; see `is_due`."""
        self.columns = kept.fit(len(counts))
        self._rows, self._counts = kept.rows, counts.numpy().astype(np.int64)
        kept.changed = kept.taken = 0

    def doubt(self) -> None:
        """Let it be due at the next change, or at once if there was one."""
        self._rows = 0

    def meta(self, kept: WordRows) -> Meta:
        """What it was made of, and what changed since, as JSON values."""
        return {
            "rows": self._rows,
            "counts": self._counts.tolist(),
            "changed": kept.changed,
            "taken": kept.taken,
        }

    def restore(self, columns: WordColumns, meta: Mapping[str, Any], kept: WordRows) -> None:
        """Take up what `meta` gave, of these rows; of a state from before there was a fit, none."""
        self.columns = columns
        self._rows = int(meta.get("rows", 0))
        self._counts = np.array(meta.get("counts", []), dtype=np.int64)
        kept.changed, kept.taken = int(meta.get("changed", 0)), int(meta.get("taken", 0))
