"""Laws of the gate, for both kinds of task."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from learners.gate import GateRules, judge
from learners.tasks import task_kind
from schemas.fields import Label
from tests.learners.test_gate import answers

LABELS = ["a", "b", "c"]
Case = tuple[str, list[tuple[Label, Label | None, Label | None]]]  # kind; truth, ours, theirs
singles: st.SearchStrategy[Label] = st.sampled_from(LABELS)
sets: st.SearchStrategy[Label] = st.sets(st.sampled_from(LABELS)).map(lambda s: tuple(sorted(s)))
rules = st.builds(
    GateRules,
    margin=st.floats(0, 1),
    label_loss=st.floats(0, 0.9),
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
        rules=rules,
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
