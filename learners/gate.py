"""The gate: whether a challenger may replace the champion, judged on held-out memory.

Owns the decision and its sentence, as pure functions; must not know models, memory or who
publishes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class GateRules:
    """How much a challenger may lose.

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
    challenger: Sequence[Label | None],
    champion: Sequence[Label | None] | None,
    kind: Agreement,
    labels: Sequence[str],
    rules: GateRules,
) -> GateReport:
    """Judge a challenger on held-out rows.

    Args:
        truths: labels of the held-out rows.
        challenger: what the challenger predicts on them, None where it cannot.
        champion: what the serving release predicts on them; None when there is none.
        kind: the task's kind.
        labels: those the challenger knows.
        rules: what it may lose.

    Returns:
        The decision, with one sentence that holds the figure that decided.

    Raises:
        ValueError: the sequences differ in length.
    """
    rows = len(truths)
    if len(challenger) != rows or (champion is not None and len(champion) != rows):
        raise ValueError(f"{rows} truths need as many predictions of challenger and champion")
    ours = [kind.agreement(*pair) for pair in zip(truths, challenger, strict=True)]
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

    theirs = [kind.agreement(*pair) for pair in zip(truths, champion, strict=True)]
    worst, loss, seen = _worst_label(truths, ours, theirs, kind=kind, rules=rules)
    accepted, reason = _decide(score, _mean(theirs), rows, (worst, loss, seen), rules)
    return GateReport(
        accepted=accepted,
        reason=reason,
        rows=rows,
        challenger=score,
        champion=_mean(theirs),
        worst_label=worst,
        worst_loss=loss if worst is not None else None,
    )


def _decide(
    score: float,
    before: float,
    rows: int,
    worst: tuple[str | None, float, int],
    rules: GateRules,
) -> tuple[bool, str]:
    label, loss, label_rows = worst
    if rows < rules.min_rows:
        return True, (
            f"accepted without a judgement: {rows} held-out rows, {rules.min_rows} are needed "
            f"(agreement {score:.3f} after {before:.3f})"
        )
    if score < before - rules.margin - _TOLERANCE:
        return False, (
            f"agreement fell from {before:.3f} to {score:.3f} on {rows} held-out rows: "
            f"more than the {rules.margin:g} allowed"
        )
    if label is not None and loss > rules.label_loss + _TOLERANCE:
        return False, (
            f"label {label!r} lost {loss:.3f} of its agreement on {label_rows} held-out rows: "
            f"more than the {rules.label_loss:g} allowed"
        )
    return True, (
        f"agreement {score:.3f} after {before:.3f} on {rows} held-out rows: "
        f"a loss of {rules.margin:g} is allowed"
    )


def _worst_label(
    truths: Sequence[Label],
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    kind: Agreement,
    rules: GateRules,
) -> tuple[str | None, float, int]:
    """Find the label that lost most, how much and on how many rows; None when none lost."""
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, truth in enumerate(truths):
        for text in kind.label_texts(truth):
            rows_of[text].append(row)
    worst: tuple[str | None, float, int] = (None, 0.0, 0)
    for text, rows in sorted(rows_of.items()):
        if len(rows) < rules.min_label_rows:
            continue
        loss = _mean([theirs[row] for row in rows]) - _mean([ours[row] for row in rows])
        if loss > worst[1] + _TOLERANCE:
            worst = (text, min(1.0, loss), len(rows))
    return worst


def _mean(values: Sequence[float]) -> float:
    """Average agreements; 0 for none."""
    return min(1.0, max(0.0, sum(values) / len(values))) if values else 0.0
