"""Options of a strategy, chosen on a share of the training rows: so that rows are tuned alike.

Owns the grid and the split; must not know how a trial runs. The rows that choose are every tenth of
each label's training rows; the strategy learns the others in the same order, and what answers them
best at the end is taken. Test rows are not looked at. One option after the other, the first one
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from benchmarks.data import Row
from benchmarks.results import Result
from benchmarks.scenarios import Group, Stream

EVERY = 10

HEAD_RATES = (2e-3, 1e-2, 5e-2)
STRENGTHS = (1.0, 0.1, 10.0)
REPLAYED = (32, 96)
_RATES: Mapping[str, tuple[float, ...]] = {"head_learning_rate": HEAD_RATES}
_HELD: Mapping[str, tuple[float, ...]] = {**_RATES, "strength": STRENGTHS}
_REPLAYED: Mapping[str, tuple[float, ...]] = {**_RATES, "replay_rows": REPLAYED}
GRIDS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "two-speed": {},  # chooses for itself
    "naive": _RATES,
    "joint": _RATES,
    "gdumb": _RATES,
    "plugin": _RATES,
    "er": _REPLAYED,
    "er-ace": _REPLAYED,
    "mir": _REPLAYED,
    "agem": _REPLAYED,
    "derpp": {**_REPLAYED, "strength": STRENGTHS},
    "ewc": _HELD,
    "mas": _HELD,
    "si": _HELD,
    "rwalk": _HELD,
    "lwf": _HELD,
    "feature-distillation": _HELD,
}


class Runs(Protocol):
    """What runs a trial."""

    def run(
        self, stream: Stream, strategy: str, *, seed: int, options: Mapping[str, float]
    ) -> Result:
        """Run a trial."""
        ...


def tuned_options(bench: Runs, stream: Stream, strategy: str, *, seed: int) -> dict[str, float]:
    """Choose options: the best of each in turn, the others at what they are by then.

    Args:
        bench: runs the trials.
        stream: whose training rows are split.
        strategy: its name.
        seed: of the learner.

    Returns:
        What was chosen; empty where there is nothing to choose.
    """
    chosen: dict[str, float] = {}
    inner = validation(stream)
    for name, values in GRIDS[strategy].items():
        finals = {
            value: bench.run(inner, strategy, seed=seed, options={**chosen, name: value}).final
            for value in values
        }
        chosen[name] = max(finals, key=finals.__getitem__)
    return chosen


def validation(stream: Stream) -> Stream:
    """Give the same stream with every tenth training row of a label tested instead of learned."""
    seen: dict[str, int] = {}
    tasks, groups = [], []
    for number, task in enumerate(stream.tasks):
        train: list[Row] = []
        tested: list[Row] = []
        for row in task.rows:
            seen[row.label] = seen.get(row.label, 0) + 1
            (tested if seen[row.label] % EVERY == 0 else train).append(row)
        tasks.append(replace(task, rows=tuple(train)))
        if tested:
            groups.append(Group(task.name, tuple(tested), first=number))
    return Stream(f"{stream.name} to choose", tuple(tasks), tuple(groups))
