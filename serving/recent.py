"""A bounded memory of what was computed lately, safe from any thread.

Owns the bound and the order of leaving; must not know what is kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps the entries that were asked for last.

    Args:
        entries: kept at most; 0 keeps nothing.

    Raises:
        ValueError: the bound is negative.

    Examples:
        >>> recent = Recent[str, int](2)
        >>> for name, number in (("a", 1), ("b", 2), ("c", 3)):
        ...     recent.put(name, number)
        >>> recent.get("a"), recent.get("b")
        (None, 2)
    """

    def __init__(self, entries: int) -> None:
        if entries < 0:
            raise ValueError(f"entries is {entries}: at least 0")
        self._bound = entries
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count what is kept."""
        return len(self._kept)

    def get(self, key: Key) -> Value | None:
        """Give what is kept under a key, or None; it now counts as asked for last."""
        with self._lock:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
            return value

    def put(self, key: Key, value: Value) -> None:
        """Keep a value; the one that was asked for longest ago leaves when there are too many."""
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            if len(self._kept) > self._bound:
                self._kept.popitem(last=False)
