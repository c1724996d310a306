"""ADWIN on errors: an adaptive window whose halves must have the same mean.

Source: A. Bifet, R. Gavaldà, "Learning from time-changing data with adaptive windowing", SIAM
International Conference on Data Mining, 2007; the implementation is river's. Ours differs in two
points: only a mean that rises counts, and a second, more easily moved window gives the warning.
"""

from __future__ import annotations

from river import drift

from serving.drift.base import Level

WARNING_FACTOR = 10.0


class Adwin:
    """Says when the mean of a 0-or-1 stream rose.

    Time and memory per observation: O(log rows), by the window's exponential buckets.

    Args:
        delta: chance of a false alarm at any one check (theorem 3.1 of the paper); the warning
            uses ten times that, at most 0.5.

    Raises:
        ValueError: delta is not between 0 and 1.

    Examples:
        >>> detector = Adwin(delta=0.002)
        >>> levels = [detector.update(x) for x in [0.0] * 500 + [1.0] * 100]
        >>> levels.count("drift"), levels.index("drift") >= 500
        (1, True)
    """

    name = "adwin"

    def __init__(self, *, delta: float = 0.002) -> None:
        if not 0.0 < delta < 1.0:
            raise ValueError(f"delta is {delta}: it must be between 0 and 1")
        self.delta = delta
        self.rows = 0
        self._window = drift.ADWIN(delta=delta)  # type: ignore[no-untyped-call]
        self._warning = _early(delta)

    @property
    def statistic(self) -> float:
        """Mean of the present window, 0 to 1."""
        return float(self._window.estimation)

    def update(self, x: float) -> Level | None:
        """Take one error.

        Args:
            x: 1 for a wrong answer, 0 for a right one; numbers between count in part.

        Returns:
            See `Detector.update`.
        """
        self.rows += 1
        early = _rose(self._warning, x)
        if _rose(self._window, x):
            self._warning = _early(self.delta)
            return "drift"
        return "warning" if early else None


def _early(delta: float) -> drift.ADWIN:
    return drift.ADWIN(delta=min(0.5, WARNING_FACTOR * delta))  # type: ignore[no-untyped-call]


def _rose(window: drift.ADWIN, x: float) -> bool:
    before = window.estimation
    window.update(x)  # type: ignore[no-untyped-call]
    return bool(window.drift_detected) and window.estimation > before
