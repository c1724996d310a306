"""Where rows of a replay memory in this process live: by id, class, loss, arrival and user.

Owns the places of rows and keeps them consistent; must not know laws or bounds. The twin of the
state that `ReplayMemory` keeps in Redis, in the same order of slots.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from learners.rehearsal import ReplayRow, id_bytes

Part = Literal["t", "h"]
"""A row trains, or is held out."""

Name = TypeVar("Name", bound=Hashable)


class Slots:
    """Ids in slots 0..n-1; one that leaves is replaced by the last.

    Example:
        >>> slots = Slots()
        >>> for id_ in "abc":
        ...     slots.join(id_)
        >>> slots.leave("a")
        >>> slots[0], slots[1], len(slots)
        ('c', 'b', 2)
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._slot: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, slot: int) -> str:
        return self._ids[slot]

    def join(self, id_: str) -> None:
        """Append an id."""
        self._slot[id_] = len(self._ids)
        self._ids.append(id_)

    def ids(self) -> list[str]:
        """List the ids in the order of their slots."""
        return list(self._ids)

    def leave(self, id_: str) -> None:
        """Take an id out."""
        slot, last = self._slot.pop(id_), self._ids.pop()
        if last != id_:
            self._ids[slot] = last
            self._slot[last] = slot


class BySize:
    """Classes by their size, in order of name.

    Example:
        >>> classes = BySize()
        >>> for class_, size in (("b", 1), ("a", 1), ("b", 2)):
        ...     classes.resize(class_, size - 1, size)
        >>> classes.largest()
        (2, 'b')
        >>> classes.resize("b", 2, 1)
        >>> classes.largest()
        (1, 'a')
    """

    def __init__(self) -> None:
        self._classes: dict[int, list[str]] = {}
        self._most = 0

    def resize(self, class_: str, before: int, after: int) -> None:
        """Take note that a class has one row more, or one less; 0 where it is not there."""
        if before:
            same = self._classes[before]
            del same[bisect_left(same, class_)]
            if not same:
                del self._classes[before]
        if after:
            insort(self._classes.setdefault(after, []), class_)
        if after > self._most or self._most not in self._classes:
            self._most = after

    def largest(self) -> tuple[int, str]:
        """Give the size of the largest class and its name, the first of equals."""
        return self._most, self._classes[self._most][0]


@dataclass(slots=True)
class Kept:
    """A row with what its places depend on.

    Attributes:
        row: as it was offered.
        part: where it is.
        bytes: as Redis would store it, with its name and place.
        arrival: its number in the order of arrival.
        level: of its last told loss, or None while none was told.
    """

    row: ReplayRow
    part: Part
    bytes: int
    arrival: int
    level: int | None = None


class SavedRows(msgspec.Struct, frozen=True):
    """All that `LocalRows` needs to go on as if it had never ended.

    Attributes:
        kept: every row with its level, in order of arrival.
        classes: part to class to ids, in the order of their slots.
        levels: level of loss, with ids in the order of their slots.
        arrivals: rows that ever came in.
    """

    kept: list[Kept]
    classes: dict[Part, dict[str, list[str]]]
    levels: list[tuple[int | None, list[str]]]
    arrivals: int


class LocalRows:
    """The rows of one memory.

    Attributes:
        kept: id to row.
        classes: part to class to ids; no empty classes.
        by_size: part to the same classes by size.
        levels: level of loss to ids of rows that train; None stands for rows of no told loss.
        order: arrivals of rows that train, oldest first.
        count: part to rows.
        bytes: part to bytes.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.classes: dict[Part, dict[str, Slots]] = {"t": {}, "h": {}}
        self.by_size: dict[Part, BySize] = {"t": BySize(), "h": BySize()}
        self.levels: dict[int | None, Slots] = {}
        self.order: list[int] = []
        self.count: dict[Part, int] = {"t": 0, "h": 0}
        self.bytes: dict[Part, int] = {"t": 0, "h": 0}
        self._arrived: dict[int, str] = {}
        self._users: dict[str, set[str]] = {}
        self._arrivals = 0

    def insert(self, row: ReplayRow, part: Part, needed: int) -> None:
        """Put a row in whose id is not there; `needed` are its bytes."""
        self._arrivals += 1
        self.kept[row.id] = Kept(row, part, needed, self._arrivals)
        self._users.setdefault(row.user, set()).add(row.id)
        slots = self.classes[part].setdefault(row.balanced_class, Slots())
        slots.join(row.id)
        self.by_size[part].resize(row.balanced_class, len(slots) - 1, len(slots))
        if part == "t":
            self.levels.setdefault(None, Slots()).join(row.id)
            self.order.append(self._arrivals)
            self._arrived[self._arrivals] = row.id
        self.count[part] += 1
        self.bytes[part] += needed

    def remove(self, id_: str) -> None:
        """Take a row out of all its places."""
        kept = self.kept.pop(id_)
        mine = self._users[kept.row.user]
        mine.discard(id_)
        if not mine:
            del self._users[kept.row.user]
        size = len(self.classes[kept.part][kept.row.balanced_class])
        _leave(self.classes[kept.part], kept.row.balanced_class, id_)
        self.by_size[kept.part].resize(kept.row.balanced_class, size, size - 1)
        if kept.part == "t":
            _leave(self.levels, kept.level, id_)
            del self.order[bisect_left(self.order, kept.arrival)]
            del self._arrived[kept.arrival]
        self.count[kept.part] -= 1
        self.bytes[kept.part] -= kept.bytes

    def relevel(self, id_: str, level: int) -> None:
        """Move a row that trains to another level of loss."""
        kept = self.kept[id_]
        if kept.level != level:
            _leave(self.levels, kept.level, id_)
            kept.level = level
            self.levels.setdefault(level, Slots()).join(id_)

    def arrived(self, arrival: int) -> ReplayRow | None:
        """Read the row that trains and arrived then, if it is there still."""
        id_ = self._arrived.get(arrival)
        return None if id_ is None else self.kept[id_].row

    def at_rank(self, rank: int) -> str:
        """Name the row that trains and has so many older ones; -1 is the newest."""
        return self._arrived[self.order[rank]]

    def in_order(self, slots: Slots) -> list[Kept]:
        """Read the rows of slots, oldest first."""
        return sorted((self.kept[id_] for id_ in slots.ids()), key=lambda kept: kept.arrival)

    def of_user(self, user: str) -> list[str]:
        """List a user's rows, in the order of their ids as they are stored."""
        return sorted(self._users.get(user, ()), key=id_bytes)

    def state(self) -> SavedRows:
        """Copy all rows with their places."""
        return SavedRows(
            kept=sorted(self.kept.values(), key=lambda kept: kept.arrival),
            classes={
                part: {name: slots.ids() for name, slots in classes.items()}
                for part, classes in self.classes.items()
            },
            levels=[(level, slots.ids()) for level, slots in self.levels.items()],
            arrivals=self._arrivals,
        )

    @classmethod
    def restore(cls, state: SavedRows) -> LocalRows:
        """Take up a copy: rows come into the same slots."""
        rows = cls()
        for kept in state.kept:
            rows.kept[kept.row.id] = kept
            rows._users.setdefault(kept.row.user, set()).add(kept.row.id)
            if kept.part == "t":
                rows.order.append(kept.arrival)
                rows._arrived[kept.arrival] = kept.row.id
            rows.count[kept.part] += 1
            rows.bytes[kept.part] += kept.bytes
        for part, classes in state.classes.items():
            rows.classes[part] = {name: slots_of(ids) for name, ids in classes.items()}
            for name, ids in classes.items():
                rows.by_size[part].resize(name, 0, len(ids))
        rows.levels = {level: slots_of(ids) for level, ids in state.levels}
        rows._arrivals = state.arrivals
        return rows


def slots_of(ids: Sequence[str]) -> Slots:
    """Put ids into slots in their order."""
    slots = Slots()
    for id_ in ids:
        slots.join(id_)
    return slots


def _leave(lists: dict[Name, Slots], name: Name, id_: str) -> None:
    lists[name].leave(id_)
    if not lists[name]:
        del lists[name]
