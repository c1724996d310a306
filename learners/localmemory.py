"""Replay memory in this process: the twin of the one in Redis, for use as a library.

Owns the same insertion, eviction, drawing and erasure by the same laws; must not know Redis. The
same calls with the same draws leave the same rows and draw the same rows as `ReplayMemory` does,
where its server sorts by code points. One thread at a time may use it; what outlives it is what its
`state` gives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from learners.localdraws import Drawing, Levels, id_in_order
from learners.localrows import LocalRows, Part, SavedRows
from learners.rehearsal import (
    DEFAULT_LAWS,
    OfferReport,
    Policy,
    ReplayLaws,
    ReplayRow,
    ReplaySize,
    chances,
    check_bounds,
    check_draws,
    levels_told,
    row_bytes,
)

_ADMITS_SOME = ("reservoir", "loss-aware")


class _Saved(msgspec.Struct, frozen=True):
    laws: ReplayLaws
    bounds: tuple[int, int, int]  # max_rows, max_bytes, held_out_rows
    rows: SavedRows
    counts: tuple[int, int, int]  # offers, evicted, seed


class LocalMemory:
    """The memory of one task.

    Example:
        >>> memory = LocalMemory(max_rows=2, max_bytes=10_000, held_out_rows=0)
        >>> rows = [ReplayRow(f"id{n}", "user", "yes" if n else "no", "text") for n in range(3)]
        >>> memory.offer(rows)
        OfferReport(added=3, replaced=0, known=0, passed=0, evicted=1)
        >>> [row.label for row in memory.rows()]
        ['no', 'yes']
    """

    def __init__(
        self,
        *,
        laws: ReplayLaws = DEFAULT_LAWS,
        max_rows: int = 200_000,
        max_bytes: int = 268_435_456,
        held_out_rows: int = 2_000,
    ) -> None:
        """Start empty.

        Args:
            laws: which rows stay and which are drawn.
            max_rows: bound of the rows that train.
            max_bytes: bound of all rows together, bytes; held-out rows take a quarter at most.
            held_out_rows: bound of the rows kept apart.

        A negative bound is a `ValueError`.
        """
        check_bounds(max_rows=max_rows, max_bytes=max_bytes, held_out_rows=held_out_rows)
        self.laws = laws
        self._max_bytes = max_bytes
        self._max_part_rows = {"t": max_rows, "h": held_out_rows}
        self._max_part_bytes = {"t": max_bytes, "h": max_bytes // 4}
        self._victims: dict[Policy, Callable[[Part, str | None], str]] = {
            "class-balanced": self._balanced_victim,
            "reservoir": self._any_victim,
            "recency-mixed": self._old_victim,
            "loss-aware": self._easy_victim,
        }
        self._rows = LocalRows()
        self._offers = self._evicted = self._seed = 0

    def offer(self, rows: Sequence[ReplayRow]) -> OfferReport:
        """Offer rows in order; no effect when offered again.

        Returns:
            What became of them.
        """
        evicted_before = self._evicted
        fates = Counter(self._offer(row) for row in rows)
        return OfferReport(
            added=fates["added"],
            replaced=fates["replaced"],
            known=fates["known"],
            passed=fates["passed"],
            evicted=self._evicted - evicted_before,
        )

    def sample(self, rows: int, *, draws: Sequence[float]) -> list[ReplayRow]:
        """Draw rows that train, with replacement.

        Args:
            rows: how many.
            draws: as many numbers in [0, 1); the same draws of the same memory give the same rows.

        Returns:
            One row a draw; none when the memory is empty.

        Draws that are not `rows` numbers in [0, 1) are a `ValueError`.
        """
        check_draws(rows, draws)
        if not self._rows.order:
            return []
        drawing = Drawing(self._rows, self.laws)
        return [self._rows.kept[drawing.id_of(float(draw))].row for draw in draws]

    def tell(self, ids: Sequence[str], losses: Sequence[float]) -> int:
        """Note the last known loss of rows; no effect when told again.

        Args:
            ids: of rows; those that do not train, or are not there, are passed over.
            losses: one each, finite and not negative.

        Returns:
            How many of them train.

        Too few losses or too many, or one that is negative or not finite, is a `ValueError`.
        """
        there = 0
        for id_, level in levels_told(ids, losses).items():
            kept = self._rows.kept.get(id_)
            if kept is not None and kept.part == "t":
                self._rows.relevel(id_, level)
                there += 1
        return there

    def rows(self) -> Iterator[ReplayRow]:
        """Read all rows that train, oldest first; those that leave meanwhile are passed over.

        Yields:
            Rows in order of arrival.
        """
        for arrival in tuple(self._rows.order):
            row = self._rows.arrived(arrival)
            if row is not None:
                yield row

    def held_out(self, rows: int) -> list[ReplayRow]:
        """Read rows that are kept apart, evenly over their classes.

        Of each class they are spread evenly from its oldest row to its newest; of one row alone, it
        is the newest.

        Args:
            rows: how many at most.

        Returns:
            Always the same rows of the same memory, no row twice, in order of arrival.
        """
        classes = [self._rows.in_order(ids) for _, ids in sorted(self._rows.classes["h"].items())]
        taken = _evenly([len(kept) for kept in classes], rows)
        chosen = [
            kept[at]
            for kept, wanted in zip(classes, taken, strict=True)
            for at in _spread(len(kept), wanted)
        ]
        return [kept.row for kept in sorted(chosen, key=lambda kept: kept.arrival)]

    def get(self, id_: str) -> ReplayRow | None:
        """Read one row by its id, of either part."""
        kept = self._rows.kept.get(id_)
        return None if kept is None else kept.row

    def ids(self) -> list[str]:
        """List the ids of all rows, of both parts, sorted."""
        return sorted(self._rows.kept)

    def size(self) -> ReplaySize:
        """Count what is in memory."""
        rows = self._rows
        return ReplaySize(
            rows=rows.count["t"],
            bytes=rows.bytes["t"] + rows.bytes["h"],
            held_out_rows=rows.count["h"],
        )

    def of_user(self, user: str) -> list[ReplayRow]:
        """Read every row of a user, of both parts, in an order of their ids."""
        return [self._rows.kept[id_].row for id_ in self._rows.of_user(user)]

    def erase_user(self, user: str) -> int:
        """Erase every row of a user, of both parts, and all that was told of them.

        Returns:
            How many there were.
        """
        ids = self._rows.of_user(user)
        for id_ in ids:
            self._rows.remove(id_)
        return len(ids)

    def state(self) -> bytes:
        """Write laws, bounds and rows: what `restore` makes of it draws and evicts the same."""
        saved = _Saved(
            laws=self.laws,
            bounds=(self._max_part_rows["t"], self._max_bytes, self._max_part_rows["h"]),
            rows=self._rows.state(),
            counts=(self._offers, self._evicted, self._seed),
        )
        return msgspec.msgpack.encode(saved)

    @classmethod
    def restore(cls, state: bytes) -> LocalMemory:
        """Make a memory of what `state` wrote; other bytes are a `msgspec.MsgspecError`."""
        saved = msgspec.msgpack.decode(state, type=_Saved)
        max_rows, max_bytes, held_out_rows = saved.bounds
        memory = cls(
            laws=saved.laws, max_rows=max_rows, max_bytes=max_bytes, held_out_rows=held_out_rows
        )
        memory._rows = LocalRows.restore(saved.rows)
        memory._offers, memory._evicted, memory._seed = saved.counts
        return memory

    def _offer(self, row: ReplayRow) -> str:
        """Offer one row: answers its fate, a field of `OfferReport`."""
        part: Part = "h" if row.held_out else "t"
        needed = row_bytes(row)
        kept = self._rows.kept.get(row.id)
        admit, self._seed = chances(row)
        if kept is not None and kept.row.revision >= row.revision:
            return "known"
        if kept is not None:  # what it replaces is wrong now, even if there is no room for it
            self._rows.remove(row.id)
        if needed > self._max_part_bytes[part] or self._max_part_rows[part] == 0:
            return "passed"
        if kept is None and part == "t" and not self._admits(admit, needed):
            return "passed"
        self._make_room(part, row.balanced_class, needed)
        self._rows.insert(row, part, needed)
        return "added" if kept is None else "replaced"

    def _admits(self, admit: float, needed: int) -> bool:
        """Count an offer, and decide whether the policy takes it."""
        self._offers += 1
        if self.laws.policy not in _ADMITS_SOME:
            return True
        if not (self._part_is_full("t", needed) or self._all_is_full(needed)):
            return True
        return math.floor(admit * self._offers) < max(self._rows.count["t"], 1)

    def _make_room(self, part: Part, class_: str, needed: int) -> None:
        """Evict before the row comes in: one just admitted is never its own victim."""
        while self._part_is_full(part, needed):
            self._evict(part, class_)
        while self._all_is_full(needed):
            self._evict("t" if self._rows.count["t"] else "h", class_ if part == "t" else None)

    def _evict(self, part: Part, coming: str | None) -> None:
        policy = self.laws.policy if part == "t" else "class-balanced"
        self._rows.remove(self._victims[policy](part, coming))
        self._evicted += 1

    def _part_is_full(self, part: Part, needed: int) -> bool:
        if self._rows.count[part] >= self._max_part_rows[part]:
            return True
        return self._rows.bytes[part] + needed > self._max_part_bytes[part]

    def _all_is_full(self, needed: int) -> bool:
        return sum(self._rows.bytes.values()) + needed > self._max_bytes

    def _balanced_victim(self, part: Part, coming: str | None) -> str:
        """Choose in the class that would be the largest, the first by name of equals."""
        classes = self._rows.classes[part]
        most, largest = self._rows.by_size[part].largest()
        if coming in classes and (-len(classes[coming]) - 1, coming) < (-most, largest):
            largest = coming
        return classes[largest][self._random_below(len(classes[largest]))]

    def _any_victim(self, part: Part, _: str | None) -> str:
        """Choose among all rows."""
        left = self._random_below(self._rows.count[part])
        return id_in_order([slots for _, slots in sorted(self._rows.classes[part].items())], left)

    def _old_victim(self, *_: object) -> str:
        """Choose between the row that leaves the window and the old ones, by Algorithm R."""
        window = min(self.laws.recent_rows, self._rows.count["t"])
        old = self._rows.count["t"] - window
        left_window = max(self._offers - window, old + 1)
        return self._rows.at_rank(min(self._random_below(left_window), old))

    def _easy_victim(self, *_: object) -> str:
        """Choose a row of little loss before one of much."""
        levels = Levels(self._rows, sign=-1)
        return levels.id_at(self._random_below(levels.total))

    def _random_below(self, limit: int) -> int:
        """Draw from the minimal standard generator (Park and Miller, CACM 1988)."""
        self._seed = self._seed * 16_807 % 2_147_483_647
        return math.floor(self._seed / 2_147_483_647 * limit)


def _evenly(sizes: Sequence[int], wanted: int) -> list[int]:
    """Say how many to take of each class: one more of every class that has one, until all are."""
    taken = [0] * len(sizes)
    left = min(wanted, sum(sizes))
    while left > 0:
        for n, size in enumerate(sizes):
            if left > 0 and taken[n] < size:
                taken[n] += 1
                left -= 1
    return taken


def _spread(size: int, wanted: int) -> list[int]:
    """Choose so many of 0..size-1 evenly, both ends among them; the last where it is one alone."""
    if wanted == 1:
        return [size - 1]
    return [n * (size - 1) // (wanted - 1) for n in range(wanted)]
