"""Arithmetic: what a machine can do at most, and what an encoder's passes need.

Owns the rate of matrix products and the count of floating-point operations; must not know engines,
learners or data sets.

Only products of matrices are counted, a multiplication and an addition as two operations, as Kaplan
et al., "Scaling Laws for Neural Language Models" (2020) and Chowdhery et al., "PaLM" (2022),
appendix B, do: norms, activations and softmax are a hundredth of them. Padding is not counted: it
is no work that anybody asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from learners.pooling import EncoderModule

TRAINING = 3  # passes forward that a step costs: one forward, and two as large back
PIECE_S = 0.1  # of a matrix product repeated: less says nothing by any clock
TURNS = 3

Key = TypeVar("Key", bound=Hashable)


def forward_flops(module: EncoderModule, lengths: Sequence[int]) -> int:
    """Count the operations of one pass over texts.

    Args:
        module: without virtual tokens: of these nothing is counted.
        lengths: tokens of each text, special ones included.

    Returns:
        Operations: 2 a token for each weight of a linear layer; of attention, 4 a pair of tokens
        for each number of a hidden state, in every layer; of pooling, 2 a token for each of these
        in every layer that is pooled.
    """
    backbone: Any = module.backbone
    hidden, deep = int(backbone.config.hidden_size), int(backbone.config.num_hidden_layers)
    linear = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, nn.Linear))
    each = 2 * linear + 2 * hidden * module.pooling.vectors
    return sum(each * n + 4 * hidden * deep * n * n for n in lengths)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Give the clock for a device, seconds.

    For a processor it is the time of the whole process, by torch thread: other work on the machine
    disturbs it least. For anything else it is the clock on the wall.
    """
    if device.type != "cpu":
        return time.perf_counter
    threads = torch.get_num_threads()
    return lambda: time.process_time() / threads


def wait_for(device: torch.device) -> None:
    """Return when a device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def best_s(
    works: Mapping[Key, Callable[[], object]], *, clock: Callable[[], float], turns: int = TURNS
) -> dict[Key, float]:
    """Time works in turns; the first turn, which pays for memory and kernels, is not counted.

    Args:
        works: each ends only when the device is done with it.
        clock: seconds.
        turns: that are counted.

    Returns:
        Seconds of each by its best turn.

    Example:
        >>> best_s({"nothing": list}, clock=iter(range(9)).__next__, turns=2)
        {'nothing': 1}
    """
    spent = dict.fromkeys(works, math.inf)
    for work in works.values():
        work()
    for _ in range(turns):
        for key, work in works.items():
            started = clock()
            work()
            spent[key] = min(spent[key], clock() - started)
    return spent


def matrix_rates(
    device: torch.device, dtypes: Mapping[str, torch.dtype], *, sizes: Sequence[int]
) -> dict[str, float]:
    """Measure square matrix products.

    Args:
        device: that computes them.
        dtypes: by the name of each.
        sizes: rows of the matrices.

    Returns:
        TFLOP/s by name, of the size that is fastest; on a processor also of the library that is:
        torch calls one for its products in fp32 and has another, which may be twice as fast.
    """
    clock, rates = clock_of(device), dict.fromkeys(dtypes, 0.0)
    ways = [(name, False) for name in dtypes]
    has_other = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # no types
    if device.type == "cpu" and has_other:
        ways += [(name, True) for name in dtypes if dtypes[name] == torch.float32]
    for size in sizes:
        once = {
            (name, other): _product(device, dtypes[name], size, other=other) for name, other in ways
        }
        single = {way: _repeated(product, 1, device) for way, product in once.items()}
        counts = {
            way: max(1, math.ceil(PIECE_S / max(spent, 1e-6)))
            for way, spent in best_s(single, clock=clock, turns=1).items()
        }
        works = {way: _repeated(product, counts[way], device) for way, product in once.items()}
        for way, spent in best_s(works, clock=clock).items():
            rates[way[0]] = max(rates[way[0]], 2e-12 * size**3 * counts[way] / spent)
    return rates


def _product(
    device: torch.device, dtype: torch.dtype, size: int, *, other: bool
) -> Callable[[], object]:
    """Give what starts one product, by the library that torch calls for it or by the other."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    if other:
        return partial(nn.functional.linear, left.to_mkldnn(), right.to_mkldnn())
    return partial(torch.mm, left, right, out=torch.empty_like(left))


def _repeated(
    product: Callable[[], object], count: int, device: torch.device
) -> Callable[[], None]:
    """Give what computes a product so many times, and waits for the last."""

    def work() -> None:
        for _ in range(count):
            product()
        wait_for(device)

    return work
