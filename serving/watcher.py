"""Scores and drift of each task, from what was served and what turned out to be right.

Owns one prequential score and one pair of detectors a task; must not know Redis, topics, metrics or
clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from serving.drift import Detector, Level
from serving.pairing import Pair, Served
from serving.quality import Prequential, Scores, Scoring

Signal = Literal["error", "confidence"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A detector said something.

    Attributes:
        statistic: the detector's figure.
        rows: observations it had seen.
        release: version whose answer made it fire.
    """

    task: str
    signal: Signal
    detector: str
    level: Level
    statistic: float
    rows: int
    release: str | None


@dataclass(frozen=True, slots=True)
class _Task:
    scores: Prequential
    detectors: Mapping[Signal, Detector]


class Watcher:
    """Watches all tasks.

    Args:
        kinds: the kind of each task, as far as scores need it.
        window: pairs in the rolling scores.
        detectors: builds a fresh detector for each signal of a task.
    """

    def __init__(
        self,
        kinds: Mapping[str, Scoring],
        *,
        window: int,
        detectors: Mapping[Signal, Callable[[], Detector]],
    ) -> None:
        self._tasks = {
            task: _Task(
                Prequential(kind, window=window),
                {signal: make() for signal, make in detectors.items()},
            )
            for task, kind in kinds.items()
        }

    def served(self, served: Served) -> Finding | None:
        """Take an answer, whether or not its truth ever comes: its confidence is watched."""
        if not served.ok or served.score is None or served.task not in self._tasks:
            return None
        return self._observe(served, "confidence", served.score)

    def scores_pair(self, pair: Pair) -> bool:
        """Say whether a pair counts.

        An answer made before any release does not. Neither does a pair whose sides name two tasks:
        it cannot come from one interaction.
        """
        served, truth = pair.served, pair.truth
        return served.ok and served.task == truth.task and truth.task in self._tasks

    def met(self, pair: Pair) -> Finding | None:
        """Score a pair that counts; its error is watched."""
        served, truth = pair.served, pair.truth
        right = self._tasks[truth.task].scores.add(truth.label, served.label, delay_s=truth.delay_s)
        return self._observe(served, "error", 0.0 if right else 1.0)

    def scores(self, task: str) -> Scores | None:
        """Give a task's figures, or None before its first pair."""
        return self._tasks[task].scores.scores()

    def _observe(self, served: Served, signal: Signal, value: float) -> Finding | None:
        detector = self._tasks[served.task].detectors.get(signal)
        level = detector.update(value) if detector is not None else None
        if detector is None or level is None:
            return None
        return Finding(
            task=served.task,
            signal=signal,
            detector=detector.name,
            level=level,
            statistic=detector.statistic,
            rows=detector.rows,
            release=served.release,
        )
