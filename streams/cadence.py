"""How often the learn role does what.

Owns the numbers and the pause between two candidates; must not know what is done.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often things happen.

    Attributes:
        batch_rows: rows of one fetch, at most.
        max_wait_s: longest wait for examples, seconds.
        release_every_s: shortest time between two candidates, seconds.
        checkpoint_every_s: time between two checkpoints, seconds.
        step_rows: rows of a micro-batch, at most; None: the strategy's own.
        release_share: share of the time that candidates may take; a slow gate makes releases rarer.
        behind_share: the same while more examples wait than one fetch brings.
    """

    batch_rows: int
    max_wait_s: float
    release_every_s: float
    checkpoint_every_s: float
    release_share: float = 1 / 3
    behind_share: float = 0.2
    step_rows: int | None = None

    def pause_s(self, took_s: float, *, behind: bool) -> float:
        """Say how long to wait for the next candidate after one that took so long, seconds.

        Example:
            >>> cadence = Cadence(64, 0.1, release_every_s=0.5, checkpoint_every_s=30.0)
            >>> cadence.pause_s(0.1, behind=False)  # one every half second
            0.4
            >>> round(cadence.pause_s(3.0, behind=False), 6)  # a third of the time
            6.0
            >>> cadence.pause_s(3.0, behind=True)
            12.0
        """
        share = self.behind_share if behind else self.release_share
        return max(self.release_every_s - took_s, took_s * (1 / share - 1))
