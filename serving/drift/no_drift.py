"""The detector that never says anything, so that nobody has to ask whether there is one."""

from __future__ import annotations

from serving.drift.base import Level


class NoDrift:
    """Null object.

    Examples:
        >>> detector = NoDrift()
        >>> detector.update(1.0) is None, detector.rows
        (True, 1)
    """

    name = "none"

    def __init__(self) -> None:
        self.rows = 0
        self.statistic = 0.0

    def update(self, x: float) -> Level | None:
        """Count the observation and say nothing."""
        del x
        self.rows += 1
        return None
