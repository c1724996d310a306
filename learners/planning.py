"""Micro-batches: a plan over lengths.

Owns the bounds (rows, tokens) and what a batch costs; must not know models or queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from math import inf

# What a batch costs beside its tokens, in tokens: measured at one thread, fp32, MiniLM.
BATCH_TOKENS = 24


def plan(
    lengths: Sequence[int], max_rows: int, max_tokens: int, *, batch_tokens: int = BATCH_TOKENS
) -> list[list[int]]:
    """Group rows of similar length into batches, shortest first, so that they cost least in all.

    A batch costs its rows times its longest row, once it is padded, and `batch_tokens` more. Rows
    of the same length are parted only where a batch would be too large. A row longer than
    `max_tokens` goes alone.

    Args:
        lengths: tokens of each row, at least 0.
        max_rows: rows of a batch, at most; at least 1.
        max_tokens: padded tokens of a batch, at most; at least 1.
        batch_tokens: what a batch costs beside its tokens, in tokens.

    Returns:
        Indices into `lengths`, each exactly once; equal lengths keep their order.

    Raises:
        ValueError: a bound is under 1.

    Examples:
        >>> plan([90, 2, 3, 30, 2], max_rows=3, max_tokens=100)
        [[1, 4, 2], [3], [0]]
    """
    if max_rows < 1 or max_tokens < 1:
        raise ValueError(f"max_rows is {max_rows} and max_tokens {max_tokens}: both at least 1")
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    runs = [(length, len(list(rows))) for length, rows in groupby(lengths[row] for row in order)]
    # least[n]: what the first n runs cost at least; cut[n]: where their last stretch begins.
    least, cut = [0.0], [0]
    for end in range(1, len(runs) + 1):
        length = runs[end - 1][0]
        fits = max(1, min(max_rows, max_tokens // max(1, length)))
        rows, best, start = 0, inf, end
        for first in range(end - 1, -1, -1):
            rows += runs[first][1]
            cost = least[first] + rows * length + batch_tokens * -(-rows // fits)
            if cost < best:
                best, start = cost, first
        least.append(best)
        cut.append(start)
    batches: list[list[int]] = []
    end, stop = len(runs), len(order)
    while end:
        first = cut[end]
        start = stop - sum(count for _, count in runs[first:end])
        fits = max(1, min(max_rows, max_tokens // max(1, runs[end - 1][0])))
        pieces = -(-(stop - start) // fits)
        edges = [start + (stop - start) * piece // pieces for piece in range(pieces + 1)]
        batches += [order[one:other] for one, other in pairwise(edges)][::-1]
        end, stop = first, start
    return batches[::-1]
