"""What a head reads of a text: an encoder's features, and behind them the words, hashed.

Owns how words are hashed and where they stand in a row; must not know encoders or heads. A word is
a token, or a pair of neighbouring ones, special tokens included: `[CLS]` beside a token says that a
text begins with it. Each is hashed to one of 2^18 buckets (feature hashing: Weinberger et al., ICML
2009), and a text is the set of them. So words travel, wait and are erased with the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

BITS = 18
BUCKETS = 1 << BITS  # of which the first stands for no word
SLOTS = 256  # words of a text, at most
MAX_TOKENS = SLOTS // 2  # what follows them brings no further words

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, near 2^64 over the golden ratio (Knuth, 6.4)
_LEFT, _RIGHT, _PAIR = (
    np.uint64(0xD6E8FEB86659FD93),
    np.uint64(0xA0761D6478BD642F),
    np.uint64(0x8EBC6AF09C88C6E3),
)


def hashed_words(token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Hash the words of texts.

    Args:
        token_ids: of each text, special tokens included; what follows the first 128 is left out.

    Returns:
        float32 [rows, SLOTS], whole numbers from 1 to 2^18 - 1, rising, and zeros after the last.

    Example:
        >>> row, same_words = hashed_words([[5, 7, 7], [5, 7, 7, 7]])
        >>> int((row > 0).sum()), bool((row == same_words).all())
        (4, True)
    """
    rows = len(token_ids)
    slots = np.zeros((rows, SLOTS), dtype=np.float32)
    cut = [row[:MAX_TOKENS] for row in token_ids]
    lengths = np.fromiter(map(len, cut), dtype=np.int64, count=rows)
    tokens = np.fromiter(chain.from_iterable(cut), dtype=np.uint64, count=int(lengths.sum()))
    owner = np.repeat(np.arange(rows), lengths)
    beside = owner[1:] == owner[:-1]
    pairs = (tokens[:-1] * _LEFT + tokens[1:] * _RIGHT + _PAIR)[beside]
    words = np.concatenate([_bucket(tokens), _bucket(pairs)])
    owners = np.concatenate([owner, owner[1:][beside]])
    found = np.unique((owners << BITS) + words)  # by row, and each word of a row once
    owners, words = found >> BITS, found & (BUCKETS - 1)
    owners, words = owners[words > 0], words[words > 0]
    first = np.searchsorted(owners, np.arange(rows))
    slots[owners, np.arange(len(owners)) - first[owners]] = words
    return slots


def joined(features: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put words behind features: float32 [rows, width + SLOTS]."""
    return np.concatenate([features, words], axis=1)


def word_slots(rows: NDArray[np.float32], *, width: int) -> NDArray[np.int64]:
    """Take the words of rows: int64 [rows, SLOTS]; zeros for rows that are features alone.

    Args:
        rows: float32 [rows, width or width + SLOTS].
        width: of the features.
    """
    if rows.shape[1] <= width:
        return np.zeros((len(rows), SLOTS), dtype=np.int64)
    return rows[:, width:].astype(np.int64)


def _bucket(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Hash by multiplication, the upper half folded in first: pairs differ in all of their bits."""
    mixed = (values ^ (values >> np.uint64(29))) * _MIX
    return (mixed >> np.uint64(64 - BITS)).astype(np.int64)
