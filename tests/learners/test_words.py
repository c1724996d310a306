"""Words beside features: how they are hashed, what their counts say, and that a head listens."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.heads.additive import AdditiveHead
from learners.heads.base import Floats
from learners.heads.choice import HeadOptions
from learners.heads.probes import fit_words, fit_words_of_several
from learners.heads.served import load_served_head
from learners.heads.word_rows import WordRows
from learners.heads.words import (
    HALF_OWN_ROWS,
    LEAST_ROWS,
    OWN_SHARE,
    PRIOR_WORDS,
    SMOOTHING,
    WordColumns,
    WordSums,
)
from learners.kept import NothingKept, features_of, rows_of
from learners.library import Learner
from learners.model import Encoder
from learners.strategies.two_speed import TwoSpeed
from learners.words import BUCKETS, MAX_TOKENS, SLOTS, hashed_words, joined, word_slots
from tests.learning import frozen_encoder

__all__ = ["frozen_encoder"]

FEATURES, LABELS = 6, 3

Counted = TypeVar("Counted", WordSums, WordRows)

texts = st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=12)


def slots(token_ids: list[list[int]]) -> np.ndarray:
    return word_slots(hashed_words(token_ids), width=0)


def same(one: Counted, other: Counted) -> bool:
    mine, theirs = one.state(), other.state()
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_a_text_is_the_set_of_its_tokens_and_of_its_pairs() -> None:
    row, other = hashed_words([[5, 7, 9], [9, 7, 5]])
    assert (row > 0).sum() == (other > 0).sum() == 5
    assert len(np.intersect1d(row[row > 0], other[other > 0])) == 3  # tokens; pairs have an order
    assert not hashed_words([[]]).any()
    assert hashed_words([]).shape == (0, SLOTS)


def test_words_are_exact_whole_numbers_that_fit_and_hardly_collide() -> None:
    rows = hashed_words([[n, 7 * n + 1] for n in range(3_000)])
    found = rows[rows > 0]
    assert np.array_equal(found, found.astype(np.int64))
    assert found.max() < BUCKETS
    distinct = len(np.unique(found))  # of 8,143 words: 128 collisions are expected of chance
    assert distinct > 7_900


def test_a_long_text_has_the_words_of_its_first_tokens() -> None:
    tokens = list(range(1_000, 1_000 + 3 * MAX_TOKENS))
    long, cut = hashed_words([tokens, tokens[:MAX_TOKENS]])
    assert np.array_equal(long, cut)
    assert (long > 0).sum() <= SLOTS


@given(token_ids=texts)
def test_a_text_s_words_do_not_depend_on_its_neighbours(token_ids: list[list[int]]) -> None:
    together = hashed_words(token_ids)
    for row, tokens in zip(together, token_ids, strict=True):
        assert np.array_equal(row, hashed_words([tokens])[0])


@settings(deadline=None)
@given(token_ids=texts, labels=st.lists(st.integers(0, LABELS - 1), min_size=12, max_size=12))
def test_any_order_gives_the_same_counts_and_taking_back_leaves_nothing(
    token_ids: list[list[int]], labels: list[int]
) -> None:
    words, rows = slots(token_ids), [(label,) for label in labels[: len(token_ids)]]
    once, pieces, more = WordSums(), WordSums(), WordSums()
    once.add(words, rows)
    for n in reversed(range(len(words))):
        pieces.add(words[n : n + 1], rows[n : n + 1])
        pieces.columns(np.bincount(labels[n : len(words)], minlength=LABELS))
    assert same(once, pieces)
    more.add(words, rows)
    more.add(words[::-1], rows)
    more.add(words[::-1], rows, sign=-1)
    assert same(once, more)
    more.add(words, rows, sign=-1)
    assert not len(more.state()["word_counts"])


@pytest.mark.parametrize("kind", [WordSums, WordRows])
@settings(deadline=None)
@given(token_ids=texts, split=st.integers(0, 12))
def test_merged_words_are_those_of_one_learner_and_can_be_parted_again(
    kind: type[Counted], token_ids: list[list[int]], split: int
) -> None:
    words = slots(token_ids)
    rows = [(n % LABELS,) for n in range(len(words))]
    central, left, right, before = (kind() for _ in range(4))
    central.add(words, rows)
    left.add(words[:split], rows[:split])
    before.add(words[:split], rows[:split])
    mirrored = np.arange(LABELS)[::-1].copy()  # the other learner met the labels the other way
    right.add(words[split:], [(int(mirrored[row]),) for (row,) in rows[split:]])
    left.merge(right, mirrored)
    assert same(left, central)
    left.merge(right, mirrored, sign=-1)
    assert same(left, before)


@pytest.mark.parametrize("kind", [WordSums, WordRows])
def test_a_renewed_label_has_the_words_of_its_newest_rows_alone(
    kind: type[Counted],
) -> None:
    words = slots([[1, 2], [3, 4], [5, 6], [7]])
    renewed, expected = kind(), kind()
    renewed.add(words, [(0,), (0,), (0,), (1,)])
    renewed.renew(0, words[2:3])
    expected.add(words[2:], [(0,), (1,)])
    assert same(renewed, expected)


def test_a_state_goes_on_as_it_was() -> None:
    words = slots([[1, 2], [2, 3], [3]])
    sums = WordSums()
    sums.add(words, [(0,), (1,), (1,)])
    restored = WordSums.restore(sums.state())
    for one in (sums, restored):
        one.add(words, [(2,), (0,), (0,)])
    assert same(sums, restored)
    assert not len(WordSums.restore({}).state()["word_counts"])  # of before words were counted


def test_scores_are_naive_bayes_smoothed_towards_all_rows() -> None:
    token_ids = [[1, 2, 3], [1, 4], [1, 2, 5, 5], [4]]
    words, labels = slots(token_ids), [0, 0, 1, 1]
    sums = WordSums()
    sums.add(words, [(label,) for label in labels])
    columns = sums.columns(np.array([2, 2, 0]))
    found = columns.scores(slots([[1, 2, 9]]), labels=LABELS)[0] - columns.offsets
    sets = [set(row[row > 0].tolist()) for row in words]
    written = [word for one in sets for word in one]
    everything = [word for word in written if written.count(word) >= LEAST_ROWS]
    sets = [one & set(everything) for one in sets]
    asked = set(slots([[1, 2, 9]])[0].tolist()) - {0}
    for label in range(LABELS):
        mine = [w for one, said in zip(sets, labels, strict=True) if said == label for w in one]
        start = {
            w: SMOOTHING * (w in everything) + PRIOR_WORDS * everything.count(w) / len(everything)
            for w in asked
        }
        total = SMOOTHING * len(set(everything)) + PRIOR_WORDS
        expected = sum(
            math.log(1 + mine.count(w) / max(start[w], SMOOTHING))
            + math.log(total / (total + len(mine)))
            for w in asked
        )
        assert found[label] == pytest.approx(expected / math.sqrt(len(asked)), abs=2e-3)
    assert found[2] == 0.0  # a label without rows says nothing


def test_what_only_one_row_has_is_in_no_release() -> None:
    sums = WordSums()
    sums.add(slots([[1, 2], [1, 3]]), [(0,), (1,)])
    shared = set(slots([[1]])[0].tolist()) - {0}
    assert set(sums.columns(np.array([1, 1])).words.tolist()) == shared
    sums.add(slots([[1, 3]]), [(1,)], sign=-1)
    assert not len(sums.columns(np.array([1, 0])).words)


def test_labels_are_on_a_par_by_how_their_rows_score_without_themselves() -> None:
    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(7), [20] * 6 + [4])  # the last has few rows
    words = slots([[1, *(10 + 20 * n + random.integers(0, 8, size=4))] for n in labels.tolist()])
    rows, counts = [(n,) for n in labels.tolist()], np.bincount(labels)
    sums = WordSums()
    sums.add(words, rows)
    columns = sums.columns(counts, young=np.ones(7, dtype=np.float32))
    own = np.zeros(7)
    for n, label in enumerate(labels.tolist()):
        without = WordSums()
        without.add(np.delete(words, n, axis=0), rows[:n] + rows[n + 1 :])
        without._all = sums._all  # what all rows have stays
        bare = replace(without.columns(counts), offsets=np.zeros(7, dtype=np.float32))
        own[label] += bare.scores(words[n : n + 1], labels=7)[0, label] / counts[label]
    said = np.asarray(sums._counts.sum(axis=1), dtype=np.float64).ravel()
    share = OWN_SHARE * (counts - 1) / (counts - 1 + HALF_OWN_ROWS)
    expected = share * (np.average(own, weights=said) - own)
    np.testing.assert_allclose(columns.offsets, expected, atol=0.01)
    assert columns.offsets[6] > max(0.0, *columns.offsets[:6])
    assert columns.offsets[:6].mean() < 0.0
    assert not columns.scores(np.zeros((1, SLOTS), dtype=np.int64), labels=7).any()


def test_scores_of_a_release_from_before_labels_were_on_a_par_are_read() -> None:
    sums = WordSums()
    sums.add(slots([[1, 2], [1, 3], [1, 3]]), [(0,), (1,), (1,)])
    columns = sums.columns(np.array([1, 2]), young=1.0)
    arrays = columns.arrays()
    del arrays["word_offsets"]
    restored = WordColumns.restore(arrays)
    asked = slots([[1, 3]])
    before = restored.scores(asked, labels=2)
    np.testing.assert_allclose(before + columns.offsets, columns.scores(asked, labels=2), rtol=1e-6)


def test_a_label_s_name_counts_as_one_row_of_it() -> None:
    names, rows = slots([[1, 2]]), [(1,)]
    sums = WordSums()
    sums.add(slots([[1, 5], [5]]), [(0,), (0,)])
    counts = np.array([2, 0])
    alone, named = sums.columns(counts), sums.columns(counts, named=(names, rows))
    asked = slots([[1, 2]])
    assert alone.scores(asked, labels=2)[0, 1] == 0.0
    assert named.scores(asked, labels=2)[0, 1] > 0.0
    assert np.array_equal(alone.scores(asked, labels=2)[:, 0], named.scores(asked, labels=2)[:, 0])


def test_rows_without_words_say_nothing() -> None:
    sums = WordSums()
    assert not sums.columns(np.zeros(2, dtype=np.int64)).scores(slots([[1]]), labels=2).any()
    sums.add(slots([[1], [1]]), [(0,), (0,)])
    dense = np.ones((2, FEATURES), dtype=np.float32)
    assert not sums.columns(np.array([2])).scores(word_slots(dense, width=FEATURES), labels=3).any()


def test_rows_that_were_learned_before_words_were_counted_can_be_taken_back() -> None:
    sums = WordSums()
    sums.add(slots([[1, 2]]), [(0,)], sign=-1)
    sums.add(slots([[1, 3], [1, 3], [1, 4]]), [(0,), (0,), (1,)])
    scores = sums.columns(np.array([1, 1])).scores(slots([[1, 3]]), labels=2)
    assert np.isfinite(scores).all()


def blind(rows: int, *, seed: int) -> tuple[Floats, list[tuple[int, ...]]]:
    """Rows whose features say nothing; a third of their words come from their label's own."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, LABELS, size=rows)
    common = random.integers(100, 160, size=(rows, 6))
    own = labels[:, None] * 20 + random.integers(0, 20, size=(rows, 3))
    x = random.standard_normal((rows, FEATURES)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    tokens = np.concatenate([own, common], axis=1).tolist()
    return joined(x, hashed_words(tokens)), [(int(label),) for label in labels]


def taught(*, words: bool = True, several: bool = False, rows: int = 300) -> AdditiveHead:
    head = AdditiveHead(
        features=FEATURES,
        solver="least-squares" if several else "class-balanced",
        width=40,
        options=HeadOptions(words=words),
    )
    for label in range(LABELS):
        head.row_of(f"label {label}")
    head.add(*blind(rows, seed=1))
    head.probe(*blind(120, seed=2))
    head.solve()
    return head


def right(head: AdditiveHead, *, width: int | None = None) -> float:
    x, labels = blind(400, seed=3)
    said = head.scores(x[:, :width]).argmax(axis=1)
    return float(np.mean(said == [row for (row,) in labels]))


@pytest.mark.parametrize("several", [False, True])
def test_a_head_listens_to_words_where_features_say_nothing(several: bool) -> None:
    assert right(taught(several=several)) > 0.8
    assert right(taught(words=False, several=several)) < 0.5
    assert right(taught(several=several), width=FEATURES) < 0.5  # the words are not there


def test_what_words_say_is_released_and_taken_up_to_the_bit() -> None:
    head, x = taught(), blind(50, seed=4)[0]
    restored = AdditiveHead(features=FEATURES, solver="class-balanced", width=40)
    restored.restore(*head.state())
    released = load_served_head(head.blobs())
    assert np.array_equal(head.scores(x), released.scores(x))
    for one in (head, restored):
        one.add(*blind(80, seed=5))
        one.solve()
    assert head.blobs() == restored.blobs()


def test_a_state_from_before_words_were_counted_goes_on_with_them() -> None:
    before = taught(words=False)
    arrays, meta = before.state()
    older = {name: a for name, a in arrays.items() if "word_" not in name}
    older["probe_features"] = older["probe_features"][:, :FEATURES]
    head = AdditiveHead(features=FEATURES, solver="class-balanced", width=40)
    head.restore(older, meta)
    x = blind(50, seed=4)[0]
    assert np.array_equal(head.scores(x), before.scores(x))
    head.add(*blind(900, seed=5))
    head.probe(*blind(200, seed=6))
    head.solve()
    assert right(head) > 0.8


def test_a_head_without_words_counts_none_and_keeps_none() -> None:
    head = taught(words=False)
    assert not len(head.state()[0]["word_counts"])
    assert not head.state()[0]["probe_features"][:, FEATURES:].any()


def test_erased_rows_leave_no_word() -> None:
    head = taught()
    x, labels = blind(4, seed=6)
    head.probe(x, labels, keys=[11, 12, 13, 14])
    head.erase([11, 12, 13, 14])
    kept = head.state()[0]["probe_features"][-4:]
    assert not kept.any()


def test_wrong_words_are_not_listened_to() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, size=400)
    scores = np.eye(3, dtype=np.float32)[truth] + random.normal(0, 0.3, (400, 3)).astype("f4")
    noise = random.normal(0, 1, (400, 3)).astype(np.float32)
    assert fit_words(scores, noise, truth, np.zeros(3)) < 0.05
    assert fit_words(scores, np.zeros_like(noise), truth, np.zeros(3)) == 0.0
    said = np.eye(3, dtype=bool)[truth]
    assert fit_words_of_several(scores, noise, said) < 0.05
    assert fit_words_of_several(scores, np.zeros_like(noise), said) == 0.0


def test_columns_of_no_label_are_none() -> None:
    assert not WordColumns.empty().scores(slots([[1, 2]]), labels=4).any()
    assert WordColumns.restore({}).arrays().keys() == WordColumns.empty().arrays().keys()


def test_an_encoder_reads_features_and_words(frozen_encoder: Encoder) -> None:
    some = ["where is my parcel?", "no"]
    rows = frozen_encoder.read(some)
    assert rows.shape == (2, frozen_encoder.row_width)
    assert np.array_equal(rows[:, : frozen_encoder.width], frozen_encoder.encode(some))
    assert np.array_equal(
        rows[:, frozen_encoder.width :], hashed_words(frozen_encoder.tokenize(some))
    )
    kept = rows_of(frozen_encoder, some, kept=NothingKept())
    assert np.array_equal(
        kept[:, : frozen_encoder.width], features_of(frozen_encoder, some, kept=NothingKept())
    )
    assert np.array_equal(kept[:, frozen_encoder.width :], rows[:, frozen_encoder.width :])


def test_a_forgotten_user_s_words_are_gone(frozen_encoder: Encoder) -> None:
    some = ["where is my parcel", "is my parcel lost", "block my card", "my card is gone"]
    labels = ["parcel", "parcel", "card", "card"]
    forgot, never = (
        Learner(encoder=frozen_encoder, held_out_share=0.0, projection_width=64) for _ in range(2)
    )
    forgot.learn(some, labels, users=["a", "b", "a", "b"])
    assert forgot.forget("b") == (2, 2)
    never.learn(some[::2], labels[::2], users=["a", "a"])
    mine, theirs = (
        strategy.additive_head.state()[0]
        for strategy in (forgot.loop.strategy, never.loop.strategy)
        if isinstance(strategy, TwoSpeed)
    )
    counted = ("word_labels", "word_buckets", "word_counts", "word_all_counts")
    kept = ("word_row_words", "word_row_lengths", "word_row_labels", "word_row_counts")
    assert len(mine["word_row_words"])
    for name in counted + kept:
        assert np.array_equal(mine[name], theirs[name])
