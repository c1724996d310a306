"""Words of like meaning without a dictionary: neighbours in an encoder's word embeddings.

Owns the table of whole words and the search in it; must not know texts, labels or edits. It is the
`Synonyms` of `learners.data.augmentation` where nothing else is at hand.

Replacement by nearest neighbours in an embedding: Wang & Yang, "That's So Annoying!!!", EMNLP 2015,
with word2vec; ours takes the input embeddings that the encoder brings. Neighbours share a field
and often a stem (lost: losing, lose; terrible: horrible, awful), but some are opposites or another
member of a set (increase: decrease; yesterday: today): raise `least_similarity` where labels turn
on such words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from learners.model import Encoder

_MARKS = "\u2581\u0120"  # how SentencePiece and byte-level tokenizers write the space before a word
_CACHED_WORDS = 4_096


@dataclass(frozen=True, slots=True)
class NeighbourConfig:
    """Which neighbours may stand for a word.

    Attributes:
        most: neighbours a word, at most.
        least_similarity: cosine of the embeddings, -1 to 1.
    """

    most: int = 5
    least_similarity: float = 0.5


class EmbeddingNeighbours:
    """Neighbours of the words that are one token of an encoder.

    The embeddings are copied (about 30 MB for all-MiniLM-L6-v2): an encoder that goes on learning
    does not change the answers.

    Args:
        encoder: whose embeddings; its tokenizer says which words are whole tokens.
        config: which neighbours may stand for a word.

    Raises:
        ValueError: `most` is not positive.
    """

    def __init__(self, encoder: Encoder, config: NeighbourConfig) -> None:
        if config.most < 1:
            raise ValueError(f"most is {config.most}: it must be positive")
        self.config = config
        tokens = whole_words(encoder)
        self._words = list(tokens)
        self._places = {word: place for place, word in enumerate(self._words)}
        table = encoder.word_embeddings.detach().cpu().float().numpy()
        rows: NDArray[np.float32] = table[list(tokens.values())]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        self._units: NDArray[np.float32] = rows / np.maximum(lengths, 1e-9)  # [words, hidden]
        self._cached = lru_cache(_CACHED_WORDS)(self._search)

    def of(self, word: str) -> Sequence[str]:
        """List the nearest words, nearest first; none for a word that is no whole token."""
        return self._cached(word)

    def _search(self, word: str) -> tuple[str, ...]:
        place = self._places.get(word)
        if place is None:
            return ()
        cosines = self._units @ self._units[place]  # [words]
        cosines[place] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[: self.config.most]
        return tuple(
            self._words[other]
            for other in nearest
            if cosines[other] >= self.config.least_similarity
        )


def whole_words(encoder: Encoder) -> dict[str, int]:
    """List the lower-case words that the encoder reads as one token, with the token's id.

    Words are letters only, two or more of them unless a letter is a word by itself in its script.
    """
    empty = encoder.tokenize([""])[0]  # the special tokens around every text
    candidates = sorted({token.lstrip(_MARKS).lower() for token in encoder.vocabulary()})
    words = [word for word in candidates if word.isalpha() and (len(word) > 1 or word > "\u2e80")]
    before = _shared_start(encoder, empty)
    return {
        word: ids[before]
        for word, ids in zip(words, encoder.tokenize(words), strict=True)
        if len(ids) == len(empty) + 1
    }


def _shared_start(encoder: Encoder, empty: list[int]) -> int:
    """Count the special tokens before a text's own."""
    ids = encoder.tokenize(["a"])[0]
    return next((at for at, token in enumerate(empty) if ids[at] != token), len(empty))
