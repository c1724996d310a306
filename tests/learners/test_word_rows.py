"""Kept rows of words, and the fit of their weights: what it says, and what it may not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.heads import word_rows
from learners.heads.additive import AdditiveHead
from learners.heads.base import Floats
from learners.heads.served import load_served_head
from learners.heads.word_fit import FIRST_ROWS
from learners.heads.word_rows import FEW_LABELS, SHRINKAGE, WordRows
from learners.heads.words import LEAST_ROWS, WordSums
from learners.words import BUCKETS, hashed_words, joined, word_slots

LABELS = 3
FEATURES = 6

texts = st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=12)
label_rows = st.lists(st.integers(0, LABELS - 1), min_size=12, max_size=12)


def slots(token_ids: list[list[int]]) -> np.ndarray:
    return word_slots(hashed_words(token_ids), width=0)


def same(one: WordRows, other: WordRows) -> bool:
    mine, theirs = one.state(), other.state()
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def bundles(rows: int, *, seed: int) -> tuple[list[list[int]], np.ndarray]:
    """Two labels: one word tells nine in ten, five that come together tell seven."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, size=rows)
    decisive = np.where(random.random(rows) < 0.9, labels, 1 - labels)
    topic = np.where(random.random(rows) < 0.7, labels, 1 - labels)
    pairs = zip(decisive.tolist(), topic.tolist(), strict=True)
    return [[10 + d, *range(20 + 10 * t, 25 + 10 * t)] for d, t in pairs], labels


@settings(deadline=None)
@given(token_ids=texts, labels=label_rows)
def test_any_order_keeps_the_same_rows_and_taking_back_leaves_none(
    token_ids: list[list[int]], labels: list[int]
) -> None:
    words, rows = slots(token_ids), [(label,) for label in labels[: len(token_ids)]]
    once, pieces, more = WordRows(), WordRows(), WordRows()
    once.add(words, rows)
    for n in reversed(range(len(words))):
        pieces.add(words[n : n + 1], rows[n : n + 1])
    assert same(once, pieces)
    more.add(words, rows, sign=-1)  # they are not there: nothing is written down of them
    assert not len(more)
    assert not more.changed
    more.add(words, rows)
    more.add(words[::-1], rows[::-1])
    more.add(words, rows, sign=-1)
    assert same(once, more)
    assert same(once, WordRows.restore(once.state()))
    more.add(words, rows, sign=-1)
    assert not len(more)


def test_of_too_many_rows_any_order_and_any_parts_keep_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(word_rows, "MOST_ROWS", 20)
    words = slots([[n, n + 1] for n in range(100)])
    once, backwards, left, right = (WordRows() for _ in range(4))
    once.add(words, [(0,)] * 100)
    for row in words[::-1]:
        backwards.add(row[None], [(0,)])
        assert len(backwards) < 40
    left.add(words[:70], [(0,)] * 70)
    right.add(words[70:], [(0,)] * 30)
    left.merge(right, np.array([0]))
    for one in (once, backwards, left):
        one.fit(1)
        assert len(one) == 20
    assert same(once, backwards)
    assert same(once, left)


def test_weights_are_those_of_a_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_rows, "CLOSE", 1e-12)
    token_ids, labels = bundles(80, seed=1)
    words = slots(token_ids)
    rows = WordRows()
    rows.add(words, [(int(label),) for label in labels])
    x = np.zeros((len(words), BUCKETS))
    for n, row in enumerate(words):
        x[n, row[row > 0]] = 1 / np.sqrt((row > 0).sum())
    x = x[:, (x > 0).sum(axis=0) >= LEAST_ROWS]
    y = np.eye(LABELS)[labels] - np.eye(LABELS)[labels].mean(axis=0)
    expected = x @ np.linalg.solve(x.T @ x + SHRINKAGE * np.eye(x.shape[1]), x.T @ y)
    found = rows.fit(LABELS).scores(words, labels=LABELS)
    np.testing.assert_allclose(found, expected / np.sqrt(np.mean(expected**2)), atol=1e-2)
    assert not found[:, 2].any()  # a label without rows


def test_words_that_come_together_are_not_heard_as_often_as_they_are() -> None:
    token_ids, labels = bundles(2_000, seed=2)
    asked, truth = bundles(2_000, seed=3)
    rows, sums = WordRows(), WordSums()
    pairs = [(int(label),) for label in labels]
    rows.add(slots(token_ids), pairs)
    sums.add(slots(token_ids), pairs)
    fitted = rows.fit(2).scores(slots(asked), labels=2)
    counted = sums.columns(np.bincount(labels)).scores(slots(asked), labels=2)
    right = [float(np.mean(one.argmax(axis=1) == truth)) for one in (fitted, counted)]
    assert right[0] > 0.88
    assert right[0] > right[1] + 0.05


def test_what_only_one_row_has_is_in_no_fit() -> None:
    rows = WordRows()
    rows.add(slots([[1, 2], [1, 3]]), [(0,), (1,)])
    shared = set(slots([[1]])[0].tolist()) - {0}
    assert set(rows.fit(2).words.tolist()) <= shared
    rows.add(slots([[1, 3]]), [(1,)], sign=-1)
    assert not len(rows.fit(2).words)


@pytest.mark.parametrize("labels", [(FEW_LABELS,), (0, 1)])
def test_rows_of_many_labels_or_of_several_are_not_kept(labels: tuple[int, ...]) -> None:
    rows, words = WordRows(), slots([[1, 2]])
    rows.add(words, [(0,)])
    rows.add(words, [labels])
    assert not len(rows)
    rows.add(words, [(0,)])
    assert not len(WordRows.restore(rows.state()))
    assert not WordRows.restore(rows.state()).is_open
    assert not len(rows.fit(LABELS).floors)
    other = WordRows()
    other.add(words, [(0,)])
    other.merge(rows, np.array([0]))
    assert not len(other)


def test_taking_back_rows_of_many_labels_closes_nothing() -> None:
    rows, words = WordRows(), slots([[1, 2]])
    rows.add(words, [(0,)])
    rows.add(words, [(FEW_LABELS,)], sign=-1)
    assert len(rows) == 1


def test_labels_without_rows_close_no_merge() -> None:
    rows, other, words = WordRows(), WordRows(), slots([[1, 2]])
    other.add(words, [(2,)])
    rows.merge(other, np.array([FEW_LABELS, FEW_LABELS + 1, 0]))
    assert len(rows) == 1
    rows.merge(rows, np.array([0]), sign=-1)
    assert not len(rows)


def test_a_state_from_before_rows_were_kept_has_none() -> None:
    restored = WordRows.restore({})
    assert restored.is_open
    assert not len(restored)
    assert not restored.fit(LABELS).scores(slots([[1]]), labels=LABELS).any()


def blind(rows: int, *, seed: int) -> tuple[Floats, list[tuple[int, ...]]]:
    """Rows whose features say nothing, with the words of `bundles`."""
    token_ids, labels = bundles(rows, seed=seed)
    x = np.random.default_rng(seed).standard_normal((rows, FEATURES)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return joined(x, hashed_words(token_ids)), [(int(label),) for label in labels]


def taught() -> AdditiveHead:
    head = AdditiveHead(features=FEATURES, solver="class-balanced", width=40)
    for label in range(2):
        head.row_of(f"label {label}")
    head.add(*blind(1_500, seed=1))
    head.probe(*blind(200, seed=2))
    head.solve()
    return head


def right(head: AdditiveHead) -> float:
    x, labels = blind(1_000, seed=3)
    return float(np.mean(head.scores(x).argmax(axis=1) == [row for (row,) in labels]))


def test_a_head_hears_the_fit_as_it_is_released_and_taken_up() -> None:
    head = taught()
    assert head.solved().calibration.fit > 0.0
    assert right(head) > 0.85
    restored = AdditiveHead(features=FEATURES, solver="class-balanced", width=40)
    restored.restore(*head.state())
    x = blind(50, seed=4)[0]
    assert np.array_equal(head.scores(x), load_served_head(head.blobs()).scores(x))
    for one in (head, restored):
        one.add(*blind(900, seed=5))
        one.settle()
        while one.rest():
            pass
    assert head.blobs() == restored.blobs()


def rested(head: AdditiveHead) -> AdditiveHead:
    steps = 0
    while head.rest():
        steps += 1
        assert steps < 10
    return head


def same_fit(one: AdditiveHead, other: AdditiveHead) -> bool:
    mine, theirs = one.solved().fitted.arrays(), other.solved().fitted.arrays()
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_of_few_rows_nothing_is_fitted() -> None:
    head = AdditiveHead(features=FEATURES, solver="class-balanced", width=40)
    for label in range(2):
        head.row_of(f"label {label}")
    x, labels = blind(2 * FIRST_ROWS, seed=1)
    head.add(x[1:], labels[1:])
    head.probe(*blind(200, seed=2))
    head.solve()
    assert not len(rested(head).solved().fitted.floors)
    head.add(x[:1], labels[:1])
    head.solve()
    assert len(rested(head).solved().fitted.floors) == 2


def test_a_head_of_more_labels_hears_no_fit_any_more() -> None:
    head = taught()
    x, _ = blind(FEW_LABELS, seed=6)
    head.add(x, [(head.row_of(f"more {n}"),) for n in range(FEW_LABELS)])
    head.settle()
    assert not len(head.solved().fitted.floors)
    assert np.isfinite(head.scores(x)).all()
    head.erase([1])  # there is nothing to leave out: nothing is solved for it
    before = head.solved()
    head.settle()
    assert head.solved() is before


def test_a_head_of_several_labels_keeps_no_rows() -> None:
    head = AdditiveHead(features=FEATURES, solver="least-squares", width=40)
    head.row_of("one")
    head.row_of("other")
    head.add(*blind(20, seed=1))
    head.restore(*head.state())
    head.add(*blind(20, seed=2))
    assert not len(head.sums.word_rows)


def test_a_fit_does_not_outlive_the_rows_it_was_made_of() -> None:
    head, never = taught(), rested(taught())
    x, labels = blind(900, seed=7)
    head.add(x, labels)
    head.solve()
    assert not same_fit(head, never)
    head.add(x, labels, sign=-1)
    head.erase([1])
    head.settle()
    assert same_fit(head, never)


def test_erasing_what_the_fit_never_heard_solves_nothing() -> None:
    head = rested(taught())
    judged = head.judged()
    head.erase([1])
    head.settle()
    assert head.judged() is judged


def test_corrected_rows_are_fitted_as_they_are_now() -> None:
    head = taught()
    x, labels = blind(1_500, seed=1)
    head.add(x, labels, sign=-1)
    head.add(x, [(1 - row,) for (row,) in labels])
    head.settle()
    words = blind(500, seed=3)
    said = head.solved().fitted_scores(words[0]).argmax(axis=1)
    assert np.mean(said == [row for (row,) in words[1]]) < 0.2


def test_a_new_label_is_fitted_before_half_of_the_rows_are_its_own() -> None:
    head = taught()
    third = head.row_of("third")
    x = joined(blind(200, seed=8)[0][:, :FEATURES], hashed_words([[90, 91]] * 200))
    for start in range(0, 200, 20):
        head.add(x[start : start + 20], [(third,)] * 20)
        head.refresh()
    assert (head.solved().fitted_scores(x).argmax(axis=1) == third).all()


def test_a_label_that_only_held_out_rows_have_is_rested_with() -> None:
    head = rested(taught())
    late = head.row_of("7")
    x, _ = blind(1, seed=9)
    head.probe(x, [(late,)])
    assert rested(head).scores(x).shape == (1, 3)


def test_learning_held_out_rows_keeps_none_of_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_rows, "MOST_ROWS", 10)
    head = AdditiveHead(features=FEATURES, solver="class-balanced", width=40)
    for label in range(2):
        head.row_of(f"label {label}")
    tokens = [[n, n + 1, n + 2] for n in range(100)]
    x = np.eye(FEATURES, dtype=np.float32)[np.arange(100) % FEATURES]
    rows, labels = joined(x, hashed_words(tokens)), [(n % 2,) for n in range(100)]
    head.add(rows[:19], labels[:19])
    head.probe(rows[19:], labels[19:])
    head.solve()
    before = head.sums.word_rows.state()
    rested(head)
    after = head.sums.word_rows.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_head_that_lost_all_of_its_rows_comes_to_rest() -> None:
    head = rested(taught())
    head.add(*blind(1_500, seed=1), sign=-1)
    head.erase([1])
    head.settle()
    assert not len(rested(head).sums.word_rows)
    assert not len(head.solved().fitted.floors)
