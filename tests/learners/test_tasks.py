from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.tasks import KINDS, task_kind
from schemas.errors import LabelError, MessageError
from schemas.fields import Label

CLASSIFY, MULTILABEL = task_kind("classify"), task_kind("multilabel")


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_found_by_the_name_it_carries(name: str) -> None:
    assert task_kind(name).name == name


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cluster'.*classify, multilabel"):
        task_kind("cluster")


@pytest.mark.parametrize("name", KINDS)
def test_an_interaction_without_text_is_refused(name: str) -> None:
    with pytest.raises(MessageError, match="text: absent"):
        KINDS[name].input_text(None, {"price": 3})
    with pytest.raises(MessageError, match="only white space"):
        KINDS[name].input_text(" \n", None)
    assert KINDS[name].input_text(" a ", None) == " a "


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "3 is int"),
        (None, "None is NoneType"),
        (True, "True is bool"),
        (["a"], "is list"),
        ("  ", "is empty"),
        ("x" * 201, "201 characters, at most 200"),
    ],
)
def test_what_is_no_single_label_is_refused_with_its_value(value: object, words: str) -> None:
    with pytest.raises(LabelError, match=words):
        CLASSIFY.check_label(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "3 is int"),
        ([3], "3 is int"),
        ([""], "is empty"),
        ([str(n) for n in range(65)], "65 texts, at most 64"),
    ],
)
def test_what_is_no_list_of_labels_is_refused_with_its_value(value: object, words: str) -> None:
    with pytest.raises(LabelError, match=words):
        MULTILABEL.check_label(value)


def test_each_kind_touches_the_head_rows_of_its_labels() -> None:
    assert CLASSIFY.label_texts("a") == ("a",)
    assert MULTILABEL.label_texts(("a", "b")) == ("a", "b")
    assert MULTILABEL.label_texts(()) == ()


def test_targets_fit_the_loss_and_a_right_answer_costs_less() -> None:
    index = {"a": 0, "b": 1}
    cases: list[tuple[str, list[Label]]] = [
        ("classify", ["a", "b"]),
        ("multilabel", [("a",), ("b",)]),
    ]
    for name, labels in cases:
        kind = KINDS[name]
        targets = kind.targets(labels, index=index)
        right = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
        assert kind.loss(right, targets) < kind.loss(-right, targets)
        unknown: Label = "c" if name == "classify" else ("c",)
        with pytest.raises(LabelError, match="'c' has no row"):
            kind.targets([unknown], index=index)


def test_classify_says_the_most_probable_label_and_lists_the_next() -> None:
    scores = np.array([[0.1, 0.9, 0.5]], dtype=np.float32)
    probabilities = CLASSIFY.probabilities(scores, scale=10.0)
    (decision,) = CLASSIFY.decide(probabilities, labels=["a", "b", "c"], threshold=0.5, top=2)
    assert decision.label == "b"
    assert [label for label, _ in decision.top] == ["b", "c"]
    assert decision.score == pytest.approx(np.exp(9) / np.exp([1, 9, 5]).sum())


def test_classify_without_any_label_says_that_it_cannot_answer() -> None:
    with pytest.raises(LabelError, match="no label has been learned"):
        CLASSIFY.decide(np.zeros((1, 0), dtype=np.float32), labels=[], threshold=0.5, top=1)


def test_multilabel_says_every_label_over_the_threshold_with_the_probability_of_the_set() -> None:
    probabilities = np.array([[0.9, 0.2, 0.6], [0.1, 0.2, 0.3]], dtype=np.float32)
    some, none = MULTILABEL.decide(probabilities, labels=["z", "b", "a"], threshold=0.5, top=1)
    assert some.label == ("a", "z")
    assert some.score == pytest.approx(0.9 * 0.8 * 0.6)
    assert [label for label, _ in some.top] == ["z"]
    assert none.label == ()
    assert none.score == pytest.approx(0.9 * 0.8 * 0.7)


def test_multilabel_without_any_label_says_the_empty_set() -> None:
    empty = np.zeros((1, 0), dtype=np.float32)
    (decision,) = MULTILABEL.decide(empty, labels=[], threshold=0.5, top=3)
    assert (decision.label, decision.score, decision.top) == ((), 1.0, ())


def test_agreement_is_exact_match_or_the_examples_f1() -> None:
    assert CLASSIFY.agreement("a", "a") == 1.0
    assert CLASSIFY.agreement("a", "b") == 0.0
    assert CLASSIFY.agreement("a", None) == 0.0
    assert MULTILABEL.agreement(("a", "b"), ("b", "c")) == 0.5
    assert MULTILABEL.agreement((), ()) == 1.0
    assert MULTILABEL.agreement((), None) == 0.0
