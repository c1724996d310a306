from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from learners.data.pseudo_labels import PseudoLabelConfig, PseudoLabels

LABELS = ["a", "b", "c"]
SMALL = PseudoLabelConfig(
    confidence=0.7, least_labelled=1, most_labelled=5, recent_rows=9, balance=1.5, least_quota=2
)
LABELLED = {"a": 1, "b": 4}
chance = st.sampled_from([0.0, 0.1, 0.7, 0.9, 1.0, float("nan")])
views = st.lists(st.tuples(*[chance] * 6), max_size=30)
labelled = st.dictionaries(st.sampled_from(LABELS), st.integers(0, 6))


def split(rows: list[tuple[float, ...]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    both = np.array(rows, dtype=np.float32).reshape(len(rows), 6)
    return both[:, :3], both[:, 3:]


@given(views, labelled)
def test_what_is_accepted_is_sure_agreed_on_and_needed(
    rows: list[tuple[float, ...]], had: dict[str, int]
) -> None:
    first, second = split(rows)
    pseudo = PseudoLabels(SMALL)
    taken = pseudo.select(first, second, labels=LABELS, labelled=had)
    assert [row.row for row in taken] == sorted({row.row for row in taken})
    for row in taken:
        column = LABELS.index(row.label)
        assert row.confidence == first[row.row, column] >= np.float32(0.7)
        assert first[row.row].argmax() == second[row.row].argmax() == column
        assert 1 <= had.get(row.label, 0) < 5


@given(views, labelled)
def test_every_row_is_counted_once(rows: list[tuple[float, ...]], had: dict[str, int]) -> None:
    pseudo = PseudoLabels(SMALL)
    taken = pseudo.select(*split(rows), labels=LABELS, labelled=had)
    counts = asdict(pseudo.counts)
    assert sum(counts.values()) == len(rows)
    assert counts["accepted"] == len(taken)


@given(st.lists(st.sampled_from(LABELS), max_size=60))
def test_no_label_has_more_than_its_share_of_recent_rows(said: list[str]) -> None:
    pseudo = PseudoLabels(SMALL)
    taken: list[str] = []
    for label in said:
        row = np.array([[float(label == name) for name in LABELS]], dtype=np.float32)
        accepted = pseudo.select(row, row, labels=LABELS, labelled=dict.fromkeys(LABELS, 1))
        taken += [pseudo_label.label for pseudo_label in accepted]
        recent = taken[-SMALL.recent_rows :]
        assert pseudo.recent == Counter(recent)
        if accepted:
            most = max(SMALL.least_quota, SMALL.balance * len(recent) / len(LABELS))
            assert pseudo.recent[label] <= most


@given(views, views)
def test_a_restored_rule_answers_as_the_one_it_was_taken_from(
    before: list[tuple[float, ...]], after: list[tuple[float, ...]]
) -> None:
    pseudo, copy = PseudoLabels(SMALL), PseudoLabels(SMALL)
    pseudo.select(*split(before), labels=LABELS, labelled=LABELLED)
    copy.restore(json.loads(json.dumps(pseudo.state())))
    answers = [
        one.select(*split(after), labels=LABELS, labelled=LABELLED) for one in (pseudo, copy)
    ]
    assert answers[0] == answers[1]
    assert pseudo.state() == copy.state()


def test_the_guards_stop_a_label_without_or_with_enough_true_rows() -> None:
    sure = np.eye(3, dtype=np.float32)
    pseudo = PseudoLabels(PseudoLabelConfig())
    taken = pseudo.select(sure, sure, labels=LABELS, labelled={"a": 1, "b": 2, "c": 15})
    assert [row.label for row in taken] == ["b"]
    assert (pseudo.counts.untaught, pseudo.counts.sated) == (1, 1)


def test_forgetting_gives_every_label_its_whole_share_again() -> None:
    row = np.array([[1.0, 0.0, 0.0]], dtype=np.float32)
    pseudo = PseudoLabels(SMALL)
    for _ in range(4):
        pseudo.select(row, row, labels=LABELS, labelled=LABELLED)
    assert pseudo.recent == {"a": 2}
    pseudo.forget()
    assert pseudo.select(row, row, labels=LABELS, labelled=LABELLED)
    assert (pseudo.counts.accepted, pseudo.counts.over_quota) == (3, 2)


def test_without_labels_nothing_is_accepted() -> None:
    none = np.zeros((2, 0), dtype=np.float32)
    assert PseudoLabels(SMALL).select(none, none, labels=[], labelled={}) == []


def test_probabilities_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\) and \(2, 3\): both must be rows by 3 labels"):
        PseudoLabels(SMALL).select(
            np.zeros((1, 3), dtype=np.float32),
            np.zeros((2, 3), dtype=np.float32),
            labels=LABELS,
            labelled={},
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PseudoLabelConfig(confidence=0.0), "confidence is 0.0"),
        (PseudoLabelConfig(balance=0.5), "balance is 0.5"),
        (PseudoLabelConfig(least_labelled=0), "least_labelled is 0"),
        (PseudoLabelConfig(recent_rows=0), "recent_rows is 0"),
        (PseudoLabelConfig(least_quota=0), "least_quota is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(config: PseudoLabelConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PseudoLabels(config)
