"""The gate: whether a challenger may replace the champion, judged on held-out memory.

Owns the decision and its sentence, as pure functions; must not know models, memory or who
publishes. Only rows that never trained decide, never what was served: accuracy as served moves with
the stream, whoever answers.

A challenger is refused when it lost agreement on all rows, on one label, on the rows that came
first (it forgot) or on those that came last, or when its scores can be trusted much less.

Rows of a label whose meaning changed since the champion was made are left out of all of it. The
champion answers such rows as they were meant then and the challenger as they are meant now, so that
a loss on them is no forgetting; what says that the meaning changed is the strategy's own test on
rows that train, not the loss itself. Where fewer than half of the rows would stay, or fewer than
can be judged, none is left out: when most labels change at once, the stream is as likely damaged as
changed, and the loss counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from learners.trust import error_by_chance, gaps
from schemas.fields import Label
from schemas.models import GateFigures, GateReport

Row = TypeVar("Row")


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


CHANCE = 1.645  # standard errors: a difference of chance is larger once in twenty times, one-sided
ONE_LOOK = 1.0  # of a challenger that comes once in a while, as a consolidated one


@dataclass(frozen=True, slots=True)
class GateRules:
    """How much a challenger may lose beyond what chance explains.

    Chance is some standard errors of the paired difference over the same held-out rows, as in
    McNemar's test (Psychometrika 12, 1947): one row of thirty that flips is no loss. A learner
    makes many candidates, and one that was lucky becomes champion sooner or later: with a single
    standard error, its luck would be held against all that come after it. A label is allowed one
    whatever is said here, as its margin is wide; the oldest rows, and the newest, `CHANCE` at
    least: they are two looks more, at a quarter of the rows each.

    Attributes:
        errors: standard errors that chance explains; 1.645: a larger loss by chance alone has a
            probability of 5 %.
        margin: allowed loss of mean agreement overall, 0 to 1.
        label_loss: allowed loss of one label's mean agreement, 0 to 1.
        slice_loss: allowed loss of mean agreement on the oldest rows, and on the newest, 0 to 1.
        calibration_loss: allowed growth of the expected calibration error, 0 to 1.
        min_label_rows: a label with fewer held-out rows is not judged by itself.
        min_rows: with fewer held-out rows in all, nothing is judged; with fewer than twice as many,
            neither the oldest nor the newest.
        unjudged: whether a challenger passes where nothing is judged.
    """

    errors: float = CHANCE
    margin: float = 0.01
    label_loss: float = 0.34
    slice_loss: float = 0.05
    calibration_loss: float = 0.05
    min_label_rows: int = 5
    min_rows: int = 20
    unjudged: bool = True


SLICES = 4  # the oldest and the newest rows are one part of so many

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
        The decision, with one sentence that holds the figure that decided, and every other figure
        that there are rows for.

    Raises:
        ValueError: the sequences differ in length.
    """
    rows = len(truths)
    if len(challenger) != rows or (champion is not None and len(champion) != rows):
        raise ValueError(f"{rows} truths need as many predictions of challenger and champion")
    kept = _current(truths, kind, changed if champion is not None else (), rules)
    truths = _pick(truths, kept)
    ours = _Side.of(truths, _pick(challenger, kept), kind)
    theirs = None if champion is None else _Side.of(truths, _pick(champion, kept), kind)
    losses = _Losses(
        overall=_loss("", ours, theirs, range(len(kept)), errors=rules.errors),
        worst=_worst_label(truths, ours, theirs, kind=kind, rules=rules),
        slices={
            name: _loss(f"the {name} rows", ours, theirs, part, errors=max(rules.errors, CHANCE))
            for name, part in _slices(len(kept), rules).items()
        },
        calibration=(
            _calibration(ours, theirs, errors=rules.errors) if len(kept) >= rules.min_rows else None
        ),
    )
    accepted, reason = _decide(losses, labels, rules)
    worst = losses.worst
    return GateReport(
        accepted=accepted,
        reason=reason,
        rows=len(kept),
        challenger=losses.overall.ours,
        champion=losses.overall.theirs,
        worst_label=None if worst is None else worst.name,
        worst_loss=None if worst is None else min(1.0, worst.loss),
        oldest=_figures(losses.slices.get("oldest")),
        newest=_figures(losses.slices.get("newest")),
        calibration=_figures(losses.calibration),
        left_out=rows - len(kept),
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """What one of both answered.

    Attributes:
        agreements: one a row, 0 to 1.
        scores: probability that the whole label is right, one a row, 0 to 1; 0 without an answer.
    """

    agreements: list[float]
    scores: list[float]

    @property
    def right(self) -> list[bool]:
        return [agreement >= 1.0 for agreement in self.agreements]

    @classmethod
    def of(
        cls, truths: Sequence[Label], answers: Sequence[Answer | None], kind: Agreement
    ) -> _Side:
        said = [None if answer is None else answer.label for answer in answers]
        return cls(
            [kind.agreement(*pair) for pair in zip(truths, said, strict=True)],
            [0.0 if answer is None else min(1.0, max(0.0, answer.score)) for answer in answers],
        )


@dataclass(frozen=True, slots=True)
class _Loss:
    """A figure of both sides, and what the challenger lost by it.

    Attributes:
        name: of the rows; a label's text.
        ours: the challenger's figure, 0 to 1.
        theirs: the champion's; None where there is none.
        rows: held-out rows behind both.
        error: what sampling explains of their difference.
        sign: 1 where more is better, -1 where less is.
    """

    name: str
    ours: float
    theirs: float | None
    rows: int
    error: float
    sign: int = 1

    @property
    def loss(self) -> float:
        return 0.0 if self.theirs is None else self.sign * (self.theirs - self.ours)

    def is_more_than(self, allowed: float) -> bool:
        return self.loss > allowed + self.error + _TOLERANCE

    def allowed(self, loss: float) -> str:
        return f"{loss + self.error:.3f}"

    def __str__(self) -> str:
        before = "" if self.theirs is None else f" after {self.theirs:.3f}"
        return f"{self.ours:.3f}{before} on {self.rows} held-out rows"


@dataclass(frozen=True, slots=True)
class _Losses:
    """All that is judged.

    Attributes:
        overall: on all rows.
        worst: of the label that lost most; None when none lost.
        slices: `oldest` and `newest`, where there are rows enough.
        calibration: of the scores, likewise.
    """

    overall: _Loss
    worst: _Loss | None
    slices: dict[str, _Loss]
    calibration: _Loss | None


def _decide(losses: _Losses, labels: Sequence[str], rules: GateRules) -> tuple[bool, str]:
    overall = losses.overall
    if not labels:
        return False, "nothing has been learned: 0 labels"
    if overall.theirs is None:
        return True, (
            f"first release, there is no champion to lose against: it knows {len(labels)} labels, "
            f"agreement {overall}"
        )
    if overall.rows < rules.min_rows:
        return rules.unjudged, (
            f"{'accepted' if rules.unjudged else 'refused'} without a judgement: {overall.rows} "
            f"held-out rows, {rules.min_rows} are needed "
            f"(agreement {overall.ours:.3f} after {overall.theirs:.3f})"
        )
    refused = _refusal(losses, rules)
    if refused is not None:
        return False, refused
    return True, f"agreement {overall}: a loss of {overall.allowed(rules.margin)} is allowed"


def _refusal(losses: _Losses, rules: GateRules) -> str | None:
    """Say what was lost beyond what is allowed; None when nothing was."""
    overall, worst, calibration = losses.overall, losses.worst, losses.calibration
    if overall.is_more_than(rules.margin):
        return f"agreement fell, {overall}: more than the {overall.allowed(rules.margin)} allowed"
    if worst is not None and worst.is_more_than(rules.label_loss):
        return (
            f"label {worst.name!r} lost {worst.loss:.3f} of its agreement on {worst.rows} "
            f"held-out rows: more than the {worst.allowed(rules.label_loss)} allowed"
        )
    for lost in losses.slices.values():
        if lost.is_more_than(rules.slice_loss):
            return (
                f"agreement fell on {lost.name}, {lost}: "
                f"more than the {lost.allowed(rules.slice_loss)} allowed"
            )
    if calibration is not None and calibration.is_more_than(rules.calibration_loss):
        return (
            f"calibration error grew, {calibration}: "
            f"more than the {calibration.allowed(rules.calibration_loss)} allowed"
        )
    return None


def _current(
    truths: Sequence[Label], kind: Agreement, changed: Collection[str], rules: GateRules
) -> list[int]:
    """Name the rows that are judged: all, where those of changed labels are too many."""
    kept = [
        row
        for row, truth in enumerate(truths)
        if not any(text in changed for text in kind.label_texts(truth))
    ]
    least = max(len(truths) / 2, min(rules.min_rows, len(truths)))
    return kept if len(kept) >= least else list(range(len(truths)))


def _slices(rows: int, rules: GateRules) -> dict[str, range]:
    """Cut the oldest and the newest rows: a quarter each, `min_rows` at least, never the same.

    A quarter is old enough to show what was learned first, and has rows enough to be judged.
    """
    size = max(rows // SLICES, rules.min_rows, 1)
    if 2 * size > rows:
        return {}
    return {"oldest": range(size), "newest": range(rows - size, rows)}


def _worst_label(
    truths: Sequence[Label],
    ours: _Side,
    theirs: _Side | None,
    *,
    kind: Agreement,
    rules: GateRules,
) -> _Loss | None:
    """Find the label that lost most; None when none lost."""
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, truth in enumerate(truths):
        for text in kind.label_texts(truth):
            rows_of[text].append(row)
    worst = None
    most = 0.0
    for text, rows in sorted(rows_of.items()):
        if len(rows) < rules.min_label_rows:
            continue
        lost = _loss(text, ours, theirs, rows, errors=1.0)
        if lost.loss > most + _TOLERANCE:
            worst, most = lost, lost.loss
    return worst


def _loss(
    name: str,
    ours: _Side,
    theirs: _Side | None,
    rows: Sequence[int],
    *,
    errors: float,
) -> _Loss:
    """Compare mean agreements on some rows; chance explains so many standard errors."""
    mine = _pick(ours.agreements, rows)
    if theirs is None:
        return _Loss(name, _mean(mine), None, len(rows), 0.0)
    other = _pick(theirs.agreements, rows)
    return _Loss(name, _mean(mine), _mean(other), len(rows), errors * _standard_error(mine, other))


def _figures(lost: _Loss | None) -> GateFigures | None:
    if lost is None:
        return None
    return GateFigures(rows=lost.rows, challenger=lost.ours, champion=lost.theirs)


def _calibration(ours: _Side, theirs: _Side | None, *, errors: float) -> _Loss:
    """Compare the expected calibration errors.

    An answer is right when its agreement is 1, of whatever kind the task is: the score of several
    labels is the probability of the very same set, not of a part of it.

    Sampling explains two things of a difference. One is what chance makes of the paired rows'
    shares in the gaps of their bins. The other is that true scores have an error too, the larger
    the more they doubt: beside a champion that is sure, and right, a challenger that doubts, and
    rightly, has this much more.
    """
    mine = gaps(ours.scores, ours.right)
    if theirs is None:
        return _Loss("", _mean(mine), None, len(mine), 0.0, sign=-1)
    other = gaps(theirs.scores, theirs.right)
    more = error_by_chance(ours.scores) - error_by_chance(theirs.scores)
    error = errors * _standard_error(mine, other) + max(0.0, more)
    return _Loss("", _mean(mine), _mean(other), len(mine), error, sign=-1)


def _pick(values: Sequence[Row], rows: Sequence[int]) -> list[Row]:
    return [values[row] for row in rows]


def _standard_error(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Estimate the error of a paired difference of means: sqrt(sum of squared differences) / n."""
    squares = math.fsum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
    return math.sqrt(squares) / len(ours) if ours else 0.0


def _mean(values: Sequence[float]) -> float:
    """Average; 0 for none. The order of the values does not matter to the last bit."""
    return min(1.0, max(0.0, math.fsum(values) / len(values))) if values else 0.0
