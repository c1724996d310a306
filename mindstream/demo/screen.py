"""Shows a running demo: a live view on a terminal, a plain line every few seconds elsewhere.

Owns the choice between the two and the frames' pace; must not know how the state is counted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live

from mindstream.demo.staleness import percentile
from mindstream.demo.tally import Tally
from mindstream.demo.view import Frame, History, Rate, progress_line, render
from mindstream.supervisor import RoleState

FRAME_S = 0.25
LINE_S = 5.0
SLOW_S = 2.0  # the figures that cost more are worked out so often


class Screen:
    """Draws, or writes lines.

    Args:
        tally: what is shown.
        title: what is streamed.
        total: messages of the plan.
        live: draw on the terminal; else write lines to stderr.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        tally: Tally,
        *,
        title: str,
        total: int,
        live: bool,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase = "starting"
        self.started_s: float | None = None
        self._tally = tally
        self._title = title
        self._total = max(1, total)
        self._clock_s = clock_s
        self._console = Console() if live else Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False) if live else None
        self._notes: deque[str] = deque(maxlen=50)
        self._history = History()
        self._rate = Rate()
        self._staleness: tuple[float | None, float | None] = (None, None)
        self._next_frame_s = self._next_slow_s = self._next_line_s = 0.0

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, note: str) -> None:
        """Say something that happened."""
        self._notes.append(note)
        self._console.print(note, markup=False, style="dim")

    def show(self, roles: Sequence[RoleState], *, phase: str | None = None) -> None:
        """Draw a frame or write a line, when it is time for one."""
        now_s = self._clock_s()
        self.phase = phase or self.phase
        if now_s < self._next_frame_s:
            return
        self._next_frame_s = now_s + FRAME_S
        frame = self._frame(roles, now_s)
        if self._live is not None:
            self._live.update(render(frame), refresh=True)
        elif now_s >= self._next_line_s:
            self._next_line_s = now_s + LINE_S
            self._console.print(progress_line(frame), markup=False)

    def _frame(self, roles: Sequence[RoleState], now_s: float) -> Frame:
        moment = self._tally.moment()
        if now_s >= self._next_slow_s:
            self._next_slow_s = now_s + SLOW_S
            seconds = self._tally.staleness_s()
            self._staleness = (percentile(seconds, 0.5), percentile(seconds, 0.95))
            self._history.add(moment.recent)
        return Frame(
            title=self._title,
            phase=self.phase,
            share=min(1.0, (moment.sent + moment.feedback_sent) / self._total),
            elapsed_s=0.0 if self.started_s is None else now_s - self.started_s,
            rate=self._rate.at(now_s, moment.sent),
            moment=moment,
            staleness=self._staleness,
            roles=roles,
            history=self._history.values,
            notes=() if self._live is None else tuple(self._notes),
        )
