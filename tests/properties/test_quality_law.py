"""Prequential figures equal those computed anew from all pairs."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.tasks import task_kind
from schemas.fields import Label
from serving.quality import Prequential

LABELS = ["a", "b", "c", "d"]
delays = st.floats(0.0, 1e6)
one = st.sampled_from(LABELS)
several = st.sets(one).map(lambda labels: tuple(sorted(labels)))
windows = st.integers(1, 12)


def texts(label: Label | None) -> set[str] | None:
    if label is None:
        return None
    return {label} if isinstance(label, str) else set(label)


def brute_macro_f1(pairs: list[tuple[Label, Label | None]]) -> float:
    """Confusion counts label by label, from the definition."""
    truths = [texts(truth) or set() for truth, _ in pairs]
    answers = [texts(answer) or set() for _, answer in pairs]
    labels = set().union(*truths, *answers)
    if not labels:
        return sum(answer is not None for _, answer in pairs) / len(pairs)
    scores = []
    for label in labels:
        hits = sum(label in t and label in a for t, a in zip(truths, answers, strict=True))
        false = sum(label not in t and label in a for t, a in zip(truths, answers, strict=True))
        missed = sum(label in t and label not in a for t, a in zip(truths, answers, strict=True))
        precision = hits / (hits + false) if hits + false else 0.0
        recall = hits / (hits + missed) if hits + missed else 0.0
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(scores) / len(scores)


def check(kind_name: str, window: int, stream: list[tuple[Label, Label | None, float]]) -> None:
    kind = task_kind(kind_name)
    prequential = Prequential(kind, window=window)
    for truth, answer, delay_s in stream:
        right = prequential.add(truth, answer, delay_s=delay_s)
        assert right == (texts(truth) == texts(answer))
    scores = prequential.scores()
    assert scores is not None
    newest = stream[-window:]
    rights = [texts(truth) == texts(answer) for truth, answer, _ in stream]
    assert scores.rows == len(stream)
    assert scores.window_rows == len(newest)
    assert scores.accuracy == sum(rights[-window:]) / len(newest)
    assert scores.lifetime_accuracy == sum(rights) / len(stream)
    assert scores.label_delay_s == statistics.median(delay for *_, delay in newest)
    agreements = [kind.agreement(truth, answer) for truth, answer, _ in newest]
    assert math.isclose(scores.agreement, sum(agreements) / len(newest), abs_tol=1e-12)
    macro_f1 = brute_macro_f1([(truth, answer) for truth, answer, _ in newest])
    assert math.isclose(scores.macro_f1, macro_f1, abs_tol=1e-12)


@given(
    window=windows,
    stream=st.lists(st.tuples(one, st.none() | one, delays), min_size=1, max_size=40),
)
def test_one_label_figures_equal_those_from_scratch(
    window: int, stream: list[tuple[Label, Label | None, float]]
) -> None:
    check("classify", window, stream)


@given(
    window=windows,
    stream=st.lists(st.tuples(several, st.none() | several, delays), min_size=1, max_size=40),
)
def test_several_label_figures_equal_those_from_scratch(
    window: int, stream: list[tuple[Label, Label | None, float]]
) -> None:
    check("multilabel", window, stream)


def test_the_brute_force_itself_agrees_with_a_worked_example() -> None:
    # Truths a a b c, answers a b b b: F1 of a = 2/3, of b = 1/2, of c = 0.
    pairs: list[tuple[Label, Label | None]] = [("a", "a"), ("a", "b"), ("b", "b"), ("c", "b")]
    assert brute_macro_f1(pairs) == pytest.approx((2 / 3 + 1 / 2) / 3)
