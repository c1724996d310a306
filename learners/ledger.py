"""The ledger: which examples the learner has learned from, so that a repeat is learned once.

Owns recent (id, revision) pairs as 64-bit hashes in a ring with a set beside it: O(1), bounded;
must not know what an example holds. Two of `n` pairs share a hash with a
probability of about n² / 2^65: under one in a billion for the default size.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Ledger:
    """The newest `rows` examples learned.

    Examples:
        >>> ledger = Ledger(rows=2)
        >>> ledger.add("a", 1), ledger.add("a", 1)
        (True, False)
        >>> ledger.seen("a", 1), ledger.seen("a", 2)
        (True, False)
        >>> ledger.add("b", 1), ledger.add("c", 1), ledger.seen("a", 1), ledger.total
        (True, True, False, 3)
    """

    def __init__(self, rows: int = 131_072) -> None:
        """Make an empty ledger.

        Args:
            rows: how many pairs it remembers; 8 bytes each in a checkpoint.

        Raises:
            ValueError: rows is not positive.
        """
        if rows <= 0:
            raise ValueError(f"rows is {rows}: it must be positive")
        self._ring: NDArray[np.uint64] = np.zeros(rows, dtype=np.uint64)
        self._known: set[int] = set()
        self._start = 0  # pairs added before those that the ring began with
        self.total = 0

    def seen(self, id_: str, revision: int) -> bool:
        """Say whether a pair is among the newest."""
        return _hash(id_, revision) in self._known

    def add(self, id_: str, revision: int) -> bool:
        """Remember a pair, forgetting the oldest when full.

        Returns:
            False when it was among the newest already: nothing changes then.
        """
        value = _hash(id_, revision)
        if value in self._known:
            return False
        added = self.total - self._start
        slot = added % len(self._ring)
        if added >= len(self._ring):
            self._known.discard(int(self._ring[slot]))
        self._ring[slot] = value
        self._known.add(value)
        self.total += 1
        return True

    def __len__(self) -> int:
        return len(self._known)

    def state(self) -> Tensor:
        """Copy what a checkpoint needs beside `total`: uint64 [pairs], oldest to newest."""
        rows, added = len(self._ring), self.total - self._start
        if added < rows:
            return torch.from_numpy(self._ring[:added].copy())
        return torch.from_numpy(np.roll(self._ring, -(added % rows)))

    def restore(self, state: Tensor, *, total: int) -> None:
        """Take over a saved state; of a larger ledger's the newest pairs are kept.

        Args:
            state: uint64 [pairs], as `state` gave it.
            total: how many pairs were ever added.

        Raises:
            ValueError: the array is not such a state.
        """
        if state.dtype != torch.uint64 or state.ndim != 1 or len(state) > total:
            raise ValueError(
                f"a ledger's state is uint64 [pairs] of {total} at most, "
                f"not {state.dtype} {list(state.shape)}"
            )
        rows = len(self._ring)
        pairs: NDArray[np.uint64] = state.numpy()[-rows:]
        self._ring = np.zeros(rows, dtype=np.uint64)
        # Fewer pairs than were added: count from them, so that a slot is forgotten only when full.
        self._start = total - len(pairs)
        self._ring[: len(pairs)] = pairs
        self.total = total
        self._known = {int(value) for value in pairs}


def _hash(id_: str, revision: int) -> int:
    digest = hashlib.blake2b(f"{revision}\n{id_}".encode(), digest_size=8, person=b"ms-ledger")
    return int.from_bytes(digest.digest(), "big")
