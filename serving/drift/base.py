"""What every drift detector offers. Knows no task, no topic and no metric."""

from __future__ import annotations

from typing import Literal, Protocol

Level = Literal["warning", "drift"]


class Detector(Protocol):
    """Watches one number of one stream and says when it got worse.

    Attributes:
        name: key in `DETECTORS`.
    """

    name: str

    @property
    def rows(self) -> int:
        """Observations seen so far, those before an alarm included."""
        ...

    @property
    def statistic(self) -> float:
        """The figure the last decision rested on; finite."""
        ...

    def update(self, x: float) -> Level | None:
        """Take one observation.

        Args:
            x: 0 to 1.

        Returns:
            `drift` when the stream changed for the worse (the detector then starts anew), `warning`
            when it may be about to, else None. Each is said once, when it begins.
        """
        ...
