"""Token ids to tensors: the one place where examples become a batch, with its shape and dtype.

Owns padding and the mask; must not know the model, labels or replay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

IDS, MASK = 0, 1  # the second axis of a batch


def collate(token_ids: Sequence[Sequence[int]]) -> Tensor:
    """Pad texts to one length; ids and mask share a tensor, so that a batch moves in one piece.

    Padding uses id 0: every consumer masks it, so its value never matters. A text without tokens
    keeps its first (padding) place unmasked, so that a mean over its tokens stays finite.

    Args:
        token_ids: one sequence of token ids a text, any lengths, empty ones included.

    Returns:
        int64 [rows, 2, tokens]: `[:, 0]` ids, `[:, 1]` mask (1 for a token, 0 for padding); tokens
        is the longest text's length, at least 1.

    Examples:
        >>> collate([[101, 7, 102], [101, 102]]).tolist()
        [[[101, 7, 102], [1, 1, 1]], [[101, 102, 0], [1, 1, 0]]]
        >>> collate([[]]).tolist(), tuple(collate([]).shape)
        ([[[0], [1]]], (0, 2, 1))
    """
    tokens = max((len(ids) for ids in token_ids), default=1) or 1
    batch = np.zeros((len(token_ids), 2, tokens), dtype=np.int64)  # filled ten times as fast
    for row, ids in enumerate(token_ids):
        batch[row, IDS, : len(ids)] = ids
        batch[row, MASK, : max(len(ids), 1)] = 1
    return torch.from_numpy(batch)


def pad(target: Tensor, packed: Tensor) -> None:
    """Write a batch into a larger one; rows beyond it keep one place unmasked, as empty texts do.

    Args:
        target: int64 [more rows, 2, more tokens], overwritten.
        packed: int64 [rows, 2, tokens].
    """
    rows, _, tokens = packed.shape
    target.zero_()
    target[rows:, MASK, 0] = 1
    target[:rows, IDS, :tokens].copy_(packed[:, IDS])
    target[:rows, MASK, :tokens].copy_(packed[:, MASK])
