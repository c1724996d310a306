"""Page-Hinkley on confidence: how far the cumulated deviation fell below its peak.

Source: E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954; forgetting as in R.
Sebastião, J. M. Fernandes, "Supporting the Page-Hinkley test with empirical mode decomposition for
change detection", ISMIS 2017; the implementation is river's. Ours adds a warning at half of the
threshold and looks down only: confidence that grows is what learning is for.
"""

from __future__ import annotations

from river import drift

from serving.drift.base import Level


class PageHinkley:
    """Says when the mean of a 0-to-1 stream fell.

    Constant time and memory.

    Args:
        threshold: sum of deviations at which it is drift; higher means fewer false alarms, later.
            A fall by d is found about threshold / d observations after it.
        tolerance: deviation from the mean that does not count, 0 to 1.

    Raises:
        ValueError: threshold is not above 0.

    Examples:
        >>> detector = PageHinkley(threshold=20.0)
        >>> levels = [detector.update(x) for x in [0.9] * 500 + [0.4] * 100]
        >>> levels.index("warning"), levels.index("drift")
        (520, 542)
    """

    name = "page-hinkley"

    def __init__(self, *, threshold: float = 50.0, tolerance: float = 0.005) -> None:
        if threshold <= 0:
            raise ValueError(f"threshold is {threshold}: it must be above 0")
        self.threshold = threshold
        self.rows = 0
        self.statistic = 0.0
        self._warned = False
        self._test = drift.PageHinkley(threshold=threshold, delta=tolerance, mode="down")

    def update(self, x: float) -> Level | None:
        """Take one confidence.

        Args:
            x: probability of the answer, 0 to 1.

        Returns:
            See `Detector.update`.
        """
        self.rows += 1
        self._test.update(x)  # type: ignore[no-untyped-call]
        # river keeps the test's figure in two private sums; tests/serving pins both.
        self.statistic = float(self._test._max_decrease - self._test._sum_decrease)
        if self._test.drift_detected:
            self._warned = False
            return "drift"
        if self.statistic <= self.threshold / 2:
            self._warned = False
        elif not self._warned:
            self._warned = True
            return "warning"
        return None
