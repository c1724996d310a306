"""Which engine computes: those that are near enough to torch in fp32, timed in turns.

Owns the timing and the rule; must not know how an engine is made or what it computes with.

A busy machine must not decide. So processors are timed by the time that they spent, not by the
clock on the wall; engines take turns; and of each only its best turn counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

from learners.engines.base import REFERENCE, Engine, Pair, features

MIN_GAIN = 1.1  # an engine must be this much faster than a more exact one: a tie is not worth it
TURNS = 5


def time_engines(
    engines: Sequence[Engine],
    token_ids: Sequence[Sequence[int]],
    *,
    width: int,
    device: torch.device,
) -> dict[Pair, float]:
    """Time engines on the same texts, in turns.

    Args:
        engines: each computes all texts in every turn.
        token_ids: of the texts.
        width: of a feature row.
        device: that they compute on.

    Returns:
        Texts a second of each, by its best turn: of one processor thread, or of the device.
    """
    clock = clock_of(device)
    spent_s = {engine.pair: float("inf") for engine in engines}
    for engine in engines:
        features(engine, token_ids, width=width)  # the first pass pays for memory and kernels
    for _ in range(TURNS):
        for engine in engines:
            started = clock()
            features(engine, token_ids, width=width)
            spent_s[engine.pair] = min(spent_s[engine.pair], clock() - started)
    return {pair: len(token_ids) / max(spent, 1e-9) for pair, spent in spent_s.items()}


def clock_of(device: torch.device) -> Callable[[], float]:
    """Give the clock that other work disturbs least, seconds.

    On a processor it is the time of the calling thread, where engines have no other; with several,
    that of the process, by thread. Elsewhere it is the clock on the wall.
    """
    if device.type != "cpu":
        return time.perf_counter
    threads = torch.get_num_threads()
    if threads == 1:
        return time.thread_time
    return lambda: time.process_time() / threads


def fastest(texts_per_s: Mapping[Pair, float]) -> Pair:
    """Choose the fastest, where it is faster by enough.

    Args:
        texts_per_s: of those that may serve, most exact first.

    Returns:
        One of them; torch in fp32 where there are none.

    Example:
        >>> fastest({("torch", "fp32"): 100.0, ("torch", "bf16"): 105.0})
        ('torch', 'fp32')
        >>> fastest({("torch", "fp32"): 100.0, ("torch", "bf16"): 120.0})
        ('torch', 'bf16')
    """
    best: Pair | None = None
    for pair, speed in texts_per_s.items():
        if best is None or speed >= MIN_GAIN * texts_per_s[best]:
            best = pair
    return best or REFERENCE
