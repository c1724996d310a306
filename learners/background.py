"""Consolidation in the background: when it is time, and the thread that does it.

Owns the schedule of one learner's slow half, and what became of each run; must not know how one
works, Kafka or Prometheus. A run that a stop interrupts is dropped: nothing of it is kept, and the
next one starts when it is due again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from learners.curation import CurationReport
from learners.loop import Learner
from learners.slow import DroppedError, SlowHalf
from learners.strategies.two_speed import TwoSpeed
from schemas import GateReport

log = logging.getLogger(__name__)

NICE = 10  # the thread gives way to the one that learns, where the system can do that


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a learner consolidates; never while it is behind the stream.

    Attributes:
        rows: examples learned before the first time, 1 or more.
        growth: again when this many times the examples were learned, over 1.
        idle_s: sooner, when nothing came for so long, seconds.
        idle_growth: then this many times the examples are enough, over 1.
        every_s: sooner, when something was learned and the last time is so long ago, seconds; 0:
            never for that reason.
        drift_rows: sooner, so many examples after the last label was found changed; or after
            answers were first said to become worse, where `idle_growth` is reached too; 0: never
            for either reason.
    """

    rows: int = 1_000
    growth: float = 2.0
    idle_s: float = 30.0
    idle_growth: float = 1.1
    every_s: float = 0.0
    drift_rows: int = 500


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
        what: `adopted`, `refused` by the gate, `dropped` or `failed`.
        reason: a sentence.
        seconds: it took.
        report: of the gate, where it came so far.
        curated: rows that were read, and what the encoder was trained on; None where it did not
            come so far.
    """

    what: Literal["adopted", "refused", "dropped", "failed"]
    reason: str
    seconds: float
    report: GateReport | None = None
    curated: CurationReport | None = None


class Consolidator:
    """Lets one learner consolidate when it is time.

    Args:
        learner: its strategy is `two-speed`.
        begin: makes a run; from that moment on it notes what the learner learns.
        schedule: when.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        learner: Learner,
        begin: Callable[[], SlowHalf],
        *,
        schedule: Schedule,
        clock_s: Callable[[], float],
    ) -> None:
        self.learner = learner
        self.schedule = schedule
        self._begin = begin
        self._clock_s = clock_s
        self._work: SlowHalf | None = None
        self._result: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, "consolidation", initializer=_give_way)
        self._started_s = 0.0
        self._last_s = clock_s()
        self._last_learned = 0
        self._drifted = 0  # changed labels that were answered by a run
        self._seen_drifted = 0
        self._drift_learned = 0  # examples learned when the last label was found changed
        self._worse = ""  # what drifted, as told since the last run; nothing when empty
        self._worse_learned = 0  # examples learned when that was told first
        self._before: dict[str, int | str] = {}  # `state` before the run at hand

    @property
    def running(self) -> bool:
        """Whether there is a run that was not finished."""
        return self._work is not None

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done and steps in all, of the run at hand; zeros without one."""
        return (self._work.done, self._work.steps) if self._work else (0, 0)

    def due(self, *, idle_s: float) -> str | None:
        """Say why it is time, or None where it is not.

        Args:
            idle_s: seconds without an example.
        """
        learned, last, rules = self.learner.learned, self._last_learned, self.schedule
        if learned < rules.rows or learned <= last:
            return None
        if learned >= rules.growth * last:
            return f"{learned:,} examples learned after {last:,} at the last time"
        if idle_s >= rules.idle_s and learned >= rules.idle_growth * last:
            return f"nothing came for {idle_s:.0f} s"
        if rules.every_s and self._clock_s() - self._last_s >= rules.every_s:
            return f"the last time is {self._clock_s() - self._last_s:.0f} s ago"
        fresh = self._seen_drifted > self._drifted
        if rules.drift_rows and fresh and learned - self._drift_learned >= rules.drift_rows:
            return f"{self._seen_drifted - self._drifted} labels changed their meaning"
        ago = learned - self._worse_learned
        worse = self._worse and rules.drift_rows and ago >= rules.drift_rows
        if worse and learned >= rules.idle_growth * last:
            return f"{self._worse} drifted, {ago:,} examples ago"
        return None

    def note_drift(self, signal: str) -> None:
        """Hear that answers became worse; more of it before the next run changes nothing.

        Args:
            signal: what drifted, as `error` or `confidence`.
        """
        if not self._worse:
            self._worse, self._worse_learned = signal, self.learner.learned

    def start(self, reason: str) -> None:
        """Begin a run in the background."""
        strategy = self.learner.strategy
        assert isinstance(strategy, TwoSpeed)
        log.info("%s: consolidation starts: %s", self.learner.task, reason)
        self._before = self.state()
        self._started_s = self._last_s = self._clock_s()
        self._last_learned = self.learner.learned
        self._drifted = self._seen_drifted = strategy.drifted
        self._worse = ""
        self._work = self._begin()
        self._result = self._pool.submit(self._work.run)

    def poll(self) -> Outcome | None:
        """Look after the run at hand; to be called between two micro-batches.

        Returns:
            What became of it, once, when it is done.
        """
        strategy = self.learner.strategy
        if isinstance(strategy, TwoSpeed) and strategy.drifted != self._seen_drifted:
            self._seen_drifted = strategy.drifted
            self._drift_learned = self.learner.learned
        if self._result is None or not self._result.done():
            return None
        what, reason, report = self._ended()
        assert self._work is not None
        self._work.close()
        curated = self._work.curated
        self._work = self._result = None
        if what in ("dropped", "failed") and self._before["worse"]:
            self.note_drift(str(self._before["worse"]))  # it was not answered: some examples later
        return Outcome(what, reason, self._clock_s() - self._started_s, report, curated)

    def _ended(
        self,
    ) -> tuple[Literal["adopted", "refused", "dropped", "failed"], str, GateReport | None]:
        assert self._result is not None
        assert self._work is not None
        error = self._result.exception()
        if isinstance(error, DroppedError):
            return "dropped", str(error), None
        if error is not None:
            log.error("%s: consolidation failed", self.learner.task, exc_info=error)
            return "failed", f"{type(error).__name__}: {error}", None
        try:
            report = self._work.finish()
        except DroppedError as dropped:
            return "dropped", str(dropped), None
        return ("adopted" if report.accepted else "refused"), report.reason, report

    def stop(self) -> None:
        """Drop the run at hand and wait for its thread: a step, or a solve, at most."""
        if self._work is not None:
            self._work.stop()
            self._work.close()
        self._pool.shutdown(wait=True)
        if self._work is not None:
            self._work = self._result = None
            self.restore(self._before)

    def state(self) -> dict[str, int | str]:
        """Give what the schedule goes by; as before the run at hand, which is not kept."""
        if self.running:
            return self._before
        return {
            "learned": self._last_learned,
            "drifted": self._drifted,
            "drift_learned": self._drift_learned,
            "worse": self._worse,
            "worse_learned": self._worse_learned,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a schedule."""
        self._last_learned = int(state["learned"])
        self._drifted = self._seen_drifted = int(state["drifted"])
        self._drift_learned = int(state["drift_learned"])
        self._worse = str(state.get("worse", ""))
        self._worse_learned = int(state.get("worse_learned", 0))


def _give_way() -> None:
    """Make the thread at hand less urgent, with those it will start; Linux knows such threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
