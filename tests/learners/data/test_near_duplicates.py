from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.data.near_duplicates import NearDuplicateConfig, NearDuplicates, Repeat

SMALL = NearDuplicateConfig(similarity=0.7, max_rows=4, permutations=32, shingle_chars=3)
WORDS = ("card", "refund", "where", "late", "flight", "app")
texts = st.text(max_size=12) | st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
checks = st.lists(st.tuples(st.integers(0, 8).map(str), texts), max_size=25)


def shingles(text: str, size: int) -> set[str]:
    return {text[at : at + size] for at in range(max(1, len(text) - size + 1))}


def made_texts(rows: int) -> list[str]:
    draws = random.Random(3)
    words = ["".join(draws.choices("abcdefghijklmnop", k=6)) for _ in range(2_000)]
    return [" ".join(draws.choices(words, k=15)) for _ in range(rows)]


def test_the_estimate_is_near_the_jaccard_similarity_of_the_shingles() -> None:
    near = NearDuplicates(NearDuplicateConfig(similarity=0.3, permutations=512))
    texts = made_texts(30)
    for row, text in enumerate(texts):
        assert near.check(str(row), text) is None
    for row, text in enumerate(texts):
        changed = text[: len(text) - 2 * row] + " " + "z" * row
        repeat = near.check(f"copy {row}", changed)
        first, second = shingles(text, 5), shingles(changed, 5)
        truth = len(first & second) / len(first | second)
        if truth > 0.45:
            assert repeat is not None
        if repeat is not None:
            assert repeat.id == str(row)
            assert repeat.similarity == pytest.approx(truth, abs=0.1)


def test_a_text_with_one_sign_more_is_found_among_thousands() -> None:
    near = NearDuplicates(NearDuplicateConfig())
    texts = made_texts(2_000)
    assert all(near.check(str(row), text) is None for row, text in enumerate(texts))
    repeats = [near.check(f"again {row}", text + "!") for row, text in enumerate(texts)]
    assert [repeat and repeat.id for repeat in repeats] == [str(row) for row in range(2_000)]
    assert len(near) == 2_000


@given(checks)
def test_memory_is_bounded_and_holds_what_is_new_or_repeated(
    rows: list[tuple[str, str]],
) -> None:
    near = NearDuplicates(SMALL)
    for id_, text in rows:
        repeat = near.check(id_, text)
        assert len(near) <= SMALL.max_rows
        assert (id_ in near) == (repeat is None)
        if repeat is not None:
            assert repeat.id in near
            assert repeat.id != id_
            assert SMALL.similarity <= repeat.similarity <= 1


@given(checks, st.text(max_size=20))
def test_the_same_text_is_a_certain_repeat_and_the_same_message_no_other_than_before(
    rows: list[tuple[str, str]], text: str
) -> None:
    near = NearDuplicates(SMALL)
    for id_, earlier in rows:
        near.check(id_, earlier)
    first = near.check("new", text)
    assert near.check("new", text) == first
    assert near.check("copy", f"  {text}\n") == (first or Repeat("new", 1.0))


@settings(max_examples=50)
@given(checks, checks)
def test_a_restored_memory_answers_as_the_one_it_was_taken_from(
    before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    near, copy = NearDuplicates(SMALL), NearDuplicates(SMALL)
    for id_, text in before:
        near.check(id_, text)
    copy.restore(*near.state())
    assert [near.check(*row) for row in after] == [copy.check(*row) for row in after]
    assert_same_state(near, copy)


def assert_same_state(first: NearDuplicates, second: NearDuplicates) -> None:
    (arrays, meta), (other_arrays, other_meta) = first.state(), second.state()
    assert arrays["hashes"].equal(other_arrays["hashes"])
    assert meta == other_meta


def test_what_was_seen_longest_ago_goes_first_and_a_repeat_counts_as_seen() -> None:
    near = NearDuplicates(SMALL)
    for id_, text in zip("abcd", made_texts(4), strict=True):
        near.check(id_, text)
    near.check("copy", made_texts(1)[0])
    near.check("e", "quite another text")
    assert [id_ for id_ in "abcde" if id_ in near] == ["a", "c", "d", "e"]


def test_the_index_forgets_with_the_memory() -> None:
    near = NearDuplicates(SMALL)
    for row, text in enumerate(made_texts(300)):
        near.check(str(row), text)
    index: Any = near._index
    assert len(index.keys) == len(near) == SMALL.max_rows
    assert all(len(table) <= SMALL.max_rows for table in index.hashtables)


def test_a_smaller_memory_takes_up_the_newest_of_a_state() -> None:
    near = NearDuplicates(SMALL)
    for id_, text in zip("abcd", made_texts(4), strict=True):
        near.check(id_, text)
    smaller = NearDuplicates(
        NearDuplicateConfig(similarity=0.7, max_rows=2, permutations=32, shingle_chars=3)
    )
    smaller.restore(*near.state())
    assert [id_ for id_ in "abcd" if id_ in smaller] == ["c", "d"]


def test_signatures_of_other_settings_are_refused() -> None:
    near = NearDuplicates(SMALL)
    with pytest.raises(ValueError, match=r"\[128, 5, 1\], and the state's are \[32, 3, 1\]"):
        NearDuplicates(NearDuplicateConfig()).restore(*near.state())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NearDuplicateConfig(similarity=0.0), "similarity is 0.0"),
        (NearDuplicateConfig(similarity=1.1), "similarity is 1.1"),
        (NearDuplicateConfig(max_rows=0), "max_rows is 0"),
        (NearDuplicateConfig(shingle_chars=0), "shingle_chars is 0"),
        (NearDuplicateConfig(permutations=8), "permutations is 8"),
    ],
)
def test_numbers_out_of_range_are_refused(config: NearDuplicateConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NearDuplicates(config)
