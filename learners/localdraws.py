"""Draws from a replay memory in this process: which row a number of [0, 1) stands for.

Owns the laws of drawing of `rehearsal`, to the bit as the server computes them; reads only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from learners.localrows import LocalRows, Slots
from learners.rehearsal import ReplayLaws, priority

_BELOW_ONE = 1.0 - 2.0**-53


def id_in_order(lists: Sequence[Slots], row: int) -> str:
    """Name the row of that number, counted through the lists in order.

    Raises:
        IndexError: they have fewer rows.
    """
    for slots in lists:
        if row < len(slots):
            return slots[row]
        row -= len(slots)
    raise IndexError(f"row {row} is past the last of {len(lists)} lists")


class Levels:
    """Rows that train by the level of their last told loss, weighed.

    Rows of no told loss come last, and weigh what those of the most urgent level do.

    Args:
        rows: the memory.
        sign: 1 for the priority, -1 for its inverse.
    """

    def __init__(self, rows: LocalRows, *, sign: int) -> None:
        told = sorted(level for level in rows.levels if level is not None)
        self._levels = [(priority(sign * level), rows.levels[level]) for level in told]
        if None in rows.levels:
            height = told[-1] if told else 0
            self._levels.append((priority(sign * height), rows.levels[None]))
        self.total = sum(weight * len(slots) for weight, slots in self._levels)

    def id_at(self, at: int) -> str:
        """Name the row whose weight holds the whole number `at`, of 0..total-1.

        Raises:
            IndexError: it is past the total.
        """
        for weight, slots in self._levels:
            if at < weight * len(slots):
                return slots[at // weight]
            at -= weight * len(slots)
        raise IndexError(f"weight {at} is past the total")


class Drawing:
    """The draws of one sample.

    Args:
        rows: the memory, with at least one row that trains.
        laws: the shares.
    """

    def __init__(self, rows: LocalRows, laws: ReplayLaws) -> None:
        self._rows = rows
        self._cuts = laws.cuts()
        self._recent = min(laws.recent_rows, rows.count["t"])
        self._classes = [slots for _, slots in sorted(rows.classes["t"].items())]
        self._ends = list(accumulate(len(slots) for slots in self._classes))
        self._levels = Levels(rows, sign=1)
        self._laws = {
            "class-balanced": self._balanced,
            "uniform": self._uniform,
            "recent": self._newest,
            "loss": self._urgent,
        }

    def id_of(self, draw: float) -> str:
        """Name the row that a draw stands for."""
        law, start, width = [cut for cut in self._cuts if cut.start <= draw][-1]
        return self._laws[law](min((draw - start) / width, _BELOW_ONE))

    def _balanced(self, draw: float) -> str:
        """Uniform over classes, then within: the draw's integer part, then its fraction."""
        scaled = draw * len(self._classes)
        slots = self._classes[math.floor(scaled)]
        return slots[math.floor((scaled - math.floor(scaled)) * len(slots))]

    def _uniform(self, draw: float) -> str:
        row = math.floor(draw * self._ends[-1])
        class_ = bisect_right(self._ends, row)
        return self._classes[class_][row - (self._ends[class_] - len(self._classes[class_]))]

    def _newest(self, draw: float) -> str:
        return self._rows.at_rank(-1 - math.floor(draw * self._recent))

    def _urgent(self, draw: float) -> str:
        return self._levels.id_at(math.floor(draw * self._levels.total))
