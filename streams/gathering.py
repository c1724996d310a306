"""Events of any size into batches of a bounded size, and back: which events a batch completes.

Owns the order, the waiting and whose turn it is; must not know what an event or a record is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

E = TypeVar("E")
R = TypeVar("R")

FOLLOWS_S = 0.01  # an event that is said to follow is waited for so long


class Gathering(Generic[E, R]):
    """Events that wait for a batch: one puts them in, one takes batches out, in one event loop.

    A batch has records of several events, or some of one. All stay in the order in which they came.
    An event is complete with the batch that has its last record.

    Args:
        rows: most records of a batch.
        within_s: longest wait of a record for its batch to fill, seconds.
        early_rows: as many records make a batch although the turn of an earlier one lasts; fewer
            wait, so that one batch takes all that came meanwhile. 1: none waits for that.

    Example:
        >>> gathering = Gathering[str, int](rows=3, within_s=0.0)
        >>> gathering.add("a", [1, 2])
        >>> gathering.add("b", [3, 4, 5, 6])
        >>> gathering.take()
        ([1, 2, 3], ['a'])
        >>> gathering.take()
        ([4, 5, 6], ['b'])
    """

    def __init__(self, *, rows: int, within_s: float, early_rows: int = 1) -> None:
        self.rows = rows
        self.within_s = within_s
        self.early_rows = min(early_rows, rows)
        self._turns = 0
        self._waiting: deque[tuple[E, Sequence[R], float]] = deque()
        self._taken = 0  # records of the first event that are in earlier batches
        self._count = 0
        self._followed = False
        self._closed = False
        self._changed = asyncio.Event()  # for who takes
        self._room = asyncio.Event()  # for who puts

    @property
    def full(self) -> bool:
        """Whether there is enough for a batch."""
        return self._count >= self.rows

    def _settled(self) -> bool:
        """Whether the next batch cannot become fuller."""
        return self.full or self._closed

    @property
    def left(self) -> bool:
        """Whether records wait."""
        return self._count > 0

    def _due_s(self) -> float:
        """Say when what waits makes a batch however little it is, on the loop's clock, seconds."""
        within_s = max(self.within_s, FOLLOWS_S) if self._followed else self.within_s
        return self._waiting[0][2] + within_s

    def _held(self) -> bool:
        """Whether what waits is so little that it stays until a turn ends."""
        return self._turns > 0 and self._count < self.early_rows

    def begin_turn(self) -> None:
        """Say that the batch that was just taken is being worked on."""
        self._turns += 1

    def end_turn(self) -> None:
        """Say that one of these batches no longer is; once for each."""
        self._turns -= 1
        self._changed.set()

    def add(
        self, event: E, records: Sequence[R], *, now_s: float = 0.0, followed: bool = False
    ) -> None:
        """Put an event in.

        Args:
            event: given back when its records are in batches.
            records: one at least.
            now_s: the loop's clock, seconds.
            followed: whether another event was there at the same time and is put in next.
        """
        self._followed = followed
        self._waiting.append((event, records, now_s))
        self._count += len(records)
        self._changed.set()

    async def room(self) -> None:
        """Wait until there is not enough for a batch."""
        while self.full:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Say that no more events come."""
        self._closed = True
        self._changed.set()

    async def batch(self) -> tuple[list[R], list[E]] | None:
        """Wait for a batch: full, or `within_s` after its first record came, or the last.

        While a turn lasts, one of fewer than `early_rows` records is not given.

        Returns:
            Its records and the events that it completes; None after the last.
        """
        while not self._count:
            if self._closed:
                return None
            await self._change()
        loop = asyncio.get_running_loop()
        while not self._settled():
            due_s = self._due_s()
            early = loop.time() < due_s
            if not early and not self._held():
                break
            timer = loop.call_at(due_s, self._changed.set) if early else None
            try:
                await self._change()
            finally:
                if timer is not None:
                    timer.cancel()
        return self.take()

    def take(self) -> tuple[list[R], list[E]]:
        """Take what there is, a batch at most."""
        records: list[R] = []
        complete: list[E] = []
        while self._waiting and len(records) < self.rows:
            event, all_of_it, _ = self._waiting[0]
            end = min(len(all_of_it), self._taken + self.rows - len(records))
            records += all_of_it[self._taken : end]
            self._taken = end
            if end == len(all_of_it):
                complete.append(event)
                self._waiting.popleft()
                self._taken = 0
        self._count -= len(records)
        self._room.set()
        return records, complete

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
