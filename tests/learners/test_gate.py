"""The gate: what it accepts, what it refuses, and the sentence it says."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from learners.gate import ONE_LOOK, GateRules, judge
from learners.tasks import Decision, task_kind
from schemas.fields import Label
from schemas.models import GateFigures, GateReport

LABELS = ["a", "b", "c", "d"]
TRUTHS: list[Label] = [LABELS[n % 4] for n in range(80)]
ALL_MAY_FALL = GateRules(margin=1.0, label_loss=1.0, slice_loss=1.0, calibration_loss=1.0)


def decide(
    challenger: list[Label | None],
    champion: list[Label | None] | None,
    truths: list[Label] = TRUTHS,
    rules: GateRules | None = None,
    changed: Sequence[str] = (),
) -> GateReport:
    return judge(
        truths=truths,
        challenger=answers(challenger),
        champion=None if champion is None else answers(champion),
        kind=task_kind("classify"),
        labels=LABELS,
        rules=rules or GateRules(),
        changed=changed,
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
    report = decide(wrong_on(range(5)), wrong_on(range(0)))
    assert not report.accepted
    assert report.reason == (
        "agreement fell, 0.938 after 1.000 on 80 held-out rows: more than the 0.056 allowed"
    )
    assert (report.challenger, report.champion) == (0.9375, 1.0)


def test_a_single_row_that_flips_is_chance() -> None:
    assert decide(wrong_on(range(1)), wrong_on(range(0)), rules=GateRules(margin=0.0)).accepted


def test_a_champion_that_was_lucky_is_followed() -> None:
    lost, won = range(1, 80, 7), range(2, 80, 14)  # 12 and 6 rows: chance does that
    assert decide(wrong_on(lost), wrong_on(won)).accepted
    assert not decide(wrong_on(lost), wrong_on(won), rules=GateRules(errors=ONE_LOOK)).accepted
    assert not decide(wrong_on(lost), wrong_on(range(0))).accepted, "12 rows lost and none won"


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


def test_what_was_learned_first_may_not_be_forgotten_though_the_mean_rises() -> None:
    champion = wrong_on(range(60, 80))
    report = decide(wrong_on(range(9)), champion)
    assert report.challenger > (report.champion or 1.0)
    assert not report.accepted
    assert report.reason == (
        "agreement fell on the oldest rows, 0.550 after 1.000 on 20 held-out rows: "
        "more than the 0.297 allowed"
    )
    assert report.oldest == GateFigures(rows=20, challenger=0.55, champion=1.0)
    assert report.newest == GateFigures(rows=20, challenger=1.0, champion=0.0)
    assert decide(wrong_on(range(30, 39)), champion).accepted, "neither first nor last"


def test_what_came_last_may_not_be_lost_either() -> None:
    report = decide(wrong_on(range(70, 80)), wrong_on(range(20)))
    assert report.reason.startswith("agreement fell on the newest rows, 0.500 after 1.000 on 20 ")
    assert decide(wrong_on(range(70, 80)), wrong_on(range(20)), rules=ALL_MAY_FALL).accepted


@pytest.mark.parametrize(("rows", "judged"), [(39, None), (40, 20), (79, 20), (80, 20), (200, 50)])
def test_the_oldest_and_the_newest_are_a_quarter_of_rows_enough(
    rows: int, judged: int | None
) -> None:
    truths: list[Label] = [LABELS[n % 4] for n in range(rows)]
    report = decide([*truths], [*truths], truths)
    for part in (report.oldest, report.newest):
        assert (part and part.rows) == judged


def test_a_label_whose_meaning_changed_is_left_out_and_not_taken_for_forgotten() -> None:
    old_meaning = range(0, 20, 4)  # rows of the label a
    assert not decide(wrong_on(old_meaning), wrong_on(range(0))).accepted
    report = decide(wrong_on(old_meaning), wrong_on(range(0)), changed=["a", "never seen"])
    assert report.accepted
    assert (report.rows, report.left_out, report.challenger) == (60, 20, 1.0)


def test_when_most_labels_change_at_once_none_is_left_out() -> None:
    report = decide(wrong_on(range(40)), wrong_on(range(0)), changed=["a", "b", "c"])
    assert not report.accepted
    assert (report.rows, report.left_out) == (80, 0)


def test_rows_are_left_out_only_while_enough_stay_to_judge() -> None:
    truths = TRUTHS[:26]
    lost: list[Label | None] = [None if truth == "a" else truth for truth in truths]
    report = decide(lost, [*truths], truths, changed=["a"])
    assert not report.accepted
    assert (report.rows, report.left_out) == (26, 0)


def scored(scores: Sequence[float]) -> list[Decision | None]:
    """Answer what `wrong_on(range(0, 80, 4))` does, right on 60 of 80, with these scores."""
    return [
        Decision("nothing" if n % 4 == 0 else str(truth), scores[n % len(scores)], ())
        for n, truth in enumerate(TRUTHS)
    ]


def compare(challenger: Sequence[float], champion: Sequence[float]) -> GateReport:
    return judge(
        truths=TRUTHS,
        challenger=scored(challenger),
        champion=scored(champion),
        kind=task_kind("classify"),
        labels=LABELS,
        rules=GateRules(),
    )


def test_scores_that_can_no_longer_be_trusted_are_refused() -> None:
    report = compare([0.99], [0.75])
    assert not report.accepted
    assert report.calibration == GateFigures(rows=80, challenger=0.24, champion=0.0)
    assert report.reason == (
        "calibration error grew, 0.240 after 0.000 on 80 held-out rows: more than the 0.094 allowed"
    )
    assert compare([0.75], [0.99]).accepted
    assert compare([0.79], [0.75]).accepted


def test_doubt_that_is_true_is_not_refused_beside_a_champion_that_was_sure_and_right() -> None:
    sure = [0.01, 0.99, 0.99, 0.99]  # says of every answer whether it is right
    for seed in range(20):
        chance = random.Random(seed)
        # Scores s of density 3 s^2 that are right with probability s: 3 of 4 are.
        doubtful = [chance.betavariate(4 if n % 4 else 3, 1 if n % 4 else 2) for n in range(80)]
        report = compare(doubtful, sure)
        assert report.calibration is not None
        assert report.calibration.challenger > 0.05 + (report.calibration.champion or 0.0)
        assert report.accepted


def test_the_score_of_several_labels_is_held_against_the_whole_set() -> None:
    truths: list[Label] = [("a", "b")] * 40
    report = judge(
        truths=truths,
        challenger=[Decision(("a",), 0.5, ())] * 40,
        champion=[Decision(("a", "b"), 1.0, ())] * 40,
        kind=task_kind("multilabel"),
        labels=LABELS,
        rules=ALL_MAY_FALL,
    )
    assert report.challenger == pytest.approx(2 / 3)
    assert report.calibration == GateFigures(rows=40, challenger=0.5, champion=0.0)


def test_a_first_release_tells_its_figures_too() -> None:
    report = decide(wrong_on(range(0)), None, changed=LABELS)
    figures = GateFigures(rows=20, challenger=1.0)
    assert (report.oldest, report.newest) == (figures, figures)
    assert report.calibration == GateFigures(rows=80, challenger=0.0)
    assert report.left_out == 0


@pytest.mark.parametrize("lost", [4, 8])
def test_one_look_at_all_rows_is_still_two_more_at_the_first_and_the_last(lost: int) -> None:
    champion = wrong_on(range(20, 40))  # and lucky on the newest
    report = decide(wrong_on(range(80 - lost, 80)), champion, rules=GateRules(errors=ONE_LOOK))
    assert report.challenger > (report.champion or 1.0)
    assert report.newest == GateFigures(rows=20, challenger=1.0 - lost / 20, champion=1.0)
    assert report.accepted == (lost == 4), "of 20 rows chance explains three; eight were forgotten"
