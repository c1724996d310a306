"""Avalanche's own replay on the same stream, as its users write it: one experience a micro-batch.

Owns the datasets and the strategy, all from Avalanche's public names, and what its micro-batches
cost; must not know the strategies of learners. Model, texts, rows and memory are those of
`endurance`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import msgspec
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset, ConstantSequence, DataAttribute
from avalanche.logging import BaseLogger
from avalanche.training import Replay
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.bars import Show
from benchmarks.data import Row, labels_of, read
from benchmarks.endurance import Course, endless
from benchmarks.measures import memory_mb
from benchmarks.scenarios import BANKING
from benchmarks.small import MAX_TOKENS, small_encoder
from learners.batch import collate
from learners.model import Encoder

MICRO_BATCHES = 200
PARTS = 4


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave. Times are processor time, milliseconds a micro-batch.

    Attributes:
        strategy: what ran.
        micro_batches: in all.
        first_ms: median of the first quarter.
        last_ms: median of the last quarter.
        last_over_first: of these medians.
        parts_ms: medians of four equal parts.
        growth_ms: what each micro-batch costs more than the one before it, by least squares.
        rss_growth_mb: main memory at the end less that after the first quarter.
    """

    strategy: str
    micro_batches: int
    first_ms: float
    last_ms: float
    last_over_first: float
    parts_ms: list[float]
    growth_ms: float
    rss_growth_mb: float


class Classifier(nn.Module):
    """Encoder and linear head, both trained; no dropout.

    Args:
        encoder: int64 [rows, 2, tokens] to float32 [rows, width].
        width: of its features.
        labels: in all: Avalanche's heads are made for a known number.
    """

    def __init__(self, encoder: nn.Module, *, width: int, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, labels)

    def forward(self, packed: Tensor) -> Tensor:
        """Give logits, float32 [rows, labels]."""
        logits: Tensor = self.head(self.encoder(packed))
        return logits

    def train(self, mode: bool = True) -> Classifier:
        """Stay in evaluation mode, as the strategies of learners do."""
        del mode
        return super().train(False)


def run_stock(course: Course, *, progress: Show) -> Stock:
    """Run Avalanche's Replay over micro-batches of Banking77, in this process.

    Args:
        course: gives rows, memory, data and seed, and how many micro-batches at most.
        progress: called with micro-batches done and in all.

    Returns:
        What was measured.
    """
    torch.set_num_threads(1)
    encoder = small_encoder()
    encoder.module.requires_grad_(True)
    labels = labels_of(read(course.data, *BANKING))
    model = Classifier(encoder.module, width=encoder.width, labels=len(labels))
    strategy = Replay(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01),
        criterion=nn.CrossEntropyLoss(),
        mem_size=course.memory,
        train_mb_size=course.rows,
        evaluator=EvaluationPlugin(loggers=[BaseLogger()]),  # a logger that says nothing
    )
    total = min(MICRO_BATCHES, course.micro_batches)
    quarter = total // PARTS
    spent: list[float] = []
    rss_first = 0.0
    with warnings.catch_warnings(record=True):  # Avalanche deprecates what its own replay calls
        for experience in _experiences(encoder, course, labels, total=total):
            started = time.process_time()
            strategy.train(experience)
            spent.append(1e3 * (time.process_time() - started))
            if len(spent) == quarter:
                rss_first = memory_mb()
            progress(len(spent), total)
    parts = [median(spent[n * quarter : (n + 1) * quarter]) for n in range(PARTS)]
    return Stock(
        strategy="avalanche.training.Replay",
        micro_batches=total,
        first_ms=parts[0],
        last_ms=parts[-1],
        last_over_first=parts[-1] / parts[0],
        parts_ms=parts,
        growth_ms=_slope(spent),
        rss_growth_mb=memory_mb() - rss_first,
    )


def _experiences(
    encoder: Encoder, course: Course, labels: Sequence[str], *, total: int
) -> Iterator[Any]:
    """Make experiences; what that costs is not counted.

    Yields:
        Avalanche's experience of one micro-batch.
    """
    batches = [rows for _, rows in zip(range(total), endless(course), strict=False)]
    datasets = [_dataset(encoder, rows, labels) for rows in batches]
    yield from benchmark_from_datasets(train=datasets).train_stream


def _dataset(encoder: Encoder, rows: Sequence[Row], labels: Sequence[str]) -> AvalancheDataset:
    packed = collate(encoder.tokenize([row.text for row in rows]))
    packed = nn.functional.pad(packed, (0, MAX_TOKENS - packed.shape[2]))
    targets = [labels.index(row.label) for row in rows]
    tasks = ConstantSequence(0, len(rows))
    return AvalancheDataset(
        [TensorDataset(packed, torch.tensor(targets))],
        data_attributes=[
            DataAttribute(targets, "targets"),
            DataAttribute(tasks, "targets_task_labels", use_in_getitem=True),
        ],
    )


def _slope(values: Sequence[float]) -> float:
    """Fit a line: how much a value is above the one before it."""
    centre, mean = (len(values) - 1) / 2, sum(values) / len(values)
    steps = [n - centre for n in range(len(values))]
    spread = sum(step * step for step in steps)
    return sum(step * (v - mean) for step, v in zip(steps, values, strict=True)) / spread
