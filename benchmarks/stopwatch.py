"""Processor time by part, of methods as they are: wrapped for as long as a block runs.

Must not know what it times. A part that runs inside another counts for itself alone, so that the
parts add up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

Method = tuple[type, str]


class Stopwatch:
    """Adds up seconds of processor time.

    Attributes:
        seconds: by part.
        calls: by part; calls of a part from within itself are not counted.

    Example:
        >>> class Cake:
        ...     def bake(self) -> str:
        ...         return self.stir()
        ...     def stir(self) -> str:
        ...         return "done"
        >>> watch = Stopwatch()
        >>> with watch.on({"oven": [(Cake, "bake")], "bowl": [(Cake, "stir")]}):
        ...     Cake().bake(), Cake().stir()
        ('done', 'done')
        >>> watch.calls
        {'oven': 1, 'bowl': 2}
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._running: list[str] = []
        self._since = 0.0

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    @contextmanager
    def on(self, parts: Mapping[str, Sequence[Method]]) -> Iterator[None]:
        """Time methods of classes while the block runs.

        Args:
            parts: name of each part, and its methods.

        Yields:
            Nothing.
        """
        kept: list[tuple[type, str, Any]] = []
        for part, methods in parts.items():
            self.seconds.setdefault(part, 0.0)
            self.calls.setdefault(part, 0)
            for owner, name in methods:
                method = getattr(owner, name)
                kept.append((owner, name, method))
                setattr(owner, name, self._timed(part, method))
        try:
            yield
        finally:
            for owner, name, method in kept:
                setattr(owner, name, method)

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the method takes
            self._switch()
            self.calls[part] += part not in self._running
            self._running.append(part)
            try:
                return method(*args, **kwargs)
            finally:
                self._switch()
                self._running.pop()

        return timed

    def _switch(self) -> None:
        """Give the time since the last switch to the part that ran."""
        now = time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
