"""Prequential scores: what was served, compared with the truth that came later.

Source: A. P. Dawid, "Statistical theory: the prequential approach", JRSS A 147, 1984; rolling
windows after J. Gama, R. Sebastião, P. P. Rodrigues, "On evaluating stream learning algorithms",
Machine Learning 90, 2013. Pairs in, figures out; must not know transport, clocks or metrics.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

from schemas.fields import Label


class Scoring(Protocol):
    """The part of a task kind that scores need."""

    def label_texts(self, label: Label) -> tuple[str, ...]:
        """Give the single labels of a label."""
        ...

    def agreement(self, truth: Label, predicted: Label | None) -> float:
        """Compare two labels, 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """The figures of one task at one moment; all but the counts and the delay are 0 to 1.

    Attributes:
        rows: pairs so far.
        window_rows: pairs in the rolling window.
        accuracy: share of exactly right answers in the window.
        agreement: mean agreement in the window, as the task kind scores it.
        macro_f1: mean F1 over the labels that were true or predicted in the window.
        lifetime_accuracy: share of exactly right answers so far.
        label_delay_s: median time from an interaction to its label in the window, seconds.
    """

    rows: int
    window_rows: int
    accuracy: float
    agreement: float
    macro_f1: float
    lifetime_accuracy: float
    label_delay_s: float


@dataclass(frozen=True, slots=True)
class _Pair:
    truth: frozenset[str]
    predicted: frozenset[str]
    agreement: float
    delay_s: float

    @property
    def right(self) -> bool:
        return self.truth == self.predicted


class Prequential:
    """Rolling and lifetime scores of one task.

    Taking a pair costs time in the pair's own labels, whatever the window; memory is the window.

    Args:
        scoring: the task's kind.
        window: pairs in the rolling figures.

    Raises:
        ValueError: the window is under 1.
    """

    def __init__(self, scoring: Scoring, *, window: int = 1_000) -> None:
        if window < 1:
            raise ValueError(f"window is {window}: it must be at least 1")
        self._scoring = scoring
        self._window = window
        self._pairs: deque[_Pair] = deque()
        self._rows = self._right = self._window_right = 0
        self._true: Counter[str] = Counter()
        self._predicted: Counter[str] = Counter()
        self._both: Counter[str] = Counter()

    def add(self, truth: Label, predicted: Label | None, *, delay_s: float) -> bool:
        """Take one pair.

        Args:
            truth: the label that came.
            predicted: the label that was served; None never agrees.
            delay_s: from the interaction to its label, seconds.

        Returns:
            True when the answer was exactly right.
        """
        texts = self._scoring.label_texts
        # An absent answer differs from an empty list of labels: no label is empty text.
        answer = frozenset([""]) if predicted is None else frozenset(texts(predicted))
        pair = _Pair(
            truth=frozenset(texts(truth)),
            predicted=answer,
            agreement=self._scoring.agreement(truth, predicted),
            delay_s=delay_s,
        )
        self._rows += 1
        self._right += pair.right
        self._pairs.append(pair)
        self._count(pair, +1)
        if len(self._pairs) > self._window:
            self._count(self._pairs.popleft(), -1)
        return pair.right

    def scores(self) -> Scores | None:
        """Give the figures, or None before the first pair."""
        if not self._pairs:
            return None
        rows = len(self._pairs)
        return Scores(
            rows=self._rows,
            window_rows=rows,
            accuracy=self._window_right / rows,
            agreement=math.fsum(pair.agreement for pair in self._pairs) / rows,
            macro_f1=self._macro_f1(),
            lifetime_accuracy=self._right / self._rows,
            label_delay_s=statistics.median(pair.delay_s for pair in self._pairs),
        )

    def _macro_f1(self) -> float:
        labels = (self._true.keys() | self._predicted.keys()) - {""}
        if not labels:  # every truth and every answer is the empty list: they agree
            return self._window_right / len(self._pairs)
        f1 = (2 * self._both[x] / (self._true[x] + self._predicted[x]) for x in labels)
        return math.fsum(f1) / len(labels)

    def _count(self, pair: _Pair, sign: int) -> None:
        self._window_right += sign * pair.right
        for counts, labels in (
            (self._true, pair.truth),
            (self._predicted, pair.predicted),
            (self._both, pair.truth & pair.predicted),
        ):
            for label in labels:
                counts[label] += sign
                if not counts[label]:
                    del counts[label]  # else labels that left the window would grow for ever
