"""Micro-batches: a plan over lengths.

Owns the bounds (rows, tokens); must not know torch or Kafka.
"""

from __future__ import annotations

from collections.abc import Sequence


def plan(lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Group rows of similar length into batches, shortest first.

    A batch costs its rows times its longest row once it is padded: that product stays within
    `max_tokens`. A row longer than that goes alone.

    Args:
        lengths: tokens of each row, at least 0.
        max_rows: rows of a batch, at most; at least 1.
        max_tokens: padded tokens of a batch, at most; at least 1.

    Returns:
        Indices into `lengths`, each exactly once; equal lengths keep their order.

    Raises:
        ValueError: a bound is under 1.

    Examples:
        >>> plan([9, 2, 3, 30, 2], max_rows=3, max_tokens=10)
        [[1, 4, 2], [0], [3]]
    """
    if max_rows < 1 or max_tokens < 1:
        raise ValueError(f"max_rows is {max_rows} and max_tokens {max_tokens}: both at least 1")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Sorted, so this row is the longest of the batch it joins.
        fits = batches and len(batches[-1]) < max_rows
        if fits and (len(batches[-1]) + 1) * lengths[index] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
