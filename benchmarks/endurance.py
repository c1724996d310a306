"""One strategy on a stream that does not end: what a micro-batch costs, early and late.

Owns the stream, the bounds that are full early, and what is measured; must not know processes or
tables. A micro-batch is what the learn role does with one: score, learn, offer its rows to memory;
every so often the strategy settles, as before a candidate for a release, and that belongs to the
cost of its micro-batch.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec
import torch

from benchmarks.bars import Show
from benchmarks.data import Row, read
from benchmarks.measures import memory_mb
from benchmarks.scenarios import BANKING
from benchmarks.small import small_encoder
from learners.ledger import Ledger
from learners.library import Learner
from learners.localmemory import LocalMemory

LEDGER_ROWS = 1_024
HELD_OUT_ROWS = 64
SETTLE_EVERY = 250  # micro-batches
PARTS = 10

MAX_RATIO = 1.1  # of the last micro-batches' time to the first
MAX_GROWTH = 0.05  # of main memory

# One of Avalanche's own for `plugin`: it keeps two numbers a weight, taken anew at consolidations.
PLUGIN: dict[str, Any] = {
    "plugin": "avalanche.training.plugins:EWCPlugin",
    "plugin_arguments": {"ewc_lambda": 1.0, "mode": "online", "decay_factor": 0.9},
}


@dataclass(frozen=True, slots=True)
class Course:
    """How far a strategy runs.

    Attributes:
        data: folder of the data sets.
        micro_batches: in all.
        rows: of a micro-batch, and as many replayed beside them.
        memory: rows that memory and a strategy's own store keep.
        seed: of the order of texts and of the learner.
    """

    data: Path
    micro_batches: int = 10_000
    rows: int = 4
    memory: int = 300
    seed: int = 0

    @property
    def warm_up(self) -> int:
        """Micro-batches that are not counted.

        Every label has come then, memory is full, and what holds weights in place has begun to, at
        the first consolidation point, after 1,000 examples.
        """
        return min(300, self.micro_batches // 6)

    @property
    def window(self) -> int:
        """Micro-batches at either end that are compared."""
        return min(500, self.micro_batches // 4)


class Endurance(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave. Times are processor time, milliseconds a micro-batch.

    Attributes:
        strategy: its name.
        micro_batches: in all, those of the warm-up included.
        first_ms: median of the first window after the warm-up.
        again_ms: median of the same window of a second learner, which takes turns with the first
            one in its last window, so that the machine is the same for both.
        last_ms: median of the last window.
        last_over_again: of these medians.
        again_mean_ms: mean of that window: solves, consolidations and settling included.
        last_mean_ms: mean of the last window.
        last_over_again_mean: of these means.
        parts_ms: medians of ten equal parts after the warm-up.
        rss_first_mb: main memory after the first window, MB.
        rss_last_mb: main memory before the last window, when the second learner is made, MB.
        rss_growth: share by which it grew.
    """

    strategy: str
    micro_batches: int
    first_ms: float
    again_ms: float
    last_ms: float
    last_over_again: float
    again_mean_ms: float
    last_mean_ms: float
    last_over_again_mean: float
    parts_ms: list[float]
    rss_first_mb: float
    rss_last_mb: float
    rss_growth: float

    @property
    def is_flat(self) -> bool:
        """Whether it holds what is promised: no slower, and no larger."""
        slower = max(self.last_over_again, self.last_over_again_mean)
        return slower <= MAX_RATIO and self.rss_growth < MAX_GROWTH


def labels_first(rows: Sequence[Row], *, seed: int) -> list[Row]:
    """Mix training rows, one of every label before all others.

    Example:
        >>> rows = [Row(str(n), "ab"[n % 2], "", "train") for n in range(9)]
        >>> [row.label for row in labels_first(rows, seed=0)[:2]]
        ['a', 'b']
    """
    train = [row for row in rows if row.split == "train"]
    random.Random(seed).shuffle(train)
    firsts = {row.label: row for row in reversed(train)}
    chosen = {id(row) for row in firsts.values()}
    return [*(firsts[name] for name in sorted(firsts)), *(r for r in train if id(r) not in chosen)]


def endless(course: Course) -> Iterator[list[Row]]:
    """Cut Banking77 into micro-batches, again and again.

    Yields:
        Rows of one micro-batch.
    """
    rows = cycle(labels_first(read(course.data, *BANKING), seed=course.seed))
    while True:
        yield [next(rows) for _ in range(course.rows)]


def endure(strategy: str, course: Course, *, progress: Show) -> Endurance:
    """Run a strategy, in this process, whose memory is then what is measured.

    Args:
        strategy: a name of `learners.strategies.STRATEGIES`.
        course: how far.
        progress: called with micro-batches done and in all.

    Returns:
        What was measured.
    """
    torch.set_num_threads(1)  # a second one only waits for the first in so small a model
    total, window = course.micro_batches, course.window
    old = Runner(strategy, course)
    spent: list[float] = []
    rss_first = 0.0
    for number in range(total - window):
        spent.append(old.micro_batch())
        if number + 1 == course.warm_up + window:
            rss_first = memory_mb()
        if number % 20 == 0:
            progress(number + 1, total)
    rss_last = memory_mb()
    young = Runner(strategy, course)
    for _ in range(course.warm_up):
        young.micro_batch()
    again: list[float] = []
    for number in range(total - window, total):
        again.append(young.micro_batch())
        spent.append(old.micro_batch())
        progress(number + 1, total)
    counted = spent[course.warm_up :]
    last = counted[-window:]
    ends = [n * len(counted) // PARTS for n in range(PARTS + 1)]
    parts = [counted[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return Endurance(
        strategy=strategy,
        micro_batches=total,
        first_ms=median(counted[:window]),
        again_ms=median(again),
        last_ms=median(last),
        last_over_again=median(last) / median(again),
        again_mean_ms=fmean(again),
        last_mean_ms=fmean(last),
        last_over_again_mean=fmean(last) / fmean(again),
        parts_ms=[median(part) for part in parts if part],
        rss_first_mb=rss_first,
        rss_last_mb=rss_last,
        rss_growth=rss_last / rss_first - 1,
    )


def bounded_learner(strategy: str, course: Course) -> Learner:
    """Build a learner whose every bound is reached early; how it learns is the default.

    With a bound that is reached late, what fills it up would look like growth without end.
    """
    learner = Learner(
        strategy,
        encoder=small_encoder(),
        memory=LocalMemory(max_rows=course.memory, held_out_rows=HELD_OUT_ROWS),
        seed=course.seed,
        replay_rows=course.rows,
        stored_rows=course.memory,
        stored_logits=77 * course.memory,
        **(PLUGIN if strategy == "plugin" else {}),
    )
    learner.loop.ledger = Ledger(rows=LEDGER_ROWS)
    return learner


class Runner:
    """A learner on its way through the stream, from the start.

    Args:
        strategy: its name.
        course: how far the run goes.
    """

    def __init__(self, strategy: str, course: Course) -> None:
        self._learner = bounded_learner(strategy, course)
        self._stream = endless(course)
        self._done = 0

    def micro_batch(self) -> float:
        """Learn the next one; answer its processor time in milliseconds."""
        rows = next(self._stream)
        texts, labels = [row.text for row in rows], [row.label for row in rows]
        self._done += 1
        started = time.process_time()  # other programs on the machine do not count
        self._learner.learn(texts, labels)
        if self._done % SETTLE_EVERY == 0:
            self._learner.loop.strategy.settle()
        return 1e3 * (time.process_time() - started)
