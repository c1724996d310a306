"""The gate: what it accepts, what it refuses, and the sentence it says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from learners.gate import GateRules, judge
from learners.tasks import Decision, task_kind
from schemas.fields import Label
from schemas.models import GateReport

LABELS = ["a", "b", "c", "d"]
TRUTHS: list[Label] = [LABELS[n % 4] for n in range(80)]


def decide(
    challenger: list[Label | None],
    champion: list[Label | None] | None,
    truths: list[Label] = TRUTHS,
    rules: GateRules | None = None,
) -> GateReport:
    return judge(
        truths=truths,
        challenger=answers(challenger),
        champion=None if champion is None else answers(champion),
        kind=task_kind("classify"),
        labels=LABELS,
        rules=rules or GateRules(),
    )


def answers(labels: Sequence[Label | None], score: float = 1.0) -> list[Decision | None]:
    return [None if label is None else Decision(label, score, ()) for label in labels]


def wrong_on(rows: range) -> list[Label | None]:
    return [None if n in rows else truth for n, truth in enumerate(TRUTHS)]


def test_the_first_release_is_accepted_and_says_why() -> None:
    report = decide(wrong_on(range(40)), None)
    assert report.accepted
    assert report.champion is None
    assert report.reason == (
        "first release, there is no champion to lose against: it knows 4 labels, "
        "agreement 0.500 on 80 held-out rows"
    )


def test_nothing_learned_is_never_released() -> None:
    report = judge(
        truths=[],
        challenger=[],
        champion=None,
        kind=task_kind("classify"),
        labels=[],
        rules=GateRules(),
    )
    assert (report.accepted, report.reason) == (False, "nothing has been learned: 0 labels")


def test_a_loss_beyond_the_margin_is_refused_with_its_figures() -> None:
    report = decide(wrong_on(range(4)), wrong_on(range(0)))
    assert not report.accepted
    assert report.reason == (
        "agreement fell, 0.950 after 1.000 on 80 held-out rows: more than the 0.035 allowed"
    )
    assert (report.challenger, report.champion) == (0.95, 1.0)


def test_a_single_row_that_flips_is_chance() -> None:
    assert decide(wrong_on(range(1)), wrong_on(range(0)), rules=GateRules(margin=0.0)).accepted


def test_a_loss_within_the_margin_is_accepted() -> None:
    assert decide(wrong_on(range(2)), wrong_on(range(0)), rules=GateRules(margin=0.025)).accepted


def test_a_lost_label_is_refused_though_the_mean_rises() -> None:
    truths: list[Label] = [*["a"] * 100, *["b"] * 5]
    champion: list[Label | None] = [*["a"] * 80, *[None] * 20, *["b"] * 5]
    challenger: list[Label | None] = [*["a"] * 105]
    report = decide(challenger, champion, truths)
    assert not report.accepted
    assert (report.worst_label, report.worst_loss) == ("b", 1.0)
    assert report.reason == (
        "label 'b' lost 1.000 of its agreement on 5 held-out rows: more than the 0.787 allowed"
    )
    assert decide(challenger[:-1], champion[:-1], truths[:-1]).accepted, "4 rows are no judgement"


def test_too_few_rows_are_accepted_and_said() -> None:
    report = decide([None] * 19, TRUTHS[:19], TRUTHS[:19])  # type: ignore[arg-type]
    assert report.accepted
    assert report.reason == (
        "accepted without a judgement: 19 held-out rows, 20 are needed "
        "(agreement 0.000 after 1.000)"
    )


def test_predictions_that_do_not_match_their_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="80 truths need as many predictions"):
        decide([None], None)
