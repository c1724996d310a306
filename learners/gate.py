"""The gate: whether a challenger may replace the champion, judged on held-out memory.

Owns the decision and its sentence, as pure functions; must not know models, memory or who
publishes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.fields import Label
from schemas.models import GateReport


class Agreement(Protocol):
    """What the gate asks of a task's kind."""

    def label_texts(self, label: Label) -> tuple[str, ...]:
        """Name the label rows that a label touches."""
        ...

    def agreement(self, truth: Label, predicted: Label | None) -> float:
        """Say how well a prediction agrees with the truth, 0 to 1."""
        ...


class Answer(Protocol):
    """What the gate asks of a decision."""

    @property
    def label(self) -> Label:
        """What was answered."""
        ...

    @property
    def score(self) -> float:
        """Probability that the whole label is right, 0 to 1."""
        ...


@dataclass(frozen=True, slots=True)
class GateRules:
    """How much a challenger may lose beyond one standard error.

    The error is that of the paired difference over the same held-out rows, as in McNemar's test
    (Psychometrika 12, 1947): one row of thirty that flips is chance, not a loss.

    Attributes:
        margin: allowed loss of mean agreement overall, 0 to 1.
        label_loss: allowed loss of one label's mean agreement, 0 to 1.
        min_label_rows: a label with fewer held-out rows is not judged by itself.
        min_rows: with fewer held-out rows in all, nothing is judged.
    """

    margin: float = 0.01
    label_loss: float = 0.34
    min_label_rows: int = 5
    min_rows: int = 20


# Means of the same agreements differ by their order of summing; a loss this small is none.
_TOLERANCE = 1e-9


def judge(
    *,
    truths: Sequence[Label],
    challenger: Sequence[Answer | None],
    champion: Sequence[Answer | None] | None,
    kind: Agreement,
    labels: Sequence[str],
    rules: GateRules,
    changed: Collection[str] = (),
) -> GateReport:
    """Judge a challenger on held-out rows.

    Args:
        truths: labels of the held-out rows, in order of their arrival in memory, oldest first.
        challenger: what the challenger answers on them, None where it cannot.
        champion: what the serving release answers on them; None when there is none.
        kind: the task's kind.
        labels: those the challenger knows.
        rules: what it may lose.
        changed: labels whose meaning changed since the champion was made.

    Returns:
        The decision, with one sentence that holds the figure that decided.

    Raises:
        ValueError: the sequences differ in length.
    """
    rows = len(truths)
    if len(challenger) != rows or (champion is not None and len(champion) != rows):
        raise ValueError(f"{rows} truths need as many predictions of challenger and champion")
    ours = _agreements(truths, challenger, kind)
    score = _mean(ours)
    if not labels:
        return GateReport(
            accepted=False, reason="nothing has been learned: 0 labels", rows=rows, challenger=score
        )
    if champion is None:
        reason = (
            f"first release, there is no champion to lose against: it knows {len(labels)} labels, "
            f"agreement {score:.3f} on {rows} held-out rows"
        )
        return GateReport(accepted=True, reason=reason, rows=rows, challenger=score)

    theirs = _agreements(truths, champion, kind)
    worst = _worst_label(truths, ours, theirs, kind=kind, rules=rules)
    overall = _Loss(None, score, _mean(theirs), rows, _standard_error(ours, theirs))
    accepted, reason = _decide(overall, worst, rules)
    return GateReport(
        accepted=accepted,
        reason=reason,
        rows=rows,
        challenger=score,
        champion=_mean(theirs),
        worst_label=worst.label,
        worst_loss=min(1.0, worst.loss) if worst.label is not None else None,
    )


@dataclass(frozen=True, slots=True)
class _Loss:
    """What a challenger lost, overall or on one label.

    Attributes:
        label: None for all rows.
        score: mean agreement of the challenger.
        before: mean agreement of the champion.
        rows: held-out rows behind both.
        error: standard error of their paired difference.
    """

    label: str | None
    score: float
    before: float
    rows: int
    error: float

    @property
    def loss(self) -> float:
        return self.before - self.score


def _decide(overall: _Loss, worst: _Loss, rules: GateRules) -> tuple[bool, str]:
    figures = f"{overall.score:.3f} after {overall.before:.3f} on {overall.rows} held-out rows"
    if overall.rows < rules.min_rows:
        return True, (
            f"accepted without a judgement: {overall.rows} held-out rows, {rules.min_rows} are "
            f"needed (agreement {overall.score:.3f} after {overall.before:.3f})"
        )
    allowed = rules.margin + overall.error
    if overall.loss > allowed + _TOLERANCE:
        return False, f"agreement fell, {figures}: more than the {allowed:.3f} allowed"
    allowed_of_label = rules.label_loss + worst.error
    if worst.label is not None and worst.loss > allowed_of_label + _TOLERANCE:
        return False, (
            f"label {worst.label!r} lost {worst.loss:.3f} of its agreement on {worst.rows} "
            f"held-out rows: more than the {allowed_of_label:.3f} allowed"
        )
    return True, f"agreement {figures}: a loss of {allowed:.3f} is allowed"


def _worst_label(
    truths: Sequence[Label],
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    kind: Agreement,
    rules: GateRules,
) -> _Loss:
    """Find the label that lost most; its label is None when none lost."""
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, truth in enumerate(truths):
        for text in kind.label_texts(truth):
            rows_of[text].append(row)
    worst = _Loss(None, 0.0, 0.0, 0, 0.0)
    for text, rows in sorted(rows_of.items()):
        if len(rows) < rules.min_label_rows:
            continue
        mine, other = [ours[row] for row in rows], [theirs[row] for row in rows]
        lost = _Loss(text, _mean(mine), _mean(other), len(rows), _standard_error(mine, other))
        if lost.loss > worst.loss + _TOLERANCE:
            worst = lost
    return worst


def _agreements(
    truths: Sequence[Label], answers: Sequence[Answer | None], kind: Agreement
) -> list[float]:
    return [
        kind.agreement(truth, None if answer is None else answer.label)
        for truth, answer in zip(truths, answers, strict=True)
    ]


def _standard_error(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Estimate the error of a paired difference of means: sqrt(sum of squared differences) / n."""
    squares = sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
    return math.sqrt(squares) / len(ours) if ours else 0.0


def _mean(values: Sequence[float]) -> float:
    """Average agreements; 0 for none."""
    return min(1.0, max(0.0, sum(values) / len(values))) if values else 0.0
