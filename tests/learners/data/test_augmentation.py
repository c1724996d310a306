from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.data.augmentation import (
    EDITS,
    KEEP,
    AugmentationConfig,
    Augmenter,
    Edit,
)
from learners.data.neighbours import EmbeddingNeighbours, NeighbourConfig, whole_words
from learners.model import Encoder


class Pairs:
    """A tiny book of synonyms."""

    book = {"card": ("debit", "plastic"), "lost": ("gone",), "money": ("cash",)}

    def of(self, word: str) -> Sequence[str]:
        return self.book.get(word, ())


class Polite:
    """A paraphraser without a model."""

    def paraphrase(self, text: str, *, random: Random) -> Sequence[str]:
        return [f"{random.choice(['please', 'kindly'])} {text}", text]


PIECES = ["Card,", "LOST", "my", "not", "money", "where?", "\u2026", "app"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map(" ".join)
seeds = st.integers(0, 2**32)
configs = st.builds(
    AugmentationConfig,
    wordings=st.integers(0, 6),
    share=st.floats(0, 1),
    edits=st.lists(st.sampled_from(EDITS), min_size=1, max_size=4).map(tuple),
)


def edited(text: str, edit: Edit, seed: int, share: float = 0.3) -> list[str] | None:
    augmenter = Augmenter(
        AugmentationConfig(wordings=1, share=share, edits=(edit,)), synonyms=Pairs()
    )
    wordings = augmenter.wordings(text, random=Random(seed))
    return wordings[0].split() if wordings else None


@given(texts, configs, seeds)
def test_the_same_draws_give_the_same_wordings_and_none_is_the_text(
    text: str, config: AugmentationConfig, seed: int
) -> None:
    augmenter = Augmenter(config, synonyms=Pairs(), paraphrasers=[Polite()])
    wordings = augmenter.wordings(text, random=Random(seed))
    assert wordings == augmenter.wordings(text, random=Random(seed))
    assert text not in wordings
    assert len(wordings) == len(set(wordings)) <= config.wordings + 1
    assert all(wording.strip() for wording in wordings)


@given(texts)
def test_by_default_there_are_none(text: str) -> None:
    assert Augmenter(AugmentationConfig()).wordings(text, random=Random(0)) == []


@given(texts, seeds, st.floats(0, 1))
def test_a_swap_keeps_every_word(text: str, seed: int, share: float) -> None:
    words = edited(text, "swap", seed, share)
    assert words is None or Counter(words) == Counter(text.split())


@given(texts, seeds, st.floats(0, 1))
def test_deletion_leaves_kept_words_the_order_and_at_least_one_word(
    text: str, seed: int, share: float
) -> None:
    words = edited(text, "delete", seed, share)
    if words is None:
        return
    rest = iter(text.split())
    assert words
    assert all(word in rest for word in words)  # a subsequence
    gone = Counter(text.split()) - Counter(words)
    assert not {word.lower() for word in gone} & KEEP
    assert gone.total() <= max(1, int(share * len(text.split())))


@given(texts, seeds, st.floats(0, 1))
def test_replacement_changes_known_words_alone_and_keeps_case_and_punctuation(
    text: str, seed: int, share: float
) -> None:
    words = edited(text, "replace", seed, share)
    for before, after in zip(text.split(), words or text.split(), strict=True):
        if before != after:
            assert after in {
                "Card,": ["Debit,", "Plastic,"],
                "LOST": ["GONE"],
                "money": ["cash"],
            }.get(before, [])


@given(texts, seeds, st.floats(0, 1))
def test_insertion_adds_synonyms_of_the_texts_words(text: str, seed: int, share: float) -> None:
    words = edited(text, "insert", seed, share)
    if words is not None:
        added = Counter(words) - Counter(text.split())
        assert not Counter(text.split()) - Counter(words)
        assert set(added) <= {"debit", "plastic", "gone", "cash"}


def test_words_to_keep_are_neither_replaced_nor_deleted() -> None:
    config = AugmentationConfig(
        wordings=4, share=1.0, edits=("replace", "delete"), keep=frozenset({"card", "don't"})
    )
    augmenter = Augmenter(config, synonyms=Pairs())
    for seed in range(20):
        for wording in augmenter.wordings("Card don\u2019t lost", random=Random(seed)):
            assert wording.startswith("Card don\u2019t")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AugmentationConfig(wordings=-1), "wordings is -1"),
        (AugmentationConfig(share=1.5), "share is 1.5"),
        (AugmentationConfig(edits=()), r"edits are \(\)"),
    ],
)
def test_numbers_out_of_range_are_refused(config: AugmentationConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmenter(config)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(max_tokens=32, device="cpu", precision="fp32")


def test_whole_words_are_single_tokens_of_letters(encoder: Encoder) -> None:
    words = whole_words(encoder)
    assert len(words) > 20_000
    assert {"card", "money"} <= set(words)
    assert not {"refund", "##s", "s", "[CLS]", "2019"} & set(words)
    some = dict(list(words.items())[::500])
    assert [ids[1:-1] for ids in encoder.tokenize(list(some))] == [[id_] for id_ in some.values()]


@pytest.mark.parametrize(
    ("word", "neighbour"),
    [("card", "cards"), ("terrible", "awful"), ("money", "cash"), ("lost", "lose")],
)
def test_neighbours_are_of_like_meaning(encoder: Encoder, word: str, neighbour: str) -> None:
    found = EmbeddingNeighbours(encoder, NeighbourConfig()).of(word)
    assert neighbour in found
    assert word not in found
    assert len(found) <= 5


def test_a_word_in_pieces_has_no_neighbours_and_a_higher_bar_leaves_fewer(encoder: Encoder) -> None:
    assert EmbeddingNeighbours(encoder, NeighbourConfig()).of("zzxqy") == ()
    strict = EmbeddingNeighbours(encoder, NeighbourConfig(most=50, least_similarity=0.7))
    assert set(strict.of("terrible")) < set(
        EmbeddingNeighbours(encoder, NeighbourConfig(most=50)).of("terrible")
    )
    with pytest.raises(ValueError, match="most is 0"):
        EmbeddingNeighbours(encoder, NeighbourConfig(most=0))


def test_neighbours_reword_a_text_and_keep_its_meaning(encoder: Encoder) -> None:
    augmenter = Augmenter(
        AugmentationConfig(wordings=8, edits=("replace", "insert")),
        synonyms=EmbeddingNeighbours(encoder, NeighbourConfig()),
    )
    text, other = "I lost my money in the terrible hotel", "the weather in spring is mild"
    wordings = augmenter.wordings(text, random=Random(3))
    assert len(wordings) >= 4
    features = encoder.encode([text, other, *wordings])
    assert min(features[2:] @ features[0]) > features[1] @ features[0] + 0.2
