"""Main memory that was freed and stays with the process: give it back to the system.

Solves of many labels take and free tens of megabytes, more with every label. glibc keeps freed
blocks up to 32 MB for itself, and the next larger one does not fit where the last one was: after
2,000 labels that is more than all that the head holds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Give freed memory back, where the C library can; a few milliseconds for 100 MB of it."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        function: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc: musl, macOS; Windows has no None
        return None
    return function
