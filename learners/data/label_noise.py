"""Label-noise suspicion: which labels did the model, before it learned them, find very unlikely?

Owns the margins of recent rows and how many rows each label had; must not know heads, texts or the
loop. It lists rows for a person to look at: what comes of them is for the caller to decide.

The margin of a row is the score of the label it came with less the best other score: below zero the
model would have said something else. Confident learning (Northcutt, Jiang & Chuang, JAIR 2021)
compares out-of-sample probabilities with each class's mean confidence, by cross-validation over a
data set; AUM (Pleiss et al., NeurIPS 2020) averages a row's margin over the epochs of training and
takes its threshold from rows given a label that cannot be right. A stream is passed once and never
ends. Ours therefore takes one margin a row, from the score given before the row was learned: out of
sample like the first, a margin like the second. Its threshold is a quantile of the margins of rows
that came before, so that it follows the head as scores grow with learning; labels of few rows are
left out, for a new label's margins say that it is new. Rows at rest, as a memory has them, are
judged all at once by scores of a model that has not learned from them (`suspicious_rows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LabelNoiseConfig:
    """When a label is suspicious.

    Attributes:
        quantile: share of recent margins below the threshold, over 0 and under 1: about the
            largest share of rows that is ever listed, whatever the share of wrong labels.
        most_margin: no row with a larger margin is suspicious, in the head's units; at 0 the model
            must have preferred another label, and below 0 clearly so.
        recent_rows: margins the threshold is taken from.
        least_rows: margins that must be there before anything is suspicious.
        label_rows: rows a label must have had before its rows are judged.
    """

    quantile: float = 0.05
    most_margin: float = 0.0
    recent_rows: int = 2_000
    least_rows: int = 200
    label_rows: int = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one row's label looks like.

    Attributes:
        margin: score of its label less the best other score; None for a row that is not judged.
        threshold: what the margin was compared with; None while too few margins are known.
    """

    margin: float | None = None
    threshold: float | None = None

    @property
    def suspicious(self) -> bool:
        """Whether somebody should look at the label."""
        if self.margin is None or self.threshold is None:
            return False
        return self.margin < self.threshold


def suspicious_rows(
    scores: NDArray[np.float32], columns: Sequence[int], config: LabelNoiseConfig
) -> NDArray[np.bool_]:
    """Judge rows at rest, all by one threshold.

    Args:
        scores: float32 [rows, labels], of a model that has not learned from the row it scores
            (`learners.data.left_out`).
        columns: the label each row came with.
        config: when a label is suspicious; `recent_rows` is not read here.

    Returns:
        One answer a row; never more than half of a label's rows are suspicious.

    Raises:
        ValueError: not one label a row.

    Examples:
        >>> scores = np.float32([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8]])
        >>> config = LabelNoiseConfig(least_rows=4, label_rows=1, quantile=0.5)
        >>> suspicious_rows(scores, [0, 0, 0, 1], config).tolist()
        [False, False, True, False]
    """
    if len(scores) != len(columns):
        raise ValueError(f"{len(scores)} rows of scores and {len(columns)} labels: as many needed")
    mine = np.asarray(columns, dtype=np.int64)
    places = np.arange(len(mine))
    if len(mine) < config.least_rows or scores.shape[1] < 2:
        return np.zeros(len(mine), dtype=np.bool_)
    others = scores.copy()
    others[places, mine] = -np.inf
    margins = scores[places, mine] - others.max(axis=1)
    threshold = min(float(np.quantile(margins, config.quantile)), config.most_margin)
    suspicious = margins < threshold
    for label in np.unique(mine[suspicious]):
        chosen = np.flatnonzero(mine == label)
        if len(chosen) <= config.label_rows:
            suspicious[chosen] = False
        else:  # a label whose every row is disputed is a hard one: its better half stays
            suspicious[chosen] &= margins[chosen] < np.median(margins[chosen])
    return np.asarray(suspicious, dtype=np.bool_)


class LabelNoise:
    """Judges labels one row after the other, each by the rows before it.

    How rows are cut into batches makes no difference.

    Examples:
        >>> noise = LabelNoise(LabelNoiseConfig(least_rows=3, label_rows=1, quantile=0.5))
        >>> scores = np.float32([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
        >>> verdicts = noise.observe(scores, labels=["a", "b"], truth=["a"] * 5)
        >>> [verdict.suspicious for verdict in verdicts]
        [False, False, False, False, True]
    """

    def __init__(self, config: LabelNoiseConfig) -> None:
        """Begin without margins.

        Args:
            config: when a label is suspicious.

        Raises:
            ValueError: a number is out of its range.
        """
        if not 0 < config.quantile < 1:
            raise ValueError(f"quantile is {config.quantile}: it must be over 0 and under 1")
        if not 1 <= config.least_rows <= config.recent_rows:
            raise ValueError(
                f"least_rows is {config.least_rows}: it must be 1 to recent_rows, "
                f"{config.recent_rows}"
            )
        if config.label_rows < 1:
            raise ValueError(f"label_rows is {config.label_rows}: it must be positive")
        self.config = config
        self._margins: NDArray[np.float32] = np.zeros(config.recent_rows, dtype=np.float32)
        self._judged = 0
        self._rows: dict[str, int] = {}

    def observe(
        self, scores: NDArray[np.float32], *, labels: Sequence[str], truth: Sequence[str]
    ) -> list[Verdict]:
        """Judge rows in order, then count them.

        Args:
            scores: float32 [rows, labels], given before the rows were learned; a row with NaN was
                not scored: it is neither judged nor counted.
            labels: the text of every column.
            truth: the label each row came with; one that is no column is counted, not judged.

        Returns:
            One verdict a row.

        Raises:
            ValueError: the shapes do not fit.
        """
        if scores.shape != (len(truth), len(labels)):
            raise ValueError(
                f"scores are {scores.shape}: {len(truth)} rows and {len(labels)} labels were given"
            )
        columns = {label: column for column, label in enumerate(labels)}
        return [
            self._judge(row, columns.get(label), label)
            for row, label in zip(scores, truth, strict=True)
        ]

    @property
    def disputed(self) -> float:
        """Share of recent margins below `most_margin`, 0 to 1.

        An upper estimate of the share of wrong labels: the model's own errors are in it.
        """
        recent = self._recent()
        return float(np.mean(recent < self.config.most_margin)) if len(recent) else 0.0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the next verdict depends on.

        Returns:
            `margins`, float32 [margins], the oldest first, and JSON values.
        """
        slot = self._judged % len(self._margins)
        ordered = np.roll(self._margins, -slot) if self._full() else self._recent()
        return {"margins": torch.from_numpy(ordered.copy())}, {"rows": dict(self._rows)}

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up a state; of more margins than `recent_rows` the newest."""
        newest = arrays["margins"].cpu().numpy()[-len(self._margins) :]
        self._margins[: len(newest)] = newest
        self._judged = len(newest)
        self._rows = {str(label): int(rows) for label, rows in meta["rows"].items()}

    def _judge(self, scores: NDArray[np.float32], column: int | None, label: str) -> Verdict:
        if np.isnan(scores).any():
            return Verdict()
        before = self._rows.get(label, 0)
        self._rows[label] = before + 1
        if column is None or len(scores) < 2 or before < self.config.label_rows:
            return Verdict()
        margin = float(scores[column] - np.delete(scores, column).max())
        verdict = Verdict(margin, self._threshold())
        self._margins[self._judged % len(self._margins)] = margin
        self._judged += 1
        return verdict

    def _threshold(self) -> float | None:
        recent = self._recent()
        if len(recent) < self.config.least_rows:
            return None
        return min(float(np.quantile(recent, self.config.quantile)), self.config.most_margin)

    def _full(self) -> bool:
        return self._judged >= len(self._margins)

    def _recent(self) -> NDArray[np.float32]:
        return self._margins[: self._judged]
