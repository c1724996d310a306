"""Laws of the gate, for both kinds of task."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from random import Random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from learners.gate import GateRules, judge
from learners.tasks import Decision, task_kind
from schemas.fields import Label
from schemas.models import GateReport
from tests.learners.test_gate import answers

LABELS = ["a", "b", "c"]
Case = tuple[str, list[tuple[Label, Label | None, Label | None]]]  # kind; truth, ours, theirs
singles: st.SearchStrategy[Label] = st.sampled_from(LABELS)
sets: st.SearchStrategy[Label] = st.sets(st.sampled_from(LABELS)).map(lambda s: tuple(sorted(s)))
rules = st.builds(
    GateRules,
    margin=st.floats(0, 1),
    label_loss=st.floats(0, 0.9),
    slice_loss=st.floats(0, 1),
    calibration_loss=st.floats(0, 1),
    min_label_rows=st.integers(1, 5),
    min_rows=st.integers(0, 20),
)


def cases_of(name: str, labels: st.SearchStrategy[Label]) -> st.SearchStrategy[Case]:
    maybe = st.none() | labels
    return st.tuples(st.just(name), st.lists(st.tuples(labels, maybe, maybe)))


cases = cases_of("classify", singles) | cases_of("multilabel", sets)


@given(case=cases, rules=rules)
def test_an_equal_challenger_is_accepted(case: Case, rules: GateRules) -> None:
    name, rows = case
    predicted = [row[1] for row in rows]
    report = judge(
        truths=[row[0] for row in rows],
        challenger=answers(predicted),
        champion=answers(predicted),
        kind=task_kind(name),
        labels=LABELS,
        rules=rules,
    )
    assert report.accepted
    assert report.worst_label is None
    assert report.challenger == report.champion


@given(case=cases, rules=rules)
def test_a_better_challenger_on_every_row_is_accepted(case: Case, rules: GateRules) -> None:
    name, rows = case
    kind = task_kind(name)
    best = [max(row[1:], key=lambda p, t=row[0]: kind.agreement(t, p)) for row in rows]  # type: ignore[misc]
    report = judge(
        truths=[row[0] for row in rows],
        challenger=answers(best),
        champion=answers([row[2] for row in rows]),
        kind=kind,
        labels=LABELS,
        rules=replace(rules, calibration_loss=1.0),  # a wrong answer for none is no better
    )
    assert report.accepted


@given(
    others=st.lists(st.sampled_from(["b", "c"]), min_size=15, max_size=400),
    lost=st.integers(5, 50),
    margin=st.floats(0, 1),
)
def test_a_challenger_that_loses_a_whole_label_is_refused(
    others: list[str], lost: int, margin: float
) -> None:
    truths = ["a"] * lost + others
    report = judge(
        truths=truths,
        challenger=answers(["b"] * lost + others),
        champion=answers(truths),
        kind=task_kind("classify"),
        labels=LABELS,
        rules=GateRules(margin=margin),
    )
    assert not report.accepted
    assert report.worst_label == "a"


class Rows(NamedTuple):
    """Held-out rows with both sides' answers, in order of arrival."""

    kind: str
    truths: list[Label]
    challenger: list[Decision]
    champion: list[Decision]


@st.composite
def answered(draw: st.DrawFn) -> Rows:
    name, labels = draw(st.sampled_from([("classify", singles), ("multilabel", sets)]))
    decisions = st.builds(Decision, labels, st.floats(0, 1), st.just(()))
    rows = draw(st.lists(st.tuples(labels, decisions, decisions), max_size=60))
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    return Rows(name, *(list(column) for column in columns))


def judged(rows: Rows, rules: GateRules, changed: Collection[str] = ()) -> GateReport:
    return judge(
        truths=rows.truths,
        challenger=rows.challenger,
        champion=rows.champion,
        kind=task_kind(rows.kind),
        labels=LABELS,
        rules=rules,
        changed=changed,
    )


@given(rows=answered(), rules=rules, changed=st.sets(st.sampled_from(LABELS)))
def test_equal_answers_are_accepted_whatever_they_are(
    rows: Rows, rules: GateRules, changed: set[str]
) -> None:
    report = judged(rows._replace(champion=list(rows.challenger)), rules, changed)
    assert report.accepted
    for figures in (report.oldest, report.newest, report.calibration):
        assert figures is None or figures.challenger == figures.champion


@given(
    rows=answered(),
    rules=rules,
    name=st.sampled_from(["margin", "label_loss", "slice_loss", "calibration_loss"]),
    more=st.floats(0, 1),
)
def test_whoever_is_accepted_is_accepted_where_more_may_be_lost(
    rows: Rows, rules: GateRules, name: str, more: float
) -> None:
    laxer = replace(rules, **{name: getattr(rules, name) + more})
    assert judged(rows, rules).accepted <= judged(rows, laxer).accepted
    nothing = GateRules(
        margin=1.0,
        label_loss=1.0,
        slice_loss=1.0,
        calibration_loss=1.0,
        min_label_rows=rules.min_label_rows,
        min_rows=rules.min_rows,
    )
    assert judged(rows, nothing).accepted


@given(rows=answered(), rules=rules, order=st.randoms(use_true_random=False))
def test_the_order_within_a_slice_does_not_matter(
    rows: Rows, rules: GateRules, order: Random
) -> None:
    count = len(rows.truths)
    report = judged(rows, rules)
    size = 0 if report.oldest is None else report.oldest.rows
    shuffled: list[int] = []
    for part in (range(size), range(size, count - size), range(count - size, count)):
        shuffled += order.sample(part, len(part))
    moved = Rows(
        rows.kind,
        [rows.truths[row] for row in shuffled],
        [rows.challenger[row] for row in shuffled],
        [rows.champion[row] for row in shuffled],
    )
    assert judged(moved, rules) == report


@given(rows=answered(), rules=rules, changed=st.sets(st.sampled_from(LABELS)))
def test_what_is_left_out_is_a_half_at_most_and_all_else_is_judged(
    rows: Rows, rules: GateRules, changed: set[str]
) -> None:
    report = judged(rows, rules, changed)
    assert report.rows + report.left_out == len(rows.truths)
    assert report.left_out <= report.rows
    assert not report.left_out or report.rows >= rules.min_rows
    if not changed:
        assert report.left_out == 0


@given(
    rows=answered().filter(lambda rows: len(rows.truths) >= 2),
    rules=rules.map(lambda some: replace(some, min_rows=1, margin=1.0, label_loss=1.0)),
)
def test_the_figures_are_those_of_the_rows_that_came_first_and_last(
    rows: Rows, rules: GateRules
) -> None:
    kind, report = task_kind(rows.kind), judged(rows, rules)
    size = max(len(rows.truths) // 4, 1)
    for figures, part in ((report.oldest, slice(size)), (report.newest, slice(-size, None))):
        assert figures is not None
        assert figures.rows == size
        for found, side in (
            (figures.challenger, rows.challenger),
            (figures.champion, rows.champion),
        ):
            pairs = zip(rows.truths[part], side[part], strict=True)
            mean = sum(kind.agreement(truth, said.label) for truth, said in pairs) / size
            assert math.isclose(found or 0.0, mean, abs_tol=1e-9)
