"""Which rows are in a head's sums: so that a correction takes back what is there, and nothing else.

Owns ids as 64-bit hashes; must not know sums, texts or what a label is. Sums that were never made
anew hold every row that was learned, but for those taken out since. Sums that a consolidation made
anew hold what memory held then, and what was learned since: a row that memory had given up is not
in them. And what a label means since its meaning was found changed is its rows since then: an older
one is not in its sum any more.

Bounded: of rows learned since the sums were made anew the newest `ROWS` are known, and of rows that
were taken out. One that is not known is taken for one that is not there: to leave one row among so
many costs less than to take out what was never added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learners.strategies.base import Arrays, Meta

ROWS = 262_144
MEANT_ROWS = 8_192  # newest rows that are known of a label whose meaning changed
NOBODY = 0  # no id has this key


def key_of(id_: str) -> int:
    """Give the key of an interaction's id: 1 to 2^63 - 1.

    Two of `n` rows share a key with a probability of about n² / 2^64.
    """
    digest = hashlib.blake2b(id_.encode(), digest_size=8, person=b"ms-summed").digest()
    return max(1, int.from_bytes(digest, "big") >> 1)


class KeyRing:
    """The newest keys given to it.

    Args:
        keys: how many; 8 bytes each.
    """

    def __init__(self, keys: int) -> None:
        self._keys: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # grows up to the bound
        self._most = keys
        self.total = 0

    def __contains__(self, key: int) -> bool:
        return bool((self._keys == key).any())

    def add(self, key: int) -> None:
        """Remember a key, forgetting the oldest when full."""
        place = self.total % self._most
        if place >= len(self._keys):
            more = min(max(64, len(self._keys)), self._most - len(self._keys))
            self._keys = np.concatenate([self._keys, np.zeros(more, dtype=np.int64)])
        self._keys[place] = key
        self.total += 1

    def drop(self, key: int) -> None:
        """Forget a key."""
        self._keys[self._keys == key] = NOBODY

    def state(self) -> Tensor:
        """Copy the keys: int64 [keys]."""
        return torch.from_numpy(self._keys[: self.total].copy())

    def restore(self, keys: Tensor, *, total: int) -> None:
        """Take up what `state` gave, of a ring of the same bound."""
        self._keys, self.total = keys.numpy().copy(), total


class SummedRows:
    """The rows of one head's sums, by id.

    Args:
        rows: bound of each of the two lists of single rows.

    Example:
        >>> summed = SummedRows()
        >>> summed.add("a")
        >>> summed.has("a"), summed.has("b")  # sums that were never made anew: who learned "b"?
        (True, True)
        >>> summed.made_of(["c"])
        >>> summed.add("d")
        >>> [summed.has(id_) for id_ in "abcd"]
        [False, False, True, True]
        >>> summed.remove("c")
        >>> summed.has("c")
        False
    """

    def __init__(self, rows: int = ROWS) -> None:
        self._rows = rows
        self._first: NDArray[np.int64] | None = None  # sorted; None: all that ever was learned
        self._since, self._gone = KeyRing(rows), KeyRing(rows)
        self._meant: dict[str, KeyRing] = {}

    def made_of(self, ids: Iterable[str]) -> None:
        """Begin again: the sums were made anew, of these rows alone."""
        self._first = np.sort(np.array([key_of(id_) for id_ in ids], dtype=np.int64))
        self._since, self._gone = KeyRing(self._rows), KeyRing(self._rows)
        self._meant.clear()

    def renew(self, label: str, keys: Iterable[int]) -> None:
        """A label means only the rows with these keys, and those that come."""
        self._meant[label] = KeyRing(MEANT_ROWS)
        for key in keys:
            self._meant[label].add(key)

    def add(self, id_: str, label: object = None) -> None:
        """A row was added, under a label."""
        if isinstance(label, str) and label in self._meant:
            self._meant[label].add(key_of(id_))
        if self._first is None and not self._gone.total:
            return  # all there are
        key = key_of(id_)
        if self._gone.total:
            self._gone.drop(key)
        if self._first is not None:
            self._since.add(key)

    def remove(self, id_: str) -> None:
        """A row was taken out."""
        key = key_of(id_)
        self._since.drop(key)
        for ring in self._meant.values():
            ring.drop(key)
        self._gone.add(key)

    def has(self, id_: str, label: object = None) -> bool:
        """Say whether a row can be taken out of what a label means."""
        key = key_of(id_)
        if key in self._gone:
            return False
        if isinstance(label, str) and label in self._meant and key not in self._meant[label]:
            return False
        if self._first is None:
            return True
        place = int(np.searchsorted(self._first, key))
        among_first = place < len(self._first) and int(self._first[place]) == key
        return among_first or key in self._since

    def corrected(
        self,
        ids: Sequence[str],
        previous: Sequence[object],
        held_out: Sequence[bool],
        labels: Sequence[object],
    ) -> list[int]:
        """Say which rows of a micro-batch take back what they were, and count all in.

        Args:
            ids: of its rows, in stream order.
            previous: what each row's label corrects, or None.
            held_out: rows that are never in the sums.
            labels: what each row is from now on.

        Returns:
            Places of rows whose former label is to be taken out of the sums.
        """
        found = []
        for place, id_ in enumerate(ids):
            if held_out[place]:
                continue
            if previous[place] is not None and self.has(id_, previous[place]):
                found.append(place)
            self.add(id_, labels[place])
        return found

    def state(self) -> tuple[Arrays, Meta]:
        """Give everything, as arrays and JSON values."""
        arrays = {"summed_since": self._since.state(), "summed_gone": self._gone.state()}
        if self._first is not None:
            arrays["summed_first"] = torch.from_numpy(self._first.copy())
        for place, ring in enumerate(self._meant.values()):
            arrays[f"summed_meant_{place}"] = ring.state()
        meant = [[label, ring.total] for label, ring in self._meant.items()]
        return arrays, {"since": self._since.total, "gone": self._gone.total, "meant": meant}

    def restore(self, arrays: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        first = arrays.get("summed_first")
        self._first = None if first is None else first.numpy().copy()
        self._since.restore(arrays["summed_since"], total=int(meta["since"]))
        self._gone.restore(arrays["summed_gone"], total=int(meta["gone"]))
        self._meant.clear()
        for place, (label, total) in enumerate(meta.get("meant", ())):
            self._meant[label] = KeyRing(MEANT_ROWS)
            self._meant[label].restore(arrays[f"summed_meant_{place}"], total=int(total))
